"""When a source counts as silent, and what is held responsible."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_k8s.silence import Silence, SourceLook, Spent


def look(read=100, backlog=5, *, busy=0.0, backpressured=0.0, idle=0.0, downstream=()):
    return SourceLook("Read", read, backlog, Spent("Read -> Parse", busy, backpressured, idle), downstream)


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
