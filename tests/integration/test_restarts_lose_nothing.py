"""What changes in Kafka while a job does not run, or before it read anything, costs no record that is still there."""

import pytest
from apache_beam.metrics import MetricsFilter
from kafka import TopicPartition

from beam_k8s.transforms.metrics import RECORDS_LOST
from tests.cluster.exact import ExactJob


def records(first: int, count: int, partition: int) -> list:
    return [(b"key-%d" % partition, b"%d" % n, {"partition": partition}) for n in range(first, first + count)]


@pytest.fixture
def stopped(broker, topic, unique, tmp_path, monkeypatch):
    """A job that starts at the end of its topic, stopped after it read records 0-99; its topic and a way to go on."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    source, sink = topic(2), topic(1, label="sink")
    jobs = []

    def start(*flags):
        reset = {"group.id": unique, "auto.offset.reset": "latest"}
        jobs.append(ExactJob(broker, source, sink, tmp_path / "storage", *flags, consumer=reset))
        jobs[-1].await_parallelism(2)
        return jobs[-1]

    try:
        job = start()
        job.await_checkpoints()
        broker.produce(source, records(0, 100, partition=0))
        job.await_output(100)
        job.await_checkpoints()
        assert job.result.cancel() == "CANCELLED"
        yield source, lambda: start(f"--savepoint_path={tmp_path / 'storage'}")
    finally:
        for job in jobs:
            job.result.cancel()


def test_a_job_goes_on_where_a_partition_was_quiet_retention_was_faster_and_the_topic_grew(broker, stopped):
    source, go_on = stopped
    broker.produce(source, records(100, 100, partition=0))
    broker.produce(source, records(200, 100, partition=1))
    with broker.admin() as admin:
        admin.delete_records({TopicPartition(source, 0): 150})
        admin.create_partitions({source: 4})
    broker.produce(source, records(300, 100, partition=3))

    job = go_on()
    job.await_output(350)
    copied = sorted(int(record.value.partition(b",")[0]) for record in broker.read_topic(job.sink))
    assert set(range(200, 300)) <= set(copied), "a partition without a record before the checkpoint"
    assert set(range(150, 200)) <= set(copied), "what retention left"
    assert set(range(300, 400)) <= set(copied), "a new partition"
    assert len(copied) == 350
    assert job.result.metrics().query(MetricsFilter().with_name(RECORDS_LOST))["counters"][0].result == 50
