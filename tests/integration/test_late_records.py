"""Records that come after their window has ended are counted and told of, whichever step drops them."""

import time

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.userstate import CombiningValueStateSpec
from apache_beam.transforms.window import FixedWindows
from kafka import KafkaProducer

from beam_k8s import ReadFromKafka

LATE = 3


class Count(beam.DoFn):
    SEEN = CombiningValueStateSpec("seen", sum)

    def process(self, element, seen=beam.DoFn.StateParam(SEEN)):
        seen.add(1)
        yield seen.read()


def test_late_records_are_counted_and_told_of(session_cluster, broker, topic, capsys):
    source = topic()
    flags = ["--runner=FlinkK8s", "--k8s_target=local", f"--flink_master={session_cluster.address}"]
    flags += ["--checkpointing_interval=500", "--sdk_worker_parallelism=1", "--parallelism=1"]
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    windows = (
        pipeline
        | ReadFromKafka(
            {"bootstrap.servers": broker.bootstrap_servers, "auto.offset.reset": "earliest"},
            [source],
            timestamp_policy=ReadFromKafka.create_time_policy,
            max_out_of_orderness=0,
        )
        | "Window" >> beam.WindowInto(FixedWindows(10))
    )
    windows | "Group" >> beam.GroupByKey() | beam.Map(lambda _: beam.metrics.Metrics.counter("t", "windows").inc())
    windows | "Count" >> beam.ParDo(Count())
    broker.produce(source, [(b"k", b"v", {"timestamp_ms": second * 1000}) for second in (1, 99)])
    result = pipeline.run()

    def count(name, step=None):
        counters = result.metrics().query()["counters"]
        return sum(each.result for each in counters if each.key.metric.name == name and step in {None, each.key.step})

    def wait(what):
        while not what():
            assert result.wait_until_finish(duration=200) is None

    try:
        wait(lambda: count("windows") == 1)
        broker.produce(source, [(b"k", b"v", {"timestamp_ms": 2000})] * LATE)
        wait(lambda: result.metrics().late_records() == {"Group": LATE, "the step after Window": LATE})
        assert count("droppedDueToLateness", "Group") == LATE
        line = f"warning: records came late and were dropped: {LATE} at Group, {LATE} at the step after Window."
        said = ""
        while line not in said:
            said += capsys.readouterr().err
            assert result.wait_until_finish(duration=200) is None
    finally:
        result.cancel()


@pytest.mark.parametrize(
    "policy",
    [
        ReadFromKafka.create_time_policy,
        pytest.param(lambda record: record.timestamp / 1000, marks=pytest.mark.slow, id="python"),
    ],
)
def test_records_of_a_transaction_are_not_late_however_long_it_was_open(session_cluster, broker, topic, policy):
    """Meanwhile other partitions have gone on, and its own has nothing that may be read."""
    source, idle_seconds = topic(2), 2
    flags = ["--runner=FlinkK8s", "--k8s_target=local", f"--flink_master={session_cluster.address}"]
    flags += ["--checkpointing_interval=500", "--sdk_worker_parallelism=1", "--parallelism=1"]
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    config = {"bootstrap.servers": broker.bootstrap_servers, "auto.offset.reset": "earliest"}
    (
        pipeline
        | ReadFromKafka(
            config | {"isolation.level": "read_committed"},
            [source],
            timestamp_policy=policy,
            max_out_of_orderness=0,
            idle_timeout=idle_seconds,
        )
        | beam.WindowInto(FixedWindows(1))
        | beam.Map(lambda pair: (pair[1], 1)).with_output_types(tuple[bytes, int])
        | beam.CombinePerKey(sum)
        | beam.Map(lambda result: beam.metrics.Metrics.counter("t", result[0].decode()).inc(result[1]))
    )

    def seen(name):
        counters = result.metrics().query()["counters"]
        return sum(each.result for each in counters if each.key.metric.name == name)

    def wait(what):
        while not what():
            assert result.wait_until_finish(duration=200) is None

    def send(producer, partition, value, ago=0.0):
        at = int((time.time() - ago) * 1000)
        producer.send(source, key=b"k", value=value, partition=partition, timestamp_ms=at).get(timeout=30)

    result = pipeline.run()
    transactional = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, transactional_id=source)
    plain = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    try:
        transactional.init_transactions()
        for partition, ago in ((0, 10), (1, 10), (0, 5), (1, 5)):
            send(plain, partition, b"first", ago)
        wait(lambda: seen("first") >= 2)
        transactional.begin_transaction()
        send(transactional, 1, b"open")
        for _ in range(4 * idle_seconds):  # until its partition would have been idle for long
            assert result.wait_until_finish(duration=1000) is None
            send(plain, 0, b"other")
        assert seen("other") == 0
        transactional.commit_transaction()
        for partition in range(2):
            send(plain, partition, b"last", ago=-2)
        wait(lambda: seen("open") == 1)
        assert result.metrics().late_records() == {}
    finally:
        plain.close()
        transactional.close()
        result.cancel()
