"""From a pipeline and facts to what will be done, as one value: the dry run prints it, submitting applies it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_k8s import graph
from beam_k8s.flink_conf import is_secret, job_conf
from beam_k8s.parallelism import SourcePlan, plan_source
from beam_k8s.stripping import translator_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from beam_k8s.settings import Settings

__all__ = ["SubmitPlan", "make_plan"]


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
        lines = [
            f"job {settings.job_name} on {settings.target}, {'streaming' if settings.streaming else 'batch'}:",
            f"  {settings.workers} workers x {settings.slots} slots, {settings.python_workers} Python workers each",
            *(f"  {source.sentence()}" for source in self.sources),
            "Flink configuration:",
            *(f"  {key}: {'******' if is_secret(key) else value}" for key, value in sorted(self.flink_conf.items())),
            f"options for the Python harness only: {', '.join(sorted(self.harness_options)) or 'none'}",
        ]
        return "\n".join(lines)


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
        plan_source(source.name, source.topics, totals.get(source.transform_id), slots)
        for source in graph.kafka_sources(pipeline)
    )
    unbounded = graph.is_unbounded(pipeline)
    harness = {name: value for name, value in options.items() if value is not None and name != "runner"}
    return SubmitPlan(
        settings=settings,
        pipeline=graph.completed(pipeline, totals, settings.job_name),
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
