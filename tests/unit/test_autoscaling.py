"""The thread of a launcher that scales its job, and the ticks of a fleet: they end when they should and not before."""

import threading
import uuid

import pytest

from beam_k8s.autoscaler.model import Hold, Reason
from beam_k8s.errors import JobFailed
from beam_k8s.launcher.autoscale import Autoscaling
from beam_k8s.launcher.fleet import _Loop
from beam_k8s.launcher.result import FlinkK8sPipelineResult
from beam_k8s.launcher.target import Observation
from beam_k8s.settings import Settings
from beam_k8s.status import job_status
from tests.waiting import await_that

THREAD = "autoscaler flights"


class Job:
    """A job with its TaskManagers and its logs; it does what a test says."""

    name, job_id, poll_seconds, scaled_by = "flights", "", 0.02, "Nobody scales it now."

    def __init__(self):
        self.end, self.released, self.hindrances = None, 0, []
        self.why = lambda: "it rests"
        self.logs = self

    def workers(self):
        return self

    def hindrance(self):
        self.hindrances.append(threading.current_thread().name)
        return self.why()

    def release(self):
        self.released += 1

    def observe(self):
        if self.end == "Ctrl-C":
            raise KeyboardInterrupt
        return Observation(self.end or "RUNNING")

    def flink(self):
        return None

    def show(self):
        pass

    def detach(self):
        return "beam-k8s cancel flights"

    def close(self):
        pass


class Journal:
    def __init__(self):
        self.told = []

    def tell(self, decision, seen, *, acted):
        self.told.append(decision)


def scaled(job, journal=None):
    conf = {"interval": "0.02", "window": "1"}
    settings = Settings(job_name="flights", autoscaler_mode="on", autoscaler_conf=conf)
    return Autoscaling(job, [], settings, journal)


@pytest.mark.parametrize("end", ["DONE", "FAILED", "Ctrl-C"])
def test_it_ends_with_what_its_launcher_waits_for_and_lets_others_scale(end):
    job = Job()
    result = FlinkK8sPipelineResult(job, autoscaling=scaled(job))
    waits = threading.Timer(0.3, setattr, (job, "end", end))
    waits.start()
    try:
        if end == "DONE":
            result.wait_until_finish()
        else:
            with pytest.raises(JobFailed if end == "FAILED" else KeyboardInterrupt):
                result.wait_until_finish()
        assert set(job.hindrances) == {THREAD}
        assert THREAD not in {thread.name for thread in threading.enumerate()}
        assert job.released == 1
    finally:
        job.end = "DONE"
        result.cancel()  # else it is asked again when Python ends


def test_a_tick_that_fails_in_a_way_nobody_has_thought_of_is_logged_and_others_follow(caplog):
    job, journal = Job(), Journal()

    def fails():
        job.why = lambda: "it rests"
        raise RuntimeError("nobody has thought of it")

    job.why = fails
    autoscaling = scaled(job, journal)
    result = FlinkK8sPipelineResult(job, autoscaling=autoscaling)
    await_that(lambda: len(journal.told) > 2)
    assert set(journal.told) == {Hold(Reason.NOT_OURS, "it rests")}
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "A tick of the autoscaler failed job=flights" in record.getMessage()
    assert "nobody has thought of it" in record.exc_text
    job.end = "DONE"
    assert result.wait_until_finish() == "DONE"
    assert job.released == 1


def test_the_ticks_of_a_fleet_are_spread_over_the_interval_and_stay_where_they_are():
    def due(number, now):
        metadata = {"namespace": "a", "name": "flights", "resourceVersion": "1"}
        job = job_status({"metadata": metadata | {"uid": str(uuid.UUID(int=number))}})
        return _Loop(job, 15.0, None, (), now=now).due

    first, again = ([due(number, now) - now for number in range(1000)] for now in (100.0, 200.0))
    assert again == pytest.approx(first)
    for second in range(15):  # 67 on the average
        assert 33 < sum(second <= at < second + 1 for at in first) < 133
