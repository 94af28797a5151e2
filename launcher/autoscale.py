"""The autoscaler at work on a job: what it sees, a thread that ticks, and what people are told of it."""

from __future__ import annotations

import logging
import re
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from beam_k8s.autoscaler.loop import Autoscaler
from beam_k8s.autoscaler.model import Hold, Observation, Reason, Rescale
from beam_k8s.errors import FlinkError
from beam_k8s.launcher import flink_rest
from beam_k8s.launcher.kafka_admin import Connections, EndOffsets
from beam_k8s.launcher.progress import report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from beam_k8s.autoscaler.model import Decision, Evaluation
    from beam_k8s.autoscaler.ports import Journal
    from beam_k8s.graph import KafkaSource
    from beam_k8s.launcher.flink_rest import FlinkReads, Progress
    from beam_k8s.launcher.target import Job, Workers
    from beam_k8s.settings import Settings

__all__ = ["Autoscaling", "JobFigures", "TellPeople"]

_LOGGER = logging.getLogger(__name__)
_LAST_TICK_SECONDS = 10.0
"""Longest wait for a tick that is under way when the job has ended."""
_PATIENCE = 4
"""Ticks without an answer of which nothing is said: a job that starts has no Flink yet."""


class FlinkJob(Protocol):
    """What is asked of a job to look at it."""

    @property
    def job_id(self) -> str:
        """Flink's job id, 32 hexadecimal digits."""

    def flink(self) -> FlinkReads | None:
        """Flink's answers about the job; None while there are none."""


class JobFigures:
    """See ``ports.Figures``. For one thread.

    Args:
        job: whose.
        workers: its TaskManagers.
        sources: what it reads.
        slots: of one TaskManager.
        connections: to Kafka, of others too; None: of its own.
    """

    def __init__(
        self,
        job: FlinkJob,
        workers: Workers,
        sources: Sequence[KafkaSource],
        slots: int,
        connections: Connections | None = None,
    ) -> None:
        self._job, self._workers, self._slots = job, workers, slots
        self._readers = Readers()
        self._connections, self._own = connections or Connections(), connections is None
        self._ends = {source.name: EndOffsets(source, self._connections) for source in sources}

    def observe(self) -> Observation:
        """See ``ports.Figures``."""
        at = time.time()
        workers = self._workers.look()
        flink = self._job.flink()
        if flink is None:
            raise FlinkError("the job's Flink is not there.")
        running = flink_rest.status(flink, self._job.job_id) == "RUNNING"
        progress = flink_rest.progress(flink, self._job.job_id) if running else flink_rest.NO_PROGRESS
        # Positions first: what is read meanwhile is never taken for backlog below zero.
        ends = {
            (name, *where): float(end) for name, source in self._ends.items() for where, end in source.now().items()
        }
        attempts, positions = self._readers.positions(progress, ends)
        counts = [sum(name == source for name, _, _ in ends) for source in self._ends]
        checkpoint = None
        if running:
            with suppress(flink_rest.RestError):  # it takes none
                checkpoint = flink_rest.checkpoints(flink, self._job.job_id).last_triggered
        return Observation(
            at=at,
            workers=workers.wanted,
            ready=flink.get("/overview")["taskmanagers"],
            started=progress.started,
            running=progress.running,
            attempts={self._name(key): attempt for key, attempt in attempts.items()},
            positions={self._name(key): position for key, position in positions.items()},
            ends={self._name(key): end for key, end in ends.items()},
            cpu=workers.cpu,
            useful=-(-max(counts) // self._slots) or None,
            quota=None if workers.room is None else workers.wanted + workers.room,
            slots=self._slots,
            checkpoint=checkpoint,
        )

    def _name(self, partition: _Partition) -> str:
        source, topic, number = partition
        return f"{topic}-{number}" if len(self._ends) == 1 else f"{source} {topic}-{number}"

    def close(self) -> None:
        """Hang up."""
        if self._own:
            self._connections.close()


_Partition = tuple[str, str, int]
"""Source, topic, number."""


class Readers:
    """Who reads each partition, and where he is; for one job.

    Flink tells the last position of a partition under a subtask's number for ever, though since a restart the
    partition is another subtask's. Of several that tell of one partition the one whose position has moved reads it.
    Where none has, it is the one that is ahead: who reads what is new has passed who read before.
    """

    def __init__(self) -> None:
        self._before: dict[tuple[_Partition, str], float] = {}
        self._reader: dict[_Partition, str] = {}
        """Attempts that have moved."""

    def positions(
        self, progress: Progress, ends: Mapping[_Partition, float]
    ) -> tuple[dict[_Partition, str], dict[_Partition, float]]:
        """The attempt that reads each partition, and its position.

        Args:
            progress: of the job.
            ends: of all partitions.
        """
        named = {(source, _as_in_metrics(topic), number): (source, topic, number) for source, topic, number in ends}
        claims: dict[_Partition, dict[str, float]] = {}
        for told in progress.positions:
            key = (told.source, told.topic, told.partition)
            key = named.get(key, key)
            offset = ends.get(key) if told.offset is None and told.caught_up else told.offset
            if offset is not None:
                claims.setdefault(key, {})[told.attempt] = offset
        found = {key: self._of(key, offsets) for key, offsets in claims.items()}
        self._before = {(key, attempt): offset for key, of in claims.items() for attempt, offset in of.items()}
        return {key: attempt for key, (attempt, _) in found.items()}, {
            key: offset for key, (_, offset) in found.items()
        }

    def _of(self, key: _Partition, offsets: Mapping[str, float]) -> tuple[str, float]:
        moved = [attempt for attempt, offset in offsets.items() if self._before.get((key, attempt), offset) != offset]
        if len(moved) == 1:
            self._reader[key] = moved[0]
        reader = self._reader.get(key, "")
        if reader not in offsets:
            reader = max(offsets, key=offsets.__getitem__)
        return reader, offsets[reader]


def _as_in_metrics(topic: str) -> str:
    return re.sub(r"[^\w-]", "_", topic)


class TellPeople:
    """See ``ports.Journal``. A terminal gets what is new and matters, the log each tick.

    Args:
        name: of the job.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._told: object = None
        self._unreachable = 0
        """Ticks since the last that was answered."""

    def tell(self, decision: Decision, seen: Evaluation | None, *, acted: bool) -> None:
        """See ``ports.Journal``."""
        _LOGGER.info("tick job=%s decision=%s acted=%s seen=%s", self._name, decision, acted, seen)
        unreachable = isinstance(decision, Hold) and decision.reason is Reason.UNREACHABLE
        self._unreachable = self._unreachable + 1 if unreachable else 0
        news: object
        if isinstance(decision, Rescale):
            news = None if acted else (decision.current, decision.target)
            verb = "scales" if acted else "would scale"
            text = f"{verb} from {decision.current} to {decision.target} workers: {decision.text}"
        elif decision.reason in {Reason.AT_LIMIT, Reason.FUTILE, Reason.NOT_OURS} or self._unreachable == _PATIENCE:
            # Who else scales it is news; how far it is over a limit changes with each tick.
            news = decision.text if decision.reason is Reason.NOT_OURS else decision.reason
            text = f"leaves the workers as they are: {decision.text}"
        else:
            return
        if news is None or news != self._told:
            report(f"{self._name}: autoscaler {text}")
        self._told = news


class Autoscaling:
    """A thread that scales a job until it is stopped. What it meets never reaches the thread that waits for the job.

    Args:
        job: a deployed job.
        sources: what it reads.
        settings: of the job, with an autoscaler.
        journal: is told of each tick; default: people.
    """

    def __init__(
        self, job: Job, sources: Sequence[KafkaSource], settings: Settings, journal: Journal | None = None
    ) -> None:
        autoscaler = settings.autoscaler
        assert autoscaler is not None  # noqa: S101 - for the type checker
        workers = self._workers = job.workers()
        self._name, self._interval = job.name, autoscaler.interval
        self._figures = JobFigures(job, workers, sources, settings.slots)
        self._autoscaler = Autoscaler(
            autoscaler,
            self._figures,
            workers,
            journal or TellPeople(job.name),
            time.time,
            act=settings.autoscaler_mode == "on",
        )
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"autoscaler {job.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Tick no more. Idempotent."""
        self._stopped.set()
        self._thread.join(_LAST_TICK_SECONDS)

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                self._autoscaler.tick()
            except Exception:
                _LOGGER.exception("A tick of the autoscaler failed job=%s", self._name)
        self._workers.release()
        self._figures.close()
