"""What the policies want, before any limit. Each is a function of an evaluation, so that it can be judged by itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from beam_k8s.autoscaler.model import Evaluation
    from beam_k8s.autoscaler.settings import AutoscalerSettings

__all__ = ["Wish", "threshold"]

_MANY = 1_000_000
"""Workers; more than any limit."""


class Wish(NamedTuple):
    """What a policy wants."""

    target: int
    """Workers, at least 1; as many as there are: no change."""
    text: str
    """Why, one sentence."""


def threshold(seen: Evaluation, settings: AutoscalerSettings) -> Wish:
    """The original system's rules, exactly.

    Up if CPU and backlog time are high and the backlog does not shrink by itself: by what the input needs plus what
    clears the backlog in ``time_to_reduce``. Down if CPU and backlog time are low and the backlog shrinks: to the
    fewest workers that keep CPU below ``down_cpu``.
    """
    now = seen.ready
    slow, busy = seen.backlog_time > settings.up_backlog_time, seen.cpu > settings.up_cpu
    state = f"backlog time {seen.backlog_time:.0f} s, CPU {seen.cpu:.0%}"
    if (slow and busy) if settings.up_if == "both" else (slow or busy):
        if seen.growth < 0:
            return Wish(now, f"{state}: the backlog shrinks already")
        require = now * seen.input_rate / seen.throughput if seen.throughput > 0 else math.inf
        extra = now * seen.backlog_time / settings.time_to_reduce
        target = _workers(require + extra)
        return Wish(max(now, target), f"{state}: the input needs {require:.1f} workers, the backlog {extra:.1f} more")
    if seen.cpu < settings.down_cpu and seen.growth < 0 and seen.backlog_time < settings.down_backlog_time:
        target = min(now, _workers(seen.cpu * now / settings.down_cpu))
        return Wish(target, f"{state}, the backlog shrinks: {target} workers keep CPU below {settings.down_cpu:.0%}")
    return Wish(now, state)


def _workers(wanted: float) -> int:
    """Whole workers; what is over by an error of rounding is not another one."""
    return max(1, math.ceil(min(wanted, _MANY) - 1e-9))
