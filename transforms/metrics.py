"""What the transforms count, under one Beam namespace, the same on every runner.

A gauge or counter is looked up once and set once a segment or frame, never once a record.
"""

from __future__ import annotations

from apache_beam.metrics import Metrics

__all__ = ["DEAD_LETTERS", "NAMESPACE", "RECORDS_READ", "RECORDS_WRITTEN", "BacklogGauges", "backlog_name"]

NAMESPACE = "beam_k8s.kafka"
RECORDS_READ = "records_read"
RECORDS_WRITTEN = "records_written"
DEAD_LETTERS = "dead_letters"


def backlog_name(topic: str, partition: int) -> str:
    """Name of the gauge that holds the records [records] which the broker has beyond those read of a partition."""
    return f"backlog_records.{topic}-{partition}"


class BacklogGauges:
    """The backlog gauges of the partitions that were seen so far."""

    def __init__(self) -> None:
        self._gauges: dict[tuple[str, int], Metrics.DelegatingGauge] = {}

    def set(self, topic: str, partition: int, backlog: int) -> None:
        """Set a partition's backlog [records]; a negative one is unknown and changes nothing."""
        if backlog < 0:
            return
        gauge = self._gauges.get((topic, partition))
        if gauge is None:
            gauge = Metrics.gauge(NAMESPACE, backlog_name(topic, partition))
            self._gauges[topic, partition] = gauge
        gauge.set(backlog)
