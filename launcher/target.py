"""What a place that runs jobs must offer: this machine and Kubernetes do.

Each method is bounded in time and may be called from another thread than the one that deployed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from beam_k8s.autoscaler.model import Memory, Rescale
    from beam_k8s.errors import BeamK8sError
    from beam_k8s.launcher.flink_rest import FlinkReads
    from beam_k8s.launcher.plan import SubmitPlan

__all__ = ["Job", "Logs", "Observation", "Target", "WorkerFigures", "Workers"]


@dataclass(frozen=True, slots=True)
class Observation:
    """A job as seen at one moment."""

    state: str
    """Beam's PipelineState."""
    detail: str = ""
    """What it waits for, or why it failed; for people. May be empty."""


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """A job's TaskManagers at one moment."""

    wanted: int
    """That the job was told to have."""
    cpu: float
    """Of all that run since the last look, JVM and Python together, as a share of what they may use; NaN: not known."""
    room: int | None = None
    """For how many more there is room; None: for any number."""


class Workers(Protocol):
    """A job's TaskManagers, for the one who scales it; the autoscaler's ``Realizer`` beside what they do. For one
    thread, which may be another than the one that waits for the job.
    """

    def look(self) -> WorkerFigures:
        """How they are.

        Raises:
            BeamK8sError: nobody answers.
        """

    def load(self) -> Memory:
        """See ``ports.Realizer``."""

    def hindrance(self) -> str:
        """See ``ports.Realizer``."""

    def rescale(self, change: Rescale, memory: Memory) -> None:
        """See ``ports.Realizer``."""

    def release(self) -> None:
        """Scale no more: others may. Idempotent; never raises for what the world does."""


class Logs(Protocol):
    """What a job's Python workers write."""

    def show(self) -> None:
        """Print to this terminal what is new since the last call."""


class Job(Protocol):
    """One deployed job."""

    name: str
    poll_seconds: float
    """Between two looks at it that somebody waits for."""

    @property
    def logs(self) -> Logs:
        """What its workers write."""

    @property
    def job_id(self) -> str:
        """Flink's job id, 32 hexadecimal digits."""

    def observe(self) -> Observation:
        """Look at the job. Never raises for a job that is starting, restarting or gone: that is a state."""

    def flink(self) -> FlinkReads | None:
        """Flink's answers about the job, live or archived; None while there are none."""

    def workers(self) -> Workers:
        """Its TaskManagers.

        Raises:
            ConfigError: they are not the job's own.
        """

    @property
    def scaled_by(self) -> str:
        """Who scales the job when this process does not; a sentence."""

    def scale(self, workers: int) -> None:
        """Run on so many TaskManagers, at least one; returns at once."""

    def stop(self) -> None:
        """Cancel the job and return when all it ran on is gone. Its last checkpoint is kept. Idempotent."""

    def detach(self) -> str:
        """Let the job go on without this process; returns the command that stops it."""

    def close(self) -> None:
        """Free what this process holds of a job that has ended. Idempotent."""


class Target(Protocol):
    """A place that runs jobs; one object for one submission."""

    @property
    def global_name(self) -> str | None:
        """What tells the job from all others that use the same Kafka; None: not known."""

    def preflight(self) -> list[BeamK8sError]:
        """All that would keep the job from running there, as far as it can be known without creating anything."""

    def harness_command(self) -> str:
        """Command with which a TaskManager there starts the Python harness."""

    def dry_run(self, plan: SubmitPlan) -> str:
        """What submitting would do, in the form that was asked for."""

    def prepare(self) -> None:
        """Make what staging needs.

        Raises:
            ConfigError: it cannot be made.
        """

    @property
    def staged(self) -> Path:
        """Folder whose content every harness finds: the pickled main session, what pip installed."""

    def build(self, plan: SubmitPlan) -> str:
        """Build and push the job's image, if the place has such; its name by digest.

        Raises:
            BeamK8sError: it cannot be built or pushed.
        """

    def deploy(self, plan: SubmitPlan) -> Job:
        """Start the job. On an error nothing is left behind.

        Raises:
            BeamK8sError: it cannot be started.
        """

    def remove(self) -> None:
        """Leave nothing of a submission that did not get to ``deploy``. Idempotent."""
