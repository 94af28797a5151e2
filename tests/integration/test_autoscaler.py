"""The autoscaler on a real job: workers come with a backlog and go without one, and every record counts once."""

import time

from tests.cluster.exact import PARTITIONS, Count, ExactJob, Producer

SECONDS = 0.01
"""CPU that each record takes."""


class BusyCount(Count):
    """Counts, and is slow at it."""

    def process(self, element, seen=Count.SEEN_PARAM):
        until = time.thread_time() + SECONDS
        while time.thread_time() < until:
            pass
        yield from super().process(element, seen)


def test_workers_come_with_a_backlog_and_go_without_one(broker, topic, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    source, sink = topic(PARTITIONS, label="exact"), topic(2, label="sink")
    flags = ["--k8s_autoscaler_mode=on", "--max_num_workers=2", "--k8s_task_slots=1"]
    fast = ("interval=1", "window=6", "settle=3", "backlog_slo=5", "calm=1", "recover=30")
    producer = Producer(broker, source, rate=250)
    job = ExactJob(
        broker,
        source,
        sink,
        tmp_path / "storage",
        *flags,
        *(f"--k8s_autoscaler_conf={each}" for each in fast),
        step=BusyCount(),
    )
    try:
        job.await_parallelism(2)
        produced = producer.stop()
        job.await_output(produced)
        job.await_parallelism(1)
        assert not job.verdict(produced)
    finally:
        producer.stop()
        job.result.cancel()
    said = capfd.readouterr().err
    assert "autoscaler scales from 1 to 2 workers: " in said
    assert "autoscaler scales from 2 to 1 workers: " in said
