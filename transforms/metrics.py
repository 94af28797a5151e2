"""What the transforms count, under one Beam namespace, the same on every runner.

A gauge or counter is looked up once and set once a segment or frame, never once a record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apache_beam.metrics import Metrics

if TYPE_CHECKING:
    from beam_k8s.transforms.frames import Segment

__all__ = [
    "DEAD_LETTERS",
    "NAMESPACE",
    "RECORDS_LOST",
    "RECORDS_READ",
    "RECORDS_WRITTEN",
    "BacklogGauges",
    "backlog_name",
]

NAMESPACE = "beam_k8s.kafka"
RECORDS_READ = "records_read"
RECORDS_WRITTEN = "records_written"
RECORDS_LOST = "records_lost_to_retention"
"""That the broker deleted before they were read; counted by offset, markers of transactions among them."""
DEAD_LETTERS = "dead_letters"
MOST_PARTITIONS = 100
"""That one worker has gauges for: each is a label more in whatever collects them, in a fleet of thousands of jobs."""


def backlog_name(topic: str, partition: int, unit: str = "records") -> str:
    """Name of the gauge of what the broker has beyond what was read of a partition.

    Args:
        topic: its topic.
        partition: its number.
        unit: ``records``; ``bytes`` of keys and values, by the size of those read last; or ``seconds`` that reading it
            takes at the present rate if nothing is added, as Dataflow's "backlog seconds".
    """
    return f"backlog_{unit}.{topic}-{partition}"


class BacklogGauges:
    """The backlog gauges of the partitions that were seen so far, or of the first MOST_PARTITIONS of them."""

    def __init__(self) -> None:
        self._gauges: dict[tuple[str, int], tuple[Metrics.DelegatingGauge, ...]] = {}

    def set(self, segment: Segment) -> None:
        """Set the gauges of a segment's partition; what is unknown of its backlog stays as it was."""
        key = segment.topic, segment.partition
        gauges = self._gauges.get(key)
        if gauges is None:
            if len(self._gauges) >= MOST_PARTITIONS:
                return
            names = (backlog_name(*key, unit) for unit in ("records", "bytes", "seconds"))
            gauges = self._gauges[key] = tuple(Metrics.gauge(NAMESPACE, name) for name in names)
        records, size, ms = segment.backlog
        for gauge, value in zip(gauges, (records, size, ms if ms < 0 else -(-ms // 1000)), strict=True):
            if value >= 0:
                gauge.set(value)
