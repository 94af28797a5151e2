"""What a job's own history teaches: how much its workers can do, and what a change of workers costs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from beam_k8s.autoscaler.model import Futile, Rise
from beam_k8s.autoscaler.policies import evenness, waits

if TYPE_CHECKING:
    from beam_k8s.autoscaler.model import Evaluation, Memory, Observation, Rescale
    from beam_k8s.autoscaler.settings import AutoscalerSettings

__all__ = ["learn_capacity", "learn_gain", "learn_pause", "learn_replay", "rescaled"]

_NEW = 0.3
"""Weight of what is new."""
_FULL = 0.95
"""Of full CPU: as good as full."""
_IDLE = 0.03
"""CPU of a worker that reads nothing."""
_TELLING = 0.3
"""Share of full CPU; CPU of nearly nothing says little."""
_STEADY = 1.15
"""A throughput that changes is not of the time that CPU is of."""
_GAIN = 0.1
"""Least share of what more workers promise that they must bring: the default of the Flink operator's autoscaler
(``job.autoscaler.scaling.effectiveness.threshold``)."""
_GAIN_OF_WAITING = 0.5
"""That of workers that wait for something: what they share gives more of them a bit more at times."""
_NEW_AGE = 0.05
"""Weight of what is new, of ages of checkpoints: they go up and down with each."""
_LONGEST_REPLAY = 300.0
"""Seconds; where checkpoints fail, no number of workers makes up for what would be done again."""


def learn_capacity(memory: Memory, seen: Evaluation, settings: AutoscalerSettings) -> Memory:
    """What workers could do under an even load, by what they do and their CPU.

    Workers that wait for something else (low CPU under a backlog that their partitions do not explain) show nothing,
    nor do any while one stands still under a backlog, nor full CPU without a backlog: a JVM that compiles, say.
    """
    n, used = seen.ready, min(1.0, (seen.cpu - _IDLE) / (settings.full_cpu - _IDLE))
    known = memory.capacity.get(n)
    if min(seen.throughput, seen.sustained, used) <= 0 or waits(seen, settings):
        return memory
    if used > _FULL and not seen.saturated:
        return memory
    tells = used > _TELLING and seen.best < _STEADY * seen.throughput
    if known is None and not tells and memory.capacity:
        return memory
    # Where load is uneven, CPU tells what it would be if it were not; but the slowest worker sets the pace.
    guess = max(seen.best, seen.throughput / (1.0 if used > _FULL else used))
    guess = min(guess, seen.sustained / evenness(n * seen.slots, seen.shares))
    if known is None:
        shown = guess
    elif tells:
        shown = known + (guess - known) * _NEW
    else:  # what was done was possible, though
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


def learn_replay(memory: Memory, seen: Observation) -> Memory:
    """What a change at this moment would make a running job do again: its work since its last checkpoint was triggered.

    A change comes at any moment between two checkpoints, and so does a look at the job: the mean over looks is that
    over changes.
    """
    if seen.started is None or seen.checkpoint is None:
        return memory
    age = min(max(0.0, seen.at - max(seen.checkpoint, seen.started)), _LONGEST_REPLAY)
    return replace(memory, replay=memory.replay + (age - memory.replay) * _NEW_AGE)


def rescaled(memory: Memory, change: Rescale, seen: Evaluation, now: float) -> Memory:
    """What is to be remembered of a change that is asked for now, for what the job is like."""
    more = change.target > change.current and seen.saturated
    rise = Rise(seen.ready, seen.best) if more else None
    return replace(memory, rescaled_at=now, target=change.target, rise=rise)


def learn_gain(memory: Memory, seen: Evaluation, settings: AutoscalerSettings) -> Memory:
    """Whether more workers, asked for under a backlog, have helped; if not, more are not tried again for a while.

    They are judged once they have all worked through two windows under a backlog. Without one they have helped.
    """
    rise, waiting = memory.rise, waits(seen, settings)
    if memory.futile is not None and memory.futile.waited and not waiting:
        memory = replace(memory, futile=None)
    if rise is None or seen.at <= memory.rescaled_at or seen.ready != memory.target:
        return memory
    promised = rise.rate * (memory.target / rise.workers - 1)
    helped = seen.best >= rise.rate + (_GAIN_OF_WAITING if waiting else _GAIN) * promised
    if helped and waiting:  # each for itself: what they do is what they can do, whatever their CPU
        return replace(memory, rise=None, futile=None, capacity={rise.workers: rise.rate, seen.ready: seen.best})
    if helped or not seen.saturated:
        return replace(memory, rise=None, futile=None)
    if seen.at < memory.rescaled_at + settings.settle + 2 * settings.window + (memory.pause or 0.0):
        return memory
    return replace(memory, rise=None, futile=Futile(rise.workers, seen.at + settings.remember, waiting))
