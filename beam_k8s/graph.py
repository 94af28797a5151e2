"""Facts read from a pipeline's proto: its Kafka sources and whether it is unbounded."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from apache_beam.portability.api import beam_runner_api_pb2

from beam_k8s.kafka_partitions import Offsets, offsets

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "KAFKA_READ",
    "KAFKA_WRITE",
    "TRANSACTION_TIMEOUT_MS",
    "KafkaSink",
    "KafkaSource",
    "completed",
    "is_unbounded",
    "kafka_sinks",
    "kafka_sources",
    "needs_streaming",
]

KAFKA_READ = "beam_k8s:transform:kafka_read:v1"
"""URN of the composite that Flink translates to its own Kafka source."""

KAFKA_WRITE = "beam_k8s:transform:kafka_write:v1"
"""URN of the composite that Flink translates to its own Kafka sink."""

TRANSACTION_TIMEOUT_MS = 900_000
"""Kafka's ``transaction.timeout.ms`` of a write that names none, as KafkaWriteSpec.java sets it: the longest that a
broker with default settings allows."""


@dataclass(frozen=True, slots=True)
class KafkaSource:
    """One native Kafka read of a pipeline."""

    transform_id: str
    name: str
    """Full label of the step; also the uid of Flink's operator."""
    bootstrap_servers: str
    topics: tuple[str, ...]
    """Empty if there is a pattern."""
    properties: dict[str, str]
    start_offsets: Offsets = field(default_factory=dict)
    stop_offsets: Offsets = field(default_factory=dict)
    pattern: str | None = None
    """The whole names of the topics match it."""

    @property
    def what(self) -> str:
        """The topics, for people."""
        return ", ".join(self.topics) if self.pattern is None else f"topics that match {self.pattern}"


@dataclass(frozen=True, slots=True)
class KafkaSink:
    """One native Kafka write of a pipeline."""

    name: str
    """Full label of the step; also the uid of Flink's operator."""
    bootstrap_servers: str
    topic: str | None
    """None: every record names its own."""
    properties: dict[str, str]
    exactly_once: bool
    transactional_id_prefix: str | None
    """None: that of the job and the step."""

    @property
    def transaction_timeout(self) -> str:
        """After how long [ms] Kafka aborts a transaction of an exactly-once write, in the user's words if there are."""
        return self.properties.get("transaction.timeout.ms", str(TRANSACTION_TIMEOUT_MS))

    def transactional_id(self, job: str | None) -> str | None:
        """What its transactional ids begin with; None: it has none, or it is not known.

        Args:
            job: what tells the job from all others that write to the same brokers, ``NAMESPACE/NAME`` on Kubernetes.
        """
        default = f"{job}/{self.name}" if job else None
        return (self.transactional_id_prefix or default) if self.exactly_once else None


def is_unbounded(pipeline: Any) -> bool:
    """Whether any PCollection of the pipeline proto is unbounded."""
    return any(
        collection.is_bounded == beam_runner_api_pb2.IsBounded.UNBOUNDED
        for collection in pipeline.components.pcollections.values()
    )


def needs_streaming(pipeline: Any) -> bool:
    """Whether the job must run as a Flink stream: it is unbounded, or uses Flink's Kafka connectors.

    A bounded native read in a streaming job ends like any batch job; in a batch job it would be the slower Python one.
    """
    return is_unbounded(pipeline) or any(
        transform.spec.urn in {KAFKA_READ, KAFKA_WRITE} for transform in pipeline.components.transforms.values()
    )


def kafka_sources(pipeline: Any) -> tuple[KafkaSource, ...]:
    """The native Kafka reads, ordered by name."""
    found = []
    for transform_id, transform in pipeline.components.transforms.items():
        if transform.spec.urn == KAFKA_READ:
            payload = json.loads(transform.spec.payload)
            found.append(
                KafkaSource(
                    transform_id=transform_id,
                    name=transform.unique_name,
                    bootstrap_servers=payload["bootstrap_servers"],
                    topics=tuple(payload["topics"]),
                    properties=payload["properties"],
                    start_offsets=offsets(payload["start_offsets"]),
                    stop_offsets=offsets(payload["stop_offsets"]),
                    pattern=payload["topic_pattern"],
                )
            )
    return tuple(sorted(found, key=lambda source: source.name))


def kafka_sinks(pipeline: Any) -> tuple[KafkaSink, ...]:
    """The native Kafka writes, ordered by name."""
    found = []
    for transform in pipeline.components.transforms.values():
        if transform.spec.urn == KAFKA_WRITE:
            payload = json.loads(transform.spec.payload)
            found.append(
                KafkaSink(
                    name=transform.unique_name,
                    bootstrap_servers=payload["bootstrap_servers"],
                    topic=payload["topic"],
                    properties=payload["properties"],
                    exactly_once=payload["delivery_guarantee"] == "exactly_once",
                    transactional_id_prefix=payload["transactional_id_prefix"],
                )
            )
    return tuple(sorted(found, key=lambda sink: sink.name))


def completed(pipeline: Any, partitions: Mapping[str, int]) -> Any:
    """A copy of the pipeline proto with what only the submission knows about its Kafka steps.

    Args:
        pipeline: the pipeline proto.
        partitions: transform id of a read -> its partition count, summed over its topics: the read's cap. One that is
            not in it gets no cap.
    """
    copy = beam_runner_api_pb2.Pipeline()
    copy.CopyFrom(pipeline)
    for transform_id, count in partitions.items():
        spec = copy.components.transforms[transform_id].spec
        spec.payload = json.dumps(json.loads(spec.payload) | {"max_parallelism": count}).encode()
    return copy
