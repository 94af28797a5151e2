"""Records that are deleted while a job reads are told as lost, or end it: never passed in silence."""

import time

import apache_beam as beam
import pytest
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from kafka import TopicPartition

from beam_k8s import ReadFromKafka
from beam_k8s.errors import JobFailed
from beam_k8s.launcher import flink_rest
from beam_k8s.transforms.metrics import RECORDS_LOST

RECORDS, LEFT = 3_000, 100
READERS = {"flink": ReadFromKafka.create_time_policy, "python": lambda record: record.timestamp / 1000}
"""Who reads -> the timestamp policy that makes it so."""


def held(record, folder):
    (folder / "seen").touch()
    while not (folder / "gate").exists():
        time.sleep(0.05)
    Metrics.counter("t", "passed").inc()
    return record


@pytest.fixture(params=READERS)
def read(request, session_cluster, broker, tmp_path):
    """Start a job that reads a topic, and holds the first record until a file, its ``gate``, is there."""
    results = []

    def start(source, **config):
        flags = ["--runner=FlinkK8s", "--k8s_target=local", f"--flink_master={session_cluster.address}"]
        flags += ["--checkpointing_interval=500", "--sdk_worker_parallelism=1", "--parallelism=1"]
        # The runner takes no more from the source than the first frame while its first record is held. And what the
        # Python read meets is an error of Python code, for which Flink would try again for ever.
        flags += ["--max_bundle_size=1", "--k8s_flink_conf=restart-strategy.type=none"]
        pipeline = beam.Pipeline(options=PipelineOptions(flags))
        kafka = {"bootstrap.servers": broker.bootstrap_servers, "auto.offset.reset": "earliest"}
        read = ReadFromKafka(
            kafka | config, [source], start_offsets={(source, 0): 0}, timestamp_policy=READERS[request.param]
        )
        pipeline | read | beam.Map(held, tmp_path)
        results.append(pipeline.run())
        return results[-1]

    yield start
    for result in results:
        result.cancel()


def count(result, name):
    counters = result.metrics().query()["counters"]
    return sum(each.result for each in counters if each.key.metric.name == name)


def wait(result, what):
    while not what():
        assert result.wait_until_finish(duration=200) is None


def overtaken(broker, topic, read, folder, **config):
    """A job that has read a part of a topic of which all but the last records are deleted then."""
    source = topic()
    broker.produce(source, [(b"k", b"v" * 500)] * RECORDS)
    # A client fetches ahead: little, so that most is still to be fetched when it is deleted.
    config |= {"max.partition.fetch.bytes": "20000", "max.poll.records": "10"}
    result = read(source, **config)
    wait(result, (folder / "seen").exists)
    with broker.admin() as admin:
        admin.delete_records({TopicPartition(source, 0): RECORDS - LEFT})
    (folder / "gate").touch()
    return source, result


def test_a_read_goes_on_after_what_retention_deleted_and_tells_how_much(broker, topic, read, tmp_path, capsys):
    source, result = overtaken(broker, topic, read, tmp_path)
    wait(result, lambda: count(result, "passed") + count(result, RECORDS_LOST) == RECORDS)
    lost = count(result, RECORDS_LOST)
    assert 0 < lost < RECORDS - LEFT
    said = ""
    while f"{lost} records of partition 0 of topic {source} are lost" not in said:
        said += capsys.readouterr().err
        assert result.wait_until_finish(duration=200) is None
    flink, job = result.job.flink(), result.job.job_id
    names = [
        each["id"]
        for vertex in flink_rest.vertices(flink, job)
        for each in flink.get(f"/jobs/{job}/vertices/{vertex.id}/metrics")
    ]
    assert any(name.endswith(RECORDS_LOST) for name in names), "what Prometheus gets"


def test_a_read_that_may_pass_nothing_ends_in_an_error(broker, topic, read, tmp_path):
    source, result = overtaken(broker, topic, read, tmp_path, **{"auto.offset.reset": "none", "group.id": "g"})
    error = (
        rf"Partition 0 of topic {source}: the records from offset \d+ on were deleted .* left is at {RECORDS - LEFT}, "
    )
    with pytest.raises(JobFailed, match=error + r".*'auto\.offset\.reset'\] is 'none'"):
        result.wait_until_finish(duration=60_000)


@pytest.mark.parametrize("records", [0, 10])
def test_a_topic_that_is_made_again_is_an_error(broker, topic, read, tmp_path, records):
    source = topic()
    broker.produce(source, [(b"k", b"v")] * 50)
    (tmp_path / "gate").touch()
    result = read(source)
    wait(result, lambda: count(result, "passed") == 50)
    with broker.admin() as admin:
        admin.delete_topics([source])
    broker.create_topics({source: 1})
    broker.produce(source, [(b"k", b"v")] * records)
    with pytest.raises(
        JobFailed, match=f"Partition 0 of topic {source} was read up to offset 50, .* made again, or cut"
    ):
        result.wait_until_finish(duration=60_000)
