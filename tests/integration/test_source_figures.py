"""What Flink tells of a job's sources and checkpoints, of a real job on real topics."""

import time

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_k8s import ReadFromKafka
from beam_k8s.launcher import flink_rest, watch

RECORDS = 20_000


def slowly(record, stuck):
    time.sleep(0.005)
    while stuck.exists():
        time.sleep(0.1)
    return record


def test_a_source_tells_its_topic_its_partitions_and_what_is_left_to_read(broker, topic, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(watch, "_INTERVAL_SECONDS", 1)
    monkeypatch.setattr(watch, "_SILENT_AFTER_SECONDS", 6)
    stuck = tmp_path / "stuck"
    name = topic(3)
    broker.produce(name, [(b"k", b"v" * 2000, {"partition": n % 3}) for n in range(RECORDS)])
    flags = ["--runner=FlinkK8s", "--k8s_target=local", "--k8s_task_slots=4", "--checkpointing_interval=1000"]
    flags += ["--k8s_flink_conf=metrics.fetcher.update-interval=500"]
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    kafka = {"bootstrap.servers": broker.bootstrap_servers, "auto.offset.reset": "earliest"}
    pipeline | "Read" >> ReadFromKafka(kafka, [name]) | beam.Map(slowly, stuck)
    result = pipeline.run()
    try:
        backlog = None
        while backlog is None:
            assert result.wait_until_finish(duration=200) is None
            if result.state == "RUNNING":
                sources = flink_rest.sources(result.job.flink(), result.job.job_id)
                if sources and sources[0].partitions == 3:
                    backlog = sources[0].backlog
        (source,) = sources
        assert source == flink_rest.Source("Read/Source", (name,), 3, 3, backlog)
        assert 0 < backlog < RECORDS
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
    finally:
        stuck.unlink(missing_ok=True)
        result.cancel()
