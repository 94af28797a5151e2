"""Event times that a function of the user's reads from the records, on Flink in a read for ever."""

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_k8s import ReadFromKafka, WriteToKafka
from tests.contract import steps


def test_windows_of_a_read_for_ever_end_by_the_event_times_of_a_function(session_cluster, broker, topic):
    source, sink = topic(2), topic()
    servers = {"bootstrap.servers": broker.bootstrap_servers}
    flags = ["--runner=FlinkK8s", "--k8s_target=local", f"--flink_master={session_cluster.address}"]
    flags += ["--checkpointing_interval=500", "--sdk_worker_parallelism=1", "--parallelism=2"]
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    (
        pipeline
        | ReadFromKafka(
            {**servers, "auto.offset.reset": "earliest"},
            [source],
            timestamp_policy=steps.event_time,
            max_out_of_orderness=1,
        )
        | steps.CountWindows()
        | WriteToKafka(servers, sink)
    )
    result = pipeline.run()
    try:
        for second in range(0, 40, 5):  # of each window, two records a partition, the latter first
            times = (1000 * second + 900, 1000 * second)
            broker.produce(source, [(b"k", b"%d" % ms, {"partition": p}) for ms in times for p in (0, 1)])
            ended = (second - 1) // 10
            while len(broker.read_topic(sink)) < ended:
                assert result.wait_until_finish(duration=200) is None
        counts = sorted(record.value for record in broker.read_topic(sink))
        assert counts == [b"%d 8" % start for start in (0, 10000, 20000)]
        assert not result.metrics().late_records()
    finally:
        result.cancel()
