"""Kafka clients behind small protocols, and their kafka-python form.

Properties have the names of Kafka's Java client, because on Flink they are given to it. Nothing connects in
``__init__``: these objects travel to workers inside DoFns.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from beam_k8s.errors import KafkaError
from beam_k8s.kafka_properties import client_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = [
    "Consumer",
    "ConsumerFactory",
    "ConsumerRecord",
    "KafkaPythonConsumers",
    "KafkaPythonProducers",
    "OffsetsGone",
    "Producer",
    "ProducerFactory",
    "TopicPartition",
]


END_AGE_S = 1.0
"""How old [s] a partition's end may be that a request must be made for."""


class TopicPartition(NamedTuple):
    """Name of a partition."""

    topic: str
    partition: int


class OffsetsGone(KafkaError):  # noqa: N818 - says what happened
    """Partitions do not have the offsets that are to be read next.

    Args:
        names: the partitions.
        is_cut: the broker says that their logs were cut; False: retention may have been faster than the read, too.
    """

    def __init__(self, names: Sequence[TopicPartition], *, is_cut: bool) -> None:
        super().__init__(f"There is nothing at the offsets to read next of {', '.join(map(str, names))}.")
        self.names = names
        self.is_cut = is_cut


class ConsumerRecord(Protocol):
    """A record as kafka-python gives it. ``timestamp`` is in ms; ``timestamp_type`` 0 create, 1 log append."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Consumer(Protocol):
    """What the read needs of a client. Not thread-safe. All methods but ``close`` raise KafkaError."""

    def topics(self) -> set[str]:
        """All topics that this client may see, without Kafka's internal ones."""

    def partitions(self, topics: Sequence[str]) -> list[TopicPartition]:
        """All partitions of the topics; a topic that does not exist is an error."""

    def beginning_offsets(self, of: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """First offsets that the broker still has."""

    def end_offsets(self, of: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """End offsets; with ``isolation.level=read_committed`` those of the stable part."""

    def offsets_at(self, of: Sequence[TopicPartition], timestamp_ms: int) -> Mapping[TopicPartition, int | None]:
        """First offsets at or after a time; None where all records are older."""

    def committed(self, of: Sequence[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        """The group's committed offsets; None where it has none."""

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read these partitions from these offsets on; what was assigned before is dropped."""

    def poll(self, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, Sequence[ConsumerRecord]]:
        """The next records; empty if none came in time.

        Raises:
            OffsetsGone: there are none at an offset to be read next, and never will be.
        """

    def position(self, of: TopicPartition) -> int:
        """Next offset to read. It passes what is no record: transaction markers, compacted records."""

    def high_water(self, of: TopicPartition) -> int | None:
        """End offset, of the stable part where ``end_offsets`` is; None if not known.

        It is what the last fetch reported, or at most END_AGE_S old: cheap enough to be asked once a poll.
        """

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Commit offsets for the group."""

    def close(self) -> None:
        """Free sockets. Idempotent."""


class ConsumerFactory(Protocol):
    """Makes consumers; picklable."""

    def open(self, *, with_group: bool = False, uncommitted: bool = False) -> Consumer:
        """Connect.

        Args:
            with_group: for committed offsets; the plain reads need no group and no coordinator.
            uncommitted: records of open and aborted transactions count too, whatever ``isolation.level`` is.
        """


class Producer(Protocol):
    """What the write needs of a client."""

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        *,
        timestamp_ms: int | None,
        partition: int | None,
    ) -> None:
        """Queue a record; errors come from here or from ``flush``."""

    def flush(self) -> None:
        """Wait until the broker has all records queued so far, or raise the first error as KafkaError."""

    def close(self) -> None:
        """Free sockets. Idempotent; records not flushed may be dropped."""


class ProducerFactory(Protocol):
    """Makes producers; picklable."""

    def open(self) -> Producer:
        """Connect."""


class KafkaPythonConsumers:
    """ConsumerFactory on kafka-python."""

    def __init__(self, bootstrap_servers: str, group_id: str | None, properties: Mapping[str, str]) -> None:
        self._servers = bootstrap_servers
        self._group = group_id
        self._properties = dict(properties)

    def open(self, *, with_group: bool = False, uncommitted: bool = False) -> Consumer:
        from kafka import KafkaConsumer

        settings = client_settings(self._properties, KafkaConsumer.DEFAULT_CONFIG)
        settings.update(
            auto_offset_reset="none",  # offsets are chosen by the read, see OffsetsGone
            bootstrap_servers=self._servers.split(","),
            group_id=self._group if with_group else None,
            enable_auto_commit=False,
            allow_auto_create_topics=False,
        )
        if uncommitted:
            settings["isolation_level"] = "read_uncommitted"
        make = _CommittedConsumer if settings.get("isolation_level") == "read_committed" else _KafkaPythonConsumer
        with _own_errors(f"Kafka at {self._servers} cannot be reached"):
            return make(KafkaConsumer(**settings), self._servers)


class _KafkaPythonConsumer:
    def __init__(self, consumer: Any, servers: str) -> None:
        from kafka import TopicPartition as KafkaTopicPartition

        self._consumer = consumer
        self._servers = servers
        self._name = KafkaTopicPartition

    def _names(self, of: Sequence[TopicPartition]) -> list[Any]:
        return [self._name(*each) for each in of]

    def _errors(self, action: str) -> contextlib.AbstractContextManager[None]:
        return _own_errors(f"Kafka at {self._servers}: {action} failed")

    def topics(self) -> set[str]:
        with self._errors("listing topics"):
            found: set[str] = self._consumer.topics()
        return found

    def partitions(self, topics: Sequence[str]) -> list[TopicPartition]:
        found: list[TopicPartition] = []
        missing: list[str] = []
        with self._errors("listing partitions"):
            for topic in topics:
                numbers = self._consumer.partitions_for_topic(topic)
                if not numbers:
                    missing.append(topic)
                found += [TopicPartition(topic, number) for number in sorted(numbers or ())]
        if missing:
            raise KafkaError(
                f"Kafka at {self._servers} has no topic {', '.join(missing)}.",
                hint="Create it, or check the name and that this client may describe it (ACL).",
            )
        return found

    def beginning_offsets(self, of: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        with self._errors("asking for first offsets"):
            return self._of_all(self._consumer.beginning_offsets, of)

    def end_offsets(self, of: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        with self._errors("asking for end offsets"):
            return self._of_all(self._consumer.end_offsets, of)

    def _of_all(self, ask: Callable[[list[Any]], Any], of: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        while True:
            try:
                return _ours(ask(self._names(of)))
            except KeyError as unknown:  # a partition just made: kafka-python asks for the others, and has no answer
                ask(list(unknown.args))  # asked for alone, it is looked for

    def offsets_at(self, of: Sequence[TopicPartition], timestamp_ms: int) -> Mapping[TopicPartition, int | None]:
        with self._errors("asking for offsets of a time"):
            found = self._consumer.offsets_for_times(dict.fromkeys(self._names(of), timestamp_ms))
        return {name: at and at.offset for name, at in _ours(found).items()}

    def committed(self, of: Sequence[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        with self._errors("asking for committed offsets"):
            return {name: self._consumer.committed(self._name(*name)) for name in of}

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        with self._errors("assigning partitions"):
            self._consumer.assign(self._names(list(positions)))
            for name, offset in positions.items():
                self._consumer.seek(self._name(*name), offset)

    def poll(self, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, Sequence[ConsumerRecord]]:
        from kafka.errors import LogTruncationError, OffsetOutOfRangeError

        with self._errors("reading"):
            try:
                return _ours(self._consumer.poll(timeout_ms=timeout_ms, max_records=max_records))
            except OffsetOutOfRangeError as error:
                raise OffsetsGone(list(_ours(error.args[0])), is_cut=False) from error
            except LogTruncationError as error:
                raise OffsetsGone(list(_ours(error.divergent_offsets)), is_cut=True) from error

    def position(self, of: TopicPartition) -> int:
        with self._errors("asking for a position"):
            position: int | None = self._consumer.position(self._name(*of))
        if position is None:
            raise KafkaError(f"Kafka at {self._servers} gives no position of {of}.")
        return position

    def high_water(self, of: TopicPartition) -> int | None:
        found: int | None = self._consumer.highwater(self._name(*of))
        return found

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        from kafka import OffsetAndMetadata

        with self._errors("committing offsets"):
            self._consumer.commit(
                {self._name(*name): OffsetAndMetadata(offset, "", -1) for name, offset in positions.items()}
            )

    def close(self) -> None:
        self._consumer.close(autocommit=False)


class _CommittedConsumer(_KafkaPythonConsumer):
    """Of committed transactions only. A fetch reports the end of all there is, so the stable part's is asked for."""

    def __init__(self, consumer: Any, servers: str) -> None:
        super().__init__(consumer, servers)
        self._ends: dict[TopicPartition, tuple[float, int]] = {}

    def high_water(self, of: TopicPartition) -> int | None:
        asked, end = self._ends.get(of, (-END_AGE_S, 0))
        if (now := time.monotonic()) >= asked + END_AGE_S:
            end = self.end_offsets([of])[of]
            self._ends[of] = now, end
        return end


class KafkaPythonProducers:
    """ProducerFactory on kafka-python."""

    def __init__(self, bootstrap_servers: str, properties: Mapping[str, str]) -> None:
        self._servers = bootstrap_servers
        self._properties = dict(properties)

    def open(self) -> Producer:
        from kafka import KafkaProducer

        settings = client_settings(self._properties, KafkaProducer.DEFAULT_CONFIG)
        # A write comes in bulk and is flushed at the bundle's end: some waiting makes batches.
        settings.setdefault("linger_ms", 5)
        settings.setdefault("batch_size", 1 << 17)
        settings["bootstrap_servers"] = self._servers.split(",")
        with _own_errors(f"Kafka at {self._servers} cannot be reached"):
            return _KafkaPythonProducer(KafkaProducer(**settings), self._servers)


class _KafkaPythonProducer:
    def __init__(self, producer: Any, servers: str) -> None:
        self._producer = producer
        self._servers = servers
        self._failure: BaseException | None = None

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        *,
        timestamp_ms: int | None,
        partition: int | None,
    ) -> None:
        if key is None and value is None:
            raise KafkaError(
                f"A record for {topic} has neither key nor value; kafka-python cannot write it.",
                hint="Give it an empty key (b''), or run on Flink, whose client can.",
            )
        for name, content in headers:
            if content is None:
                raise KafkaError(
                    f"A record for {topic} has the header {name!r} without a value; kafka-python cannot write it.",
                    hint="Give it an empty value (b''), or run on Flink, whose client can.",
                )
        with _own_errors(f"Kafka at {self._servers}: writing to {topic} failed"):
            future = self._producer.send(
                topic, value=value, key=key, headers=list(headers), timestamp_ms=timestamp_ms, partition=partition
            )
        future.add_errback(self._failed)

    def _failed(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error

    def flush(self) -> None:
        with _own_errors(f"Kafka at {self._servers}: writing failed"):
            self._producer.flush()
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure

    def close(self) -> None:
        self._producer.close(timeout=5)


def _ours(found: Mapping[Any, Any]) -> dict[TopicPartition, Any]:
    return {TopicPartition(name.topic, name.partition): value for name, value in found.items()}


@contextlib.contextmanager
def _own_errors(what: str) -> Iterator[None]:
    from kafka.errors import KafkaError as ClientError

    try:
        yield
    except (ClientError, OSError, AssertionError) as error:
        raise KafkaError(f"{what}: {error!r}") from error
