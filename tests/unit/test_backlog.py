"""What is said of a partition's backlog, against the rate and size with which it was made. Plain values in and out."""

from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_k8s.transforms import metrics
from beam_k8s.transforms.backlog import PartitionBacklog
from beam_k8s.transforms.frames import Backlog, Segment


def read(backlog, *, rate, left, size=10, start=0.0, reads=20):
    """Read once a second, at a rate [records/s], until so many are left; return the time at the end."""
    for number in range(reads):
        start += 1
        backlog.add(left + (reads - 1 - number) * rate, [(b"k", bytes(size - 1))] * rate, start)
    return start


@given(rate=st.integers(1, 500), left=st.integers(1, 10**9), size=st.integers(1, 1_000))
def test_a_steady_reader_tells_the_bytes_and_the_time_that_are_left(rate, left, size):
    backlog = PartitionBacklog()
    read(backlog, rate=rate, left=left, size=size)
    assert backlog.now == (left, left * size, pytest.approx(1000 * left / rate, abs=1))


def test_nothing_is_left_in_no_time_and_what_is_unknown_is_not_told():
    backlog = PartitionBacklog()
    assert backlog.now == Backlog(-1, -1, -1)
    assert backlog.add(0, (), 0.0) == (0, 0, 0)
    assert backlog.add(7, (), 1.0) == (7, -1, -1)


@given(idle=st.floats(1, 10**7), rate=st.integers(1, 500))
def test_an_idle_time_says_nothing_about_how_fast_records_are_read(idle, rate):
    backlog = PartitionBacklog()
    end = read(backlog, rate=rate, left=0)
    assert backlog.add(10 * rate, [(b"k", b"")], end + idle).ms == pytest.approx(10_000, abs=1)


def test_a_reader_that_slows_down_soon_tells_so():
    backlog = PartitionBacklog()
    end = read(backlog, rate=100, left=10_000)
    read(backlog, rate=10, left=1_000, start=end, reads=120)
    assert 90_000 < backlog.now.ms < 100_000


def test_a_tombstone_has_no_bytes():
    assert PartitionBacklog().add(3, [(None, None), (b"12", b"3456")], 0.0).bytes == 9


def test_a_topic_of_many_partitions_does_not_make_as_many_labels(monkeypatch):
    made = {}
    monkeypatch.setattr(metrics.Metrics, "gauge", lambda _, name: made.setdefault(name, Mock()))
    gauges = metrics.BacklogGauges()
    for partition in (*range(2 * metrics.MOST_PARTITIONS), 0):
        gauges.set(Segment("t", partition, Backlog(partition, -1, -1), 0, (), ()))
    told = {name for name in made if made[name].set.called}
    assert told == {metrics.backlog_name("t", n) for n in range(metrics.MOST_PARTITIONS)}
    assert made[metrics.backlog_name("t", 0)].set.call_count == 2
