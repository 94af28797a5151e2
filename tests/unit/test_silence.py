"""When a source counts as silent, and what is held responsible."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_k8s.launcher.flink_rest import source_looks
from beam_k8s.silence import Silence, SourceLook, Spent


def look(read=100, backlog=5, *, busy=0.0, backpressured=0.0, idle=0.0, downstream=(), stalled=None):
    return SourceLook("Read", read, backlog, Spent("Read -> Parse", busy, backpressured, idle), downstream, stalled)


def test_a_source_that_reads_nothing_is_told_of_once_until_it_reads_again():
    silence = Silence(after=45)
    assert [silence.lines(at, [look()]) for at in (0, 20, 44)] == [[], [], []]
    (line,) = silence.lines(45, [look(backlog=1234)])
    assert "Read has read nothing for 45 s although 1,234 records wait" in line
    assert not silence.lines(100, [look()])
    assert not silence.lines(105, [look(read=101)])
    assert not silence.lines(149, [look(read=101)])
    assert silence.lines(150, [look(read=101)])


def test_a_source_without_backlog_may_rest():
    silence = Silence(after=45)
    assert not silence.lines(0, [look(backlog=0)])
    assert not silence.lines(1000, [look(backlog=0)])
    assert not silence.lines(1001, [look(backlog=1)])
    assert not silence.lines(1040, [look(backlog=1)])
    assert silence.lines(1046, [look(backlog=1)])


def test_what_is_not_known_for_a_while_does_not_hide_a_silence():
    silence = Silence(after=45)
    silence.lines(0, [look()])
    assert not silence.lines(30, [look(read=None)])
    assert not silence.lines(50, [look(backlog=None)])
    assert silence.lines(60, [look()])


def test_a_source_whose_backlog_nobody_tells_is_told_of_too():
    silence = Silence(after=45)
    assert not silence.lines(0, [look(backlog=None, stalled=1)])
    assert not silence.lines(44, [look(backlog=None, stalled=45)])
    (line,) = silence.lines(46, [look(backlog=None, stalled=47)])
    assert "Read has read nothing for 46 s and no broker says whether records wait: the brokers give it none" in line
    assert "advertised.listeners" in line
    assert not silence.lines(100, [look(backlog=None, stalled=101)])
    assert not silence.lines(105, [look(read=101, backlog=None, stalled=1)])
    assert silence.lines(151, [look(read=101, backlog=None, stalled=46)])


def test_a_backlog_that_is_not_known_for_a_while_after_a_restart_is_no_silence():
    silence = Silence(after=45)
    silence.lines(0, [look(read=0, backlog=0, stalled=0)])
    for at in range(5, 70, 5):
        assert not silence.lines(at, [look(read=None, backlog=None)])
    for at in range(70, 110, 5):
        assert not silence.lines(at, [look(read=0, backlog=None, stalled=at - 70)])
    assert not silence.lines(110, [look(read=0, backlog=0, stalled=0)])
    # One of which other partitions are read is none either.
    for at in range(115, 300, 5):
        assert not silence.lines(at, [look(read=at, backlog=None, stalled=at)])


class Flink:
    """Of a job that reads with two tasks since 1,000,000 ms, with what both tell; the first tells when it started."""

    def __init__(self, started=1_000_000, **metrics):
        self.metrics = {f"0.Source__Read.{name}": first for name, (first, _) in metrics.items()}
        self.metrics |= {f"1.Source__Read.{name}": second for name, (_, second) in metrics.items()}
        self.metrics |= {"0.Source__Read.readerStartedMs": started, "1.Source__Read.readerStartedMs": 1_000_000}

    def get(self, path):
        _, asked, names = path.partition("?get=")
        if path.endswith("/metrics"):
            return [{"id": name} for name in self.metrics]
        if asked:
            return [{"id": name, "value": str(self.metrics[name])} for name in names.split(",")]
        spent = {f"accumulated-{state}-time": 0 for state in ("busy", "backpressured", "idle")}
        vertex = {"id": "v", "name": "Source: Read -> Parse", "status": "RUNNING", "parallelism": 2, "metrics": spent}
        vertex |= {"start-time": 1_000_000, "tasks": {"FINISHED": 0}}
        return {"jid": "j", "now": 1_200_000, "vertices": [vertex], "plan": {"nodes": [{"id": "v"}]}}


def test_flink_tells_how_long_a_source_waits_whose_backlog_one_task_does_not_know():
    metrics = {"numRecordsIn": (10, 0), "stalledSeconds": (0, 50)}
    spent = Spent("Source: Read -> Parse", 0, 0, 0)
    assert source_looks(Flink(pendingRecords=(0, -1), **metrics), "j") == [
        SourceLook("Read", 10, None, spent, stalled=50),
    ]
    assert source_looks(Flink(pendingRecords=(0, 3), **metrics), "j") == [SourceLook("Read", 10, 3, spent, stalled=50)]
    assert source_looks(Flink(pendingRecords=(0, -1), started=900_000, **metrics), "j") == []  # of a task that is gone


@pytest.mark.parametrize(
    ("last", "cause"),
    [
        (look(idle=45_000), "the brokers give it none"),
        (look(), "the brokers give it none"),
        (look(busy=45_000), "a step that is chained to it"),
        (
            look(
                backpressured=45_000,
                downstream=(Spent("Parse", 1000, 44_000, 0), Spent("Sum", 45_000, 0, 0), Spent("Write", 0, 0, 45_000)),
            ),
            "Sum takes no more records",
        ),
        (look(backpressured=45_000), "the steps after it"),
    ],
)
def test_the_likely_cause_is_named(last, cause):
    silence = Silence(after=45)
    silence.lines(0, [look()])
    (line,) = silence.lines(45, [last])
    assert cause in line


def test_the_cause_is_of_the_silence_and_not_of_the_time_before():
    silence = Silence(after=45)
    silence.lines(0, [look(idle=1e9)])
    (line,) = silence.lines(45, [look(idle=1e9, busy=45_000)])
    assert "chained to it" in line


steps = st.lists(st.tuples(st.floats(0, 40), st.integers(0, 3), st.integers(0, 1)), max_size=40)


@given(steps)
def test_a_line_comes_exactly_when_a_silence_is_as_old_as_it_may_be(steps):
    silence, at, read, since, told = Silence(after=45), 0.0, 0, 0.0, False
    silence.lines(at, [look(read=0, backlog=1)])
    for seconds, more, backlog in steps:
        at, read = at + seconds, read + more
        if more or not backlog:
            since, told = at, False
        lines = silence.lines(at, [look(read=read, backlog=backlog)])
        assert bool(lines) == (at - since >= 45 and not told)
        told = told or bool(lines)
