"""The limit: a plain loop around a consumer, with the same function.

python -m benchmarks.kafka.loops confluent|kafka-python BROKER TOPIC PARTITION,PARTITION FOLDER FUNCTION
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from benchmarks.kafka.work import FUNCTIONS, Meter

if TYPE_CHECKING:
    from collections.abc import Callable


def confluent(brokers: str, topic: str, partitions: list[int], folder: str, function: Callable[[bytes], Any]) -> None:
    """Read for ever with confluent-kafka."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "loop",
            "enable.auto.commit": False,
            "queued.min.messages": 100_000,
        }
    )
    consumer.assign([TopicPartition(topic, each, OFFSET_BEGINNING) for each in partitions])
    cells = Meter(folder).cells
    while True:
        for message in consumer.consume(5000, 1):
            function(message.value())
            cells[0] += 1


def kafka_python(
    brokers: str, topic: str, partitions: list[int], folder: str, function: Callable[[bytes], Any]
) -> None:
    """Read for ever with kafka-python."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=brokers, enable_auto_commit=False, max_poll_records=5000)
    assigned = [TopicPartition(topic, each) for each in partitions]
    consumer.assign(assigned)
    consumer.seek_to_beginning(*assigned)
    cells = Meter(folder).cells
    while True:
        for records in consumer.poll(timeout_ms=1000).values():
            for record in records:
                function(record.value)
                cells[0] += 1


if __name__ == "__main__":
    client, servers, name, parts, where, work = sys.argv[1:]
    loop = {"confluent": confluent, "kafka-python": kafka_python}[client]
    loop(servers, name, [int(each) for each in parts.split(",")], where, FUNCTIONS[work])
