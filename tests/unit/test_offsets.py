"""Ranges of offsets: nothing is read twice or skipped, however a range is claimed, cut and split."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_k8s.errors import ConfigError
from beam_k8s.kafka_partitions import misplaced
from beam_k8s.transforms.offsets import (
    NO_TIME,
    UNBOUNDED,
    Claim,
    Part,
    ReadRange,
    WatermarkRule,
    are_event_times,
    event_times_of,
    start_offset,
    stop_offset,
)
from beam_k8s.transforms.sdf import RangeTracker

OFFSETS = st.integers(0, 10_000)


@st.composite
def parts(draw: st.DrawFn) -> Part:
    first, stop = sorted((draw(OFFSETS), draw(OFFSETS)))
    return Part("t", 0, first, draw(st.sampled_from([stop, UNBOUNDED])), draw(OFFSETS))


@given(parts(), st.floats(0.01, 0.99), st.integers(1, 2_000))
def test_a_split_covers_the_range_exactly(part: Part, fraction: float, at_least: int) -> None:
    halves = ReadRange((part,)).split(fraction, at_least=at_least)
    if halves is None:
        assert part.backlog < 2 * at_least + part.backlog * fraction + 1
        return
    ((first,), (second,)) = halves[0].parts, halves[1].parts
    assert first.next == part.next
    assert first.stop == second.next
    assert second.stop == part.stop
    assert min(first.backlog, second.backlog) >= at_least


@given(parts(), st.data())
def test_claims_checkpoints_and_splits_read_every_offset_once(part: Part, data: st.DataObject) -> None:
    wanted = range(part.next, min(part.stop, part.next + 3_000))
    read: list[int] = []
    todo = [ReadRange((part,))]
    while todo:
        tracker = RangeTracker(todo.pop())
        while True:
            current = tracker.current_restriction()
            (now,) = current.parts
            if current.is_done or now.next >= wanted.stop:
                break
            step = data.draw(st.integers(1, 500))
            claim = Claim(0, now.next + step, part.end, step)
            if tracker.try_claim(claim):
                read += range(now.next, claim.next)
            else:
                assert claim.next > now.stop
                rest = now.stop - now.next
                assert tracker.try_claim(Claim(0, now.stop, part.end, rest))
                read += range(now.next, now.stop)
            cut = data.draw(st.sampled_from([None, None, 0, 0.5]))
            if cut is not None and (halves := tracker.try_split(cut)) is not None:
                assert halves[0] == tracker.current_restriction()
                todo.append(halves[1])
                if cut == 0:
                    tracker.check_done()
    assert sorted(read) == sorted(set(read))
    assert set(wanted) <= set(read)


def test_a_checkpointed_range_takes_no_claim_and_no_second_split() -> None:
    tracker = RangeTracker(ReadRange((Part("t", 0, 0, UNBOUNDED, 100_000),)))
    assert tracker.try_claim(Claim(0, 10, 100_000, 10))
    assert tracker.try_split(0) is not None
    assert not tracker.try_claim(Claim(0, 20, 100_000, 10))
    assert tracker.try_split(0) is None
    assert tracker.try_split(0.5) is None
    assert tracker.check_done()


def test_a_count_is_never_exceeded_over_checkpoints() -> None:
    whole = ReadRange((Part("t", 0, 0, UNBOUNDED, 9), Part("t", 1, 0, UNBOUNDED, 9)), 5)
    tracker = RangeTracker(whole)
    assert tracker.try_claim(Claim(0, 3, 9, 3))
    assert not tracker.try_claim(Claim(1, 3, 9, 3))
    halves = tracker.try_split(0)
    assert halves is not None
    rest = RangeTracker(halves[1])
    assert rest.try_claim(Claim(1, 2, 9, 2))
    assert rest.check_done()
    assert rest.try_split(0) is None


def test_what_is_not_claimed_is_not_done() -> None:
    with pytest.raises(ValueError, match="is left"):
        RangeTracker(ReadRange((Part("t", 0, 0, 5, 5),))).check_done()


def test_a_range_of_nothing_is_done_without_a_claim() -> None:
    assert RangeTracker(ReadRange((Part("t", 0, 5, 5, 5),))).check_done()


def test_limits_and_commits_forbid_a_split() -> None:
    part = Part("t", 0, 0, 100_000, 100_000)
    assert ReadRange((part,)).split(0.5, at_least=1) is not None
    assert ReadRange((part,), 10).split(0.5, at_least=1) is None
    assert ReadRange((part,), None, 10).split(0.5, at_least=1) is None
    assert ReadRange((part,), splittable=False).split(0.5, at_least=1) is None
    assert ReadRange((part, part)).split(0.5, at_least=1) is None


def test_the_size_is_the_known_backlog_within_the_limits() -> None:
    assert ReadRange((Part("t", 0, 10, UNBOUNDED, 30),)).size == 20
    assert ReadRange((Part("t", 0, 10, 15, 30),)).size == 5
    assert ReadRange((Part("t", 0, 10, UNBOUNDED, 30),), 7).size == 7
    assert ReadRange((Part("t", 0, 30, UNBOUNDED, 10),)).size == 0


def test_progress_of_nothing_is_no_division_by_zero() -> None:
    assert RangeTracker(ReadRange((Part("t", 0, 5, 5, 5),))).current_progress()
    assert RangeTracker(ReadRange((Part("t", 0, 5, UNBOUNDED, 5),))).current_progress()


def test_progress_between_the_last_claim_and_its_frame_is_no_division_by_zero() -> None:
    """Beam asks from another thread, and measures what is completed by the bytes emitted so far: none."""
    tracker = RangeTracker(ReadRange((Part("t", 0, 0, 5, 5),)))
    assert tracker.try_claim(Claim(0, 5, 5, 5))
    assert tracker.current_progress().with_completed(0).fraction_completed == 1


@pytest.mark.parametrize(
    ("start", "reset", "committed", "at_time", "expected"),
    [
        ("committed", "latest", 50, None, 50),
        ("committed", "latest", None, None, 90),
        ("committed", "earliest", None, None, 10),
        ("committed", "latest", 3, None, 3),
        ("committed", "latest", 99, None, 99),
        ("earliest", "latest", 50, None, 10),
        ("latest", "earliest", 50, None, 90),
        ({"timestamp_ms": 5}, "latest", 50, 42, 42),
        ({"timestamp_ms": 5}, "earliest", None, None, 90),
    ],
)
def test_where_a_read_starts(
    start: str | dict[str, int],
    reset: str,
    committed: int | None,
    at_time: int | None,
    expected: int,
) -> None:
    assert start_offset(start, reset, beginning=10, end=90, committed=committed, at_time=at_time) == expected


def test_an_offset_of_the_users_own_wins_also_one_that_was_deleted() -> None:
    where = {"beginning": 10, "end": 90, "committed": 50}
    assert start_offset("committed", "latest", named=20, **where) == 20
    assert start_offset("committed", "latest", named=5, **where) == 5


@pytest.mark.parametrize(
    ("stop", "at_time", "named", "expected"),
    [
        (None, None, None, UNBOUNDED),
        ("latest", None, None, 90),
        ("latest", None, 70, 70),
        ("latest", None, 120, 120),
        ({"timestamp_ms": 5}, 42, None, 42),
        ({"timestamp_ms": 5}, None, None, 90),
    ],
)
def test_where_a_read_stops(stop: Any, at_time: int | None, named: int | None, expected: int) -> None:
    assert stop_offset(stop, end=90, at_time=at_time, named=named) == expected


def test_offsets_where_nothing_is_are_named() -> None:
    start, stop = {("t", 0): 91, ("t", 1): 90, ("t", 7): 0}, {("t", 0): 200, ("u", 0): 1}
    errors = [str(error) for error in misplaced(start, stop, {("t", 0): 90, ("t", 1): 90})]
    assert len(errors) == 3
    for said, expected in zip(
        errors,
        ["start_offsets has 91 for", "start_offsets has partition 7", "stop_offsets has partition 0 of topic u"],
        strict=True,
    ):
        assert expected in said


def test_reset_none_without_a_committed_offset_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"auto\.offset\.reset"):
        start_offset("committed", "none", beginning=0, end=1)


def test_a_future_timestamp_does_not_carry_the_watermark_away() -> None:
    rule = WatermarkRule("create_time", 1_000, 30_000)
    assert rule.after_records(5_000, now_ms=10_000) == 4_000
    assert rule.after_records(10**15, now_ms=10_000) == 9_000


def test_without_backlog_for_the_idle_timeout_the_watermark_follows_the_clock_behind_both_bounds() -> None:
    rule = WatermarkRule("create_time", 1_000, 30_000)
    assert rule.without_backlog(70_001, 100_000) is None
    assert rule.without_backlog(70_000, 100_000) == 69_000
    assert WatermarkRule("create_time", 1_000, 0).without_backlog(0, 100_000) is None
    assert WatermarkRule("processing_time", 0, 0).without_backlog(100_000, 100_000) == 100_000


def test_log_append_time_of_records_without_it_is_an_error() -> None:
    rule = WatermarkRule("log_append_time", 0, 0)
    assert rule.timestamps([1, 2], is_log_append=True, now_ms=9) == [1, 2]
    with pytest.raises(ConfigError, match=r"message\.timestamp\.type"):
        rule.timestamps([1, 2], is_log_append=False, now_ms=9)


@given(st.integers(-(2**63), 2**63 - 1))
def test_an_event_time_is_what_lies_in_beams_range(time_ms: int) -> None:
    from apache_beam.transforms.window import GlobalWindow
    from apache_beam.utils.timestamp import MIN_TIMESTAMP

    lies_in = MIN_TIMESTAMP.micros <= time_ms * 1000 <= GlobalWindow().max_timestamp().micros
    assert are_event_times([0, time_ms]) == lies_in
    assert list(event_times_of([time_ms, 0])) == ([time_ms, 0] if lies_in else [0])


def test_a_record_without_a_time_has_no_create_time() -> None:
    rule = WatermarkRule("create_time", 0, 0)
    assert rule.timestamps([5, -1], is_log_append=False, now_ms=9) == [5, NO_TIME]
    assert WatermarkRule("processing_time", 0, 0).timestamps([-1], is_log_append=False, now_ms=9) == [9]
