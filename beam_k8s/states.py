"""One table from Flink's job states, and the operator's view of them, to Beam's PipelineState; a reason with each row.

Beam's states are plain strings (``apache_beam.runners.runner.PipelineState``); the core keeps them as strings so
that it need not import Beam.
"""

from __future__ import annotations

__all__ = ["TERMINAL", "deployment_state", "pipeline_state"]

_FLINK: dict[str, str] = {
    "INITIALIZING": "STARTING",  # the JobManager builds the graph or restores state
    "CREATED": "STARTING",  # accepted, no slot yet
    "RECONCILING": "STARTING",  # a new JobManager takes the job over
    "RUNNING": "RUNNING",
    "RESTARTING": "RUNNING",  # recovers by itself from its last checkpoint: nothing for the user to do
    "FAILING": "RUNNING",  # may still restart; FAILED follows if it does not
    "SUSPENDED": "STOPPED",  # lost leadership, or suspended by the operator: can be resumed
    "CANCELLING": "CANCELLING",
    "CANCELED": "CANCELLED",
    "FINISHED": "DONE",
    "FAILED": "FAILED",
}

TERMINAL = frozenset({"DONE", "FAILED", "CANCELLED", "DRAINED", "UPDATED"})
"""States after which a job never runs again."""


def pipeline_state(flink_state: str) -> str:
    """Beam's state for a Flink job state; ``UNRECOGNIZED`` for one that this release does not know."""
    return _FLINK.get(flink_state, "UNRECOGNIZED")


_ANY = None
_OPERATOR: tuple[tuple[str | None, str | None, str | None, str | None, str], ...] = (
    # lifecycleState, Flink's job state, jobManagerDeploymentStatus -> Beam's state (None: that of Flink), reason.
    # The first row that fits is taken. Source: CommonStatus.getLifecycleState of the operator, 1.7 to 1.15.
    ("", _ANY, _ANY, "STARTING", "waits for the Flink Kubernetes operator"),
    ("CREATED", _ANY, _ANY, "STARTING", "waits for the Flink Kubernetes operator to deploy it"),
    # Before the first deployment any error makes it FAILED; later only a job that failed does.
    ("FAILED", "", _ANY, "FAILED", "the operator cannot deploy it"),
    ("FAILED", _ANY, _ANY, "FAILED", "the job failed for good, or its state is lost"),
    # A suspended job's Flink state is FINISHED: the operator stopped it with a savepoint.
    ("SUSPENDED", _ANY, _ANY, "STOPPED", "suspended; spec.job.state: running starts it again"),
    # The old job is FINISHED, CANCELED or FAILED while its successor starts: nothing of it is the end.
    ("UPGRADING", "RUNNING", _ANY, "RUNNING", "runs until its savepoint for the upgrade is taken"),
    ("UPGRADING", _ANY, _ANY, "STARTING", "starts again with a new spec"),
    ("ROLLING_BACK", _ANY, _ANY, "STARTING", "goes back to its last stable spec"),
    ("DELETING", _ANY, _ANY, "CANCELLING", "is being deleted"),
    ("DELETED", _ANY, _ANY, "CANCELLED", "was deleted"),
    # Deployed, stable or rolled back from here on, or a lifecycle state of a newer operator.
    (_ANY, "", _ANY, "STARTING", "waits for its JobManager"),
    # An image that cannot be pulled, a crash loop, a quota: Kubernetes goes on trying and may succeed.
    (_ANY, "RECONCILING", "ERROR", "STARTING", "the JobManager's pod does not start"),
    (_ANY, "RECONCILING", "MISSING", "STARTING", "the JobManager is gone; the operator starts another"),
    # Once stable, this is a JobManager that did not answer: Flink or the operator recover it from its last checkpoint.
    ("STABLE", "RECONCILING", _ANY, "RUNNING", "the JobManager does not answer; the job recovers by itself"),
    ("ROLLED_BACK", _ANY, _ANY, None, "was rolled back to its last stable spec"),
    (_ANY, "RECONCILING", _ANY, "STARTING", "waits for its JobManager"),
    (_ANY, _ANY, _ANY, None, ""),
)


def deployment_state(lifecycle: str | None, job: str | None, job_manager: str | None) -> tuple[str, str]:
    """Beam's state of a FlinkDeployment, and why, for people; the reason is empty where the state says it all.

    Args:
        lifecycle: ``status.lifecycleState``; None until the operator has seen the object.
        job: ``status.jobStatus.state``, Flink's job state; None until there is a job.
        job_manager: ``status.jobManagerDeploymentStatus``.
    """
    seen = (lifecycle or "", job or "", job_manager or "")
    for *row, state, reason in _OPERATOR:
        if all(wanted in {_ANY, value} for wanted, value in zip(row, seen, strict=True)):
            return state or pipeline_state(seen[1]), reason
    raise AssertionError("the last row fits everything")
