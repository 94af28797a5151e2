"""Each source has as many subtasks as its topics have partitions, whatever the number of slots."""

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_k8s import ReadFromKafka
from beam_k8s.launcher import flink_rest


def test_topics_of_6_and_3_partitions_on_8_slots(broker, topic, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    flags = ["--runner=FlinkK8s", "--k8s_target=local", "--k8s_task_slots=8", "--sdk_worker_parallelism=1"]
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    for name, partitions in (("Six", 6), ("Three", 3)):
        read = ReadFromKafka({"bootstrap.servers": broker.bootstrap_servers}, [topic(partitions)])
        pipeline | name >> read | f"{name} values" >> beam.Map(lambda record: record)
    result = pipeline.run()
    try:
        while result.state != "RUNNING":
            assert result.wait_until_finish(duration=200) is None
        vertices = flink_rest.vertices(result.job.flink(), result.job.job_id)
        assert {v.name: v.parallelism for v in vertices if v.name.startswith("Source: ")} == {
            "Source: Six/Source": 6,
            "Source: Three/Source": 3,
        }
        assert {v.parallelism for v in vertices if not v.name.startswith("Source: ")} == {8}
    finally:
        result.cancel()
    said = capfd.readouterr().err
    assert "Six/Source: 6 source subtasks for 6 partitions" in said
    assert "2 of 8 slots have no partition of it to read" in said
    assert "5 of 8 slots have no partition of it to read" in said
