"""Observations of one undisturbed stretch of a job's life, and what they come to.

A restart, a rescale, a partition that comes or goes and a counter that goes back each start a new stretch: figures from
before them say nothing of the job as it is now.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from beam_k8s.autoscaler.model import Evaluation, Hold, Observation, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from beam_k8s.autoscaler.settings import AutoscalerSettings

__all__ = ["Window"]

_BEHIND = 5.0
"""Seconds of input that a subtask always had before it: it was never short of work."""
_LEAST_SHARE = 1e-3
"""Of the input: less says nothing."""
_MEMORY = 3600.0
"""Seconds for which the input is remembered."""


class Window:
    """The last good observations, oldest first.

    Args:
        settings: how long a stretch, how old a figure may be.
    """

    def __init__(self, settings: AutoscalerSettings) -> None:
        self._settings = settings
        self._samples: list[Observation] = []
        self._workers = (0, 0.0)
        self._written: tuple[float, float] | None = None
        self._partitions: frozenset[str] = frozenset()
        self._inputs: list[tuple[float, float]] = []
        self._stretch: tuple[object, ...] = ()
        self._first: Mapping[str, float] = {}
        """Positions as they were told first since the job started."""

    def add(self, seen: Observation) -> Hold | None:
        """Take an observation in; a Hold says why it does not count."""
        if seen.workers != self._workers[0]:
            self._workers = (seen.workers, seen.at)
        self._listen(seen)
        if self._stretch != (seen.started, seen.running):
            self._stretch, self._first = (seen.started, seen.running), seen.positions
        problem = self._problem(seen)
        if problem is not None:
            if problem.reason is not Reason.MISSING:
                self._samples.clear()
            return problem
        if self._samples:
            last = self._samples[-1]
            if seen.at <= last.at:
                return None  # nothing new; the evaluation says how old it is
            if not _same_stretch(last, seen):
                self._samples.clear()
        self._samples.append(seen)
        while len(self._samples) > 2 and self._samples[1].at <= seen.at - self._settings.window:
            del self._samples[0]
        return None

    def _listen(self, seen: Observation) -> None:
        """Note the input rate, whatever the job does meanwhile."""
        total = sum(seen.ends.values())
        if not seen.ends or not math.isfinite(total):
            return
        if self._written and (seen.ends.keys() != self._partitions or total < self._written[1]):
            self._written = None
        if self._written and seen.at <= self._written[0]:
            return
        self._partitions = frozenset(seen.ends)
        if self._written:
            at, before = self._written
            self._inputs.append((seen.at, (total - before) / (seen.at - at)))
        self._written = (seen.at, total)
        while self._inputs and self._inputs[0][0] < seen.at - _MEMORY:
            del self._inputs[0]

    def _problem(self, seen: Observation) -> Hold | None:
        if seen.started is None:
            return Hold(Reason.NOT_RUNNING, "the job is not running")
        if seen.ready < 1:
            return Hold(Reason.NOT_RUNNING, "the job has no worker")
        late = seen.at - max(self._workers[1], seen.started)
        if seen.ready != seen.workers and late < self._settings.provision_timeout:
            return Hold(Reason.RESCALING, f"{seen.ready} of {seen.workers} workers have joined")
        if not math.isfinite(seen.cpu) or seen.cpu < 0:
            return Hold(Reason.MISSING, "the workers' CPU is not known")
        if not seen.ends:
            return Hold(Reason.MISSING, "no partition is known")
        gone, unread = seen.positions.keys() - seen.ends.keys(), seen.ends.keys() - seen.positions.keys()
        if gone:
            return Hold(Reason.MISSING, f"the broker does not know {_some(gone)} any more")
        if unread:
            return Hold(Reason.MISSING, f"the job has not told a position of {_some(unread)}")
        broken = [
            name
            for name, end in seen.ends.items()
            if not (math.isfinite(end) and math.isfinite(seen.positions[name])) or seen.positions[name] < 0
        ]
        if broken:
            return Hold(Reason.MISSING, f"the backlog of {_some(broken)} is no number")
        old = [name for name in seen.ends if seen.attempts.get(name) not in seen.running]
        if old:
            return Hold(Reason.STALE, f"the position of {_some(old)} is of a subtask that is gone")
        if seen.at < seen.started + self._settings.settle:
            return Hold(Reason.STALE, "the job has just started: Flink may still tell figures of before")
        if still := self._still(seen):
            return Hold(Reason.STALE, f"Flink has told no other position of {_some(still)} yet")
        return None

    def _still(self, seen: Observation) -> list[str]:
        """Partitions with something to read whose positions may still be those of before the job started.

        After ``max_age`` what does not move is taken to stand still, unless nothing has moved at all. One offset more
        is nothing to read: a transaction ends with a marker.
        """
        moved = {name for name, position in seen.positions.items() if position != self._first.get(name)}
        still = [name for name, end in seen.ends.items() if end > seen.positions[name] + 1 and name not in moved]
        old = seen.started is not None and seen.at >= seen.started + self._settings.max_age
        return [] if moved and old else still

    def evaluate(self, now: float) -> Evaluation | Hold:
        """What the window comes to.

        Args:
            now: the time, to tell stale figures.
        """
        if len(self._samples) < 3:
            return Hold(Reason.WARMING_UP, "rates are not known yet")
        first, last = self._samples[0], self._samples[-1]
        if now - last.at > self._settings.max_age:
            return Hold(Reason.STALE, f"the newest figures are {now - last.at:.0f} s old")
        seconds = last.at - first.at
        if seconds < self._settings.window / 2:
            return Hold(Reason.WARMING_UP, "rates are not known yet")
        backlogs = [_backlog(each) for each in self._samples]
        read = [(each.at, sum(each.positions.values())) for each in self._samples]
        throughput = (read[-1][1] - read[0][1]) / seconds
        written = {name: end - first.ends[name] for name, end in last.ends.items()}
        farthest, sustained = self._readers(written, seconds)
        return Evaluation(
            at=last.at,
            workers=last.workers,
            ready=last.ready,
            throughput=throughput,
            backlog=backlogs[-1],
            growth=(backlogs[-1] - backlogs[0]) / seconds,
            cpu=sum(each.cpu for each in self._samples) / len(self._samples),
            least_backlog_time=min(backlogs) / throughput if throughput > 0 else (math.inf if min(backlogs) else 0.0),
            shares=tuple(written[name] / total for name in sorted(written, key=_order))
            if (total := sum(written.values())) > 0
            else (),
            best=_best(read, self._settings.window / 2),
            farthest=farthest,
            sustained=sustained,
            inputs=tuple(self._inputs),
            slots=last.slots,
        )

    def _readers(self, written: Mapping[str, float], seconds: float) -> tuple[float, float]:
        """``farthest`` and ``sustained`` of an evaluation, by subtask: how it shares its time is its own affair."""
        first, last = self._samples[0], self._samples[-1]
        total, backlog = sum(written.values()), _backlog(last)
        farthest, sustained = 1.0, math.inf
        if total <= 0:
            return farthest, sustained
        names = defaultdict(list)
        for name in last.ends:
            names[last.attempts[name]].append(name)
        for mine in names.values():
            share = sum(written[name] for name in mine) / total
            if share < _LEAST_SHARE:
                continue
            behind = [sum(max(0.0, each.ends[name] - each.positions[name]) for name in mine) for each in self._samples]
            if backlog > 0:
                farthest = max(farthest, behind[-1] / share / backlog)
            if min(behind) > _BEHIND * share * total / seconds:
                read = sum(last.positions[name] - first.positions[name] for name in mine) / seconds
                sustained = min(sustained, read / share)
        return farthest, sustained


def _backlog(seen: Observation) -> float:
    """Records; an idle topic has none, though each of its partitions may end with a transaction's marker."""
    # A position read after the end was can be past it.
    behind = max(0.0, sum(seen.ends.values()) - sum(seen.positions.values()))
    return behind if behind > len(seen.ends) else 0.0


def _order(name: str) -> tuple[str, int]:
    topic, _, number = name.rpartition("-")
    return topic, int(number)


def _best(read: list[tuple[float, float]], span: float) -> float:
    """The steepest rise of a counter over at least so many seconds."""
    rates = [(n - m) / (t - s) for i, (s, m) in enumerate(read) for t, n in read[i + 1 :] if span <= t - s < 2 * span]
    return max(rates, default=0.0)


def _same_stretch(last: Observation, seen: Observation) -> bool:
    return (
        (seen.started, seen.running, seen.workers, seen.ready) == (last.started, last.running, last.workers, last.ready)
        and seen.ends.keys() == last.ends.keys()
        and all(seen.ends[name] >= end for name, end in last.ends.items())
        and all(seen.positions[name] >= position for name, position in last.positions.items())
    )


def _some(names: object) -> str:
    some = sorted(names)  # type: ignore[call-overload]
    return f"{some[0]} and {len(some) - 1} other partitions" if len(some) > 1 else f"partition {some[0]}"
