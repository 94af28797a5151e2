"""The Python form of the read against a broker in memory: splits, checkpoints, watermarks, commits, failures.

The tracker and the watermark estimator are wrapped as Beam's harness wraps them, and the calls are driven by hand, so
that a test can split a range while the reader stands in the middle of it.
"""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.runners.sdf_utils import (
    RestrictionTrackerView,
    ThreadsafeRestrictionTracker,
    ThreadsafeWatermarkEstimator,
)

from beam_k8s.errors import KafkaError
from beam_k8s.transforms import ReadFromKafka, frames, sdf
from beam_k8s.transforms.clients import OffsetsGone, TopicPartition
from beam_k8s.transforms.offsets import UNBOUNDED, Part, ReadRange

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from beam_k8s.transforms.config import ReadConfig

ZERO = TopicPartition("t", 0)
NOW_MS = 1_000_000


class Record(NamedTuple):
    offset: int
    timestamp: int
    timestamp_type: int = 0
    key: bytes | None = b"k"
    value: bytes | None = b"v"
    headers: tuple = ()


@pytest.fixture(autouse=True)
def _no_answer_of_the_broker_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdf, "IDLE_DELAY_S", 0)


class FakeBroker:
    """Partitions as lists of records; also the factory of its consumers, and the list of what they did."""

    def __init__(self, **partitions: int) -> None:
        self.records = {
            TopicPartition("t", int(name[1:])): [Record(n, 1_000 + n) for n in range(count)]
            for name, count in partitions.items()
        }
        self.first: defaultdict[TopicPartition, int] = defaultdict(int)
        self.ends = {name: len(records) for name, records in self.records.items()}
        self.log_ends: dict[TopicPartition, int] = {}
        self.opened: list[FakeConsumer] = []
        self.commits: list[dict[TopicPartition, int]] = []
        self.broken = False

    def open(self, *, with_group: bool = False, uncommitted: bool = False) -> FakeConsumer:
        consumer = FakeConsumer(self, uncommitted=uncommitted)
        self.opened.append(consumer)
        return consumer

    @property
    def open_now(self) -> int:
        return sum(not consumer.closed for consumer in self.opened)


class FakeConsumer:
    def __init__(self, broker: FakeBroker, *, uncommitted: bool = False) -> None:
        self.broker, self.uncommitted = broker, uncommitted
        self.asked: list[list[TopicPartition]] = []
        self.at: dict[TopicPartition, int] = {}
        self.closed = False
        self.assignments = 0

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self.at = dict(positions)
        self.assignments += 1

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Record]]:
        if self.broker.broken:
            raise KafkaError("broken")
        for name in self.at:
            if not self.broker.first[name] <= self.at[name] <= self.broker.ends[name]:
                raise OffsetsGone([name], is_cut=False)
            found = [r for r in self.broker.records[name] if r.offset >= self.at[name]][:max_records]
            if found:
                self.at[name] = found[-1].offset + 1
                return {name: found}
        time.sleep(min(timeout_ms, 20) / 1000)
        return {}

    def position(self, of: TopicPartition) -> int:
        return self.at[of]

    def high_water(self, of: TopicPartition) -> int | None:
        return self.broker.ends[of]

    def partitions(self, topics: Sequence[str]) -> list[TopicPartition]:
        if self.broker.broken:
            raise KafkaError("broken")
        return [name for name in self.broker.records if name.topic in topics]

    def beginning_offsets(self, of: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {name: self.broker.first[name] for name in of}

    def end_offsets(self, of: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        self.asked.append(list(of))
        ends = self.broker.log_ends if self.uncommitted else self.broker.ends
        return {name: ends[name] for name in of}

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        self.broker.commits.append(dict(positions))

    def close(self) -> None:
        self.closed = True


class Finalizer:
    """Keeps what was registered, as a runner does until a bundle is durable."""

    def __init__(self) -> None:
        self.callbacks: list[Any] = []

    def register(self, callback: Any) -> None:
        self.callbacks.append(callback)


def config(**changes: Any) -> ReadConfig:
    read = ReadFromKafka(
        {"bootstrap.servers": "b:1", "group.id": "g"},
        ["t"],
        timestamp_policy=ReadFromKafka.create_time_policy,
        max_out_of_orderness=2,
        idle_timeout=30,
    )
    return dataclasses.replace(read._config, frame_records=100, **changes)


class Call:
    """One call of ``process`` as the harness makes it."""

    def __init__(self, reader: Any, restriction: ReadRange, *, watermark: Any = None, finalizer: Any = None) -> None:
        self.tracker = ThreadsafeRestrictionTracker(sdf.RangeTracker(restriction))
        self.estimator = ThreadsafeWatermarkEstimator(ManualWatermarkEstimator(watermark))
        self._calls: Iterator[Any] = reader._read(RestrictionTrackerView(self.tracker), self.estimator, finalizer)
        self.offsets: list[int] = []
        self.backlogs: list[int] = []
        self.lost: list[int] = []

    def step(self) -> bool:
        """Run to the next frame; False if the call has returned."""
        for output in self._calls:
            for segment in frames.decode_read_frame(output.value):
                self.backlogs.append(segment.backlog.records)
                self.lost += [segment.lost] if segment.lost else []
                self.offsets += [timestamp - 1_000 for timestamp in segment.timestamps]
            return True
        assert self.tracker.check_done()
        return False

    def finish(self) -> Call:
        while self.step():
            pass
        return self

    @property
    def residual(self) -> ReadRange | None:
        status = self.tracker.deferred_status()
        return status[0] if status else None

    @property
    def watermark_ms(self) -> int:
        return self.estimator.current_watermark().micros // 1000


def whole(stop: int = UNBOUNDED, end: int = 0) -> ReadRange:
    return ReadRange((Part("t", 0, 0, stop, end),))


def reader_of(broker: FakeBroker, now_ms: int = NOW_MS, **changes: Any) -> Any:
    return sdf.ReadParts(config(**changes), broker, lambda: now_ms)


class Clocked:
    """A reader, the clock that a test moves, and a partition read in calls that follow each other."""

    def __init__(self, broker: FakeBroker, **changes: Any) -> None:
        self.now_ms = NOW_MS
        self._reader = sdf.ReadParts(config(**changes), broker, lambda: self.now_ms)
        self._todo, self._watermark = whole(), None

    def call(self) -> int | None:
        """Read what there is; the watermark [ms] then."""
        call = Call(self._reader, self._todo, watermark=self._watermark).finish()
        assert call.residual is not None
        self._todo, self._watermark = call.residual, call.estimator.current_watermark()
        return None if self._watermark is None else self._watermark.micros // 1000


def test_a_live_partition_is_read_and_handed_back() -> None:
    broker = FakeBroker(p0=250)
    call = Call(reader_of(broker), whole()).finish()
    assert call.offsets == list(range(250))
    assert call.residual is not None
    assert call.residual.parts[0].next == 250
    assert call.residual.parts[0].stop == UNBOUNDED
    assert call.backlogs == [150, 50, 0]


def test_a_call_goes_on_where_the_last_one_stood_on_the_same_client() -> None:
    broker = FakeBroker(p0=250)
    reader = reader_of(broker)
    rest = Call(reader, whole()).finish().residual
    broker.records[ZERO].append(Record(250, 1_250))
    broker.ends[ZERO] = 251
    assert rest is not None
    assert Call(reader, rest).finish().offsets == [250]
    assert [consumer.assignments for consumer in broker.opened if consumer.assignments] == [1]


def test_a_bounded_range_is_read_to_its_stop_and_no_further() -> None:
    broker = FakeBroker(p0=250)
    call = Call(reader_of(broker), whole(stop=120)).finish()
    assert call.offsets == list(range(120))
    assert call.residual is None


def test_a_stop_beyond_the_end_is_waited_for() -> None:
    broker = FakeBroker(p0=250)
    reader = reader_of(broker)
    first = Call(reader, whole(stop=300, end=250)).finish()
    assert first.residual is not None
    assert first.backlogs[-1] == 0
    broker.records[ZERO] += [Record(n, 1_000 + n) for n in range(250, 310)]
    broker.ends[ZERO] = 310
    second = Call(reader, first.residual).finish()
    assert first.offsets + second.offsets == list(range(300))
    assert second.backlogs[-1] == 0
    assert second.residual is None


def test_a_split_in_the_middle_of_a_call_reads_every_record_once() -> None:
    broker = FakeBroker(p0=20_000)
    reader = reader_of(broker)
    first = Call(reader, whole(end=20_000))
    assert first.step()
    halves = first.tracker.try_split(0.5)
    assert halves is not None
    first.finish()
    assert first.residual is not None  # the call's time or frames are over
    seen = first.offsets
    todo = [first.residual, halves[1]]
    while todo:
        call = Call(reader, todo.pop()).finish()
        seen += call.offsets
        if call.residual and call.residual.parts[0].next < 20_000:
            todo.append(call.residual)
    assert sorted(seen) == list(range(20_000))


def test_a_checkpoint_of_the_runner_in_the_middle_of_a_call_reads_every_record_once() -> None:
    broker = FakeBroker(p0=1_000)
    reader = reader_of(broker)
    first = Call(reader, whole(end=1_000))
    assert first.step()
    halves = first.tracker.try_split(0)
    assert halves is not None
    assert not first.step()
    second = Call(reader, halves[1]).finish()
    assert first.offsets + second.offsets == list(range(1_000))


def test_markers_at_the_end_are_no_backlog_and_do_not_hold_the_stop() -> None:
    broker = FakeBroker(p0=10)
    broker.ends[ZERO] = 12

    class Skips(FakeConsumer):
        def position(self, of: TopicPartition) -> int:
            return 12 if self.at[of] == 10 else self.at[of]

    broker.open = lambda **_: Skips(broker)  # type: ignore[method-assign]
    call = Call(reader_of(broker), whole(stop=12)).finish()
    assert call.offsets == list(range(10))
    assert call.backlogs[-1] == 0
    assert call.residual is None


def test_what_was_deleted_before_it_was_read_is_passed_and_told() -> None:
    broker = FakeBroker(p0=250)
    reader = reader_of(broker)
    call = Call(reader, whole())
    assert call.step()
    broker.records[ZERO] = broker.records[ZERO][180:]
    broker.first[ZERO] = 180
    call.finish()
    assert call.offsets == [*range(100), *range(180, 250)]
    assert call.lost == [80]
    assert call.backlogs == [150, 70, 0]


def test_of_what_was_deleted_only_what_a_range_holds_is_lost() -> None:
    broker = FakeBroker(p0=250)
    broker.records[ZERO], broker.first[ZERO] = broker.records[ZERO][180:], 180
    reader = reader_of(broker)
    first, rest = whole(end=250), ReadRange((Part("t", 0, 170, UNBOUNDED, 250),))
    call = Call(reader, ReadRange((Part("t", 0, 0, 170, 250),))).finish()
    assert (call.offsets, call.lost, call.residual) == ([], [170], None)
    call = Call(reader, rest).finish()
    assert (call.offsets, call.lost) == (list(range(180, 250)), [10])
    stopped = Call(reader, first)
    assert stopped.step()
    halves = stopped.tracker.try_split(0)
    assert halves is not None
    stopped.finish()
    assert stopped.lost == [180]
    assert Call(reader, halves[1]).finish().lost == []


def test_what_was_deleted_is_an_error_where_nothing_may_be_passed() -> None:
    broker = FakeBroker(p0=250)
    broker.records[ZERO], broker.first[ZERO] = broker.records[ZERO][180:], 180
    reader = reader_of(broker, properties={"auto.offset.reset": "none"})
    with pytest.raises(
        KafkaError, match=r"topic t: the records from offset 7 on .* oldest one left is at 180, and .*none"
    ):
        Call(reader, ReadRange((Part("t", 0, 7, UNBOUNDED, 250),))).finish()
    assert broker.open_now == 0


def test_a_partition_that_was_cut_below_the_stop_is_an_error() -> None:
    with pytest.raises(KafkaError, match="had offset 50, but now it ends at 10"):
        Call(reader_of(FakeBroker(p0=10)), whole(stop=50, end=50)).finish()


@pytest.mark.parametrize("records", [0, 1, 100])
@pytest.mark.parametrize("stop", [UNBOUNDED, 300])
def test_a_topic_that_was_made_again_is_one_clear_error_and_no_endless_loop(records: int, stop: int) -> None:
    broker = FakeBroker(p0=250)
    reader = reader_of(broker)
    first = Call(reader, whole(stop=stop))
    while len(first.offsets) < 250:
        assert first.step()
    made_again = FakeBroker(p0=records)
    broker.records, broker.ends = made_again.records, made_again.ends
    with pytest.raises(KafkaError, match=r"Partition 0 of topic t was read up to offset 250, .* made again, or cut"):
        first.finish()
    assert broker.open_now == 0
    again = Call(reader, ReadRange((Part("t", 0, 250, stop, 250),)))
    with pytest.raises(KafkaError, match="made again, or cut"):
        again.finish()
    assert again.offsets == []


def test_the_watermark_follows_the_records_while_there_is_backlog() -> None:
    """Also when a poll brings nothing: idle is only who has nothing left (GROUND §6)."""
    broker = FakeBroker(p0=250)
    broker.ends[ZERO] = 300  # what the client does not bring yet
    call = Call(reader_of(broker), whole()).finish()
    assert call.watermark_ms == 1_000 + 249 - 2_000
    assert call.backlogs[-1] == 50
    assert call.residual is not None


@pytest.mark.parametrize("records", [0, 250])
def test_without_backlog_for_the_idle_timeout_the_watermark_follows_the_clock(records: int) -> None:
    read = Clocked(FakeBroker(p0=records))
    before = 1_000 + records - 1 - 2_000 if records else None
    assert read.call() == before
    read.now_ms += 29_999
    assert read.call() == before
    read.now_ms += 1
    assert read.call() == NOW_MS - 2_000
    read.now_ms += 500
    assert read.call() == NOW_MS + 500 - 2_000


def test_a_backfill_that_pauses_for_less_than_the_idle_timeout_has_no_late_record() -> None:
    broker = FakeBroker(p0=250)
    read = Clocked(broker)
    for number in range(250, 255):
        watermark = read.call()
        assert watermark is not None
        assert watermark < 1_000 + number
        read.now_ms += 29_000
        broker.records[ZERO].append(Record(number, 1_000 + number))
        broker.ends[ZERO] = number + 1


def test_idle_partitions_hold_up_no_other() -> None:
    """None is polled, nor has a client of its own: their ends are asked for together."""
    broker = FakeBroker(**{f"p{n}": 0 for n in range(50)})
    reader = reader_of(broker)
    ranges = [ReadRange((Part("t", n, 0, UNBOUNDED, 0),)) for n in range(50)]
    for todo in ranges:
        assert Call(reader, todo).finish().residual == todo
    (looks,) = broker.opened
    before = len(looks.asked)
    broker.records[ZERO].append(Record(0, 1_000))
    broker.ends[ZERO] = 1
    found = [offset for todo in ranges for offset in Call(reader, todo).finish().offsets]
    assert found == [0]
    assert all(len(names) == 50 for names in looks.asked[before:])
    assert [consumer.assignments for consumer in broker.opened] == [0, 1]
    assert looks.assignments == 0
    reader.teardown()
    assert broker.open_now == 0


def test_one_answer_of_the_broker_is_for_all_idle_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdf, "IDLE_DELAY_S", 60)
    broker = FakeBroker(p0=0, p1=0, p2=0)
    reader = reader_of(broker)
    ranges = [ReadRange((Part("t", n, 0, UNBOUNDED, 0),)) for n in range(3)]
    for todo in ranges:
        Call(reader, todo).finish()
    for todo in ranges[:2]:
        Call(reader, todo).finish()
    (looks,) = broker.opened
    assert [len(names) for names in looks.asked] == [1, 2, 3]


def test_the_watermark_does_not_pass_an_open_transaction() -> None:
    broker = FakeBroker(p0=5)
    broker.log_ends = {ZERO: 6}
    read = Clocked(broker, properties={"isolation.level": "read_committed"})
    before = read.call()
    read.now_ms += 60_000
    assert read.call() == before
    broker.log_ends[ZERO] = 5  # it was aborted
    assert read.call() == before
    read.now_ms += 30_000
    assert read.call() == read.now_ms - 32_000


def test_an_empty_partition_reports_no_backlog() -> None:
    assert Call(reader_of(FakeBroker(p0=0)), whole()).finish().backlogs == [0]


def test_without_an_idle_timeout_the_watermark_waits() -> None:
    read = Clocked(FakeBroker(p0=0), idle_timeout_ms=0)
    for _ in range(3):
        assert read.call() is None
        read.now_ms += 10**9


def test_the_watermark_never_goes_back() -> None:
    from apache_beam.utils.timestamp import Timestamp

    ahead = Timestamp(10**9)
    call = Call(reader_of(FakeBroker(p0=250)), whole(), watermark=ahead).finish()
    assert call.estimator.current_watermark() == ahead


def test_a_deadline_ends_the_read() -> None:
    broker = FakeBroker(p0=10, p1=5)
    todo = ReadRange((Part("t", 0, 0, UNBOUNDED, 10), Part("t", 1, 0, UNBOUNDED, 5)), None, NOW_MS)
    late = Call(reader_of(broker), todo).finish()
    assert (late.offsets, late.residual) == ([], None)
    early = Call(reader_of(broker, now_ms=NOW_MS - 60_000), todo).finish()
    assert len(early.offsets) == 15
    assert early.residual is not None
    assert early.residual.deadline_ms == NOW_MS


def test_a_count_ends_the_read_over_partitions() -> None:
    todo = ReadRange((Part("t", 0, 0, UNBOUNDED, 10), Part("t", 1, 0, UNBOUNDED, 10)), 12)
    call = Call(reader_of(FakeBroker(p0=10, p1=10)), todo).finish()
    assert len(call.offsets) == 12
    assert call.residual is None


def test_a_client_that_brings_more_than_asked_for_does_not_exceed_the_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sdf.ReadParts, "_most_records", lambda *_: 100)
    todo = ReadRange((Part("t", 0, 0, UNBOUNDED, 10),), 7)
    call = Call(reader_of(FakeBroker(p0=10)), todo).finish()
    assert call.offsets == list(range(7))
    assert call.residual is None


def test_a_large_poll_is_cut_into_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdf, "FRAME_BYTES", 1_000)
    broker = FakeBroker(p0=0)
    broker.records[ZERO] = [Record(n, 1_000 + n, value=b"x" * 400) for n in range(5)]
    broker.ends[ZERO] = 5
    call = Call(reader_of(broker), whole(stop=5)).finish()
    assert call.offsets == [0, 1, 2, 3, 4]
    assert call.backlogs == [3, 1, 0]


def test_offsets_are_committed_when_the_bundle_is_final_and_never_backwards() -> None:
    broker = FakeBroker(p0=250)
    reader = sdf.make_reader(config(commit_offsets=True), broker)
    finalizer = Finalizer()
    first = Call(reader, whole(), finalizer=finalizer).finish()
    broker.records[ZERO].append(Record(250, 1_250))
    broker.ends[ZERO] = 251
    assert first.residual is not None
    Call(reader, first.residual, finalizer=finalizer).finish()
    assert broker.commits == []
    older, newer = finalizer.callbacks
    newer()
    older()
    assert broker.commits == [{ZERO: 251}]
    reader.teardown()
    assert broker.open_now == 0


def test_a_commit_after_the_teardown_leaves_no_client_open() -> None:
    broker = FakeBroker(p0=5)
    reader = sdf.make_reader(config(commit_offsets=True), broker)
    finalizer = Finalizer()
    Call(reader, whole(stop=5), finalizer=finalizer).finish()
    reader.teardown()
    for callback in finalizer.callbacks:
        callback()
    assert broker.commits == [{ZERO: 5}]
    assert broker.open_now == 0


def test_a_failure_closes_the_clients_and_is_passed_on() -> None:
    broker = FakeBroker(p0=250)
    reader = reader_of(broker)
    call = Call(reader, whole())
    assert call.step()
    broker.broken = True
    with pytest.raises(KafkaError, match="broken"):
        call.finish()
    assert broker.open_now == 0


def test_clients_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdf, "MAX_CLIENTS", 2)
    broker = FakeBroker(p0=5, p1=5, p2=5)
    reader = reader_of(broker)
    for number in range(3):
        Call(reader, ReadRange((Part("t", number, 0, 5, 5),))).finish()
    assert broker.open_now == 2
    reader.teardown()
    assert broker.open_now == 0


def test_beam_is_told_what_a_read_needs() -> None:
    from apache_beam.runners.common import DoFnSignature

    for bounded in (False, True):
        for commits in (False, True):
            given = config(stop="latest" if bounded else None, commit_offsets=commits)
            signature = DoFnSignature(sdf.make_reader(given, FakeBroker()))
            assert signature.is_splittable_dofn()
            assert signature.is_unbounded_per_element() is not bounded
            assert signature.has_bundle_finalization() is commits


class Search:
    """The calls of a search for partitions, each of which goes on where the last one was checkpointed."""

    def __init__(self, broker: FakeBroker) -> None:
        self._finder = sdf.FindParts(config(start="latest"), broker)
        self._found, self._watermark = sdf.Found(None), None
        self.stopped = False

    def look(self) -> list[tuple[int, int]]:
        """Partitions found now, and where each starts."""
        tracker = ThreadsafeRestrictionTracker(sdf.FoundTracker(self._found))
        estimator = ThreadsafeWatermarkEstimator(ManualWatermarkEstimator(self._watermark))
        if self.stopped:
            assert tracker.try_split(0) is not None
        ranges = list(self._finder.process(b"", RestrictionTrackerView(tracker), estimator))
        assert tracker.check_done()
        if not self.stopped:
            self._found, _ = tracker.deferred_status()
        return [(part.partition, part.next) for each in ranges for part in each.parts]


def test_partitions_that_come_are_found_once_and_read_from_their_first_record() -> None:
    broker = FakeBroker(p0=3, p1=5)
    search = Search(broker)
    assert search.look() == [(0, 3), (1, 5)]
    assert search.look() == []
    broker.records[TopicPartition("t", 2)] = []
    broker.ends[TopicPartition("t", 2)] = 7
    assert search.look() == [(2, 0)]
    assert search.look() == []
    assert broker.open_now == 0


def test_a_broker_that_is_away_ends_no_search_that_has_begun() -> None:
    broker = FakeBroker(p0=3)
    broker.broken = True
    with pytest.raises(KafkaError, match="broken"):
        Search(broker).look()
    broker.broken = False
    search = Search(broker)
    search.look()
    broker.broken = True
    assert search.look() == []
    broker.broken = False
    broker.records[TopicPartition("t", 1)] = []
    broker.ends[TopicPartition("t", 1)] = 0
    assert search.look() == [(1, 0)]
    assert broker.open_now == 0


def test_what_a_checkpoint_came_before_is_found_after_it() -> None:
    broker = FakeBroker(p0=3)
    search = Search(broker)
    search.stopped = True
    assert search.look() == []
    search.stopped = False
    assert search.look() == [(0, 3)]
