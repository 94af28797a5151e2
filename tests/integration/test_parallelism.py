"""A source has as many subtasks as its topics have partitions, whatever the number of slots, and feeds all stages."""

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_k8s import ReadFromKafka
from beam_k8s.launcher import flink_rest
from tests.cluster.exact import ExactJob


class Pass(beam.DoFn):
    def process(self, element):
        yield element


def test_topics_of_6_and_3_partitions_on_8_slots(broker, topic, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    flags = ["--runner=FlinkK8s", "--k8s_target=local", "--k8s_task_slots=8", "--sdk_worker_parallelism=1"]
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    for name, partitions in (("Six", 6), ("Three", 3)):
        read = ReadFromKafka({"bootstrap.servers": broker.bootstrap_servers}, [topic(partitions)])
        pipeline | name >> read | f"{name} values" >> beam.Map(lambda record: record)
    result = pipeline.run()
    try:
        vertices = []
        while {vertex.status for vertex in vertices} != {"RUNNING"}:  # before, it has the most subtasks it may have
            assert result.wait_until_finish(duration=200) is None
            if result.state == "RUNNING":
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


def records_read(job, vertex):
    """Records that each subtask of the vertex has read so far, by Flink's figures."""
    subtasks = job.job.flink().get(f"/jobs/{job.job.job_id}/vertices/{vertex}")["subtasks"]
    return [subtask["metrics"]["read-records"] for subtask in subtasks]


def test_a_partition_keeps_its_order_before_and_after_scaling_and_all_stages_get_work(
    broker, topic, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    source, sink = topic(2), topic(1, label="sink")
    job = ExactJob(broker, source, sink, tmp_path / "storage", "--k8s_task_slots=2", step=Pass())
    written = 0

    def copied():
        """Copy 4,000 records, in portions so that there are many frames; what arrived of each partition, in order."""
        nonlocal written
        for _ in range(20):
            broker.produce(source, [(b"k", b"%d" % n, {"partition": n % 2}) for n in range(written, written + 200)])
            written += 200
        job.await_output(written)
        numbers = [int(record.value) for record in broker.read_topic(sink)[-4_000:]]
        return [[n for n in numbers if n % 2 == partition] for partition in (0, 1)]

    def in_order():
        return [list(range(written - 4_000 + partition, written, 2)) for partition in (0, 1)]

    try:
        job.await_parallelism(2)
        assert copied() == in_order()

        job.job.scale(2)
        job.await_parallelism(4)
        copied()
        vertices = flink_rest.vertices(job.job.flink(), job.job.job_id)
        stage = next(v for v in vertices if not v.name.startswith("Source: "))
        assert stage.parallelism == 4
        job.await_that(lambda: all(records_read(job, stage.id)))  # Flink's figures come seconds late

        job.job.scale(1)
        job.await_parallelism(2)
        assert copied() == in_order()
    finally:
        job.result.cancel()
