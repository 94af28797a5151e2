"""One scaler on one trace, over all seeds: what it cost and how late the records were."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.autoscaler.oracle import plan
from benchmarks.autoscaler.plant import TICK, Nature, Plant
from benchmarks.autoscaler.scalers import planned
from benchmarks.autoscaler.traces import STEP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.autoscaler.scalers import Scaler
    from benchmarks.autoscaler.traces import Trace

__all__ = ["GOAL", "SLOS", "Score", "oracle", "run", "simulate"]

SLOS = (10, 60, 300)
"""Seconds of backlog time that are asked for."""
GOAL = 60
"""The one that ``balanced`` and the oracle aim at."""


class Score(NamedTuple):
    """One run. Minutes and hours are of simulated time."""

    trace: str
    family: str
    seed: int
    pod_hours: float
    slo_10: float
    """Minutes with a backlog time above 10 s."""
    slo_60: float
    slo_300: float
    p50: float
    """Seconds of backlog time."""
    p99: float
    longest: float
    rescales: int
    flips: int
    """Changes of direction within 10 minutes."""
    paused: float
    """Minutes without output, of all rescales."""


def simulate(
    trace: Trace, natures: Sequence[Nature], make: Callable[[Trace, Nature], Scaler], *, first: list[int] | None = None
) -> tuple[Plant, np.ndarray]:
    """Let a scaler run all jobs of a trace; the plant, and the backlog time by seed and step.

    Args:
        first: workers at the start, by seed, of a plan whose pods come in time; None: what the trace starts with.
    """
    scalers = [make(trace, nature) for nature in natures]
    punctual = first is not None
    if first is None:
        start = 1.2 * float(trace.rate[: int(300 / STEP)].mean())
        pairs = zip(scalers, natures, strict=True)
        first = [scaler.wants(None, 0) or nature.workers_for(start) for scaler, nature in pairs]
    plant = Plant(trace, natures, np.array(first), punctual=punctual)
    every = int(TICK / STEP)
    for k in range(trace.rate.size):
        if k % every == 0:
            plant.look()
            for i, scaler in enumerate(scalers):
                wanted = scaler.wants(plant.seen(i, k * STEP), k * STEP)
                if wanted is not None:
                    plant.rescale(i, wanted, k * STEP)
        plant.step(k)
    return plant, plant.backlog_time()


def run(
    trace: Trace, natures: Sequence[Nature], make: Callable[[Trace, Nature], Scaler], *, first: list[int] | None = None
) -> list[Score]:
    """The scores of a scaler on a trace, one a seed."""
    plant, late = simulate(trace, natures, make, first=first)
    scores = []
    for i, nature in enumerate(natures):
        changes = plant.changes[i]
        flips = sum(1 for (at, a, b), (then, c, d) in pairwise(changes) if then - at <= 600 and (b > a) != (d > c))
        minutes = [float((late[i] > slo).sum() * STEP / 60) for slo in SLOS]
        quantiles = np.quantile(late[i], [0.5, 0.99, 1.0]).tolist()
        scores.append(
            Score(
                *(trace.name, trace.family, nature.seed, float(plant.billed[i] / 3600)),
                *minutes,
                *quantiles,
                *(len(changes), flips, float(plant.paused[i] / 60)),
            )
        )
    return scores


def oracle(trace: Trace, natures: Sequence[Nature]) -> list[Score]:
    """The scores of the plan made in hindsight."""
    plans = {nature.seed: plan(trace, nature, GOAL) for nature in natures}
    first = [plans[nature.seed][0] for nature in natures]
    return run(trace, natures, planned({seed: changes for seed, (_, changes) in plans.items()}), first=first)
