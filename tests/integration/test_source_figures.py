"""What Flink tells of a job's sources and checkpoints, of a real job on real topics."""

import re
import time

import apache_beam as beam
import requests
from apache_beam.options.pipeline_options import PipelineOptions

from beam_k8s import ReadFromKafka
from beam_k8s.autoscaler.model import Memory, Rescale
from beam_k8s.flink_conf import PROMETHEUS
from beam_k8s.launcher import flink_rest, watch
from tests.cluster.exact import PARTITIONS, UNCLOSED, Count, ExactJob, Producer, SlowCount
from tests.cluster.kafka import free_ports
from tests.waiting import await_that

pytestmark = UNCLOSED

AGE = 4
"""Seconds that a backlog may be old: the reader asks for the ends every 2 s, and Flink for the reader's figures."""

RECORDS = 20_000
SIZE = 2001
"""Bytes of key and value of each."""
IN_FLIGHT = 2000
"""Records that may have been read and are not in the sink: between source and step, and of a checkpoint interval."""


def slowly(record, stuck):
    time.sleep(0.005)
    while stuck.exists():
        time.sleep(0.1)
    return record


def scraped(ports, metric):
    """What Prometheus gets of a metric of partitions: (topic, partition, value), one for each subtask that tells it."""
    text = ""
    for port in ports:
        try:
            text += requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        except requests.ConnectionError:
            continue  # a process less than ports
    lines = re.findall(rf"^flink_taskmanager_job_task_operator_\w*{metric}{{(.*)}} (\S+)$", text, re.MULTILINE)
    labels = [(dict(re.findall(r'(\w+)="([^"]*)"', each)), float(value)) for each, value in lines]
    return [(each["topic"], int(each["partition"]), value) for each, value in labels]


def test_a_source_tells_its_topic_its_partitions_and_what_is_left_to_read(broker, topic, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(watch, "_INTERVAL_SECONDS", 1)
    monkeypatch.setattr(watch, "SILENT_AFTER_SECONDS", 6)
    stuck = tmp_path / "stuck"
    name = topic(3)
    broker.produce(name, [(b"k", b"v" * 2000, {"partition": n % 3}) for n in range(RECORDS)])
    flags = ["--runner=FlinkK8s", "--k8s_target=local", "--k8s_task_slots=4", "--checkpointing_interval=1000"]
    flags += ["--k8s_flink_conf=metrics.fetcher.update-interval=500"]
    ports = range(free_ports(1)[0], 2**16)[:9]
    reporter = {**PROMETHEUS, "metrics.reporter.prom.port": f"{ports[0]}-{ports[-1]}"}
    flags += [f"--k8s_flink_conf={key}={value}" for key, value in reporter.items()]
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    kafka = {"bootstrap.servers": broker.bootstrap_servers, "auto.offset.reset": "earliest"}
    pipeline | "Read" >> ReadFromKafka(kafka, [name]) | beam.Map(slowly, stuck)
    result = pipeline.run()
    try:
        sources = []
        while not sources or not sources[0].backlog or not sources[0].backlog_seconds:
            assert result.wait_until_finish(duration=200) is None
            if result.state == "RUNNING":
                sources = flink_rest.sources(result.job.flink(), result.job.job_id)
        (source,) = sources
        assert (source.name, source.topics, source.partitions, source.parallelism) == ("Read/Source", (name,), 3, 3)
        assert 0 < source.backlog < RECORDS
        assert 0 < source.backlog_bytes < RECORDS * SIZE
        assert source.backlog_bytes % SIZE == 0
        # Four subtasks unpack what three read, yet each partition is told of once.
        found = scraped(ports, "backlogBytes")
        assert sorted(each[:2] for each in found) == [(name, n) for n in range(3)]
        assert all(0 < value < RECORDS * SIZE and value % SIZE == 0 for *_, value in found)
        assert {each[:2] for each in scraped(ports, "backlogSeconds")} == {each[:2] for each in found}
        checkpoints = flink_rest.checkpoints(result.job.flink(), result.job.job_id)
        while not checkpoints.completed:
            assert result.wait_until_finish(duration=200) is None
            checkpoints = flink_rest.checkpoints(result.job.flink(), result.job.job_id)
        assert checkpoints.last_id >= checkpoints.completed
        assert checkpoints.last_size > 0
        assert result.job.run_dir.stat().st_mtime < checkpoints.last_at < time.time() + 1
        stuck.touch()
        broker.produce(name, [(b"k", b"v" * 2000, {"partition": n % 3}) for n in range(RECORDS)])  # all before may be
        said = ""
        while "a function of it does not come back" not in said:
            assert result.wait_until_finish(duration=200) is None
            said += capsys.readouterr().err
        assert "warning: Read/Source" in said
        # In whole seconds, and as Flink knew it half a second ago.
        await_that(lambda: flink_rest.sources(result.job.flink(), result.job.job_id)[0].stalled_seconds >= 6)
    finally:
        stuck.unlink(missing_ok=True)
        result.cancel()


def test_the_backlog_is_neither_old_nor_doubled_through_rescales(broker, topic, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    source, sink = topic(PARTITIONS, label="source"), topic(2, label="sink")
    records = [(b"key-%d" % (n % 40), b"%0200d" % n, {"partition": n % PARTITIONS}) for n in range(RECORDS)]
    broker.produce(source, records)
    flags = ["--k8s_task_slots=1", "--k8s_flink_conf=metrics.fetcher.update-interval=1000"]
    job = ExactJob(broker, source, sink, tmp_path / "storage", *flags, step=SlowCount(work=0, wait=0.01))
    looks: list[tuple[float, int | None, int]] = []

    def looked(seconds):
        """Look for so long, which is true: what is told, and what is left by the records that are in the sink."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            told = [each.backlog for each in flink_rest.sources(job.job.flink(), job.job.job_id)]
            looks.append((now, told[0] if told else None, RECORDS - len(broker.read_topic(sink))))
            time.sleep(0.2)
        return True

    try:
        job.await_parallelism(1)
        for before, after in ((1, 2), (2, 3), (3, 1)):
            job.await_that(lambda: looked(1) and looks[-1][1] is not None)
            job.job.workers().rescale(Rescale(before, after, ""), Memory())
            job.await_that(lambda: looked(1) and widest(job) == after)  # noqa: B023 - called here
            looked(10)
    finally:
        job.result.cancel()
    for at, told, left in looks:
        if told is not None:
            most = min((each for when, _, each in looks if when <= at - 5), default=RECORDS)
            assert left - IN_FLIGHT <= told <= most, [(round(t - looks[0][0], 1), *rest) for t, *rest in looks]


def widest(job):
    """Parallelism of the widest vertex of those that run."""
    found = flink_rest.vertices(job.job.flink(), job.job.job_id)
    return max((vertex.parallelism for vertex in found if vertex.status == "RUNNING"), default=0)


class Gated(Count):
    """Counts 50 records a second at most, until a file is there."""

    def __init__(self, gate):
        self._gate = gate

    def process(self, element, seen=Count.SEEN_PARAM):
        if not self._gate.exists():
            time.sleep(0.02)
        yield from super().process(element, seen)


def records_read(flink, job_id, topic):
    """That the source has emitted, by the connector's own figures."""
    (source,) = (each for each in flink_rest.vertices(flink, job_id) if "Source" in each.name)
    metrics = f"/jobs/{job_id}/vertices/{source.id}/subtasks/metrics"
    offset = re.compile(rf"{topic}\.partition\.\d+\.currentOffset$")
    ids = [each["id"] for each in flink.get(metrics) if offset.search(each["id"])]
    return sum(int(each["max"]) + 1 for each in flink.get(f"{metrics}?get={','.join(ids)}")) if ids else 0


def test_the_backlog_under_load_is_the_brokers_of_seconds_ago_and_idle_it_is_none(broker, topic, tmp_path, monkeypatch):
    """Whatever was written and read around a look, the backlog that it is told lies between these bounds."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    source, sink = topic(PARTITIONS, label="source"), topic(1, label="sink")
    flags = ["--k8s_task_slots=1", "--k8s_flink_conf=metrics.fetcher.update-interval=500"]
    job = ExactJob(broker, source, sink, tmp_path / "storage", *flags, step=Gated(tmp_path / "gate"))
    looks = []

    def look():
        """When, the backlog that is told, and the records that were written and read just before."""
        flink, job_id = job.job.flink(), job.job.job_id
        at, written = time.monotonic(), sum(broker.end_offsets(source).values())
        read = records_read(flink, job_id, source)
        told = flink_rest.sources(flink, job_id)
        looks.append((at, told[0].backlog if told else None, written, read))
        return looks[-1]

    try:
        job.await_parallelism(1)
        job.await_that(lambda: look()[1] == 0)
        producer = Producer(broker, source, rate=300)
        try:
            job.await_that(lambda: (look()[1] or 0) > 3000)
        finally:
            produced = producer.stop()
            (tmp_path / "gate").touch()
        job.await_output(produced)
        job.await_that(lambda: look()[1] == 0)
    finally:
        job.result.cancel()
    assert looks[-1][2:] == (produced, produced)
    under_load = [(at, told) for at, told, *_ in looks if told]
    assert len({told for _, told in under_load}) > 2
    for at, told in under_load:
        _, _, written_before, read_before = [looks[0], *(each for each in looks if each[0] < at - AGE)][-1]
        _, _, written_after, read_after = [*(each for each in looks if each[0] > at + AGE), looks[-1]][0]
        assert written_before - read_after <= told <= written_after - read_before, (at, looks)
