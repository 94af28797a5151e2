"""What a job's own history teaches: how much its workers can do, and how long a change of workers stops it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from beam_k8s.autoscaler.policies import evenness

if TYPE_CHECKING:
    from beam_k8s.autoscaler.model import Evaluation, Memory, Observation
    from beam_k8s.autoscaler.settings import AutoscalerSettings

__all__ = ["learn_capacity", "learn_pause"]

_NEW = 0.3
"""Weight of what is new."""
_SATURATED = 2.0
_FULL = 0.95
"""Of full CPU: as good as full."""


def learn_capacity(memory: Memory, seen: Evaluation, settings: AutoscalerSettings) -> Memory:
    """What workers could do under an even load, by what they do and their CPU.

    Workers that wait for something else (low CPU under a backlog that their partitions do not explain) show nothing.
    """
    n, used = seen.ready, min(1.0, seen.cpu / settings.full_cpu)
    known = memory.capacity.get(n)
    if seen.throughput <= 0 or used <= 0:
        return memory
    if seen.least_backlog_time > _SATURATED and used < 0.5 * evenness(n, seen.shares):
        return memory
    # Where load is uneven, CPU tells what it would be if it were not.
    guess = max(seen.best, seen.throughput / (1.0 if used > _FULL else used))
    if known is None:
        shown = guess
    elif used > 0.3:
        shown = known + (guess - known) * _NEW
    else:  # CPU of nearly nothing says little; what was done was possible, though
        shown = max(known, seen.best)
    return replace(memory, capacity={**memory.capacity, n: shown})


def learn_pause(memory: Memory, before: Observation | None, seen: Observation, interval: float) -> Memory:
    """A job that runs again after a change of ours: how long it stood still.

    Args:
        memory: what is known.
        before: the last observation in which it ran.
        seen: the newest.
        interval: seconds between observations; it stopped at some moment of one.
    """
    if before is None or before.started is None or seen.started is None or seen.started <= before.at:
        return memory
    if not before.started <= memory.rescaled_at <= seen.started:
        return memory  # it started again for another reason
    pause = max(5.0, seen.started - max(before.at + interval / 2, memory.rescaled_at))
    return replace(memory, pause=pause if memory.pause is None else (memory.pause + pause) / 2)
