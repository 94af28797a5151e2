"""What commands print about jobs: plain aligned columns, as kubectl prints them. Pure: values in, text out."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from beam_k8s.errors import KubernetesError
from beam_k8s.silence import SILENT_AFTER_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from beam_k8s.launcher.describe import Description, Event, Pod
    from beam_k8s.launcher.flink_rest import Checkpoints, Source
    from beam_k8s.status import JobStatus

__all__ = ["Table", "age", "described", "job_columns", "job_row", "lines"]

_GAP = 3
_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86_400, 365 * 86_400


def age(since: str | float, now: float) -> str:
    """The time since then, as kubectl shows it: ``45s``, ``5m32s``, ``3h10m``, ``12d``; ``?`` where it is not known.

    Args:
        since: RFC 3339, or seconds since 1970.
        now: seconds since 1970.
    """
    if not since:
        return "?"
    then = datetime.fromisoformat(since).timestamp() if isinstance(since, str) else since
    return duration(max(0, int(now - then)))


def duration(seconds: int) -> str:
    """So many seconds, as kubectl shows them."""
    for limit, unit, name, part, part_name in (
        (10 * _MINUTE, _MINUTE, "m", 1, "s"),
        (3 * _HOUR, _MINUTE, "m", 0, ""),
        (8 * _HOUR, _HOUR, "h", _MINUTE, "m"),
        (2 * _DAY, _HOUR, "h", 0, ""),
        (8 * _DAY, _DAY, "d", _HOUR, "h"),
        (2 * _YEAR, _DAY, "d", 0, ""),
        (8 * _YEAR, _YEAR, "y", _DAY, "d"),
    ):
        if seconds < 2 * _MINUTE:
            return f"{seconds}s"
        if seconds < limit:
            whole, rest = divmod(seconds, unit)
            return f"{whole}{name}" + (f"{rest // part}{part_name}" if part and rest // part else "")
    return f"{seconds // _YEAR}y"


def lines(rows: Sequence[Sequence[str]], widths: Sequence[int] = ()) -> list[str]:
    """Rows in aligned columns; the last one is as wide as it is.

    Args:
        rows: the first may be the headers.
        widths: the least of each column.
    """
    table = Table(widths or [0] * len(rows[0]))
    table.fit(rows)
    return [table.line(row) for row in rows]


class Table:
    """Columns that keep their widths while rows come one by one."""

    def __init__(self, widths: Sequence[int]) -> None:
        self._widths = list(widths)

    def fit(self, rows: Sequence[Sequence[str]]) -> None:
        """Widen the columns for these rows."""
        for row in rows:
            self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, row, strict=True)]

    def line(self, row: Sequence[str]) -> str:
        """One row as text."""
        self.fit([row])
        padded = (cell.ljust(width + _GAP) for cell, width in zip(row, self._widths, strict=True))
        return "".join(padded).rstrip()


def job_columns(*, wide: bool, namespaces: bool) -> list[str]:
    """Headers of a list of jobs."""
    head = ["NAMESPACE"] if namespaces else []
    more = ["SLOTS", "OPERATOR", "JOB-ID", "IMAGE", "SAVEPOINT", "REASON"] if wide else []
    return [*head, "NAME", "STATE", "WORKERS", "AGE", *more]


def job_row(job: JobStatus, now: float, *, wide: bool, namespaces: bool) -> list[str]:
    """One job under ``job_columns``."""
    head = [job.namespace] if namespaces else []
    more = []
    if wide:
        why = _first_line(job.error or job.reason)
        more = [cell or "-" for cell in (str(job.slots), job.lifecycle, job.job_id, job.image, job.savepoint, why)]
    return [*head, job.name, job.state, f"{job.ready_workers}/{job.workers}", age(job.created, now), *more]


def described(job: Description, now: float) -> str:
    """All about one job, for people; what Flink could not tell is left out and said so."""
    status = job.status
    facts = [
        ("Name", status.name),
        ("Namespace", status.namespace),
        ("Job ID", status.job_id),
        ("Flink job ID", status.flink_job_id),
        ("Tenant", status.tenant),
        ("State", status.state),
        ("Reason", status.reason),
        ("Operator", status.lifecycle),
        ("Error", _first_line(status.error)),
        ("Image", status.image),
        ("Created", f"{status.created} ({age(status.created, now)} ago)"),
        ("Workers", f"{status.workers} wanted, {job.ready_workers} ready, {status.slots} slots each"),
        ("Autoscaler", _scaled(status)),
        ("Savepoint", status.savepoint or "none"),
        ("Made by", "" if status.ours else "others: beam-k8s shows it and changes nothing"),
    ]
    text = [f"{name + ':':<15}{value}" for name, value in facts if value]
    if job.unanswered:
        text.append(f"{'Flink:':<15}{job.unanswered}")
    text += _sources(job.sources)
    if job.checkpoints is not None:
        text += _checkpoints(job.checkpoints, now)
    text += _section("Pods", ["NAME", "ROLE", "PHASE", "READY", "RESTARTS", "NODE", "REASON"], map(_pod_row, job.pods))
    events = (_event_row(event, now) for event in job.events)
    text += _section("Events", ["AGE", "TYPE", "OBJECT", "REASON", "MESSAGE"], events)
    return "\n".join(text)


def _scaled(status: JobStatus) -> str:
    if not status.scaled:
        return ""
    from beam_k8s.launcher.scaled_job import ScaledJob  # with Beam, which takes its time

    try:
        scaled = ScaledJob.parse(status.scaled)
    except KubernetesError as error:
        return error.message
    return f"{'frozen' if status.frozen else scaled.mode}: {scaled.settings.sentence()}"


def _section(title: str, columns: list[str], rows: Iterable[list[str]]) -> list[str]:
    found = list(rows)
    if not found:
        return [f"{title + ':':<15}none"]
    return [f"{title}:", *(f"  {line}" for line in lines([columns, *found]))]


def _sources(sources: Sequence[Source]) -> list[str]:
    if not sources:
        return []
    rows = [
        [
            source.name,
            ",".join(source.topics) or "-",
            str(source.partitions or "-"),
            str(source.parallelism),
            "-" if source.backlog is None else str(source.backlog),
            "-" if source.backlog_bytes is None else _bytes(source.backlog_bytes),
            "-" if source.backlog_seconds is None else duration(source.backlog_seconds),
        ]
        for source in sources
    ]
    columns = ["NAME", "TOPIC", "PARTITIONS", "PARALLELISM", "BACKLOG", "SIZE", "TIME"]
    stalled = [
        f"  warning: {source.name} has read nothing of a partition for {duration(source.stalled_seconds)} although "
        "records of it wait, or may: see `beam-k8s logs` for a step that does not come back, or a broker that does not "
        "answer."
        for source in sources
        if source.stalled_seconds is not None and source.stalled_seconds >= SILENT_AFTER_SECONDS
    ]
    return [*_section("Sources", columns, rows), *stalled]


def _checkpoints(checkpoints: Checkpoints, now: float) -> list[str]:
    last = "none"
    if checkpoints.last_id:
        last = (
            f"number {checkpoints.last_id}, {age(checkpoints.last_at, now)} ago, {_bytes(checkpoints.last_size)} in "
            f"{checkpoints.last_seconds:.1f} s"
        )
    return [f"{'Checkpoints:':<15}{last}; {checkpoints.completed} completed, {checkpoints.failed} failed"]


def _pod_row(pod: Pod) -> list[str]:
    ready = "yes" if pod.ready else "no"
    return [pod.name, pod.role or "-", pod.phase, ready, str(pod.restarts), pod.node or "-", pod.reason or "-"]


def _event_row(event: Event, now: float) -> list[str]:
    times = f" (x{event.count})" if event.count > 1 else ""
    return [age(event.at, now) + times, event.kind, event.about, event.reason, _first_line(event.message)]


def _bytes(number: int) -> str:
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
