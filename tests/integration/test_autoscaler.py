"""The autoscaler on a real job: workers come with a backlog and go without one, and every record counts once."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from unittest import mock

import pytest

from beam_k8s.autoscaler.model import Memory, Rescale
from beam_k8s.errors import Conflict, KafkaError, LocalClusterError
from beam_k8s.graph import KafkaSource
from beam_k8s.launcher import kafka_admin
from beam_k8s.launcher.kafka_admin import Connections, EndOffsets
from tests.cluster.exact import PARTITIONS, UNCLOSED, ExactJob, Producer, SlowCount
from tests.cluster.kafka import KafkaBroker

pytestmark = UNCLOSED


def test_workers_come_with_a_backlog_and_go_without_one(broker, topic, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    source, sink = topic(PARTITIONS, label="exact"), topic(2, label="sink")
    flags = ["--k8s_autoscaler_mode=on", "--max_num_workers=2", "--k8s_task_slots=1"]
    fast = ("interval=1", "window=6", "settle=3", "backlog_slo=5", "calm=1", "recover=30")
    producer = Producer(broker, source, rate=0)
    job = ExactJob(
        broker,
        source,
        sink,
        tmp_path / "storage",
        *flags,
        *(f"--k8s_autoscaler_conf={each}" for each in fast),
        step=SlowCount(work=0.01),
    )
    try:
        job.await_parallelism(1)
        producer.rate = 250
        job.await_parallelism(2)
        workers = job.job.workers()
        assert workers.load().target == 2
        with pytest.raises(Conflict, match="somebody else has changed the workers, from 1 to 2"):
            workers.rescale(Rescale(1, 3, ""), Memory())
        produced = producer.stop()
        job.await_output(produced)
        job.await_parallelism(1)
        assert not job.verdict(produced)
    finally:
        producer.stop()
        job.result.cancel()
    with pytest.raises(LocalClusterError, match="the local cluster has ended"):
        job.job.workers().rescale(Rescale(1, 2, ""), Memory())
    said = capfd.readouterr().err
    assert "autoscaler scales from 1 to 2 workers: " in said
    assert "autoscaler scales from 2 to 1 workers: " in said


def test_ends_follow_a_topic_that_grows_and_goes_and_a_broker_that_goes_and_comes_back(tmp_path):
    with KafkaBroker(tmp_path) as broker:
        broker.create_topics({"words": 1, "names": 1})
        servers = broker.bootstrap_servers
        with closing(Connections(patience=0)) as connections:
            ends = EndOffsets(KafkaSource("", "Read", servers, ("words", "names"), {}), connections)
            matching = EndOffsets(KafkaSource("", "Match", servers, (), {}, pattern="words|na.*"), connections)
            broker.produce("words", [(None, b"one"), (None, b"two")])
            assert ends.now() == matching.now() == {("words", 0): 2, ("names", 0): 0}
            with broker.admin() as admin:
                admin.create_partitions({"words": 2})
                admin.delete_topics(["names"])
            found = ends.now()
            while found != {("words", 0): 2, ("words", 1): 0}:
                found = ends.now()
            assert matching.now() == found
            broker.kill()
            with pytest.raises(KafkaError, match=r"Read: no Kafka broker at bootstrap\.servers="):
                ends.now()
            broker.start()
            assert ends.now() == found


def test_a_broker_that_does_not_answer_is_not_asked_by_each_job_of_a_fleet(tmp_path, monkeypatch):
    connect = kafka_admin.KafkaAdminClient
    monkeypatch.setattr(
        kafka_admin, "KafkaAdminClient", mock.Mock(wraps=connect, DEFAULT_CONFIG=connect.DEFAULT_CONFIG)
    )
    with KafkaBroker(tmp_path) as broker, closing(Connections(patience=3600)) as connections:
        broker.create_topics({"words": 1})
        jobs = [
            EndOffsets(KafkaSource("", f"Read{n}", broker.bootstrap_servers, ("words",), {}), connections)
            for n in range(8)
        ]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(EndOffsets.now, jobs)) == [{("words", 0): 0}] * 8
            assert kafka_admin.KafkaAdminClient.call_count == 1
            broker.kill()
            errors = list(pool.map(error_of, jobs))
        assert kafka_admin.KafkaAdminClient.call_count == 1
        assert len(set(map(id, errors))) == 1


def error_of(ends):
    with pytest.raises(KafkaError, match="no Kafka broker at") as error:
        ends.now()
    return error.value
