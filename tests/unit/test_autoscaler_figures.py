"""What the autoscaler makes of the positions that Flink tells and the ends that the broker tells."""

import math

from hypothesis import given
from hypothesis import strategies as st

from beam_k8s.autoscaler.model import Memory
from beam_k8s.launcher import flink_rest
from beam_k8s.launcher.autoscale import Readers
from beam_k8s.launcher.flink_rest import Position, Progress

ENDS = {("Read", "a.b", 0): 100.0, ("Read", "a.b", 1): 50.0}


def progress(*positions):
    return Progress(1.0, frozenset({"now"}), positions)


def at(partition, offset, attempt="now", *, topic="a_b", caught_up=False):
    return Position("Read", topic, partition, attempt, offset, caught_up)


def test_a_position_is_told_of_the_topic_that_flink_cannot_spell():
    assert Readers().positions(progress(at(0, 7)), ENDS) == ({("Read", "a.b", 0): "now"}, {("Read", "a.b", 0): 7})


def test_a_partition_of_which_nothing_was_read_is_at_its_end_or_unknown():
    attempts, positions = Readers().positions(progress(at(0, None), at(1, None, caught_up=True)), ENDS)
    assert positions == {("Read", "a.b", 1): 50.0}
    assert attempts.keys() == positions.keys()


def test_of_two_that_say_they_read_a_partition_it_is_the_one_that_moves_or_is_ahead():
    readers, key = Readers(), ("Read", "a.b", 0)
    old = at(0, 90, "another now")
    assert readers.positions(progress(at(0, 70), old), ENDS) == ({key: "another now"}, {key: 90})
    assert readers.positions(progress(at(0, 80), old), ENDS) == ({key: "now"}, {key: 80})
    assert readers.positions(progress(at(0, 80), old), ENDS) == ({key: "now"}, {key: 80})  # he waits for records
    assert readers.positions(progress(at(0, 95, "later"), at(0, 90, "later too")), ENDS) == ({key: "later"}, {key: 95})


def test_a_topic_that_the_broker_has_no_more_is_still_told():
    assert Readers().positions(progress(at(0, 7, topic="gone")), ENDS)[1] == {("Read", "gone", 0): 7}


class Flink:
    """Answers as Flink does, from a table."""

    def __init__(self, answers):
        self.answers = answers

    def get(self, path):
        path, _, query = path.partition("?get=")
        answer = self.answers[path]
        return [{"id": n, "value": answer[n]} for n in query.split(",")] if query else answer


def job(**more):
    subtask = {"attempt": 2, "status": "RUNNING", "start-time": 5000}
    subtask |= {"status-duration": {"DEPLOYING": 100, "INITIALIZING": 900, "CREATED": -1}} | more
    names = {
        "0.Source__Read.KafkaSourceReader.topic.t.partition.0.currentOffset": "41",
        "0.Source__Read.KafkaSourceReader.topic.t.partition.0.committedOffset": "12",
        "0.Source__Read.KafkaSourceReader.topic.t.partition.1.currentOffset": "-1",
        "0.Source__Read.KafkaSourceReader.topic.t.partition.1.committedOffset": "12",
        "0.Source__Read.pendingRecords": "0",
    }

    class Metrics(dict):
        def __iter__(self):
            return iter([{"id": name} for name in self.keys()])

    return Flink(
        {
            "/jobs/J": {
                "vertices": [
                    {"id": "s", "name": "Source: Read -> x", "status": "RUNNING"},
                    {"id": "old", "name": "Source: Old", "status": "FINISHED"},
                    {"id": "m", "name": "Map", "status": "RUNNING"},
                ],
                "plan": {"nodes": [{"id": "s"}, {"id": "old"}, {"id": "m", "inputs": [{"id": "s"}]}]},
            },
            "/jobs/J/vertices/s": {"subtasks": [{"subtask": 0} | subtask]},
            "/jobs/J/vertices/m": {"subtasks": [{"subtask": 0} | subtask | {"start-time": 7000}]},
            "/jobs/J/vertices/s/metrics": Metrics(names),
        }
    )


def test_progress_is_that_of_running_subtasks():
    found = flink_rest.progress(job(), "J")
    assert found.started == 8.0
    assert [(p.source, p.topic, p.partition, p.offset, p.caught_up) for p in found.positions] == [
        ("Read", "t", 0, 42, True),
        ("Read", "t", 1, 12, True),
    ]
    assert {p.attempt for p in found.positions} == found.running


def test_a_subtask_that_starts_or_starts_again_is_no_progress():
    assert flink_rest.progress(job(status="INITIALIZING"), "J") == flink_rest.NO_PROGRESS


@given(
    st.builds(
        Memory,
        rescaled_at=st.floats(0, 1e10) | st.just(-math.inf),
        target=st.integers(0, 100),
        capacity=st.dictionaries(st.integers(1, 100), st.floats(0, 1e9)),
        pause=st.none() | st.floats(0, 1e4),
        replay=st.floats(0, 1e4),
    )
)
def test_memory_comes_back_as_it_was(memory):
    assert Memory.from_json(memory.as_json()) == memory


def test_what_an_older_launcher_has_kept_is_read():
    """It knew of no replay."""
    kept = Memory(rescaled_at=7.0, target=3, pause=20.0).as_json()
    del kept["replay"]
    assert Memory.from_json(kept) == Memory(rescaled_at=7.0, target=3, pause=20.0)


def test_the_last_checkpoint_is_where_a_restart_goes_on():
    latest = {"id": 7, "trigger_timestamp": 8000, "latest_ack_timestamp": 9500, "end_to_end_duration": 1500}
    counts = {"completed": 1, "failed": 0}
    flink = Flink({"/jobs/J/checkpoints": {"counts": counts, "latest": {"completed": latest}}})
    assert flink_rest.checkpoints(flink, "J").last_triggered == 8.0
    flink.answers["/jobs/J/checkpoints"]["latest"]["completed"] = None
    assert flink_rest.checkpoints(flink, "J").last_triggered is None
