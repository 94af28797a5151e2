"""One table from Flink's job states to Beam's PipelineState, with the reason of each row.

Beam's states are plain strings (``apache_beam.runners.runner.PipelineState``); the core keeps them as strings so
that it need not import Beam.
"""

from __future__ import annotations

__all__ = ["TERMINAL", "pipeline_state"]

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
