"""The autoscaler on a real job: workers come with a backlog and go without one, and every record counts once."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from unittest import mock

import pytest

from beam_k8s.autoscaler.loop import Autoscaler
from beam_k8s.autoscaler.model import Hold, Memory, Reason, Rescale
from beam_k8s.autoscaler.settings import AutoscalerSettings
from beam_k8s.errors import Conflict, KafkaError, LocalClusterError
from beam_k8s.graph import KafkaSource
from beam_k8s.launcher import kafka_admin
from beam_k8s.launcher.autoscale import JobFigures
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


class Watched(JobFigures):
    """Figures that are noted as they are asked for."""

    def observe(self):
        self.seen = None
        self.seen = super().observe()
        return self.seen


class Told:
    """See ``ports.Journal``. Each decision, with the figures it comes from."""

    def __init__(self, figures):
        self._figures, self.ticks = figures, []

    def tell(self, decision, _, *, acted):
        self.ticks.append((decision, self._figures.seen))


def test_no_decision_comes_from_what_flink_has_cached_of_before_a_rescale(broker, topic, tmp_path, monkeypatch):
    """Two workers read what was written while they started; Flink tells for half a minute where the one was."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    source, sink = topic(PARTITIONS, label="exact"), topic(2, label="sink")
    flags = ["--k8s_task_slots=1", "--k8s_flink_conf=metrics.fetcher.update-interval=30000"]
    job = ExactJob(broker, source, sink, tmp_path / "storage", *flags, step=SlowCount(work=0.0, wait=0.01))
    producer = Producer(broker, source, rate=0)
    workers = job.job.workers()
    servers = broker.bootstrap_servers
    figures = Watched(job.job, workers, [KafkaSource("", "ReadFromKafka/Source", servers, (source,), {})], 1)
    told = Told(figures)
    settings = AutoscalerSettings(
        policy="threshold", up_if="either", up_cpu=1, down_cpu=0.001, max_workers=3, interval=0.5, window=3, settle=0
    )
    loop = Autoscaler(settings, figures, workers, told, time.time)

    def write(records):
        producer.rate = 200
        job.await_that(lambda: producer.produced >= records)
        producer.rate = 0

    def tick_until(reason):
        """Tick until the loop holds for a reason; what else it has decided before."""
        told.ticks.clear()
        job.await_that(lambda: loop.tick() == Hold(reason, told.ticks[-1][0].text))
        return told.ticks[:-1]

    try:
        write(60)
        tick_until(Reason.FINE)
        before = figures.seen
        assert sum(before.positions.values()) == producer.produced
        assert 0 <= before.at - before.checkpoint < 60
        job.job.scale(2)  # by another hand
        meanwhile = tick_until(Reason.NOT_RUNNING)
        write(producer.produced + 60)
        meanwhile += tick_until(Reason.FINE)
        assert not [decision for decision, _ in meanwhile if isinstance(decision, Rescale)]
        assert {decision.reason for decision, _ in meanwhile} <= {
            *(Reason.RESCALING, Reason.NOT_RUNNING, Reason.MISSING, Reason.STALE, Reason.WARMING_UP)
        }
        cached = [
            decision
            for decision, seen in meanwhile
            if seen and seen.started and seen.started > before.at and seen.positions == before.positions
        ]
        assert cached
        assert {decision.reason for decision in cached} == {Reason.STALE}
        assert "Flink has told no other position of " in cached[-1].text
        assert sum(figures.seen.positions.values()) == producer.produced
        producer.rate = 400
        job.await_that(lambda: isinstance(loop.tick(), Rescale))
        assert (told.ticks[-1][0].current, workers.look().wanted) == (2, 3)
    finally:
        producer.stop()
        figures.close()
        job.result.cancel()


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
