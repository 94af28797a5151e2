"""Why ``finish_bundle_before_checkpointing`` is on: with Beam's default a job hangs, keeps records back or loses them.

Beam's operator puts the outputs of a bundle that a checkpoint ended into state and lets them out with the next element.
A source that is idle sends none. And the watermark that waited for the bundle's end does not wait for these outputs:
the windows after it are closed when they come.
"""

import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.window import FixedWindows

from beam_k8s import ReadFromKafka, WriteToKafka
from beam_k8s.launcher import flink_rest, plan

RECORDS = 300
beams_default = pytest.mark.parametrize("finish", [True, False], ids=["ours", "beams default"])


@pytest.fixture
def start(session_cluster, broker, topic, monkeypatch):
    """Starts a pipeline that writes to a topic; gives the result, and how many of the records are out."""
    jobs = []

    def run(build, *, finish):
        decided = plan.translator_options
        monkeypatch.setattr(
            plan,
            "translator_options",
            lambda *args, **kwargs: decided(*args, **kwargs) | {"finish_bundle_before_checkpointing": finish},
        )
        target = topic(1, label="target")
        options = PipelineOptions(
            [
                "--runner=FlinkK8s",
                "--k8s_target=local",
                f"--flink_master={session_cluster.address}",
                "--sdk_worker_parallelism=1",
                "--parallelism=1",
                "--checkpointing_interval=300",
                "--max_bundle_time_mills=60000",
            ]
        )
        pipeline = beam.Pipeline(options=options)
        written = build(pipeline)
        written | WriteToKafka({"bootstrap.servers": broker.bootstrap_servers}, target)
        result = pipeline.run()
        jobs.append(result)
        return result, lambda: sum(broker.end_offsets(target).values())

    yield run
    for result in jobs:
        result.cancel()


def await_checkpoints(result, count):
    def completed():
        try:
            checkpoints = result.job.flink().get(f"/jobs/{result.job.job_id}/checkpoints")
        except flink_rest.FlinkError:
            return 0
        return checkpoints["counts"]["completed"]

    first = completed()
    while completed() < first + count:
        assert result.wait_until_finish(duration=200) is None


@beams_default
def test_an_idle_source_gives_out_its_last_records(start, broker, topic, finish):
    source = topic(1, label="source")
    broker.produce(source, [(b"k", b"v%d" % n) for n in range(RECORDS)])
    read = ReadFromKafka(
        {"bootstrap.servers": broker.bootstrap_servers, "auto.offset.reset": "earliest"},
        [source],
        timestamp_policy=ReadFromKafka.create_time_policy,  # by processing time the watermark would never rest
    )
    result, out = start(lambda p: p | read | beam.Reshuffle() | beam.Map(lambda record: record), finish=finish)
    while not any(
        each.result for each in result.metrics().query()["counters"] if each.key.metric.name == "records_read"
    ):
        assert result.wait_until_finish(duration=200) is None
    await_checkpoints(result, 6)
    assert (out() == RECORDS) == finish


def test_no_result_of_a_bundle_comes_after_the_watermark(start, broker, topic):
    source = topic(1, label="source")
    broker.produce(source, [(b"k", b"v", {"timestamp_ms": second * 1000}) for second in range(RECORDS)])

    def build(pipeline):
        return (
            pipeline
            | ReadFromKafka(
                {"bootstrap.servers": broker.bootstrap_servers, "auto.offset.reset": "earliest"},
                [source],
                timestamp_policy=ReadFromKafka.create_time_policy,
                max_out_of_orderness=0,
            )
            | beam.WindowInto(FixedWindows(1))
            | beam.GroupByKey()
            | beam.MapTuple(lambda key, values: (key, b"%d" % len(list(values)))).with_output_types(tuple[bytes, bytes])
        )

    result, out = start(build, finish=True)

    def count(name):
        return sum(each.result for each in result.metrics().query(MetricsFilter().with_name(name))["counters"])

    while count("records_read") < RECORDS:  # told when the bundle has ended, which only a checkpoint does
        assert result.wait_until_finish(duration=200) is None
    await_checkpoints(result, 2)
    broker.produce(source, [(b"k", b"v", {"timestamp_ms": RECORDS * 2000})])  # lets out what is kept back
    while out() < RECORDS:
        assert result.wait_until_finish(duration=200) is None
    assert count("droppedDueToLateness") == 0


def test_a_job_that_begins_with_create_starts(start):
    def build(pipeline):
        pipeline | PeriodicImpulse(start_timestamp=4e9, fire_interval=1) | beam.Map(print)  # keeps the job alive
        return (
            pipeline
            | beam.Create(range(RECORDS), reshuffle=False)
            | beam.Map(lambda n: (b"k", b"%d" % n)).with_output_types(tuple[bytes, bytes])
        )

    result, out = start(build, finish=True)
    await_checkpoints(result, 8)
    while out() < RECORDS:
        assert result.wait_until_finish(duration=200) is None
    assert out() == RECORDS
