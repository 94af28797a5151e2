"""Records that come after their window has ended are counted and told of, whichever step drops them."""

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.userstate import CombiningValueStateSpec
from apache_beam.transforms.window import FixedWindows

from beam_k8s import ReadFromKafka

LATE = 3


class Count(beam.DoFn):
    SEEN = CombiningValueStateSpec("seen", sum)

    def process(self, element, seen=beam.DoFn.StateParam(SEEN)):
        seen.add(1)
        yield seen.read()


def test_late_records_are_counted_and_told_of(session_cluster, broker, topic, capsys):
    source = topic()
    flags = ["--runner=FlinkK8s", "--k8s_target=local", f"--flink_master={session_cluster.address}"]
    flags += ["--checkpointing_interval=500", "--sdk_worker_parallelism=1", "--parallelism=1"]
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    windows = (
        pipeline
        | ReadFromKafka(
            {"bootstrap.servers": broker.bootstrap_servers, "auto.offset.reset": "earliest"},
            [source],
            timestamp_policy=ReadFromKafka.create_time_policy,
            max_out_of_orderness=0,
        )
        | "Window" >> beam.WindowInto(FixedWindows(10))
    )
    windows | "Group" >> beam.GroupByKey() | beam.Map(lambda _: beam.metrics.Metrics.counter("t", "windows").inc())
    windows | "Count" >> beam.ParDo(Count())
    broker.produce(source, [(b"k", b"v", {"timestamp_ms": second * 1000}) for second in (1, 99)])
    result = pipeline.run()

    def count(name, step=None):
        counters = result.metrics().query()["counters"]
        return sum(each.result for each in counters if each.key.metric.name == name and step in {None, each.key.step})

    def wait(what):
        while not what():
            assert result.wait_until_finish(duration=200) is None

    try:
        wait(lambda: count("windows") == 1)
        broker.produce(source, [(b"k", b"v", {"timestamp_ms": 2000})] * LATE)
        wait(lambda: result.metrics().late_records() == {"Group": LATE, "the step after Window": LATE})
        assert count("droppedDueToLateness", "Group") == LATE
        line = f"warning: records came late and were dropped: {LATE} at Group, {LATE} at the step after Window."
        said = ""
        while line not in said:
            said += capsys.readouterr().err
            assert result.wait_until_finish(duration=200) is None
    finally:
        result.cancel()
