"""Kills, rescales and restarts under load: every record counts once in the output and in the keyed state."""

import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress

import psutil
import pytest
from kafka.errors import KafkaError

from tests.cluster.exact import PARTITIONS, UNCLOSED, ExactJob, Producer, SlowCount
from tests.cluster.kafka import KafkaBroker

RATE = 300
"""Records a second: a stateful Python DoFn asks Flink for its state by the record."""


pytestmark = UNCLOSED
PARTS = ("taskmanager", "harness", "jobmanager")
BROKERS = ("broker", "leader")
TWICE = dict.fromkeys(
    (
        "default.replication.factor",
        "offsets.topic.replication.factor",
        "transaction.state.log.replication.factor",
    ),
    "2",
)


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    """One that may be killed."""
    with KafkaBroker(tmp_path_factory.mktemp("kafka"), properties=TWICE) as running:
        yield running


@pytest.fixture(scope="module")
def second(broker, tmp_path_factory):
    """One beside it, with a copy of each partition and the lead of half of them."""
    with KafkaBroker(tmp_path_factory.mktemp("kafka"), properties=TWICE, beside=broker) as running:
        yield running


@pytest.fixture
def scene(broker, second, topic, tmp_path, monkeypatch):
    """Topics, a producer and a way to start the job on them; afterwards nothing runs."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    source, sink = topic(PARTITIONS, label="exact"), topic(2, label="sink")
    producer = Producer(broker, source, RATE)
    jobs = []

    def start(*flags):
        jobs.append(ExactJob(broker, source, sink, tmp_path / "storage", *flags))
        jobs[-1].second = second
        return jobs[-1]

    try:
        yield start, producer
    finally:
        producer.stop()
        for job in jobs:
            job.result.cancel()
        left = [each.info["cmdline"] or [] for each in psutil.process_iter(["cmdline"])]
        assert not any(str(tmp_path) in word for command in left for word in command)


def finish(job, producer):
    produced = producer.stop()
    job.await_output(produced)
    assert not job.verdict(produced)


@pytest.mark.usefixtures("second")
def test_a_slow_step_behind_a_backlog_does_not_hold_checkpoints_up(broker, topic, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    source, sink, records = topic(PARTITIONS, label="exact"), topic(2, label="sink"), 5000
    broker.produce(source, [(b"key-%d" % (n % 40), b"x" * 1000, {"partition": n % PARTITIONS}) for n in range(records)])
    # Two subtasks of 20 records a second: a bundle of all that is there would take two minutes.
    job = ExactJob(broker, source, sink, tmp_path / "storage", step=SlowCount(work=0, wait=0.05))
    try:
        job.await_that(lambda: broker.read_topic(sink), seconds=60)
        first = len(broker.read_topic(sink))
        job.await_checkpoints(3)
        assert first < len(broker.read_topic(sink)) < records
    finally:
        job.result.cancel()


def leads(broker):
    """How many partitions each broker leads, and how many have no second copy now; None: one that is gone was asked."""
    try:
        with broker.admin() as admin:
            partitions = [each for topic in admin.describe_topics() for each in topic["partitions"]]
    except KafkaError:
        return None
    return Counter(each["leader_id"] for each in partitions), sum(len(each["isr_nodes"]) < 2 for each in partitions)


def await_leads(job, what):
    """Wait until ``leads`` is as wanted."""
    job.await_that(lambda: (found := leads(job.broker)) is not None and what(*found))


def change_leaders(job):
    """End the second broker, so that the first leads all; later it leads its own again."""
    second = job.second
    await_leads(job, lambda leaders, _: leaders[second.node])
    second.kill()
    await_leads(job, lambda leaders, _: set(leaders) == {job.broker.node})
    job.await_checkpoints()
    second.start()
    await_leads(job, lambda _, alone: alone == 0)
    with job.broker.admin() as admin:
        admin.elect_leaders(0)  # that is: preferred
    await_leads(job, lambda leaders, _: leaders[second.node])


def kill(job, victim, chance, outage=0):
    """End one of the job's TaskManagers, one of the Python processes below them, the JobManager, the broker that is the
    controller, which is started again after ``outage`` [s], or the other."""
    if victim in BROKERS:
        # Of a partition whose only copy in sync dies nobody can be the leader, until it comes back.
        await_leads(job, lambda _, alone: alone == 0)
    if victim == "leader":
        change_leaders(job)
        return
    if victim == "broker":
        job.broker.kill()
        time.sleep(outage)  # its length is what is tested, and nobody leads its partitions meanwhile
        job.broker.start()
        return
    role = "jobmanager" if victim == "jobmanager" else "taskmanagers"
    candidates = [psutil.Process(pid) for pid in job.job.control.ask(op="status")[role]]
    if victim == "harness":  # a TaskManager that has just started has none yet
        candidates = [child for each in candidates for child in each.children(recursive=True)]
    chosen = chance.choice(candidates)
    os.kill(chosen.pid, signal.SIGKILL)
    with suppress(psutil.NoSuchProcess):  # nobody waits for what a shell left to the JVM that it became
        while chosen.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.05)


@pytest.fixture
def chance():
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


# One of its parts is drawn, which takes half the time of all; make soak kills each of them several times.
def test_a_job_lives_through_kill_9_of_its_parts_or_of_a_broker_and_a_rescale(scene, chance):
    start, producer = scene
    job = start("--num_workers=2")
    job.await_parallelism(4)
    job.await_checkpoints()
    victims = [*BROKERS, chance.choice(PARTS)]
    chance.shuffle(victims)
    for victim in victims:
        print("kill", victim)
        kill(job, victim, chance, outage=30)
        job.await_parallelism(4)
        job.await_checkpoints()
    job.job.scale(1)
    job.await_parallelism(2)
    job.await_checkpoints()
    finish(job, producer)


@pytest.mark.slow
def test_thirty_kills_among_rescales(scene, chance):
    start, producer = scene
    job, workers, kills = start("--num_workers=2"), 2, 0
    while kills < 30:
        job.await_parallelism(2 * workers)
        job.await_checkpoints()
        if chance.random() < 0.2:
            workers = other(workers, chance)
            job.job.scale(workers)
        else:
            victim = chance.choice(PARTS + BROKERS)
            print("kill", victim)
            kill(job, victim, chance)
            kills += 1
    job.await_parallelism(2 * workers)
    job.await_checkpoints()
    finish(job, producer)


# Beam's issue 25975: bundles were lost when the parallelism shrank.
@pytest.mark.slow
def test_twenty_rescales_up_and_down_under_load(scene, chance):
    start, producer = scene
    job, workers = start("--num_workers=2"), 2
    for _ in range(20):
        job.await_parallelism(2 * workers)
        job.await_checkpoints(1)
        workers = other(workers, chance)
        print(workers, "workers")
        job.job.scale(workers)
    job.await_parallelism(2 * workers)
    job.await_checkpoints()
    finish(job, producer)


def other(workers, chance):
    """Another number of workers, of 1 to 3."""
    return chance.choice([n for n in (1, 2, 3) if n != workers])


@pytest.mark.slow  # on Kubernetes one starts again in make test
def test_a_job_started_again_from_its_last_checkpoint_goes_on(scene, tmp_path):
    start, producer = scene
    job = start()
    job.await_parallelism(2)
    job.await_checkpoints()
    assert job.result.cancel() == "CANCELLED"
    job = start(f"--savepoint_path={tmp_path / 'storage'}")
    job.await_parallelism(2)
    job.await_checkpoints()
    finish(job, producer)
