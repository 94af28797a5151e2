"""A partition whose broker does not answer is not idle: what it takes meanwhile must not be late."""

import os
import signal
import time

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import FixedWindows

from beam_k8s import ReadFromKafka, WriteToKafka
from beam_k8s.launcher import watch
from tests.cluster.kafka import KafkaBroker

IDLE_TIMEOUT = 30


@pytest.fixture
def silent(tmp_path):
    """A broker of the test's own, to be stopped and continued."""
    with KafkaBroker(tmp_path / "silent") as running:
        running.create_topics({"quiet": 1})
        try:
            yield running
        finally:
            os.kill(running.pid, signal.SIGCONT)


def read(broker, topic):
    return f"Read {topic}" >> ReadFromKafka(
        {"bootstrap.servers": broker.bootstrap_servers, "auto.offset.reset": "earliest"},
        [topic],
        timestamp_policy=ReadFromKafka.create_time_policy,
        max_out_of_orderness=0,
        idle_timeout=IDLE_TIMEOUT,
    )


@pytest.mark.slow
def test_records_of_a_broker_that_was_silent_are_not_late(broker, silent, topic, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    lively, sink = topic(label="lively"), topic(label="sink")
    broker.produce(lively, [(None, b"a", {"timestamp_ms": 1_000}), (None, b"a", {"timestamp_ms": 15_000})])
    silent.produce("quiet", [(None, b"b", {"timestamp_ms": 1_000}), (None, b"b", {"timestamp_ms": 15_000})])
    flags = ["--runner=FlinkK8s", "--k8s_target=local", "--k8s_task_slots=1", "--checkpointing_interval=1000"]
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    (
        (pipeline | read(broker, lively), pipeline | read(silent, "quiet"))
        | beam.Flatten()
        | beam.WindowInto(FixedWindows(10))
        | beam.Map(lambda record: (b"all", record[1])).with_output_types(tuple[bytes, bytes])
        | beam.GroupByKey()
        | beam.MapTuple(lambda key, values: (key, b" ".join(sorted(values)))).with_output_types(tuple[bytes, bytes])
        | WriteToKafka({"bootstrap.servers": broker.bootstrap_servers}, sink)
    )
    result = pipeline.run()

    def wait(what):
        deadline = time.monotonic() + 150
        while not what():
            assert time.monotonic() < deadline, windows()
            assert result.state != "FAILED"
            time.sleep(0.2)

    def windows():
        return [record.value for record in broker.read_topic(sink)]

    try:
        wait(lambda: windows() == [b"a b"])  # both were read to their ends, and neither is idle yet
        os.kill(silent.pid, signal.SIGSTOP)
        time.sleep(IDLE_TIMEOUT + 5)
        broker.produce(lively, [(None, b"c", {"timestamp_ms": 25_000}), (None, b"c", {"timestamp_ms": 99_000})])
        time.sleep(5)  # enough for the window of the first of them to end, did nothing hold it
        os.kill(silent.pid, signal.SIGCONT)
        silent.produce("quiet", [(None, b"d", {"timestamp_ms": 26_000})])
        wait(lambda: len(windows()) == 3)
        assert windows() == [b"a b", b"a b", b"c d"]
    finally:
        result.cancel()


def slowly(record):
    time.sleep(0.005)
    return record


@pytest.mark.slow
def test_a_broker_that_falls_silent_before_all_is_read_is_told_of(silent, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(watch, "_INTERVAL_SECONDS", 1)
    monkeypatch.setattr(watch, "SILENT_AFTER_SECONDS", 6)
    silent.produce("quiet", [(None, b"v" * 2000)] * 20_000)
    flags = ["--runner=FlinkK8s", "--k8s_target=local", "--k8s_task_slots=1", "--checkpointing_interval=1000"]
    flags += ["--k8s_flink_conf=metrics.fetcher.update-interval=500"]
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    pipeline | read(silent, "quiet") | beam.Map(slowly)
    result = pipeline.run()

    def is_read():
        counters = result.metrics().query()["counters"]
        return any(each.result for each in counters if each.key.metric.name == "records_read")

    try:
        while not is_read():
            assert result.wait_until_finish(duration=200) is None
        os.kill(silent.pid, signal.SIGSTOP)
        said = ""
        while "the brokers give it none" not in said:
            assert result.wait_until_finish(duration=200) is None
            said += capsys.readouterr().err
        assert "warning: Read quiet/Source has read nothing" in said
    finally:
        result.cancel()
