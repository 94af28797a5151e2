"""Seconds without output when a job gets or loses a worker: ours against the stop and redeploy of Flink's operator.

One stateful job on the test cluster, read and written at a steady rate. Ours changes the number of TaskManagers of the
running job (``beam-k8s scale``, the autoscaler); the operator, told to restart it, stops it with a savepoint and starts
all its pods anew, which is what a change of the parallelism costs without reactive mode. Output is what the sink's
broker has stamped on the first record of each number: what is only written again counts for nothing. Where the seconds
go is told by Flink's own timestamps of the last restart: before the job stops (a new worker's pod, and Flink's wait for
its slots), from then until the tasks are scheduled, until all are deployed, until all have restored their state and
their Python harness has started, until new output comes (less than nothing if some tasks give it before all run); and
how old the checkpoint was that they restored.

    python -m benchmarks.rescale [--quick] [--json FILE]

It takes five minutes, with ``--quick`` two: a job must be submitted, and each change is waited for.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import textwrap
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from beam_k8s.errors import FlinkError, KubernetesError
from beam_k8s.launcher import flink_rest
from beam_k8s.launcher.kube import DEPLOYMENTS
from benchmarks.cluster import cluster_user
from benchmarks.report import Report, arguments
from tests.e2e.test_kubernetes import EXACT, Exact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from beam_k8s.launcher.flink_rest import FlinkReads

GOAL = 0.2
"""Ours to the operator's."""
OURS, OPERATOR = ("a worker less", "a worker more"), "operator's redeploy"
_BEFORE_SECONDS = 10
"""Of steady output before a change."""
_STAGES = ("until it stops", "scheduled", "deployed", "restored, harness up", "new output", "age of the checkpoint")


class Change(NamedTuple):
    """One that was made."""

    how: str
    gaps: list[float]
    """Seconds without new output from the command on: the longest time, and each that is twice as long as the longest
    before the command."""
    usual: float
    """The longest before it."""
    stages: dict[str, float]
    """Seconds of those of ``_STAGES`` that are known."""


@contextmanager
def running_job() -> Iterator[Exact]:
    """The job with its cluster, registry, broker and producer."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="beam-k8s-bench-")))
        properties = {"log.message.timestamp.type": "LogAppendTime"}
        user, broker = stack.enter_context(cluster_user(folder, properties))
        script = folder / "my_pipeline.py"
        script.write_text(textwrap.dedent(EXACT))
        job = Exact(user, broker, script, "rescale")
        stack.callback(job.flink.close)
        stack.callback(job.producer.stop)
        job.start("--guarantee=at_least_once")
        yield job


def first_outputs(job: Exact) -> list[float]:
    """When each number was first in the sink, in seconds since 1970, in the order of time."""
    first: dict[bytes, int] = {}
    for record in job.broker.read_topic(job.sink, committed_only=False):
        number = record.value.partition(b",")[0]
        first[number] = min(first.get(number, record.timestamp), record.timestamp)
    return sorted(each / 1000 for each in first.values())


def pauses(outputs: list[float], since: float, until: float) -> list[tuple[float, float]]:
    """Times without output that end between two times: begin and end of each."""
    return [(begin, end) for begin, end in itertools.pairwise(outputs) if since <= end <= until]


def measure(job: Exact, how: str, change: Callable[[], None], done: Callable[[], bool]) -> Change:
    """Make a change under a steady load, and look how long no output came."""
    submitter, name = job.submitter, job.name
    job.await_progress()
    time.sleep(_BEFORE_SECONDS)
    began = time.time()
    change()
    job.await_that(done, 300)
    submitter.await_status(name, lambda it: it.flink_state == "RUNNING", 300)
    job.await_progress()
    outputs = first_outputs(job)
    usual = max(end - begin for begin, end in pauses(outputs, began - _BEFORE_SECONDS, began))
    after = sorted(pauses(outputs, began, time.time()), key=lambda gap: gap[1] - gap[0])
    gaps = sorted(gap for gap in after if gap == after[-1] or gap[1] - gap[0] > 2 * usual)
    stopped, again = gaps[-1]
    job_id = submitter.status(name).flink_job_id
    times = [stopped, *(max(stopped, each) for each in _restart(job.flink, job_id)), again]
    seconds = [stopped - began, *(later - at for at, later in itertools.pairwise(times))]
    stages = dict(zip(_STAGES, seconds, strict=False))
    if triggered := _restored(job.flink, job_id):
        stages[_STAGES[-1]] = stopped - triggered
    return Change(how, [end - begin for begin, end in gaps], usual, stages)


def _restart(flink: FlinkReads, job_id: str) -> list[float]:
    """When the last of the job's tasks was scheduled, began to restore its state, and ran [s since 1970]."""
    subtasks = [
        subtask["timestamps"]
        for vertex in flink_rest.vertices(flink, job_id)
        for subtask in flink.get(f"/jobs/{job_id}/vertices/{vertex.id}/subtasktimes")["subtasks"]
    ]
    return [max(each[state] for each in subtasks) / 1000 for state in ("SCHEDULED", "INITIALIZING", "RUNNING")]


def _restored(flink: FlinkReads, job_id: str) -> float | None:
    """When the checkpoint that the job restored last was triggered [s since 1970]; None: a new JobManager forgot it."""
    found = flink.get(f"/jobs/{job_id}/checkpoints")
    triggered = {each["id"]: each["trigger_timestamp"] / 1000 for each in found["history"]}
    return triggered.get((found["latest"]["restored"] or {}).get("id"))


def _medians(changes: list[Change]) -> dict[str, float | None]:
    """Of each stage's seconds [s], where they are known."""
    known = {stage: [each.stages[stage] for each in changes if stage in each.stages] for stage in _STAGES}
    return {stage: round(statistics.median(seconds), 2) if seconds else None for stage, seconds in known.items()}


def main() -> None:
    """Measure and report."""
    options = arguments(__doc__ or "")
    changes = []
    with running_job() as job:
        submitter, namespace, name = job.submitter, job.submitter.tenant.name, job.name

        def workers(count: int) -> bool:
            pods = submitter.pods(name, "taskmanager")
            status = submitter.status(name)
            return len(pods) == count == status.ready_workers and parallelism() == count

        def parallelism() -> int:
            try:
                found = flink_rest.vertices(job.flink, submitter.status(name).flink_job_id)
            except (FlinkError, KubernetesError):
                return 0
            return max((vertex.parallelism for vertex in found if vertex.status == "RUNNING"), default=0)

        def scale(count: int) -> Change:
            return measure(
                job,
                OURS[count - 1],
                lambda: submitter.service.update_replica(namespace, name, count) and None,
                lambda: workers(count),
            )

        def job_managers() -> set[str]:
            return {pod["metadata"]["uid"] for pod in submitter.pods(name, "jobmanager")}

        def redeploy() -> Change:
            before = job_managers()

            def is_new() -> bool:
                now = job_managers()
                return bool(now) and not now & before and parallelism() > 0

            body = {"spec": {"restartNonce": time.time_ns() // 1_000_000}}
            return measure(
                job, OPERATOR, lambda: submitter.kube.patch(DEPLOYMENTS, namespace, name, body) and None, is_new
            )

        for _ in range(1 if options.quick else 3):
            changes += [scale(2), redeploy(), scale(1)]
    found = {how: [each for each in changes if each.how == how] for how in (*OURS, OPERATOR)}
    figures = {
        how: {
            "seconds_without_output": [[round(gap, 2) for gap in each.gaps] for each in those],
            "usual_seconds_between_outputs": round(statistics.median(each.usual for each in those), 2),
            "seconds_of_stages": _medians(those),
        }
        for how, those in found.items()
    }
    ours, theirs = ([sum(each.gaps) for how in hows for each in found[how]] for hows in (OURS, [OPERATOR]))
    outcome = Report("rescale", figures)
    outcome.table(
        ["how", "seconds without output", *_STAGES],
        [[how, each["seconds_without_output"], *each["seconds_of_stages"].values()] for how, each in figures.items()],
    )
    outcome.finish(
        options.json,
        metric="seconds_without_output_to_operator",
        value=statistics.median(ours) / statistics.median(theirs),
        goal=GOAL,
        lower_is_better=True,
    )


if __name__ == "__main__":
    main()
