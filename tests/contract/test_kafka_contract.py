"""What the Kafka transforms promise on every runner, against a real broker.

Every test runs a pipeline from a topic to a topic and looks at the broker with its own eyes (KafkaBroker.read_topic):
so it holds for runners whose workers are other processes. Reads end by ``stop_at`` or a limit; nothing sleeps.
"""

from __future__ import annotations

import contextlib
import threading
import time
from ast import literal_eval
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState
from kafka import KafkaProducer
from kafka.partitioner.default import murmur2

from beam_k8s.transforms import ReadFromKafka, WriteToKafka, metrics
from tests.contract import steps
from tests.waiting import await_that

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.cluster.kafka import KafkaBroker, StoredRecord
    from tests.conftest import TopicFactory

JAVA = "org.apache.kafka.common.serialization."


class Kafka:
    """The broker, the runner and the pipelines between them."""

    def __init__(self, broker: KafkaBroker, topic: TopicFactory, runner_options: list[str]) -> None:
        self.broker = broker
        self.topic = topic
        self.runner_options = runner_options
        self.servers = {"bootstrap.servers": broker.bootstrap_servers}
        self.earliest = {**self.servers, "auto.offset.reset": "earliest"}

    def try_once(self) -> None:
        """Let pipelines that fail do so at once; Flink would try again for three minutes."""
        if "--runner=FlinkK8s" in self.runner_options:
            self.runner_options.append("--k8s_flink_conf=restart-strategy.type=none")

    def run(self, build: Callable[[beam.Pipeline], Any]) -> Any:
        """Run a pipeline to its end; return its result."""
        pipeline = beam.Pipeline(options=PipelineOptions(self.runner_options))
        build(pipeline)
        result = pipeline.run()
        assert result.wait_until_finish() == PipelineState.DONE
        return result

    def copy(
        self,
        read: beam.PTransform,
        *between: beam.PTransform,
        write: dict[str, Any] | None = None,
        partitions: int = 1,
    ) -> list[StoredRecord]:
        """Read, apply steps, write to a new topic; return what is in it."""
        target = self.topic(partitions, label="target")

        def build(pipeline: beam.Pipeline) -> None:
            records = pipeline | "Read" >> read
            for number, step in enumerate(between):
                records |= f"Step{number}" >> step
            records | "Write" >> WriteToKafka(self.servers, target, **(write or {}))

        self.run(build)
        return self.broker.read_topic(target)


@pytest.fixture
def kafka(broker: KafkaBroker, topic: TopicFactory, runner_options: list[str]) -> Kafka:
    return Kafka(broker, topic, runner_options)


def pairs(records: Sequence[StoredRecord]) -> Counter:
    return Counter((record.key, record.value) for record in records)


def numbered(count: int, partitions: int = 1) -> list:
    return [(b"k%d" % n, b"v%d" % n, {"partition": n % partitions}) for n in range(count)]


def test_read_and_write_lose_nothing_double_nothing_and_invent_nothing(kafka: Kafka) -> None:
    """Several partitions, one of them empty; null keys, tombstones, empty bytes; more than a frame."""
    source = kafka.topic(4)
    odd = [(None, b"no key"), (b"tombstone", None), (b"", b""), (b"", None), (None, b"")]
    kafka.broker.produce(
        source,
        [(k, v, {"partition": n % 3}) for n, (k, v) in enumerate(odd)] + numbered(2_345, 3),
    )
    written = kafka.copy(ReadFromKafka(kafka.earliest, [source], stop_at="latest"), partitions=2)
    assert pairs(written) == pairs(kafka.broker.read_topic(source))
    assert len(written) == 2_350


def test_a_read_for_ever_gives_what_is_written_after_it_started(kafka: Kafka) -> None:
    source, target = kafka.topic(2), kafka.topic(1)
    pipeline = beam.Pipeline(options=PipelineOptions(kafka.runner_options))
    records = pipeline | ReadFromKafka(kafka.earliest, [source]) | beam.Map(steps.until_stop)
    records | WriteToKafka(kafka.servers, target)

    def came(value: bytes) -> bool:
        return pairs(kafka.broker.read_topic(target))[b"k", value] == 2

    with ThreadPoolExecutor() as pool:
        running = pool.submit(pipeline.run)
        try:
            for value in (b"first", b"second"):
                kafka.broker.produce(source, [(b"k", value, {"partition": n}) for n in range(2)])
                await_that(partial(came, value))
        finally:
            if "--runner=DirectRunner" in kafka.runner_options:  # from which run() does not come back
                kafka.broker.produce(source, [(b"k", b"stop")])
                with pytest.raises(RuntimeError, match="asked to stop"):
                    running.result()
            else:
                running.result().cancel()


def test_nulls_survive_a_shuffle(kafka: Kafka) -> None:
    source = kafka.topic(1)
    kafka.broker.produce(source, [(None, b"no key"), (b"tombstone", None)])
    read = ReadFromKafka(kafka.earliest, [source], stop_at="latest", redistribute=True)
    assert pairs(kafka.copy(read, beam.Reshuffle())) == {
        (None, b"no key"): 1,
        (b"tombstone", None): 1,
    }


def test_records_of_a_partition_keep_their_order(kafka: Kafka) -> None:
    """Where there are no more subtasks than partitions: Flink spreads the records of a partition over more."""
    source = kafka.topic(2)
    kafka.broker.produce(source, numbered(3_000, 2))
    written = kafka.copy(ReadFromKafka(kafka.earliest, [source], stop_at="latest"))
    numbers = [int(record.value[1:]) for record in written]
    assert [n for n in numbers if n % 2 == 0] == list(range(0, 3_000, 2))
    assert [n for n in numbers if n % 2 == 1] == list(range(1, 3_000, 2))


def test_a_read_that_the_runner_splits_loses_nothing_and_doubles_nothing(kafka: Kafka) -> None:
    """The first record makes a step slow: Prism then splits the range that is being read, others may."""
    source = kafka.topic(1)
    kafka.broker.produce(source, numbered(20_000))
    written = kafka.copy(ReadFromKafka(kafka.earliest, [source], stop_at="latest"), beam.Map(steps.slow_first))
    assert pairs(written) == pairs(kafka.broker.read_topic(source))
    assert len(written) == 20_000


def test_several_topics_are_read(kafka: Kafka) -> None:
    first, second = kafka.topic(2), kafka.topic(1)
    kafka.broker.produce(first, [(b"a", b"1")])
    kafka.broker.produce(second, [(b"b", b"2")])
    read = ReadFromKafka(kafka.earliest, [first, second], stop_at="latest")
    assert pairs(kafka.copy(read)) == {(b"a", b"1"): 1, (b"b", b"2"): 1}


def test_topics_whose_whole_name_matches_a_pattern_are_read(kafka: Kafka, unique: str) -> None:
    topics = {f"{unique}-eu": b"1", f"{unique}-us": b"2", f"{unique}-eu-old": b"3", f"old-{unique}-eu": b"4"}
    kafka.broker.create_topics(dict.fromkeys(topics, 1))
    for topic, value in topics.items():
        kafka.broker.produce(topic, [(b"k", value)])
    read = ReadFromKafka(kafka.earliest, topic_pattern=f"{unique}-(eu|us)", stop_at="latest")
    assert pairs(kafka.copy(read)) == {(b"k", b"1"): 1, (b"k", b"2"): 1}


def test_a_topic_without_records_ends_at_once(kafka: Kafka) -> None:
    read = ReadFromKafka(kafka.earliest, [kafka.topic(3)], stop_at="latest")
    assert kafka.copy(read) == []


def test_metadata_is_what_the_broker_has(kafka: Kafka) -> None:
    source = kafka.topic(2)
    kafka.broker.produce(
        source,
        [
            (b"k", b"v", {"partition": 0, "timestamp_ms": 1_000, "headers": [("a", b"1"), ("a", b"")]}),
            (None, b"w", {"partition": 1, "timestamp_ms": 2_000}),
            (b"k", None, {"partition": 1, "timestamp_ms": 3_000, "headers": [("é", b"\xff")]}),
        ],
    )  # fmt: skip
    read = ReadFromKafka(kafka.earliest, [source], stop_at="latest", with_metadata=True)
    # The shuffle proves the coder, also in workers that never saw the class before.
    written = kafka.copy(read, beam.Reshuffle(), beam.Map(steps.show_record))
    assert sorted(record.value.decode() for record in written) == sorted(
        repr(
            {
                "topic": source,
                "partition": record.partition,
                "offset": record.offset,
                "timestamp": record.timestamp,
                "key": record.key,
                "value": record.value,
                "headers": list(record.headers),
                "timestampTypeId": 0,
                "timestampTypeName": "CreateTime",
            }
        )
        for record in kafka.broker.read_topic(source)
    )


def test_log_append_time_is_told_and_used(kafka: Kafka) -> None:
    source = kafka.topic(1, config={"message.timestamp.type": "LogAppendTime"})
    kafka.broker.produce(source, [(b"k", b"v", {"timestamp_ms": 1_000})])
    (stored,) = kafka.broker.read_topic(source)
    assert stored.timestamp_type == 1
    options: dict[str, Any] = {
        "stop_at": "latest",
        "timestamp_policy": ReadFromKafka.log_append_time,
    }
    (shown,) = kafka.copy(
        ReadFromKafka(kafka.earliest, [source], with_metadata=True, **options),
        beam.Map(steps.show_record),
    )
    assert b"'timestampTypeName': 'LogAppendTime'" in shown.value
    (timed,) = kafka.copy(ReadFromKafka(kafka.earliest, [source], **options), beam.ParDo(steps.ShowTimestamp()))
    assert int(timed.value) == stored.timestamp * 1000


def test_create_time_is_the_time_of_a_record(kafka: Kafka) -> None:
    source = kafka.topic(2)
    kafka.broker.produce(
        source,
        [(b"k%d" % n, b"v", {"partition": n % 2, "timestamp_ms": 1_700_000_000_000 + 7 * n}) for n in range(50)],
    )
    read = ReadFromKafka(
        kafka.earliest,
        [source],
        stop_at="latest",
        timestamp_policy=ReadFromKafka.create_time_policy,
    )
    shown = kafka.copy(read, beam.ParDo(steps.ShowTimestamp()))
    assert pairs(shown) == {(b"k%d" % n, b"%d" % (1_700_000_000_000_000 + 7_000 * n)): 1 for n in range(50)}


def test_processing_time_is_the_time_of_the_read(kafka: Kafka) -> None:
    source = kafka.topic(1)
    kafka.broker.produce(source, [(b"k", b"v", {"timestamp_ms": 1_000})])
    before = time.time_ns() // 1000
    read = ReadFromKafka(kafka.earliest, [source], stop_at="latest")
    (shown,) = kafka.copy(read, beam.ParDo(steps.ShowTimestamp()))
    # A millisecond is what a frame's clock resolves.
    assert before - 1000 <= int(shown.value) <= time.time_ns() // 1000


@pytest.mark.parametrize("policy", [ReadFromKafka.create_time_policy, steps.event_time])
def test_windows_count_every_record(kafka: Kafka, policy: Any) -> None:
    source = kafka.topic(3)
    times = [60_000 + 100 * n for n in range(1_200)]
    own = [0 if policy is steps.event_time else time_ms for time_ms in times]
    records = [
        (b"k%d" % (n % 4), b"%d" % time_ms, {"partition": n % 3, "timestamp_ms": own[n]})
        for n, time_ms in enumerate(times)
    ]
    kafka.broker.produce(source, records)
    shown = kafka.copy(
        ReadFromKafka(kafka.earliest, [source], stop_at="latest", timestamp_policy=policy),
        steps.CountWindows(),
    )
    oracle = Counter((key, int(value) // 10_000 * 10_000) for key, value, _ in records)
    assert pairs(shown) == {(key, b"%d %d" % (start, count)): 1 for (key, start), count in oracle.items()}


@pytest.mark.usefixtures("failures_are_told")
def test_a_record_without_the_event_time_that_a_function_reads_is_placed(kafka: Kafka) -> None:
    source = kafka.topic(1)
    kafka.broker.produce(source, [(b"k", b"1000"), (b"k", b"noon")])
    read = ReadFromKafka(kafka.earliest, [source], stop_at="latest", timestamp_policy=steps.event_time)
    kafka.try_once()
    with pytest.raises(Exception, match=rf"offset 1 of partition 0 of topic {source} .*timestamp_policy: ValueError"):
        kafka.copy(read)


@pytest.mark.parametrize("policy", [ReadFromKafka.create_time_policy, steps.event_time])
def test_a_clock_ten_minutes_ahead_makes_no_record_of_others_late(kafka: Kafka, policy: Any) -> None:
    """Its records lie among those of a right clock, in several bundles, which are read within two minutes."""
    source = kafka.topic(1)
    now = time.time_ns() // 1_000_000
    times = [now + n % 2 * 600_000 for n in range(50_000)]
    kafka.broker.produce(source, [(b"k", b"%d" % at, {"timestamp_ms": at}) for at in times])
    counts = kafka.copy(
        ReadFromKafka(kafka.earliest, [source], stop_at="latest", timestamp_policy=policy, max_out_of_orderness=120),
        steps.CountWindows(),
    )
    assert sum(int(record.value.split()[1]) for record in counts) == len(times)


@pytest.mark.parametrize(
    ("reset", "committed", "first"),
    [("earliest", None, 0), ("latest", None, 10), ("earliest", 4, 4), ("latest", 4, 4)],
)
def test_a_read_starts_at_the_committed_offset_or_else_by_the_reset(
    kafka: Kafka, unique: str, reset: str, committed: int | None, first: int
) -> None:
    source = kafka.topic(1)
    kafka.broker.produce(source, numbered(10))
    if committed is not None:
        commit(kafka, unique, source, committed)
    config = {**kafka.servers, "auto.offset.reset": reset, "group.id": unique}
    written = kafka.copy(ReadFromKafka(config, [source], stop_at="latest"))
    assert sorted(record.value for record in written) == [b"v%d" % n for n in range(first, 10)]


def test_a_read_starts_at_a_time(kafka: Kafka) -> None:
    source = kafka.topic(2)
    kafka.broker.produce(
        source,
        [(b"", b"v%d" % n, {"partition": 0, "timestamp_ms": 1_000 * n}) for n in range(1, 10)]
        + [(b"", b"old", {"partition": 1, "timestamp_ms": 1_000})],
    )
    read = ReadFromKafka(kafka.earliest, [source], start_read_time=5_500, stop_at="latest")
    assert sorted(record.value for record in kafka.copy(read)) == [b"v6", b"v7", b"v8", b"v9"]


def test_a_read_starts_and_stops_at_offsets(kafka: Kafka) -> None:
    """Partition 1's stop is not yet written; partition 2 has none and ends where it is, and starts by the reset."""
    source = kafka.topic(3)
    kafka.broker.produce(source, numbered(30, 3))
    config = kafka.servers | {"auto.offset.reset": "earliest"}
    later = threading.Timer(4, kafka.broker.produce, (source, [(b"", b"v100", {"partition": 1})] * 5))
    later.start()
    try:
        read = ReadFromKafka(
            config, [source], start_offsets={source: {0: 3, 1: 8}}, stop_offsets={source: {0: 7, 1: 12}}
        )
        numbers = sorted(int(record.value[1:]) for record in kafka.copy(read))
    finally:
        later.join()
    assert numbers == sorted([*range(9, 21, 3), 25, 28, 100, 100, *range(2, 30, 3)])


def test_a_read_stops_at_a_time(kafka: Kafka) -> None:
    """In partition 0 at the first record of that time, in partition 1 there is none."""
    source = kafka.topic(2)
    kafka.broker.produce(
        source,
        [(b"", b"v%d" % n, {"partition": 0, "timestamp_ms": 1_000 * n}) for n in range(1, 10)]
        + [(b"", b"old", {"partition": 1, "timestamp_ms": 1_000})],
    )
    read = ReadFromKafka(kafka.earliest, [source], start_read_time=1_000, stop_read_time=3_500)
    assert sorted(record.value for record in kafka.copy(read)) == [b"old", b"v1", b"v2", b"v3"]


@pytest.mark.usefixtures("failures_are_told")
def test_offsets_that_are_not_there_are_named(kafka: Kafka) -> None:
    source = kafka.topic(1)
    kafka.broker.produce(source, numbered(3))
    read = ReadFromKafka(kafka.earliest, [source], start_offsets={source: {0: 4, 1: 0}})
    with pytest.raises(Exception, match=r"start_offsets has 4 for .* which ends at 3(?s:.*)has partition 1 of"):
        kafka.copy(read)


def test_nothing_is_committed_unless_asked_for(kafka: Kafka, unique: str) -> None:
    source = kafka.topic(2)
    kafka.broker.produce(source, numbered(10, 2))
    config = {**kafka.earliest, "group.id": unique}
    assert len(kafka.copy(ReadFromKafka(config, [source], stop_at="latest"))) == 10
    assert kafka.broker.committed_offsets(unique, source) == {}


def test_committed_offsets_are_those_of_all_that_was_read(kafka: Kafka, unique: str) -> None:
    source = kafka.topic(2)
    kafka.broker.produce(source, numbered(1_200, 2))
    config = {**kafka.earliest, "group.id": unique}
    read = ReadFromKafka(config, [source], stop_at="latest", commit_offset_in_finalize=True)
    assert len(kafka.copy(read)) == 1_200
    assert kafka.broker.committed_offsets(unique, source) == {0: 600, 1: 600}
    kafka.broker.produce(source, [(b"new", b"new", {"partition": 1})])
    again = ReadFromKafka(config, [source], stop_at="latest", commit_offset_in_finalize=True)
    assert pairs(kafka.copy(again)) == {(b"new", b"new"): 1}


def test_a_count_ends_a_read_exactly(kafka: Kafka) -> None:
    source = kafka.topic(3)
    kafka.broker.produce(source, numbered(2_000, 3))
    written = kafka.copy(ReadFromKafka(kafka.earliest, [source], max_num_records=777))
    assert len(pairs(written)) == len(written) == 777
    assert pairs(written) <= pairs(kafka.broker.read_topic(source))


def test_a_time_ends_a_read(kafka: Kafka) -> None:
    source = kafka.topic(3)
    kafka.broker.produce(source, numbered(2_000, 3))
    started = time.monotonic()
    written = kafka.copy(ReadFromKafka(kafka.earliest, [source], max_read_time=4))
    assert time.monotonic() - started >= 4
    assert pairs(written) == pairs(kafka.broker.read_topic(source))


@contextlib.contextmanager
def transactions(kafka: Kafka, topic: str) -> Iterator[KafkaProducer]:
    producer = KafkaProducer(bootstrap_servers=kafka.broker.bootstrap_servers, transactional_id=topic)
    try:
        producer.init_transactions()
        yield producer
    finally:
        producer.close()


def in_transaction(producer: KafkaProducer, topic: str, value: bytes) -> None:
    """Left open."""
    producer.begin_transaction()
    producer.send(topic, key=b"k", value=value)
    producer.flush()


def test_aborted_transactions_are_not_read_and_markers_do_not_hold_the_end(kafka: Kafka) -> None:
    source = kafka.topic(1)
    with transactions(kafka, source) as producer:
        for value, end in (
            (b"aborted", producer.abort_transaction),
            (b"committed", producer.commit_transaction),
            (b"aborted too", producer.abort_transaction),
        ):
            in_transaction(producer, source, value)
            end()
    config = {**kafka.earliest, "isolation.level": "read_committed"}
    read = ReadFromKafka(config, [source], stop_at="latest")
    assert pairs(kafka.copy(read)) == {(b"k", b"committed"): 1}
    everything = ReadFromKafka(kafka.earliest, [source], stop_at="latest")
    assert sum(pairs(kafka.copy(everything)).values()) == 3


def test_a_committed_read_ends_before_an_open_transaction(kafka: Kafka) -> None:
    """A time that no record has yet stops it as ``latest`` does."""
    source = kafka.topic(2)
    with transactions(kafka, source) as producer:
        for partition in range(2):
            producer.begin_transaction()
            producer.send(source, key=b"k", value=b"committed", partition=partition)
            producer.commit_transaction()
        producer.begin_transaction()
        producer.send(source, key=b"k", value=b"open", partition=1).get(timeout=30)
        config = {**kafka.earliest, "isolation.level": "read_committed"}
        target = kafka.topic(1)
        read = ReadFromKafka(config, [source], stop_read_time=2**50)
        result = kafka.run(lambda pipeline: pipeline | read | WriteToKafka(kafka.servers, target))
        assert pairs(kafka.broker.read_topic(target)) == {(b"k", b"committed"): 2}
        found = result.metrics().query(MetricsFilter().with_name(metrics.backlog_name(source, 0)))
        assert [gauge.result.value for gauge in found["gauges"]] == [0]
        producer.abort_transaction()


def test_offsets_that_retention_or_compaction_removed_do_not_hold_the_end(kafka: Kafka) -> None:
    source = kafka.topic(1)
    kafka.broker.produce(source, numbered(10))
    from kafka import TopicPartition

    with kafka.broker.admin() as admin:
        admin.delete_records({TopicPartition(source, 0): 6})
    read = ReadFromKafka(kafka.earliest, [source], stop_at="latest")
    assert sorted(record.value for record in kafka.copy(read)) == [b"v6", b"v7", b"v8", b"v9"]


def test_records_that_were_deleted_before_the_start_are_told_as_lost(kafka: Kafka) -> None:
    from kafka import TopicPartition

    source, target = kafka.topic(1), kafka.topic(1)
    kafka.broker.produce(source, numbered(10))
    with kafka.broker.admin() as admin:
        admin.delete_records({TopicPartition(source, 0): 6})
    read = ReadFromKafka(kafka.earliest, [source], start_offsets={(source, 0): 2}, stop_offsets={(source, 0): 8})
    result = kafka.run(lambda pipeline: pipeline | read | WriteToKafka(kafka.servers, target))
    assert sorted(record.value for record in kafka.broker.read_topic(target)) == [b"v6", b"v7"]
    found = result.metrics().query(MetricsFilter().with_name(metrics.RECORDS_LOST))["counters"]
    assert [counter.result for counter in found] == [4]


def test_java_deserializers_and_serializers_by_name(kafka: Kafka) -> None:
    source = kafka.topic(1)
    kafka.broker.produce(source, [((5).to_bytes(8, "big"), "é".encode()), (None, b"x")])

    def read() -> beam.PTransform:
        return ReadFromKafka(
            kafka.earliest,
            [source],
            key_deserializer=JAVA + "LongDeserializer",
            value_deserializer=JAVA + "StringDeserializer",
            stop_at="latest",
        )

    shown = kafka.copy(read(), beam.Map(steps.show))
    assert [record.value.decode() for record in shown] == ["(5, 'é')", "(None, 'x')"]
    back = {
        "key_serializer": JAVA + "LongSerializer",
        "value_serializer": JAVA + "StringSerializer",
    }
    assert pairs(kafka.copy(read(), write=back)) == pairs(kafka.broker.read_topic(source))


def test_python_functions_as_deserializer_and_serializer_and_what_they_fail_on(kafka: Kafka) -> None:
    source, target, letters = kafka.topic(2), kafka.topic(1), kafka.topic(1)
    headers = [("é", b"\xff"), ("é", b"")]
    kafka.broker.produce(
        source,
        [
            (b"key", b"value"),
            (None, b"value"),
            (b"key", None),
            (b"bad", b"\xff", {"partition": 1, "timestamp_ms": 5, "headers": headers}),
            (b"key", b"after"),
        ],
    )
    (bad,) = (record for record in kafka.broker.read_topic(source) if record.key == b"bad")
    read = ReadFromKafka(
        kafka.earliest, [source], value_deserializer=steps.upper_text, dead_letters=True, stop_at="latest"
    )

    def build(pipeline: beam.Pipeline) -> None:
        records, dead = pipeline | read
        records | beam.Map(steps.encoded) | WriteToKafka(kafka.servers, target, key_serializer=steps.upper)
        # The shuffle proves the coder, also in workers that never saw the class before.
        dead | beam.Reshuffle() | beam.Map(steps.show_letter) | "Letters" >> WriteToKafka(kafka.servers, letters)

    kafka.run(build)
    assert pairs(kafka.broker.read_topic(target)) == {
        (b"KEY", b"VALUE"): 1,
        (None, b"VALUE"): 1,
        (b"KEY", None): 1,
        (b"KEY", b"AFTER"): 1,
    }
    (letter,) = kafka.broker.read_topic(letters)
    *_, error = shown = literal_eval(letter.value.decode())
    assert shown == (source, 1, bad.offset, 5, b"bad", b"\xff", headers, error)
    assert error.startswith("value_deserializer: UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff")


def test_a_record_without_a_time_that_beam_can_hold_is_a_dead_letter_and_makes_none_late(kafka: Kafka) -> None:
    source = kafka.topic(1, config={"message.timestamp.after.max.ms": str(2**63 - 1)})
    times = [1_000, -1, 2_000, 2**62, 3_000]
    kafka.broker.produce(source, [(b"k", b"%d" % at, {"timestamp_ms": at}) for at in times])
    target, letters = kafka.topic(1), kafka.topic(1)

    def build(pipeline: beam.Pipeline) -> None:
        policy = ReadFromKafka.create_time_policy
        read = ReadFromKafka(
            kafka.earliest, [source], timestamp_policy=policy, with_metadata=True, dead_letters=True, stop_at="latest"
        )
        records, dead = pipeline | read
        counted = records | beam.Map(lambda record: (record.key, record.value)) | steps.CountWindows()
        counted | WriteToKafka(kafka.servers, target)
        dead | beam.Reshuffle() | beam.Map(steps.show_letter) | "Letters" >> WriteToKafka(kafka.servers, letters)

    kafka.run(build)
    assert [record.value for record in kafka.broker.read_topic(target)] == [b"0 3"]
    found = sorted(literal_eval(record.value.decode()) for record in kafka.broker.read_topic(letters))
    assert [letter[2:4] + letter[5:] for letter in found] == [
        (1, -1, b"-1", [], "timestamp_policy: it has no time"),
        (3, 2**62, b"%d" % 2**62, [], f"timestamp_policy: it has the time {2**62} ms, beyond what Beam can hold"),
    ]


def test_records_go_where_they_say_with_the_time_and_headers_they_have(kafka: Kafka) -> None:
    source, named, default = (kafka.topic(3, label=label) for label in ("source", "named", "default"))
    kafka.broker.produce(
        source,
        [
            (None if n % 7 == 0 else b"k%d" % n, b"v%d" % n,
             {"partition": n % 3, "timestamp_ms": 1_000 + n, "headers": [("n", b"%d" % n), ("é", b"")] * (n % 2)})
            for n in range(1_200)
        ],
    )  # fmt: skip
    read = ReadFromKafka(kafka.earliest, [source], stop_at="latest", with_metadata=True)
    # The shuffle proves the coder, also in workers that never saw the class before.
    kafka.run(
        lambda pipeline: (
            pipeline
            | read
            | beam.Map(steps.rewritten, topics=[named, None])
            | beam.Reshuffle()
            | WriteToKafka(kafka.servers, default)
        )
    )
    for remainder, target in enumerate((named, default)):
        expected = [record for record in kafka.broker.read_topic(source) if record.offset % 2 == remainder]
        assert len(expected) == 600
        stored = kafka.broker.read_topic(target)
        assert Counter(told(each, each.partition) for each in stored) == Counter(
            told(each, partition_of(each.key, 3) if each.key and each.offset % 3 == 0 else each.partition)
            for each in expected
        )


def told(record: StoredRecord, partition: int) -> tuple:
    """All that a producer says of a record."""
    return partition, record.timestamp, record.key, record.value, record.headers


def partition_of(key: bytes, partitions: int) -> int:
    """Of Kafka's default partitioner."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def test_a_write_from_any_windowing_writes_each_record_once(kafka: Kafka) -> None:
    source = kafka.topic(1)
    kafka.broker.produce(source, numbered(20))
    read = ReadFromKafka(kafka.earliest, [source], stop_at="latest")
    sliding = beam.WindowInto(beam.window.SlidingWindows(30, 10))
    assert pairs(kafka.copy(read, sliding)) == pairs(kafka.broker.read_topic(source))


def test_records_larger_than_what_is_fetched_at_once_pass(kafka: Kafka) -> None:
    source = kafka.topic(1)
    kafka.broker.produce(source, [(b"%d" % n, bytes([n]) * 700_000) for n in range(5)])
    limits = {"max.partition.fetch.bytes": "100000", "fetch.max.bytes": "200000"}
    read = ReadFromKafka(kafka.earliest | limits, [source], stop_at="latest")
    assert pairs(kafka.copy(read)) == pairs(kafka.broker.read_topic(source))


def test_metrics_are_the_same_everywhere(kafka: Kafka) -> None:
    source, target = kafka.topic(2), kafka.topic(1)
    kafka.broker.produce(source, numbered(1_500, 2))
    result = kafka.run(
        lambda pipeline: (
            pipeline | ReadFromKafka(kafka.earliest, [source], stop_at="latest") | WriteToKafka(kafka.servers, target)
        )
    )
    found = result.metrics().query(MetricsFilter().with_namespace(metrics.NAMESPACE))
    counters = {each.key.metric.name: each.result for each in found["counters"]}
    assert counters == {metrics.RECORDS_READ: 1_500, metrics.RECORDS_WRITTEN: 1_500}
    gauges = {each.key.metric.name: each.result.value for each in found["gauges"]}
    units = ("records", "bytes", "seconds")
    assert gauges == {metrics.backlog_name(source, n, unit): 0 for n in range(2) for unit in units}


@pytest.mark.usefixtures("failures_are_told")
def test_a_record_that_the_disk_has_changed_fails_the_read_and_is_placed(kafka: Kafka) -> None:
    source = kafka.topic(1)
    for number in range(3):  # a batch each
        kafka.broker.produce(source, [(b"k", b"value-%d" % number)])
    (log,) = (kafka.broker.folder / "data" / f"{source}-0").glob("*.log")
    stored = log.read_bytes()
    assert stored.count(b"value-1") == 1
    log.write_bytes(stored.replace(b"value-1", b"value-!"))
    kafka.try_once()
    with pytest.raises(Exception, match=rf"(?i)corrupt.*{source}|{source}.*corrupt"):
        kafka.copy(ReadFromKafka(kafka.earliest, [source], stop_at="latest"))


@pytest.mark.usefixtures("failures_are_told")
def test_a_missing_topic_is_named(kafka: Kafka, unique: str) -> None:
    with pytest.raises(Exception, match=f"has no topic {unique}|topic {unique} does not exist"):
        kafka.copy(ReadFromKafka(kafka.earliest, [unique], stop_at="latest"))


def test_a_pattern_without_a_topic_is_named(kafka: Kafka, unique: str) -> None:
    with pytest.raises(Exception, match=f"no topic .*match.*{unique}"):
        kafka.copy(ReadFromKafka(kafka.earliest, topic_pattern=f"{unique}.+", stop_at="latest"))


@pytest.mark.usefixtures("failures_are_told")
def test_a_record_that_the_broker_refuses_fails_the_pipeline(kafka: Kafka) -> None:
    source = kafka.topic(1)
    kafka.broker.produce(source, [(b"k", b"v")])
    read = ReadFromKafka(kafka.earliest, [source], stop_at="latest")
    with pytest.raises(Exception, match=r"(?i)too ?large|larger than") as failure:
        kafka.copy(read, beam.Map(steps.large))
    if "--runner=FlinkK8s" in kafka.runner_options:  # one line, after the first try
        assert "ended in state FAILED: WriteToKafka, topic target-" in str(failure.value)


def commit(kafka: Kafka, group: str, topic: str, offset: int) -> None:
    from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=kafka.broker.bootstrap_servers, group_id=group, enable_auto_commit=False)
    try:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.commit({TopicPartition(topic, 0): OffsetAndMetadata(offset, "", -1)})
    finally:
        consumer.close(autocommit=False)
