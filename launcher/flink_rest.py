"""Typed reads and the few writes of Flink's REST endpoint, live or from the archive that an ended job leaves."""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import requests

from beam_k8s.errors import FlinkError
from beam_k8s.silence import SourceLook, Spent
from beam_k8s.states import TERMINAL, pipeline_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "NO_PROGRESS",
    "ArchivedFlink",
    "Checkpoints",
    "FlinkReads",
    "FlinkRest",
    "JobException",
    "Position",
    "Progress",
    "RestError",
    "Source",
    "Vertex",
    "accumulators",
    "checkpoints",
    "container_cpu",
    "exceptions",
    "has_ended",
    "progress",
    "source_looks",
    "sources",
    "status",
    "vertices",
]

_ACCUMULATOR = "__metricscontainers"
"""Name under which Beam's Flink runner registers its metrics."""


class FlinkReads(Protocol):
    """What answers GET requests with Flink's JSON."""

    def get(self, path: str) -> Any:
        """The JSON at a path such as ``/jobs/ID``.

        Raises:
            FlinkError: not reachable, or no such path (``status`` 404).
        """


class RestError(FlinkError):
    """Flink answered with an HTTP error."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class FlinkRest:
    """Flink's REST endpoint.

    Args:
        url: base URL, ``http://host:port``.
        timeout: seconds for one request.
    """

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        self.url = url
        self._timeout = timeout
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy must not stand between us and a loopback address

    def get(self, path: str) -> Any:
        """See FlinkReads."""
        return self._call("GET", path)

    def cancel(self, job_id: str) -> None:
        """Ask Flink to cancel the job; returns before it has ended."""
        self._call("PATCH", f"/jobs/{job_id}?mode=cancel")

    def run(
        self,
        entry_class: str,
        arguments: list[str],
        conf: dict[str, str],
        *,
        savepoint: str | None = None,
        allow_non_restored: bool = False,
    ) -> str:
        """Run a main class of Flink's own lib folder in a session cluster, with Flink settings; returns the job id.

        Flink wants a jar to be uploaded first: ours is empty, so that no class loader of the job holds classes.
        """
        jar = io.BytesIO()
        with zipfile.ZipFile(jar, "w") as archive:
            archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n")
        upload = self._call(
            "POST", "/jars/upload", files={"jarfile": ("empty.jar", jar.getvalue(), "application/x-java-archive")}
        )
        jar_id = upload["filename"].rpartition("/")[2]
        body: dict[str, Any] = {
            "entryClass": entry_class,
            "programArgsList": arguments,
            "flinkConfiguration": conf,
        }
        if savepoint:
            body |= {"savepointPath": savepoint, "allowNonRestoredState": allow_non_restored}
        try:
            return str(self._call("POST", f"/jars/{jar_id}/run", json=body, timeout=120.0)["jobid"])
        finally:
            self._call("DELETE", f"/jars/{jar_id}")

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        arguments.setdefault("timeout", self._timeout)
        try:
            response = self._session.request(method, self.url + path, **arguments)
        except requests.RequestException as cause:
            raise FlinkError(f"Flink at {self.url} does not answer: {type(cause).__name__}.") from cause
        if not response.ok:
            raise RestError(f"Flink refused {method} {path}: {_first_error(response)}", response.status_code)
        return response.json() if response.content else {}


def _first_error(response: requests.Response) -> str:
    try:
        return "\n".join(response.json()["errors"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"


class ArchivedFlink:
    """What Flink's JobManager wrote about a job that has ended (``jobmanager.archive.fs.dir``)."""

    def __init__(self, file: Path) -> None:
        self._answers = {entry["path"]: entry["json"] for entry in json.loads(file.read_text())["archive"]}

    def get(self, path: str) -> Any:
        """See FlinkReads."""
        if path not in self._answers:
            raise RestError(f"the archived job has no {path}", 404)
        return json.loads(self._answers[path])


@dataclass(frozen=True, slots=True)
class Vertex:
    """One vertex of the job graph: one or several chained operators."""

    id: str
    name: str
    parallelism: int
    max_parallelism: int
    status: str


@dataclass(frozen=True, slots=True)
class Source:
    """A vertex that reads from outside."""

    name: str
    topics: tuple[str, ...]
    """Kafka's, with ``_`` for each character that Flink's metrics do not take (``.`` among them)."""
    partitions: int
    """That its subtasks read now; 0 where that is not told."""
    parallelism: int
    backlog: int | None
    """Records not read yet; None where the source does not tell."""
    backlog_bytes: int | None = None
    """Of keys and values, by the size of those read last."""
    backlog_seconds: int | None = None
    """That reading the partition takes which takes longest, at the present rate if nothing is added."""
    stalled_seconds: int | None = None
    """Since records were last read of the partition that waits longest of those that have a backlog; 0: none waits."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a source subtask is in a partition."""

    source: str
    """The vertex, as ``Source.name``."""
    topic: str
    """As in ``Source.topics``."""
    partition: int
    attempt: str
    """Of the subtask that says so."""
    offset: int | None
    """Of the next record to read; None: it has read none since it started."""
    caught_up: bool
    """Whether the subtask has nothing left to read, in any of its partitions."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is, and since when it runs."""

    started: float | None
    """When the youngest of its subtasks began to run, in seconds since 1970; None: not all of them run."""
    running: frozenset[str]
    """Attempts of its source subtasks, each different from all others of the job's life."""
    positions: tuple[Position, ...]


NO_PROGRESS = Progress(None, frozenset(), ())
"""Of a job that does not run."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The job's checkpoints since its JobManager started."""

    completed: int
    failed: int
    last_id: int
    """Of the last completed one; 0: there is none."""
    last_at: float
    """When it was completed, in seconds since 1970."""
    last_size: int
    """Bytes of its state."""
    last_seconds: float
    """How long it took."""

    @property
    def last_triggered(self) -> float | None:
        """When the last completed one was triggered, in seconds since 1970; None: there is none."""
        return self.last_at - self.last_seconds if self.last_id else None


@dataclass(frozen=True, slots=True)
class JobException:
    """A failure of a task that made the job restart, or fail."""

    timestamp_ms: int
    stacktrace: str


def status(flink: FlinkReads, job_id: str) -> str | None:
    """Flink's state of the job; None if Flink does not know it (yet). Asks for the list: Flink logs each 404."""
    if isinstance(flink, ArchivedFlink):
        return str(flink.get(f"/jobs/{job_id}")["state"])
    return next((job["status"] for job in flink.get("/jobs")["jobs"] if job["id"] == job_id), None)


def has_ended(flink: FlinkReads, job_id: str) -> bool:
    """Whether Flink's answers about the job (``vertices``, ``exceptions``, ``accumulators``) are those of its end."""
    return pipeline_state(flink.get(f"/jobs/{job_id}")["state"]) in TERMINAL


def vertices(flink: FlinkReads, job_id: str) -> list[Vertex]:
    """The job's vertices in topological order."""
    return [
        Vertex(v["id"], v["name"], v["parallelism"], v["maxParallelism"], v["status"])
        for v in flink.get(f"/jobs/{job_id}")["vertices"]
    ]


_PARTITION = re.compile(r"KafkaSourceReader\.topic\.(.+)\.partition\.(\d+)\.currentOffset$")
_BACKLOG = re.compile(r"\.pendingRecords$")
_BACKLOG_BYTES = re.compile(r"\.pendingBytes$")
_BACKLOG_SECONDS = re.compile(r"\.pendingSeconds$")
_STALLED_SECONDS = re.compile(r"\.stalledSeconds$")
_STARTED_MS = re.compile(r"\.readerStartedMs$")
_READ = re.compile(r"^\d+\.Source__.*\.numRecordsIn$")


def sources(flink: FlinkReads, job_id: str) -> list[Source]:
    """What the job reads from, without the sources that have ended."""
    job = flink.get(f"/jobs/{job_id}")
    heads = {node for node, inputs in _inputs(job).items() if not inputs}
    return [
        _source(flink, job, vertex)
        for vertex in job["vertices"]
        if vertex["id"] in heads and vertex["status"] != "FINISHED"
    ]


def _source(flink: FlinkReads, job: dict[str, Any], vertex: dict[str, Any]) -> Source:
    gauges = _BACKLOG, _BACKLOG_BYTES, _BACKLOG_SECONDS, _STALLED_SECONDS
    names, (backlog, size, seconds, stalled) = _of_all_subtasks(flink, job, vertex, gauges)
    partitions = {match.groups() for name in names if (match := _PARTITION.search(name))}
    return Source(
        name=_source_name(vertex),
        topics=tuple(sorted({topic for topic, _ in partitions})),
        partitions=len(partitions),
        parallelism=vertex["parallelism"],
        backlog=sum(backlog) if backlog else None,
        backlog_bytes=sum(size) if size else None,
        backlog_seconds=max(seconds, default=None),
        stalled_seconds=max(stalled, default=None),
    )


def _of_all_subtasks(
    flink: FlinkReads, job: dict[str, Any], vertex: dict[str, Any], kinds: Sequence[re.Pattern[str]]
) -> tuple[list[str], list[list[int]]]:
    """The names of a vertex's metrics, and for each kind the values of all subtasks; none if one of them has not told
    it yet, or says by a negative value that it does not know, or what Flink has is of an attempt that has ended.
    """
    path = f"/jobs/{job['jid']}/vertices/{vertex['id']}/metrics"
    names = [str(each["id"]) for each in flink.get(path)]
    told = _values(flink, path, [name for name in names if any(kind.search(name) for kind in (*kinds, _STARTED_MS))])
    since = vertex["start-time"]
    skew = _SKEWS_MS[job["now"] - since >= _YOUNG_MS]
    if since < 0 or any(value < since - skew for name, value in told.items() if _STARTED_MS.search(name)):
        return names, [[] for _ in kinds]
    running = vertex["parallelism"] - vertex["tasks"]["FINISHED"]
    values = [[round(value) for name, value in told.items() if kind.search(name)] for kind in kinds]
    return names, [each if each and len(each) >= running and min(each) >= 0 else [] for each in values]


def _inputs(job: dict[str, Any]) -> dict[str, set[str]]:
    """Vertex -> those it gets records from. A job that waits for workers has no plan yet."""
    return {node["id"]: {edge["id"] for edge in node.get("inputs", ())} for node in job["plan"].get("nodes", ())}


def _source_name(vertex: dict[str, Any]) -> str:
    return str(vertex["name"]).partition(" -> ")[0].removeprefix("Source: ")


_YOUNG_MS = 30_000
_SKEWS_MS = 1000, 60_000
"""How much earlier than Flink says a reader may say that it has started, as two machines' clocks differ: while the
vertex is young, and later. Flink asks subtasks for their metrics when it is asked, and answers with those of before.
"""
_GET_CHARACTERS = 3000
"""Names of metrics in one request; Netty takes a line of 4,096."""
_STARTING = ("DEPLOYING", "INITIALIZING")
"""What a subtask does from its ``start-time`` until it runs."""


def progress(flink: FlinkReads, job_id: str) -> Progress:
    """How far the job's sources have read.

    Flink may answer with what it knew some seconds ago, and tells metrics of tasks that are gone for a while.
    """
    job = flink.get(f"/jobs/{job_id}")
    inputs = _inputs(job)
    live = [vertex for vertex in job["vertices"] if vertex["status"] != "FINISHED"]
    if not inputs or any(vertex["status"] != "RUNNING" for vertex in live):
        return NO_PROGRESS
    started, running = 0.0, set()
    positions: list[Position] = []
    for vertex in live:
        path = f"/jobs/{job_id}/vertices/{vertex['id']}"
        subtasks = [subtask for subtask in flink.get(path)["subtasks"] if subtask["status"] != "FINISHED"]
        if any(subtask["status"] != "RUNNING" for subtask in subtasks):
            return NO_PROGRESS
        for subtask in subtasks:
            before = sum(max(0, subtask["status-duration"][state]) for state in _STARTING)
            started = max(started, (subtask["start-time"] + before) / 1000)
        if not inputs[vertex["id"]]:
            attempts = {
                each["subtask"]: f"{vertex['id']}-{each['subtask']}-{each['attempt']}-{each['start-time']}"
                for each in subtasks
            }
            running |= set(attempts.values())
            positions += _positions(flink, path, _source_name(vertex), attempts)
    return Progress(started, frozenset(running), tuple(positions))


_OFFSET = re.compile(r"^(\d+)\..*KafkaSourceReader\.topic\.(.+)\.partition\.(\d+)\.(currentOffset|committedOffset)$")
_PENDING = re.compile(r"^(\d+)\..*\.?pendingRecords$")


def _positions(flink: FlinkReads, path: str, source: str, attempts: Mapping[int, str]) -> list[Position]:
    names = [each["id"] for each in flink.get(f"{path}/metrics")]
    values = _values(flink, f"{path}/metrics", [n for n in names if _OFFSET.match(n) or _PENDING.match(n)])
    caught_up = {int(m[1]) for name, value in values.items() if (m := _PENDING.match(name)) and value == 0}
    offsets: dict[tuple[int, str, int], dict[str, int]] = {}
    for name, value in values.items():
        if match := _OFFSET.match(name):
            offsets.setdefault((int(match[1]), match[2], int(match[3])), {})[match[4]] = int(value)
    return [
        Position(
            source, topic, partition, attempts.get(subtask, ""), _next_offset(**known), caught_up=subtask in caught_up
        )
        for (subtask, topic, partition), known in offsets.items()
    ]


_CONTAINER_CPU = re.compile(r"^(\d+)\..*\.containerCpu(Seconds|ReadAt)$")


def container_cpu(flink: FlinkReads, job_id: str) -> dict[str, tuple[float, float]]:
    """TaskManager -> when its figures were read, and the CPU time that its container had used then since its start.

    Both in seconds, by a clock of the TaskManager's own; as subtasks in it tell, which all tell the same. Flink reads
    anew every ``metrics.fetcher.update-interval``.
    """
    found: dict[str, tuple[float, float]] = {}
    for vertex in sorted(vertices(flink, job_id), key=lambda each: -each.parallelism):
        path = f"/jobs/{job_id}/vertices/{vertex.id}"
        where = {each["subtask"]: each["taskmanager-id"] for each in flink.get(path)["subtasks"]}
        missing = {subtask for subtask, worker in where.items() if worker not in found}
        if vertex.status != "RUNNING" or not missing:
            continue
        names: dict[tuple[int, str], str] = {}
        for each in flink.get(f"{path}/metrics"):
            if (match := _CONTAINER_CPU.match(each["id"])) and int(match[1]) in missing:
                names[int(match[1]), match[2]] = each["id"]
        values = _values(flink, f"{path}/metrics", names.values())
        for subtask in missing:
            at, used = (values.get(names.get((subtask, name), "")) for name in ("ReadAt", "Seconds"))
            if at is not None and used is not None:
                found[where[subtask]] = at, used
    return found


def _next_offset(currentOffset: int = -1, committedOffset: int = -1) -> int | None:  # noqa: N803 - Flink's names
    """Flink tells the last offset that was read, and the next one that a checkpoint has committed."""
    if currentOffset >= 0:
        return currentOffset + 1
    return committedOffset if committedOffset >= 0 else None


def _values(flink: FlinkReads, path: str, names: Iterable[str]) -> dict[str, float]:
    """The finite values of metrics, asked for in requests that are short enough."""
    found: dict[str, float] = {}
    batch: list[str] = []
    for name in [*names, ""]:
        if batch and (not name or sum(map(len, batch)) + len(quote(name)) > _GET_CHARACTERS):
            for each in flink.get(f"{path}?get={','.join(batch)}"):
                if math.isfinite(value := float(each["value"])):
                    found[each["id"]] = value
            batch = []
        batch.append(quote(name))
    return found


def source_looks(flink: FlinkReads, job_id: str) -> list[SourceLook]:
    """The progress of each source that runs and tells its backlog or how long it waits, and what those it feeds do."""
    job = flink.get(f"/jobs/{job_id}")
    if not (inputs := _inputs(job)):
        return []
    found = []
    for vertex in job["vertices"]:
        if inputs[vertex["id"]] or vertex["status"] != "RUNNING":
            continue
        _, (backlog, read, stalled) = _of_all_subtasks(flink, job, vertex, (_BACKLOG, _READ, _STALLED_SECONDS))
        downstream, fed = [], {vertex["id"]}
        for other in job["vertices"]:  # in topological order
            if inputs[other["id"]] & fed:
                fed.add(other["id"])
                downstream.append(_spent(other))
        if backlog or stalled:
            counts = sum(read) if read else None, sum(backlog) if backlog else None
            waits = max(stalled, default=None)
            found.append(SourceLook(_source_name(vertex), *counts, _spent(vertex), tuple(downstream), waits))
    return found


def _spent(vertex: dict[str, Any]) -> Spent:
    busy, backpressured, idle = (
        spent if math.isfinite(spent := float(vertex["metrics"][f"accumulated-{state}-time"])) else 0.0
        for state in ("busy", "backpressured", "idle")
    )
    return Spent(vertex["name"], busy, backpressured, idle)


def checkpoints(flink: FlinkReads, job_id: str) -> Checkpoints:
    """The job's checkpoints."""
    answer = flink.get(f"/jobs/{job_id}/checkpoints")
    counts, last = answer["counts"], answer["latest"].get("completed") or {}
    return Checkpoints(
        completed=counts["completed"],
        failed=counts["failed"],
        last_id=last.get("id", 0),
        last_at=last.get("latest_ack_timestamp", 0) / 1000,
        last_size=last.get("state_size", 0),
        last_seconds=last.get("end_to_end_duration", 0) / 1000,
    )


def exceptions(flink: FlinkReads, job_id: str) -> list[JobException]:
    """Root failures, oldest first."""
    entries = flink.get(f"/jobs/{job_id}/exceptions").get("exceptionHistory", {}).get("entries", [])
    return sorted(
        (JobException(entry["timestamp"], entry["stacktrace"]) for entry in entries), key=lambda e: e.timestamp_ms
    )


def accumulators(flink: FlinkReads, job_id: str) -> list[dict[str, Any]]:
    """Beam's MonitoringInfos of the job as proto3 JSON; empty before the first task reported."""
    answer = flink.get(f"/jobs/{job_id}/accumulators")
    for accumulator in answer.get("user-task-accumulators", []):
        if accumulator["name"] == _ACCUMULATOR and accumulator["value"].startswith("["):
            return list(json.loads(accumulator["value"]))
    return []
