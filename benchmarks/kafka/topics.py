"""The broker and its topics, kept in ``.cache`` between runs: writing 10 GB takes longer than reading them."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import Producer

from tests.cluster.kafka import KafkaBroker

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CACHE", "PARTITIONS", "RECORDS", "broker", "fill", "sink", "topic"]

CACHE = Path(__file__).parents[2] / ".cache" / "benchmark-kafka"
PARTITIONS = 4
RECORDS = {100: 12_000_000, 1000: 2_500_000, 10_000: 400_000}
"""Bytes of a record -> records of the topic; of the smallest enough for the JVM's compilers to be done long before."""
_PER_SECOND = 20_000
"""Records of a second of event time, evenly."""
_START_MS = 1_700_000_000_000


def topic(size: int) -> str:
    """Name of the topic whose records have about this many bytes."""
    return f"records-{size}"


def record(number: int, size: int) -> bytes:
    """A JSON record."""
    head = b'{"id": %d, "kind": "click", "amount": %d, "text": "' % (number, number % 97)
    return head + b"x" * (size - len(head) - 2) + b'"}'


@contextmanager
def broker() -> Iterator[KafkaBroker]:
    """The broker, running."""
    kafka = KafkaBroker(CACHE / "broker", heap="1g")
    kafka.start()
    try:
        yield kafka
    finally:
        kafka.stop()


@contextmanager
def sink(kafka: KafkaBroker) -> Iterator[str]:
    """A topic to write to, and no more afterwards."""
    name = f"sink-{time.time_ns()}"
    kafka.create_topics({name: PARTITIONS})
    yield name
    with kafka.admin() as admin:
        admin.delete_topics([name])


def fill(kafka: KafkaBroker, size: int) -> str:
    """The topic of records of this size, written if it is not there; its name."""
    name, total = topic(size), RECORDS[size]
    with kafka.admin() as admin:
        there = name in admin.list_topics()
    if there:
        if sum(kafka.end_offsets(name).values()) >= total:
            return name
        with kafka.admin() as admin:
            admin.delete_topics([name])
        time.sleep(2)
    kafka.create_topics({name: PARTITIONS})
    producer = Producer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "linger.ms": 20,
            "batch.size": 500_000,
            "queue.buffering.max.messages": 500_000,
            "enable.idempotence": True,
        }
    )
    for number in range(total):
        arguments = {
            "key": b"%d" % number,
            "partition": number % PARTITIONS,
            "timestamp": _START_MS + number * 1000 // _PER_SECOND,
        }
        while True:
            try:
                producer.produce(name, record(number, size), **arguments)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()
    # After all windows: one record a partition moves the watermark past their ends.
    for partition in range(PARTITIONS):
        producer.produce(
            name,
            record(total + partition, size),
            key=b"end",
            partition=partition,
            timestamp=_START_MS + (total // _PER_SECOND + 100) * 1000,
        )
    producer.flush()
    return name
