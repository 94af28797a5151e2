"""The autoscaler's values. Times are seconds since 1970, rates records a second, CPU a share of the workers' limit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Decision", "Evaluation", "Futile", "Hold", "Limits", "Memory", "Observation", "Reason", "Rescale", "Rise"]


class Reason(StrEnum):
    """Why nothing is changed."""

    UNREACHABLE = "unreachable"
    """Something that is asked for figures does not answer."""
    NOT_RUNNING = "not running"
    RESCALING = "rescaling"
    """The last change has not shown its effect yet."""
    MISSING = "missing"
    """A figure is not there or no number."""
    STALE = "stale"
    """A figure is too old, or of a task that is gone."""
    WARMING_UP = "warming up"
    """The window has too few figures."""
    FINE = "fine"
    """The policy sees no need."""
    NOT_OURS = "not ours"
    """Somebody else scales it, or nobody is to."""
    AT_LIMIT = "at limit"
    """The policy wants what the limits forbid."""
    FUTILE = "futile"
    """The policy wants more workers, which did not help the last time."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Change nothing."""

    reason: Reason
    text: str
    """The same for people, one sentence."""


@dataclass(frozen=True, slots=True)
class Rescale:
    """Change the number of workers."""

    current: int
    target: int
    text: str
    """Why, one sentence for people."""


Decision = Hold | Rescale


@dataclass(frozen=True, slots=True)
class Observation:
    """A job at one moment. What is missing is absent or NaN, never 0."""

    at: float
    """When the figures were true."""
    workers: int
    """That the job was told to have."""
    ready: int
    """That have joined it."""
    started: float | None
    """When the youngest of its running subtasks started; None: not all of them run."""
    running: frozenset[str]
    """Attempts of its source subtasks that run now."""
    attempts: Mapping[str, str]
    """By partition (``topic-number``): the attempt that said its position."""
    positions: Mapping[str, float]
    """By partition: offset of the next record that the job will read."""
    ends: Mapping[str, float]
    """By partition: offset of the next record that will be written, as the broker says."""
    cpu: float
    """Of all workers, JVM and Python together."""
    useful: int | None = None
    """Workers that the partitions can keep busy; None: not known, no limit."""
    quota: int | None = None
    """Workers that there is room for; None: no limit."""
    slots: int = 1
    """Of one worker: so many subtasks it has."""
    checkpoint: float | None = None
    """When the last completed checkpoint was triggered, from which a restart goes on; None: there is none, or nobody
    says."""


_SATURATED = 2.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a window of observations comes to."""

    at: float
    workers: int
    """That the job was told to have."""
    ready: int
    """That do the work."""
    throughput: float
    backlog: float
    """Records."""
    growth: float
    """Of the backlog."""
    cpu: float
    least_backlog_time: float
    """Of all moments in the window: above zero, the workers had something to do all the time."""
    shares: tuple[float, ...]
    """Of the input, by partition in their order; empty: nothing was written."""
    best: float
    """The highest throughput over any half window in it."""
    farthest: float = 1.0
    """How many times as far behind as the mean the subtask is that is farthest behind; it sets the age of the oldest
    record."""
    sustained: float = math.inf
    """What all could read if each had to do as the one does that does least of those that are always behind; infinite:
    none is."""
    inputs: tuple[tuple[float, float], ...] = ()
    """When the input had which rate since the time before, oldest first, an hour back; from the broker alone, so
    through restarts."""
    slots: int = 1
    """Subtasks of one worker."""

    @property
    def saturated(self) -> bool:
        """Whether the workers had more than 2 s of backlog before them all the time: they were never short of work."""
        return self.least_backlog_time > _SATURATED

    @property
    def input_rate(self) -> float:
        """What is written to the topics. Never negative."""
        return max(0.0, self.growth + self.throughput)

    @property
    def backlog_time(self) -> float:
        """How long the backlog would take at this throughput; infinite where nothing is read."""
        if self.backlog <= 0:
            return 0.0
        return self.backlog / self.throughput if self.throughput > 0 else float("inf")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of this job now."""

    least: int
    most: int
    useful: int
    """What scaling up may reach; from ``least`` to ``most``."""
    quota: int | None = None
    """What there is room for; None: no limit."""

    @classmethod
    def of(cls, least: int, most: int, partitions: int | None = None, quota: int | None = None) -> Self:
        """Bounds, and what else caps scaling up; None caps nothing."""
        caps = [cap for cap in (partitions, quota) if cap is not None]
        return cls(least, most, max(least, min(most, *caps, most)), quota)


class Rise(NamedTuple):
    """More workers that were asked for under a backlog, and have not shown yet whether they help."""

    workers: int
    """Before."""
    rate: float
    """Highest throughput before."""


class Futile(NamedTuple):
    """Workers beyond which others did not help."""

    workers: int
    until: float
    """When it may be tried again."""
    waited: bool = False
    """They waited for something then; what holds of them then does not hold of busy ones."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a later launcher must know to go on."""

    rescaled_at: float = -math.inf
    """When the last change was asked for; minus infinity: never."""
    target: int = 0
    """What it asked for."""
    capacity: Mapping[int, float] = field(default_factory=dict)
    """Records a second that so many workers can do, as they have shown lately."""
    pause: float | None = None
    """Seconds for which a change of workers stops the job, as it did lately; None: none was seen yet."""
    replay: float = 10.0
    """Seconds of work that a change of workers makes the job do again, as it has been lately; at first the default
    interval of checkpoints."""
    rise: Rise | None = None
    futile: Futile | None = None

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "rescaled_at": self.rescaled_at if math.isfinite(self.rescaled_at) else None,
            "target": self.target,
            "capacity": {str(workers): rate for workers, rate in self.capacity.items()},
            "pause": self.pause,
            "replay": self.replay,
            "rise": self.rise,
            "futile": self.futile,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        """Inverse of ``as_json``.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        return cls(
            rescaled_at=-math.inf if kept["rescaled_at"] is None else float(kept["rescaled_at"]),
            target=int(kept["target"]),
            capacity={int(workers): float(rate) for workers, rate in kept["capacity"].items()},
            pause=None if kept["pause"] is None else float(kept["pause"]),
            replay=float(kept.get("replay", cls().replay)),
            rise=None if kept["rise"] is None else Rise(int(kept["rise"][0]), float(kept["rise"][1])),
            futile=None
            if (futile := kept["futile"]) is None
            else Futile(int(futile[0]), float(futile[1]), *map(bool, futile[2:])),
        )
