"""What steers the autoscaler: ``--k8s_autoscaler_conf NAME=VALUE`` for each name here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from beam_k8s.errors import BeamK8sError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FLAG", "POLICIES", "AutoscalerSettings"]

FLAG = "--k8s_autoscaler_conf"
POLICIES = ("balanced", "threshold")

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]


class AutoscalerSettings(BaseModel):
    """All that steers one job's autoscaler. Times are seconds; CPU is a share of the workers' limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    policy: Literal["balanced", "threshold"] = "balanced"
    """``threshold`` is the original system's; ``benchmarks.autoscaler`` compares both, and others."""
    min_workers: int = Field(default=1, ge=1)
    """Never fewer TaskManagers."""
    max_workers: int = Field(default=100, ge=1)
    """Never more. Dataflow's default."""
    interval: Seconds = 15.0
    """Between two looks at the job: as the Kubernetes HPA."""
    window: Seconds = 60.0
    """What rates are taken over. Flink's figures are up to 10 s old: shorter windows make rates of that error."""
    max_age: Seconds = 180.0
    """Older figures are stale."""
    settle: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 20.0
    """After the job (re)started, figures do not count for so long: Flink still serves those of tasks that are gone, for
    up to two of its fetches (10 s each)."""
    provision_timeout: Seconds = 300.0
    """Workers that have not joined by then are not waited for: the job is judged by those it has."""
    remember: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1800.0
    """For so long more workers are not tried again after they did not help."""

    backlog_slo: Seconds = 60.0
    """balanced: backlog time that should not be passed."""
    headroom: Annotated[float, Field(ge=0, le=4)] = 0.15
    """balanced: share of the input that workers could do beyond it."""
    recover: Seconds = 480.0
    """balanced: in which a backlog, and what a rescale leaves behind, should be worked off."""
    calm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5.0
    """balanced: workers go when they were not needed for so many times the pause that a rescale has shown to cost."""
    full_cpu: Share = 0.9
    """balanced: CPU of workers that can do no more."""

    up_backlog_time: Seconds = 10.0
    """threshold: up only above this. The original's talk: 10; its authors' article: 120, with ``up_if=either``."""
    up_cpu: Share = 0.75
    """threshold: up only above this. Talk: 0.75; article: 0.9."""
    up_if: Literal["both", "either"] = "both"
    """threshold: whether backlog time *and* CPU must be high (talk), or one of them (article)."""
    time_to_reduce: Seconds = 60.0
    """threshold: in which extra workers should clear the backlog."""
    down_backlog_time: Seconds = 10.0
    """threshold: down only below this."""
    down_cpu: Share = 0.75
    """threshold: down only below this, and never so far that CPU would be above it. Talk: 0.75; article: 0.7."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Check settings by name.

        Raises:
            ConfigError: with everything that is wrong, each with its name, value and the way out.
        """
        errors: list[BeamK8sError] = []
        try:
            settings = cls(**given)
        except ValidationError as problems:
            for problem in problems.errors():
                name = str(problem["loc"][0])
                if problem["type"] == "extra_forbidden":
                    message, hint = f"{FLAG}={name}: no such setting.", f"Known: {', '.join(sorted(cls.model_fields))}."
                else:
                    message, hint = f"{FLAG}={name}={problem['input']} is refused.", f"{problem['msg']}."
                errors.append(ConfigError(message, hint=hint))
        else:
            errors = settings._across()
            if not errors:
                return settings
        raise ConfigError.of_all(errors)

    def _across(self) -> list[BeamK8sError]:
        errors: list[BeamK8sError] = []
        if self.min_workers > self.max_workers:
            errors.append(
                ConfigError(
                    f"{FLAG}=min_workers={self.min_workers} is above the most workers, {self.max_workers}.",
                    hint=f"Raise --max_num_workers to {self.min_workers} or more, or lower min_workers.",
                )
            )
        if self.window < 2 * self.interval:
            errors.append(
                ConfigError(
                    f"{FLAG}=window={self.window:g} is too short for {FLAG}=interval={self.interval:g}.",
                    hint="A rate needs three looks: use a window of at least two intervals.",
                )
            )
        return errors

    def sentence(self) -> str:
        """What it does, for people."""
        return f"policy {self.policy}, {self.min_workers} to {self.max_workers} workers"

    def warnings(self, partitions: int | None, slots: int) -> list[str]:
        """What is allowed and will not do what it says.

        Args:
            partitions: of the source with the most; None: there is no Kafka source, or nobody could look.
            slots: of one worker.
        """
        if partitions is None or self.max_workers <= (useful := max(1, -(-partitions // slots))):
            return []
        text = (
            f"the most workers are {self.max_workers}, but {partitions} partitions keep no more than {useful} busy "
            f"with {slots} slots each: the autoscaler stops there (--max_num_workers)"
        )
        return [text]
