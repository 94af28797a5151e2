"""Topics that match a pattern, and partitions, that come while a job runs."""

import time
from contextlib import closing

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_k8s import ReadFromKafka, WriteToKafka
from beam_k8s.transforms.clients import KafkaPythonConsumers, TopicPartition
from tests.contract.conftest import RUNNERS

FOR_S = 120


def no_time(_):
    return 0


@pytest.mark.parametrize("policy", [ReadFromKafka.processing_time_policy, no_time], ids=["Flink's source", "Python's"])
def test_a_new_topic_and_a_new_partition_are_read_from_their_first_record(request, broker, topic, unique, policy):
    sink = topic(1, label="sink")
    old, new = f"{unique}-old", f"{unique}-new"
    broker.create_topics({old: 1})
    broker.produce(old, [(None, b"before")])
    servers = {"bootstrap.servers": broker.bootstrap_servers}
    often = {"partition.discovery.interval.ms": "200", "auto.offset.reset": "latest"}
    pipeline = beam.Pipeline(options=PipelineOptions(RUNNERS["flink"](request)))
    (
        pipeline
        | ReadFromKafka(
            servers | often, topic_pattern=f"{unique}-(old|new)", with_metadata=True, timestamp_policy=policy
        )
        | beam.Map(lambda record: (record.topic.encode(), b"%d %s" % (record.partition, record.value)))
        | WriteToKafka(servers, sink)
    )
    result = pipeline.run()
    try:
        number = 0
        while not broker.read_topic(sink):  # the job starts at the end, wherever that is when it starts
            broker.produce(old, [(None, b"%d" % number)])
            number += 1
            time.sleep(0.5)
        broker.create_topics({new: 1, f"{unique}-other": 1})
        broker.produce(new, [(None, b"first")])
        broker.produce(f"{unique}-other", [(None, b"never")])
        with broker.admin() as admin:
            admin.create_partitions({old: 2})
        broker.produce(old, [(None, b"first", {"partition": 1})])
        wanted = {(new.encode(), b"0 first"), (old.encode(), b"1 first")}
        deadline = time.monotonic() + FOR_S
        while not wanted <= (read_so_far := {(each.key, each.value) for each in broker.read_topic(sink)}):
            assert time.monotonic() < deadline, read_so_far
            assert result.state == "RUNNING"
            time.sleep(0.2)
        assert {key for key, _ in read_so_far} == {new.encode(), old.encode()}
    finally:
        result.cancel()


def test_a_partition_that_a_client_has_not_heard_of_yet_is_asked_for(broker, topic):
    name = topic(1)
    old, new = (TopicPartition(name, number) for number in range(2))
    with closing(KafkaPythonConsumers(broker.bootstrap_servers, None, {}).open()) as consumer:
        assert consumer.end_offsets([old]) == {old: 0}
        with broker.admin() as admin:
            admin.create_partitions({name: 2})
        broker.produce(name, [(None, b"first", {"partition": 1})])
        assert consumer.end_offsets([old, new]) == {old: 0, new: 1}
