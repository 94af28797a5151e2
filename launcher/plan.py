"""From a pipeline and facts to what will be done, as one value: the dry run prints it, submitting applies it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_k8s import graph
from beam_k8s.errors import BeamK8sError, ConfigError
from beam_k8s.flink_conf import is_secret, job_conf, operators_autoscaler
from beam_k8s.parallelism import SourcePlan, plan_source
from beam_k8s.stripping import translator_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from beam_k8s.settings import Settings

__all__ = ["SubmitPlan", "conflicts", "make_plan"]


@dataclass(frozen=True, slots=True)
class SubmitPlan:
    """One submission, decided but not done."""

    settings: Settings
    pipeline: Any
    """The pipeline proto, its Kafka steps completed."""
    translator_options: dict[str, str | bool]
    """All that Beam's Java translator, and with it a checkpoint, may know."""
    harness_options: dict[str, Any]
    """What the Python harness reads: all of the user's options, secrets included. Never printed."""
    flink_conf: dict[str, str]
    sources: tuple[SourcePlan, ...]

    def __str__(self) -> str:
        settings = self.settings
        scaler = settings.autoscaler
        lines = [
            f"job {settings.job_name} on {settings.target}, {'streaming' if settings.streaming else 'batch'}:",
            f"  {settings.workers} workers x {settings.slots} slots, {settings.python_workers} Python workers each",
            *(f"  {source.sentence()}" for source in self.sources),
            *([f"  autoscaler {settings.autoscaler_mode}: {scaler.sentence()}"] if scaler else []),
            *(f"  warning: {warning}" for warning in self.warnings()),
            "Flink configuration:",
            *(f"  {key}: {'******' if is_secret(key) else value}" for key, value in sorted(self.flink_conf.items())),
            f"options for the Python harness only: {', '.join(sorted(self.harness_options)) or 'none'}",
        ]
        return "\n".join(lines)

    def warnings(self) -> list[str]:
        """What is allowed and will not do what it says."""
        if (scaler := self.settings.autoscaler) is None:
            return []
        counts = [source.partitions for source in self.sources]
        known = [count for count in counts if count is not None]
        return scaler.warnings(max(known) if len(known) == len(counts) else None, self.settings.slots)


def conflicts(pipeline: Any, settings: Settings, options: Mapping[str, Any]) -> list[BeamK8sError]:
    """What is wrong between the pipeline, settings and Beam's options that are each fine alone.

    A write that is exactly once commits its transactions with checkpoints. Without any it never would, or only at the
    end of a bounded job, and a failure between two subtasks' commits would then write all again. A transaction is open
    from one checkpoint until the next is complete; if Kafka aborts it before, the job fails and starts over for ever.
    """
    errors: list[BeamK8sError] = [
        ConfigError(
            f"--experiments={experiment} is refused: Beam's Flink runner would start a thread for each bundle that "
            "never ends.",
            hint="Leave it out: what is buffered for the Python harness is sent every 10 ms here.",
        )
        for experiment in options.get("experiments") or ()
        if experiment.startswith("data_buffer_time_limit_ms=")
    ]
    if settings.autoscaler_mode != "off" and not graph.kafka_sources(pipeline):
        errors.append(
            ConfigError(
                f"--k8s_autoscaler_mode={settings.autoscaler_mode}: the pipeline reads nothing by "
                "beam_k8s.ReadFromKafka, whose backlog would tell how many workers it needs.",
                hint="Leave it out. (A read whose timestamp_policy is a function, or that ends by a count or a time, "
                "is Python's, and does not tell its backlog to the launcher.)",
            )
        )
    if settings.autoscaler_mode != "off" and (key := operators_autoscaler(settings.flink_conf)):
        errors.append(
            ConfigError(
                f"--k8s_autoscaler_mode={settings.autoscaler_mode}: --k8s_flink_conf={key}=true starts the operator's "
                "autoscaler, and two would fight.",
                hint="Leave one of the two out.",
            )
        )
    interval, timeout = settings.checkpointing_interval, settings.checkpoint_timeout_millis
    for sink in graph.kafka_sinks(pipeline):
        if not sink.exactly_once:
            continue
        limit = sink.transaction_timeout
        if interval == -1:
            errors.append(
                ConfigError(
                    f"--checkpointing_interval=-1: {sink.name} has delivery_guarantee='exactly_once', which commits "
                    "with checkpoints: nothing it writes would become visible.",
                    hint="Leave --checkpointing_interval out, or write with delivery_guarantee='at_least_once'.",
                )
            )
        elif limit.isdecimal() and interval + timeout > int(limit):
            errors.append(
                ConfigError(
                    f"--checkpointing_interval={interval}: {sink.name} has delivery_guarantee='exactly_once', whose "
                    f"transactions stay open for up to {interval} ms and --checkpoint_timeout_millis={timeout}, but "
                    f"Kafka aborts them after transaction.timeout.ms={limit}.",
                    hint="Lower one of the two, or raise producer_config['transaction.timeout.ms'], which the broker "
                    "limits by its transaction.max.timeout.ms (15 minutes unless changed).",
                )
            )
    return errors


def make_plan(
    pipeline: Any,
    settings: Settings,
    options: Mapping[str, Any],
    partitions: Mapping[str, Mapping[str, int]],
) -> SubmitPlan:
    """Decide one submission.

    Args:
        pipeline: the pipeline proto.
        settings: what the user asked for.
        options: all pipeline options by name, as Beam gives them.
        partitions: id of a native Kafka read -> its topics' partition counts. One whose topics could not be looked at
            is not in it.
    """
    slots = settings.workers * settings.slots
    totals = {transform_id: sum(counts.values()) for transform_id, counts in partitions.items()}
    sources = tuple(
        plan_source(source.name, source.what, totals.get(source.transform_id), slots)
        for source in graph.kafka_sources(pipeline)
    )
    unbounded = graph.is_unbounded(pipeline)
    harness = {name: value for name, value in options.items() if value is not None and name != "runner"}
    return SubmitPlan(
        settings=settings,
        pipeline=graph.completed(pipeline, totals),
        translator_options=translator_options(settings, unbounded=unbounded),
        harness_options=harness
        | {
            # Flink's side of Beam's Fn API reads these from the harness's options.
            "job_name": settings.job_name,
            "sdk_worker_parallelism": settings.python_workers,
        },
        flink_conf=job_conf(settings, unbounded=unbounded) | settings.flink_conf,
        sources=sources,
    )
