"""Records go to the Python harness when they come, not when the bundle ends."""

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_k8s import ReadFromKafka


class Note(beam.DoFn):
    """Appends each value to a file, a line each."""

    def __init__(self, file):
        self._file = file

    def process(self, record):
        with self._file.open("ab") as file:
            file.write(record[1] + b"\n")


def test_a_record_is_processed_long_before_its_bundle_ends(session_cluster, broker, topic, tmp_path):
    source, notes = topic(1), tmp_path / "notes"
    notes.touch()
    flags = ["--runner=FlinkK8s", "--k8s_target=local", f"--flink_master={session_cluster.address}"]
    flags += ["--checkpointing_interval=3600000", "--max_bundle_time_mills=3600000", "--sdk_worker_parallelism=1"]
    pipeline = beam.Pipeline(options=PipelineOptions([*flags, "--parallelism=1"]))
    consumer = {"bootstrap.servers": broker.bootstrap_servers, "auto.offset.reset": "earliest"}
    pipeline | ReadFromKafka(consumer, [source]) | beam.ParDo(Note(notes))
    result = pipeline.run()
    try:
        values = [b"%d" % number for number in range(10)]
        for count, value in enumerate(values, 1):
            broker.produce(source, [(None, value)])
            while len(notes.read_bytes().splitlines()) < count:
                assert result.wait_until_finish(duration=100) is None
        assert notes.read_bytes().splitlines() == values
    finally:
        result.cancel()
