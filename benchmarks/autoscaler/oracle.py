"""The plan of who knows trace, capacity and pause beforehand: dynamic programming over two-minute segments.

Least pod seconds, each second over the backlog's goal counted as 200 of them. It is a plan for the fluid job (all
workers alike, capacity as the skew leaves it); what it costs is then measured on the same plant as everybody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.autoscaler.plant import CHECKPOINT, MOST, TICK
from benchmarks.autoscaler.traces import STEP

if TYPE_CHECKING:
    from benchmarks.autoscaler.plant import Nature
    from benchmarks.autoscaler.traces import Trace

__all__ = ["plan"]

_SEGMENT = 120
_VIOLATION = 200.0
"""Pod seconds that a second over the goal weighs."""


def plan(trace: Trace, nature: Nature, goal: float) -> tuple[int, dict[int, int]]:
    """Workers at the start, and at which second of the trace they become how many.

    Args:
        goal: seconds of backlog time that should not be passed.
    """
    steps = int(_SEGMENT / STEP)
    count = -(-trace.rate.size // steps)
    rate = np.resize(np.append(trace.rate, np.full(steps, trace.rate[-1])), count * steps).reshape(count, steps)
    sink = np.resize(np.append(trace.sink, np.full(steps, trace.sink[-1])), count * steps).reshape(count, steps)
    workers = np.arange(1, MOST + 1)
    capacity = np.array([nature.capacity(int(n)) for n in workers]) * 0.97
    buckets = np.concatenate(([0.0], np.geomspace(1000, 2e8, 47)))
    value = np.zeros((MOST, buckets.size))
    stays, goes = [], []
    pause = nature.pause + CHECKPOINT / 2  # what is read again, on the average
    for t in reversed(range(count)):
        outcomes = []
        for changed in (False, True):
            backlog = np.broadcast_to(buckets, (MOST, buckets.size)).copy()
            late = np.zeros_like(backlog)
            for k in range(steps):
                lost = np.clip(pause - k * STEP, 0, STEP) if changed else 0.0
                able = np.minimum(capacity, sink[t, k])[:, None] * (STEP - lost)
                arrives = rate[t, k] * STEP
                backlog = np.maximum(0.0, backlog + arrives - able)
                # Half a step of input is always on its way.
                late += (backlog > max(goal - 5, 5) * max(min(rate[t, k], rate[t].mean()), 1.0)) * STEP
            cost = late * _VIOLATION + workers[:, None] * float(_SEGMENT)
            following = np.array([np.interp(backlog[n], buckets, value[n]) for n in range(MOST)])
            outcomes.append(cost + following)
        stay, change = outcomes
        best = change.min(axis=0) + 1.0
        stays.append(stay <= best)
        goes.append(change.argmin(axis=0))
        value = np.minimum(stay, best)
    stays.reverse()
    goes.reverse()
    now = first = int(value[:, 0].argmin()) + 1
    backlog, changes = 0.0, {}
    for t in range(count):
        bucket = int(np.abs(buckets - backlog).argmin())
        changed = t > 0 and not stays[t][now - 1, bucket] and goes[t][bucket] + 1 != now
        if changed:
            now = int(goes[t][bucket]) + 1
            changes[t * _SEGMENT // TICK * TICK] = now
        for k in range(steps):
            lost = float(np.clip(pause - k * STEP, 0, STEP)) if changed else 0.0
            able = min(capacity[now - 1], sink[t, k]) * (STEP - lost)
            backlog = max(0.0, backlog + rate[t, k] * STEP - able)
    return first, changes
