"""Side inputs of a streaming job are part of its checkpoints, and come back with them after a kill."""

import os
import signal
from typing import Any

import apache_beam as beam
import psutil
import pytest
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.userstate import CombiningValueStateSpec

from beam_k8s import ReadFromKafka, WriteToKafka
from beam_k8s.launcher import flink_rest

KEYS = {b"a": b"apple", b"b": b"banana"}
RECORDS = 40

# Side inputs of stateful steps are pairs here: Beam 2.62 takes a random one of a step's inputs for the keyed one.


def name(record: Any, names: Any) -> tuple[bytes, bytes]:
    return record[0], names[record[0]]


class CountAlone(beam.DoFn):
    """Has keyed state and a side input and gives nothing out."""

    SEEN = CombiningValueStateSpec("seen", sum)

    def process(self, element: Any, names: Any, seen: Any = beam.DoFn.StateParam(SEEN)) -> Any:
        seen.add(1)
        Metrics.counter("test", "seen").inc(len(names))
        return ()


class Number(beam.DoFn):
    """(key, value) -> (key, "value,number of the key's records,what the side input says of the value")."""

    SEEN = CombiningValueStateSpec("seen", sum)

    def process(self, element: Any, colours: Any, seen: Any = beam.DoFn.StateParam(SEEN)) -> Any:
        seen.add(1)
        yield element[0], b"%s,%d,%s" % (element[1], seen.read(), colours[element[1]])


@pytest.fixture
def job(broker, topic, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    source, sink = topic(2, label="source"), topic(1, label="sink")
    flags = ["--runner=FlinkK8s", "--k8s_target=local", "--k8s_task_slots=2", "--checkpointing_interval=300"]
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    servers = {"bootstrap.servers": broker.bootstrap_servers}
    fruits = pipeline | "Fruits" >> beam.Create(list(KEYS.items()))
    colours = pipeline | "Colours" >> beam.Create([(b"apple", b"green"), (b"banana", b"yellow")])
    (
        pipeline
        | ReadFromKafka({**servers, "auto.offset.reset": "earliest"}, [source])
        | "Name" >> beam.Map(name, beam.pvalue.AsDict(fruits))
        | beam.ParDo(Number(), beam.pvalue.AsDict(colours)).with_output_types(tuple[bytes, bytes])
        | WriteToKafka(servers, sink, delivery_guarantee="exactly_once")
    )
    result = pipeline.run()
    try:
        yield result, source, sink
    finally:
        result.cancel()


def checkpoints(result):
    try:
        return result.job.flink().get(f"/jobs/{result.job.job_id}/checkpoints")["counts"]["completed"]
    except flink_rest.FlinkError:
        return 0


def test_side_inputs_are_in_checkpoints_and_survive_a_kill(job, broker):
    result, source, sink = job

    def await_that(what):
        while not what():
            assert result.wait_until_finish(duration=200) is None

    def feed_and_await(total):
        records = [(key, b"", {"partition": n % 2}) for n in range(RECORDS // 4) for key in KEYS]
        broker.produce(source, records)
        await_that(lambda: len(broker.read_topic(sink)) >= total)

    feed_and_await(RECORDS // 2)
    before = checkpoints(result)
    await_that(lambda: checkpoints(result) >= before + 2)
    victim = psutil.Process(result.job.control.ask(op="status")["taskmanagers"][0])
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait(30)
    feed_and_await(RECORDS)
    values = {b"a": b"apple,%d,green", b"b": b"banana,%d,yellow"}
    expected = [(key, values[key] % n) for key in KEYS for n in range(1, RECORDS // 2 + 1)]
    assert sorted((record.key, record.value) for record in broker.read_topic(sink)) == sorted(expected)


def test_a_last_step_with_state_and_a_side_input_runs(session_cluster):
    flags = [
        "--runner=FlinkK8s",
        "--k8s_target=local",
        "--streaming",
        f"--flink_master={session_cluster.address}",
        "--checkpointing_interval=200",
        "--sdk_worker_parallelism=1",
    ]
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    names = pipeline | "Names" >> beam.Create([(b"x", b"0"), (b"y", b"0")])
    pairs = pipeline | beam.Create([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")])
    pairs | beam.ParDo(CountAlone(), beam.pvalue.AsDict(names))
    result = pipeline.run()
    assert result.wait_until_finish() == "DONE"
    (seen,) = result.metrics().query(MetricsFilter().with_name("seen"))["counters"]
    assert seen.result == 6
