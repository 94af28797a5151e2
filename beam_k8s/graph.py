"""Facts read from a pipeline's proto: its Kafka sources and whether it is unbounded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from apache_beam.portability.api import beam_runner_api_pb2

__all__ = ["KAFKA_READ", "KafkaSource", "is_unbounded", "kafka_sources", "with_max_parallelism"]

KAFKA_READ = "beam_k8s:transform:kafka_read:v1"
"""URN of the composite that Flink translates to its own Kafka source."""


@dataclass(frozen=True, slots=True)
class KafkaSource:
    """One native Kafka read of a pipeline."""

    transform_id: str
    name: str
    """Full label of the step; also the uid of Flink's operator."""
    bootstrap_servers: str
    topics: tuple[str, ...]
    properties: dict[str, str]


def is_unbounded(pipeline: Any) -> bool:
    """Whether any PCollection of the pipeline proto is unbounded."""
    return any(
        collection.is_bounded == beam_runner_api_pb2.IsBounded.UNBOUNDED
        for collection in pipeline.components.pcollections.values()
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
                )
            )
    return tuple(sorted(found, key=lambda source: source.name))


def with_max_parallelism(pipeline: Any, partitions: dict[str, int]) -> Any:
    """A copy of the pipeline proto in which each Kafka read knows its cap.

    Args:
        pipeline: the pipeline proto.
        partitions: transform id of each read -> its partition count, summed over its topics.
    """
    copy = beam_runner_api_pb2.Pipeline()
    copy.CopyFrom(pipeline)
    for transform_id, count in partitions.items():
        spec = copy.components.transforms[transform_id].spec
        spec.payload = json.dumps(json.loads(spec.payload) | {"max_parallelism": count}).encode()
    return copy
