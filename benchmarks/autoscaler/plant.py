"""A simulated job, its broker and its cluster: one for each seed, all stepped at once.

A job reads PARTITIONS partitions (Zipf-skewed), one in five jobs half as many, which its workers share round robin as
Flink does. A worker does about 1,000 records a second: each pod a bit more or less, all of them less the more there
are. Other workers mean new pods, which come late or never, then a pause, and what was read since the last checkpoint is
read again. One job in five waits most of its time, for a web service, say: its CPU is low however busy it is. What the
scalers are told is late by up to two minutes and missing now and then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.autoscaler.traces import STEP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.autoscaler.traces import Trace

__all__ = ["CHECKPOINT", "MOST", "PARTITIONS", "TICK", "Nature", "Plant", "Seen"]

PARTITIONS = 24
MOST = 24
"""Workers that every scaler may use at most."""
TICK = 15
"""Seconds between two looks of a scaler."""
CHECKPOINT = 10.0
"""Seconds between two checkpoints."""


@dataclass(frozen=True)
class Nature:
    """What chance made of one job."""

    seed: int
    partitions: int
    """No more workers than that have work."""
    share: np.ndarray
    """Of the input, by partition; 0 of those that it does not have."""
    pods: np.ndarray
    """Records a second of each pod, alone."""
    alpha: float
    """n workers do n ** alpha times one's work."""
    pause: float
    """Seconds that a rescale takes, mostly."""
    delay: int
    """Seconds that figures are old."""
    dropped: float
    """Share of ticks without figures."""
    never: float
    """Share of requests for pods that nobody fulfils for 15 minutes."""
    cpu: float
    """Of a worker that does all it can, as a share of its limit."""

    @classmethod
    def of(cls, seed: int) -> Nature:
        """A job; the same for the same seed."""
        chance = np.random.default_rng(seed)
        skew = chance.choice([0.0, 0.0, 0.1, 0.3])
        share = np.arange(1, PARTITIONS + 1) ** -skew
        chance.shuffle(share)
        partitions = PARTITIONS // 2 if seed % 5 == 1 else PARTITIONS
        share[partitions:] = 0.0
        return cls(
            seed=seed,
            partitions=partitions,
            share=share / share.sum(),
            pods=1000 * np.exp(chance.normal(0, 0.08, MOST)),
            alpha=float(chance.uniform(0.85, 1.0)),
            pause=float(np.exp(chance.uniform(np.log(10), np.log(180)))),
            delay=int(chance.choice([0, 15, 60, 120])),
            dropped=float(chance.choice([0.0, 0.02, 0.1])),
            never=float(chance.choice([0.0, 0.0, 0.1])),
            cpu=0.15 if seed % 5 == 2 else 1.0,
        )

    def capacity(self, workers: int) -> float:
        """Records a second, as the input is spread, that so many workers do for ever."""
        each = self.pods[:workers] * workers ** (self.alpha - 1)
        load = np.bincount(np.arange(PARTITIONS) % workers, weights=self.share, minlength=workers)
        return float((each[load > 0] / load[load > 0]).min())

    def checkpoint_before(self, at: float) -> float:
        """When its last checkpoint was triggered; it takes no time."""
        return at - (at + 3.7 * self.seed) % CHECKPOINT

    def workers_for(self, rate: float) -> int:
        """The fewest workers that do it; if none do, one for each partition."""
        return next((n for n in range(1, self.partitions + 1) if self.capacity(n) >= rate), self.partitions)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a scaler is told of one job."""

    at: float
    workers: int
    ready: int
    started: float | None
    generation: int
    positions: np.ndarray
    ends: np.ndarray
    cpu: float
    spec: int
    """Workers that the job should have, as of now: that is no metric, and not late."""
    changed: float
    """When that was changed last."""
    busy: float
    """Share of time that the job's tasks work or wait for the sink."""
    checkpoint: float
    """When the last one was triggered."""


@dataclass
class Plant:
    """All jobs of one trace."""

    trace: Trace
    natures: Sequence[Nature]
    first: np.ndarray
    """Workers at the start."""
    punctual: bool = False
    """Pods come at once: for the oracle, which would have asked for them in time."""
    workers: np.ndarray = field(init=False)
    ready: np.ndarray = field(init=False)
    billed: np.ndarray = field(init=False)
    """Pod seconds."""
    paused: np.ndarray = field(init=False)
    """Seconds, of all rescales."""

    def __post_init__(self) -> None:
        n = len(self.natures)
        self.workers, self.ready = self.first.copy(), self.first.copy()
        self.billed, self.paused = np.zeros(n), np.zeros(n)
        self.changes: list[list[tuple[float, int, int]]] = [[] for _ in range(n)]
        self._chance = [np.random.default_rng((nature.seed, 7)) for nature in self.natures]
        self._share = np.array([nature.share for nature in self.natures])
        self._positions, self._ends = np.zeros((n, PARTITIONS)), np.zeros((n, PARTITIONS))
        self._recent, self._nothing = np.zeros((n, PARTITIONS)), np.zeros((n, PARTITIONS))
        self._joins, self._resumes = np.full(n, np.inf), np.full(n, -1.0)
        self._started, self._generation = np.full(n, -1000.0), np.zeros(n, int)
        self._cpu, self._busy = np.zeros(n), np.zeros(n)
        self._history: list[tuple[np.ndarray, ...]] = []
        self._rows = np.arange(n)[:, None]
        self._owner, self._capacity = np.zeros((n, PARTITIONS), int), np.ones((n, MOST))
        for i in range(n):
            self._place(i)
        noise = [np.random.default_rng((nature.seed, 8)).normal(0, 1, self.trace.rate.size) for nature in self.natures]
        smooth = np.array([np.convolve(each, np.exp(-np.arange(12) / 4), "same") for each in noise])
        self._rate = np.maximum(0, self.trace.rate * (1 + 0.03 * smooth))
        self.behind = np.zeros((n, self.trace.rate.size))
        self.line = np.zeros((n, self.trace.rate.size))

    def _place(self, i: int) -> None:
        ready, nature = int(self.ready[i]), self.natures[i]
        self._owner[i] = np.arange(PARTITIONS) % ready
        self._capacity[i] = 1e-9
        self._capacity[i, :ready] = nature.pods[:ready] * ready ** (nature.alpha - 1)

    def step(self, k: int) -> None:
        """STEP seconds; k counts them."""
        now = k * STEP
        for i in np.flatnonzero(self._joins <= now):
            self._join(int(i), now)
        running = np.clip((now + STEP - self._resumes) / STEP, 0, 1)
        arrived = self._rate[:, k, None] * STEP * self._share
        self._ends += arrived
        waiting = self._ends - self._positions
        flat = (self._owner + self._rows * MOST).ravel()
        load = np.bincount(flat, weights=waiting.ravel(), minlength=self._capacity.size).reshape(self._capacity.shape)
        able = self._capacity * STEP * running[:, None]
        served = np.minimum(1.0, able / np.maximum(load, 1e-9))
        done = waiting * np.take_along_axis(served, self._owner, axis=1)
        total = done.sum(axis=1)
        sunk = np.minimum(1.0, self.trace.sink[k] * STEP * running / np.maximum(total, 1e-9))
        done *= sunk[:, None]
        self._positions += done
        self._recent += (done / STEP - self._recent) * 0.4
        full = np.maximum(able.sum(axis=1), 1e-9)
        self._cpu += (np.where(running > 0, done.sum(axis=1) / full, 0) - self._cpu) * 0.3
        self._busy += (np.where(running > 0, np.maximum(done.sum(axis=1) / full, sunk < 1), 0) - self._busy) * 0.3
        self.billed += self.ready * STEP
        self.paused += (1 - running) * STEP
        there = self._share > 0
        self.behind[:, k] = np.divide(self._positions, self._share, where=there, out=self._nothing + np.inf).min(axis=1)
        self.line[:, k] = np.divide(self._ends, self._share, where=there, out=self._nothing.copy()).max(axis=1)

    def _join(self, i: int, now: float) -> None:
        self._joins[i] = np.inf
        if self.ready[i] == self.workers[i]:
            return
        nature, chance = self.natures[i], self._chance[i]
        self.ready[i] = self.workers[i]
        self._place(i)
        pause = nature.pause * np.exp(chance.normal(0, 0.25))
        self._resumes[i] = self._started[i] = now + pause
        self._generation[i] += 1
        again = now - nature.checkpoint_before(now)
        self._positions[i] = np.maximum(0, self._positions[i] - self._recent[i] * again)

    def rescale(self, i: int, workers: int, now: float) -> None:
        """Tell a job to have other workers."""
        workers = min(max(int(workers), 1), MOST)
        if workers == self.workers[i]:
            return
        self.changes[i].append((now, int(self.workers[i]), workers))
        chance, nature = self._chance[i], self.natures[i]
        late = 5.0 if workers < self.ready[i] or self.punctual else 10 + chance.exponential(20.0)
        if workers > self.ready[i] and not self.punctual and chance.random() < nature.never:
            late = 900.0
        self.workers[i] = workers
        self._joins[i] = now + late

    def look(self) -> None:
        """Take down the figures of this moment."""
        self._history.append(
            (
                *(self.workers.copy(), self.ready.copy(), self._resumes.copy(), self._generation.copy()),
                *(self._positions.copy(), self._ends.copy(), self._cpu.copy(), self._busy.copy()),
            )
        )

    def seen(self, i: int, now: float) -> Seen | None:
        """What a scaler of job i is told now; None: nothing."""
        nature = self.natures[i]
        at = len(self._history) - 1 - nature.delay // TICK
        if at < 0 or self._chance[i].random() < nature.dropped:
            return None
        workers, ready, resumes, generation, positions, ends, cpu, busy = self._history[at]
        then = now - nature.delay
        noise = 1 + 0.02 * self._chance[i].normal()
        return Seen(
            at=then,
            workers=int(workers[i]),
            ready=int(ready[i]),
            started=None if then < resumes[i] else float(max(resumes[i], -1000.0)),
            generation=int(generation[i]),
            positions=positions[i, : nature.partitions],
            ends=ends[i, : nature.partitions],
            cpu=float(min(1.0, 0.03 + 0.93 * nature.cpu * cpu[i] * noise)),
            spec=int(self.workers[i]),
            changed=self.changes[i][-1][0] if self.changes[i] else -1000.0,
            busy=float(busy[i]),
            checkpoint=nature.checkpoint_before(then),
        )

    def backlog_time(self) -> np.ndarray:
        """By seed and step: how long ago the oldest record was written that is not read yet, in seconds."""
        steps = np.arange(1, self.trace.rate.size + 1) * STEP
        ages = []
        for behind, line in zip(self.behind, self.line, strict=True):
            rising = line + np.arange(line.size) * 1e-9
            written = np.interp(behind, np.concatenate(([0.0], rising)), np.concatenate(([0.0], steps)))
            age = steps - written
            age[behind >= line * (1 - 1e-6)] = 0.0
            ages.append(age)
        return np.array(ages)
