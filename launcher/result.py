"""Beam's PipelineResult of a job that we launched: state, waiting, cancelling, metrics."""

from __future__ import annotations

import atexit
import re
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from apache_beam.metrics import metric
from apache_beam.metrics.execution import MetricResult
from apache_beam.portability.api import metrics_pb2
from apache_beam.runners.portability import portable_metrics
from apache_beam.runners.runner import PipelineResult, PipelineState
from google.protobuf import json_format

from beam_k8s import lateness
from beam_k8s.errors import BeamK8sError, FlinkError, JobFailed
from beam_k8s.launcher import flink_rest
from beam_k8s.launcher.progress import report
from beam_k8s.launcher.watch import Watch
from beam_k8s.states import TERMINAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from beam_k8s.launcher.autoscale import Autoscaling
    from beam_k8s.launcher.target import Job
    from beam_k8s.silence import SourceLook

__all__ = ["FlinkK8sPipelineResult", "JobMetrics", "python_traceback"]

LAST_WORD_SECONDS = 10.0
"""Longest wait for what Flink has to say about a job that ended: three times the age its answers may have."""


def python_traceback(stacktrace: str) -> str:
    """The user's part of a Flink failure: the Python traceback in it, else Java's innermost cause.

    A failing DoFn's traceback travels inside a Java exception's message, which Java repeats for each cause, and a
    wrapped Python error repeats the whole with ``[while running 'Step']``: the last one says it all.
    """
    tracebacks = re.findall(
        r"(Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*?\S.*(?:\n(?!\tat |Caused by: |\t?\.\.\. |\n).*)*)",
        stacktrace.replace("\r", ""),
        re.MULTILINE,
    )
    if tracebacks:
        with_step = [text for text in tracebacks if "[while running" in text]
        return str((with_step or tracebacks)[-1]).strip()
    # The names of the runner's own exceptions add nothing to what they say.
    causes = re.findall(r"^Caused by: (?:org\.beamk8s\.[\w.$]+: )?(.*)", stacktrace, re.MULTILINE)
    return causes[-1] if causes else stacktrace.strip().partition("\n")[0]


class JobMetrics(metric.MetricResults):
    """Counters, distributions, gauges and string sets of all workers.

    What was attempted and what was committed is the same here, as in Beam's own Flink runner: Flink's accumulators know
    no bundles that failed.
    """

    def __init__(self, monitoring_infos: Iterable[dict[str, Any]]) -> None:
        infos = [json_format.ParseDict(info, metrics_pb2.MonitoringInfo()) for info in monitoring_infos]
        self._attempted = portable_metrics.from_monitoring_infos(infos)

    def query(self, filter: Any = None) -> dict[str, list[Any]]:  # noqa: A002 - Beam's name
        """See MetricResults.query."""
        names = (self.COUNTERS, self.DISTRIBUTIONS, self.GAUGES, self.STRINGSETS, self.BOUNDED_TRIES)
        return {
            name: [
                MetricResult(key, value, value)
                for key, value in results.items()
                if metric.MetricResults.matches(filter, key)
            ]
            for name, results in zip(names, self._attempted, strict=True)
        }

    def late_records(self) -> dict[str, int]:
        """Step -> records that it has dropped because their window had ended."""
        late: dict[str, int] = {}
        for key, count in self._attempted[0].items():
            if key.metric.name in lateness.COUNTERS:
                # A stage of Python steps counts under a name that Beam made for it, of the collection it reads.
                step = re.sub(r"^\d+(.+)\.[^./]+/beam:env:.*$", r"the step after \1", key.step)
                late[step] = late.get(step, 0) + count
        return late


class FlinkK8sPipelineResult(PipelineResult):
    """A running or ended job.

    Args:
        job: the deployed job.
        cleanup: called once when the job has ended.
        detach: let the job go on by itself: nobody waits for it.
        autoscaling: what scales it meanwhile; it is stopped when the job ends or is left alone.
    """

    def __init__(
        self,
        job: Job,
        *,
        cleanup: Iterable[Callable[[], None]] = (),
        detach: bool = False,
        autoscaling: Autoscaling | None = None,
    ) -> None:
        super().__init__(PipelineState.STARTING)
        self.job = job
        self._cleanup = list(cleanup)
        self._detached = detach
        self._autoscaling = autoscaling
        self._detail = ""
        self._final: str | None = None
        self._error = ""
        self._metrics: JobMetrics | None = None
        self._reported_failures: set[int] = set()
        self._lock = threading.RLock()
        self._said = self._said_detail = ""
        self._watch = None if detach else Watch(job.name, self._late_records, self._source_looks)
        atexit.register(self._at_exit)

    @property
    def state(self) -> str:
        """Beam's state of the job, asked for now."""
        with self._lock:
            if self._final is None:
                observation = self.job.observe()
                self._state, self._detail = observation.state, observation.detail
                if observation.state in TERMINAL:
                    self._ended(observation.state, observation.detail)
        return str(self._state)

    def wait_until_finish(self, duration: float | None = None) -> str | None:
        """Wait for the job's end.

        Args:
            duration: the longest wait in milliseconds; None or 0 waits as long as it takes. With ``--k8s_detach``
                nothing is waited for.

        Returns:
            The terminal state, or None if time ran out first.

        Raises:
            JobFailed: it ended in another state than DONE; with the traceback of the user's code, if that was why.
            KeyboardInterrupt: Ctrl-C. The job goes on; how to stop it has been printed.
        """
        if self._detached:
            return self.state
        deadline = time.monotonic() + duration / 1000 if duration else None
        pause = threading.Event()
        try:
            while (state := self.state) not in TERMINAL:
                self._progress(state)
                if deadline is not None and time.monotonic() >= deadline:
                    return None
                left = self.job.poll_seconds
                if deadline is not None:
                    left = min(left, deadline - time.monotonic())
                pause.wait(max(left, 0))
        except KeyboardInterrupt:
            self._detach()
            raise
        if state != PipelineState.DONE:
            raise JobFailed(f"job {self.job.name} ended in state {state}" + (f": {self._error}" if self._error else ""))
        return state

    def cancel(self) -> str:
        """Cancel the job and wait until all it ran on is gone; returns the state. Harmless when it has ended."""
        with self._lock:
            if self.state not in TERMINAL:
                self.job.stop()
                if self.state not in TERMINAL:
                    self._ended(PipelineState.CANCELLED, "cancelled")
        return str(self._state)

    def metrics(self) -> JobMetrics:
        """The job's metrics as they are now; see ``JobMetrics``."""
        with self._lock:
            if self._metrics is not None:
                return self._metrics
            return self._read_metrics()

    def _read_metrics(self) -> JobMetrics:
        flink = self.job.flink()
        if flink is None:
            return JobMetrics([])
        try:
            return JobMetrics(flink_rest.accumulators(flink, self.job.job_id))
        except FlinkError:
            return JobMetrics([])

    def _late_records(self) -> dict[str, int]:
        return self._read_metrics().late_records()

    def _source_looks(self) -> list[SourceLook]:
        flink = self.job.flink()
        return [] if flink is None else flink_rest.source_looks(flink, self.job.job_id)

    def _progress(self, state: str) -> None:
        if (state, self._detail) != (self._said, self._said_detail):
            self._said, self._said_detail = state, self._detail
            report(f"{self.job.name} is {state}" + (f": {self._detail}" if self._detail else ""))
        self.job.logs.show()
        if state != PipelineState.STARTING:
            self._show_failures()

    def _show_failures(self) -> None:
        """Tell about each failure that the job recovers from, once."""
        flink = self.job.flink()
        if flink is None:
            return
        try:
            failures = flink_rest.exceptions(flink, self.job.job_id)
        except FlinkError:
            return
        for failure in failures:
            if failure.timestamp_ms not in self._reported_failures:
                self._reported_failures.add(failure.timestamp_ms)
                self._error = python_traceback(failure.stacktrace)
                if self._said not in TERMINAL:
                    report(f"{self.job.name} restarts after a failure:\n{self._error}")

    def _ended(self, state: str, detail: str) -> None:
        self._final = self._state = self._said = state
        self._await_last_word()
        self._show_failures()
        # The last failure that Flink tells of is the reason. If that is not of the user's code, whoever runs the job
        # knows better: a worker that was killed is to Flink just a connection that broke.
        if state != PipelineState.FAILED or not self._error.startswith("Traceback"):
            self._error = detail or (self._error if state == PipelineState.FAILED else "")
        self._metrics = self._read_metrics()
        self._leave(self._metrics)
        report(f"{self.job.name} is {state}")
        self.job.logs.show()
        self.job.close()
        for callback in self._cleanup:
            callback()
        atexit.unregister(self._at_exit)

    def _await_last_word(self) -> None:
        """Wait until Flink answers about the ended job.

        Its list of jobs is live, but all else about a job it shows as it was up to ``web.refresh-interval`` ago (3 s
        by default), without the last failure and the last metrics.
        """
        deadline = time.monotonic() + LAST_WORD_SECONDS
        while (flink := self.job.flink()) is not None and time.monotonic() < deadline:
            with suppress(FlinkError):
                if flink_rest.has_ended(flink, self.job.job_id):
                    return
            time.sleep(0.05)

    def _leave(self, last: JobMetrics) -> None:
        if self._autoscaling is not None:
            self._autoscaling.stop()
        if self._watch is not None:
            self._watch.stop(last.late_records())

    def _detach(self) -> None:
        self._leave(JobMetrics([]))
        try:
            command = self.job.detach()
        except BeamK8sError:
            return
        scaled = f" {self.job.scaled_by}" if self._autoscaling is not None else ""
        report(f"{self.job.name} goes on without this terminal.{scaled} Stop it with: {command}")

    def _at_exit(self) -> None:
        with suppress(BeamK8sError):
            if self.state not in TERMINAL:
                self._detach()
