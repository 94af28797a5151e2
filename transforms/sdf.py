"""The read of every runner but Flink: a Python splittable DoFn that emits the frames the native source emits.

``ListParts`` asks the broker where each partition starts and stops, once; ``FindParts`` of a read for ever asks again
and again which have come. The answers are elements, and a shuffle makes them durable, so a retry reads the same range.
``ReadParts`` reads a range in short calls: it claims, emits frames, and hands the rest back to the runner, which may
checkpoint between two calls.

A topic that is deleted and made again, or cut (an unclean leader election), while it is read is an error. The offsets
of a range are those of records that are gone: what now has these offsets was never asked for, what is below them would
be skipped, and a read that ends would end early. Only a new start gives exact results, and only a person knows whether
that is wanted. It is noticed as long as the new topic is shorter than what was read; Kafka's own clients cannot tell a
longer one by its offsets.

What is deleted before it is read, by retention or a request, is passed, and told as lost; or it is an error, with
``auto.offset.reset=none``. Flink's reader does the same (``PositionTrackingSplitReader.java``).

Order within a partition is kept, unless the runner splits a range: then it is kept within each part, as with Beam's own
Kafka read.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import apache_beam as beam
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

from beam_k8s.errors import ConfigError, KafkaError
from beam_k8s.kafka_partitions import matching, misplaced
from beam_k8s.transforms.backlog import PartitionBacklog
from beam_k8s.transforms.clients import OffsetsGone, TopicPartition
from beam_k8s.transforms.config import FRAME_BYTES
from beam_k8s.transforms.frames import (
    LOG_APPEND_TIME,
    NO_TIMESTAMP_TYPE,
    Segment,
    encode_read_frame,
)
from beam_k8s.transforms.offsets import (
    UNBOUNDED,
    Claim,
    Part,
    ReadRange,
    WatermarkRule,
    event_times_of,
    start_offset,
    stop_offset,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from beam_k8s.transforms.clients import Consumer, ConsumerFactory, ConsumerRecord
    from beam_k8s.transforms.config import ReadConfig

__all__ = ["FindParts", "ListParts", "RangeTracker", "ReadParts", "make_reader", "read_parts"]

CALL_SECONDS = 1.0
"""Longest time of one call [s]: what a runner waits at most before it can checkpoint or give the slot to another."""

CALL_FRAMES = 40
"""Most frames of one call: with full frames 20,000 records, the bundle size that measured best (lab)."""

IDLE_DELAY_S = 0.2
"""When [s] the runner is asked to come back to a partition without backlog, and how old an answer of the broker may be
that there is none."""

MAX_CLIENTS = 32
"""Most open clients of one DoFn; beyond that the longest unused one is closed."""

SPLIT_RECORDS = 5_000
"""Fewest known records on either side of a split: less is read faster than a second reader starts."""

_LATEST = Timestamp(seconds=2**33)
"""Watermark of what holds no other back: the year 2242."""

_log = logging.getLogger(__name__)


class ListParts(beam.DoFn):
    """Impulse -> the ranges to read: one a partition, or one of all partitions if the read is limited."""

    def __init__(self, config: ReadConfig, consumers: ConsumerFactory) -> None:
        self._config = config
        self._consumers = consumers

    def process(self, _: bytes) -> Iterator[ReadRange]:
        config = self._config
        with closing(self._consumers.open(with_group=config.start == "committed")) as consumer:
            parts = read_parts(config, consumer)
        if config.is_limited:
            # An absolute time, so that the limit goes on over checkpoints and restarts.
            deadline = config.max_read_time_ms and _now_ms() + config.max_read_time_ms
            yield ReadRange(tuple(parts), config.max_records, deadline)
        else:
            yield from _ranges(config, parts)


def _ranges(config: ReadConfig, parts: Sequence[Part]) -> Iterator[ReadRange]:
    for part in parts:
        yield ReadRange((part,), splittable=not config.commit_offsets)


def _names(config: ReadConfig, consumer: Consumer) -> list[TopicPartition]:
    """The partitions that there are now.

    Raises:
        KafkaError: a topic is missing, or none matches the pattern, or the broker does not answer.
    """
    topics: Sequence[str] = config.topics
    if config.topic_pattern is not None and not (topics := matching(config.topic_pattern, consumer.topics())):
        raise KafkaError(
            f"Kafka at {config.bootstrap_servers} has no topic that matches {config.topic_pattern!r}.",
            hint="Create one, or check topic_pattern and that this client may describe its topics (ACL).",
        )
    return consumer.partitions(topics)


def read_parts(config: ReadConfig, consumer: Consumer) -> list[Part]:
    """Ask the broker where each partition of the read starts and stops.

    Raises:
        KafkaError: a topic is missing, or none matches the pattern, or the broker does not answer.
        ConfigError: no committed offset where one is needed, or the user's own offsets are of no partition.
    """
    names = _names(config, consumer)
    beginning = consumer.beginning_offsets(names)
    end = consumer.end_offsets(names)
    if errors := list(misplaced(config.start_offsets, config.stop_offsets, dict(end.items()))):
        raise ConfigError.of_all(errors)
    committed: Mapping[TopicPartition, int | None] = {}
    at_time: Mapping[TopicPartition, int | None] = {}
    at_stop_time: Mapping[TopicPartition, int | None] = {}
    if isinstance(config.stop, dict):
        at_stop_time = consumer.offsets_at(names, config.stop["timestamp_ms"])
    if isinstance(config.start, dict):
        at_time = consumer.offsets_at(names, config.start["timestamp_ms"])
    elif config.start == "committed":
        committed = consumer.committed(names)
    return [
        Part(
            name.topic,
            name.partition,
            next=start_offset(
                config.start,
                config.properties.get("auto.offset.reset", "latest"),
                beginning=beginning[name],
                end=end[name],
                committed=committed.get(name),
                at_time=at_time.get(name),
                named=config.start_offsets.get(name),
            ),
            stop=stop_offset(
                config.stop,
                end=end[name],
                at_time=at_stop_time.get(name),
                named=config.stop_offsets.get(name),
            ),
            end=end[name],
        )
        for name in names
    ]


class RangeTracker(RestrictionTracker):
    """Beam's tracker over a ReadRange: what is claimed here is emitted by this call and by no other."""

    def __init__(self, restriction: ReadRange) -> None:
        self._range = restriction
        self._claimed = 0
        self._finished = False
        self._checkpointed = False

    def current_restriction(self) -> ReadRange:
        return self._range

    def current_progress(self) -> RestrictionProgress:
        # A fraction, not two counts: Beam puts the bytes emitted so far in the place of the completed count, which is
        # 0 of 0 between the last claim and its frame.
        total = self._claimed + self._range.size
        if total == 0:
            return RestrictionProgress(fraction=1.0 if self._range.is_done else 0.0)
        return RestrictionProgress(fraction=self._claimed / total)

    def try_claim(self, position: Claim | None) -> bool:
        """Claim records before they are emitted. None claims the end: a limit is reached, nothing more is wanted.

        False: the range does not reach so far (any more); ask ``current_restriction`` and claim less.
        """
        if position is None:
            self._finished = not self._checkpointed
            return self._finished
        if self._finished or not self._range.allows(position):
            return False
        self._range = self._range.after(position)
        self._claimed += position.records
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[ReadRange, ReadRange] | None:
        if self._finished or self._checkpointed:
            return None
        if fraction_of_remainder <= 0:
            halves = self._range.checkpoint()
            self._checkpointed = halves is not None
        else:
            halves = self._range.split(fraction_of_remainder, at_least=SPLIT_RECORDS)
        if halves is not None:
            self._range = halves[0]
        return halves

    def check_done(self) -> bool:
        if not self._finished and not self._range.is_done:
            raise ValueError(f"The read ended before its range did: {self._range} is left.")
        return True

    def is_bounded(self) -> bool:
        return self._range.is_bounded


class _Ranges(RestrictionProvider):
    """The element is the restriction: all questions to the broker were asked before the shuffle."""

    def initial_restriction(self, element: ReadRange) -> ReadRange:
        return element

    def create_tracker(self, restriction: ReadRange) -> RangeTracker:
        return RangeTracker(restriction)

    def restriction_size(self, _element: ReadRange, restriction: ReadRange) -> int:
        return restriction.size


# What Beam replaces by the tracker and the watermark estimator of a call.
_RANGE = beam.DoFn.RestrictionParam(_Ranges())
_WATERMARK = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())


class Found(NamedTuple):
    """The restriction of ``FindParts``: what has been found, None before the first look; and whether that was all."""

    names: frozenset[TopicPartition] | None
    over: bool = False


class FoundTracker(RestrictionTracker):
    """Beam's tracker over Found, which only grows: a claim are names that are new."""

    def __init__(self, restriction: Found) -> None:
        self._found = restriction

    def current_restriction(self) -> Found:
        return self._found

    def current_progress(self) -> RestrictionProgress:
        return RestrictionProgress(fraction=float(self._found.over))

    def try_claim(self, position: frozenset[TopicPartition]) -> bool:
        if not self._found.over:
            self._found = Found((self._found.names or frozenset()) | position)
        return not self._found.over

    def try_split(self, fraction_of_remainder: float) -> tuple[Found, Found] | None:
        if self._found.over or fraction_of_remainder > 0:
            return None
        left, self._found = self._found, self._found._replace(over=True)
        return self._found, left

    def check_done(self) -> bool:
        if not self._found.over:
            raise ValueError("The search for partitions ended, which it never does.")
        return True

    def is_bounded(self) -> bool:
        return False


class _Search(RestrictionProvider):
    def initial_restriction(self, _: bytes) -> Found:
        return Found(None)

    def create_tracker(self, restriction: Found) -> FoundTracker:
        return FoundTracker(restriction)

    def restriction_size(self, _element: bytes, _restriction: Found) -> int:
        return 0


_FOUND = beam.DoFn.RestrictionParam(_Search())


class FindParts(beam.DoFn):
    """Impulse -> the ranges of a read for ever: first those that are there, later those that have come.

    What comes later is read from its first record, as by Flink's source. A look that fails is made again at the next
    interval: whether the broker is there is for those to say who read from it.
    """

    def __init__(self, config: ReadConfig, consumers: ConsumerFactory) -> None:
        self._config = config
        self._consumers = consumers

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        _: bytes,
        tracker: Any = _FOUND,
        watermark: Any = _WATERMARK,
    ) -> Iterator[ReadRange]:
        known = tracker.current_restriction().names
        parts: list[Part] = []
        asks_group = known is None and self._config.start == "committed"
        try:
            with closing(self._consumers.open(with_group=asks_group)) as consumer:
                if known is None:
                    parts = read_parts(self._config, consumer)
                elif new := [name for name in _names(self._config, consumer) if name not in known]:
                    first, end = consumer.beginning_offsets(new), consumer.end_offsets(new)
                    parts = [Part(*name, next=first[name], stop=UNBOUNDED, end=end[name]) for name in new]
        except KafkaError:
            if known is None:
                raise
            _log.warning("No look for new partitions", exc_info=True)
        if tracker.try_claim(frozenset(TopicPartition(part.topic, part.partition) for part in parts)):
            yield from _ranges(self._config, parts)
            watermark.set_watermark(_LATEST)
            tracker.defer_remainder(Duration(micros=self._config.discovery_interval_ms * 1000))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class _Committer:
    """Commits offsets from the runner's finalizer thread, never backwards, on a client of its own."""

    def __init__(self, consumers: ConsumerFactory) -> None:
        self._consumers = consumers
        self._lock = threading.Lock()
        self._committed: dict[TopicPartition, int] = {}
        self._consumer: Consumer | None = None
        self._closed = False

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        with self._lock:
            new = {name: offset for name, offset in positions.items() if offset > self._committed.get(name, -1)}
            if not new:
                return
            consumer = self._consumer or self._consumers.open(with_group=True)
            try:
                consumer.commit(new)
                self._committed.update(new)
            except BaseException:
                consumer.close()
                self._consumer = None
                raise
            if self._closed:  # the last bundle may be finalized after its DoFn was torn down
                consumer.close()
            else:
                self._consumer = consumer

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None


class _ReadParts(beam.DoFn):
    """ReadRange -> frames. The four forms below differ in what Beam reads from their ``process``."""

    def __init__(self, config: ReadConfig, consumers: ConsumerFactory, now_ms: Callable[[], int] = _now_ms) -> None:
        self._config = config
        self._consumers = consumers
        self._now_ms = now_ms
        self._rule = WatermarkRule(config.timestamp_policy, config.max_out_of_orderness_ms, config.idle_timeout_ms)
        self._open: dict[tuple[TopicPartition, ...], _Assigned] = {}
        self._ends = _Ends(config, consumers)
        self._backlogs: defaultdict[TopicPartition, PartitionBacklog] = defaultdict(PartitionBacklog)
        self._ran_dry: dict[TopicPartition, tuple[int, int]] = {}
        self._committer: _Committer | None = None

    def teardown(self) -> None:
        while self._open:
            self._open.popitem()[1].consumer.close()
        self._ends.close()
        if self._committer is not None:
            self._committer.close()

    def _read(self, tracker: Any, watermark: Any, finalizer: Any = None) -> Iterator[Any]:
        """One call: read for a while, then finish the range or hand the rest back."""
        before = tracker.current_restriction()
        if before.is_done:
            return
        try:
            yield from self._read_for_a_while(tracker, watermark)
        except BaseException:
            # The clients' positions are no longer those of any range.
            self.teardown()
            raise
        if finalizer is not None:
            after = tracker.current_restriction()
            moved = {
                TopicPartition(new.topic, new.partition): new.next
                for old, new in zip(before.parts, after.parts, strict=True)
                if new.next > old.next
            }
            if moved:
                if self._committer is None:
                    self._committer = _Committer(self._consumers)
                finalizer.register(partial(self._committer.commit, moved))

    def _read_for_a_while(self, tracker: Any, watermark: Any) -> Iterator[Any]:
        until = time.monotonic() + CALL_SECONDS
        frames = 0
        while not (todo := tracker.current_restriction()).is_done:
            now = self._now_ms()
            if todo.deadline_ms is not None and now >= todo.deadline_ms:
                tracker.try_claim(None)
                return
            patience = until - time.monotonic()
            if patience <= 0 or frames >= CALL_FRAMES:
                tracker.defer_remainder()
                return
            if not todo.is_limited and todo.size == 0:
                is_idle, told = self._look(tracker, watermark)
                yield from map(self._frame, told)
                if is_idle:
                    tracker.defer_remainder(Duration(micros=int(IDLE_DELAY_S * 1e6)))
                    return
                todo = tracker.current_restriction()
                if todo.is_done:
                    return
            assigned = self._assigned(todo)
            wait_ms = min(self._wait_ms(todo, now), int(patience * 1000) + 1)
            try:
                polled = assigned.consumer.poll(wait_ms, self._most_records(todo))
            except OffsetsGone as gone:
                yield from map(self._frame, self._pass_deleted(tracker, assigned, gone))
                continue
            if polled:
                for segment in self._claimed(tracker, assigned, polled):
                    frames += 1
                    yield self._frame(segment)
                    self._advance(watermark, todo, segment)
                continue
            if (skipped := self._skip_what_is_no_record(tracker, assigned)) is not None:
                yield from map(self._frame, skipped)
                continue
            ends = assigned.consumer.end_offsets(list(assigned.positions))
            yield from map(self._frame, self._backlogs_of(tracker, ends))

    def _look(self, tracker: Any, watermark: Any) -> tuple[bool, list[Segment]]:
        """Look whether a partition that is known to have no backlog still has none, without a client of its own.

        Returns: (whether it has none, segments that tell backlogs which have changed).
        """
        (part,) = tracker.current_restriction().parts  # as every read without limits has
        name = TopicPartition(part.topic, part.partition)
        end, log_end, now_ms = self._ends.of(name, self._now_ms)
        told = self._backlogs_of(tracker, {name: end})
        if end > part.next:
            return False, []  # the records tell it
        if log_end > part.next:  # an open transaction's: old when committed
            self._ran_dry.pop(name, None)
        elif (time_ms := self._rule.without_backlog(self._dry_since(part, now_ms), now_ms)) is not None:
            _set_watermark(watermark, time_ms)
        return True, told

    def _dry_since(self, part: Part, now_ms: int) -> int:
        """Since when [ms] the partition has no backlog, being told that it has none at ``now_ms``.

        A record that came in between would have been read, and moved ``next``: so it does not matter that other calls,
        here or in another worker, have looked meanwhile. One that looks for the first time waits anew.
        """
        name = TopicPartition(part.topic, part.partition)
        position, since = self._ran_dry.get(name, (None, now_ms))
        if position != part.next:
            since = now_ms
        self._ran_dry[name] = part.next, since
        return since

    def _assigned(self, todo: ReadRange) -> _Assigned:
        """A client that stands where the range does. It is kept over calls, with what it has fetched ahead."""
        wanted = {TopicPartition(part.topic, part.partition): part.next for part in todo.parts if not part.is_done}
        key = tuple(TopicPartition(part.topic, part.partition) for part in todo.parts)
        assigned = self._open.pop(key, None)
        if assigned is None:
            while len(self._open) >= MAX_CLIENTS:
                self._open.pop(next(iter(self._open))).consumer.close()
            assigned = _Assigned(self._consumers.open())
        self._open[key] = assigned  # last in, so that the first of the dictionary is the longest unused
        if assigned.positions != wanted:
            assigned.consumer.assign(wanted)
            assigned.positions = wanted
        return assigned

    def _wait_ms(self, todo: ReadRange, now_ms: int) -> int:
        wait = self._config.poll_timeout_ms
        if todo.deadline_ms is not None:
            wait = min(wait, todo.deadline_ms - now_ms)
        return wait

    def _most_records(self, todo: ReadRange) -> int:
        most = self._config.frame_records
        return most if todo.records_left is None else min(most, todo.records_left)

    def _claimed(
        self,
        tracker: Any,
        assigned: _Assigned,
        polled: Mapping[TopicPartition, Sequence[ConsumerRecord]],
    ) -> Iterator[Segment]:
        """Claim what was polled and give it in segments; what the range no longer holds is dropped."""
        todo = tracker.current_restriction()
        for name, records in polled.items():
            # The client has passed all of these, whatever of them is claimed.
            assigned.positions[name] = records[-1].offset + 1
            self._ends.forget(name)
            end = max(assigned.consumer.high_water(name) or 0, records[-1].offset + 1)
            for chunk in _chunks(records):
                mine = _claim(tracker, name, chunk, end)
                if mine:
                    yield self._segment(name, mine, min(end, todo.parts[todo.index(*name)].stop))

    def _segment(self, name: TopicPartition, records: Sequence[ConsumerRecord], end: int) -> Segment:
        kind = _timestamp_type(records[0])
        own_times = [record.timestamp for record in records]
        pairs = [(record.key, record.value) for record in records]
        segment = Segment(
            *name,
            self._backlogs[name].add(end - records[-1].offset - 1, pairs, time.monotonic()),
            kind,
            self._rule.timestamps(own_times, is_log_append=kind == LOG_APPEND_TIME, now_ms=self._now_ms()),
            pairs,
        )
        event_times = self._config.event_times
        if self._config.with_metadata or event_times is not None:
            segment = segment._replace(
                offsets=[record.offset for record in records],
                record_timestamps=own_times,
                headers=[record.headers or () for record in records],
            )
        return segment if event_times is None else segment._replace(timestamps=event_times(segment))

    def _frame(self, segment: Segment) -> Any:
        frame = encode_read_frame([segment], metadata=self._config.with_metadata)
        return TimestampedValue(frame, _timestamp(min(event_times_of(segment.timestamps), default=self._now_ms())))

    def _advance(self, watermark: Any, todo: ReadRange, segment: Segment) -> None:
        # Over several partitions at once there is no order to conclude from.
        if len(todo.parts) == 1 and (times := event_times_of(segment.timestamps)):
            _set_watermark(watermark, self._rule.after_records(max(times), self._now_ms()))

    def _pass_deleted(self, tracker: Any, assigned: _Assigned, gone: OffsetsGone) -> list[Segment]:
        """Pass what the broker deleted before it was read; returns segments that tell it.

        Raises:
            KafkaError: it may not be passed, or the topic was made again, or cut.
        """
        first, ends = assigned.consumer.beginning_offsets(gone.names), assigned.consumer.end_offsets(gone.names)
        assigned.positions = {}  # the client must be told anew
        told: list[Segment] = []
        for name in gone.names:
            index = tracker.current_restriction().index(*name)
            while not (part := tracker.current_restriction().parts[index]).is_done:
                if gone.is_cut or ends[name] < part.next:
                    raise _cut(part, part.next, ends[name])
                if first[name] <= part.next:
                    break  # the broker has it after all, as a lagging replica does
                if self._config.properties.get("auto.offset.reset") == "none":
                    raise KafkaError(
                        f"Partition {part.partition} of topic {part.topic}: the records from offset {part.next} on "
                        f"were deleted before they were read, the oldest one left is at {first[name]}, and "
                        "consumer_config['auto.offset.reset'] is 'none'.",
                        hint="Set it to 'earliest' to go on without them.",
                    )
                upto = min(first[name], part.stop)
                if tracker.try_claim(Claim(index, upto, ends[name], 0)):
                    (segment,) = self._told(name, max(0, min(ends[name], part.stop) - upto), lost=upto - part.next)
                    told.append(segment)
                    break
        return told

    def _skip_what_is_no_record(self, tracker: Any, assigned: _Assigned) -> list[Segment] | None:
        """Pass transaction markers and compacted records at the client's position.

        Returns segments that tell backlogs which have changed by it; None: there was nothing to pass.
        """
        told: list[Segment] | None = None
        todo = tracker.current_restriction()
        for index, part in enumerate(todo.parts):
            name = TopicPartition(part.topic, part.partition)
            if name not in assigned.positions or part.is_done:
                continue
            position = assigned.consumer.position(name)
            if position > part.next:
                assigned.positions[name] = position
                upto, end = min(position, part.stop), max(part.end, position)
                if tracker.try_claim(Claim(index, upto, end, 0)):
                    told = (told or []) + self._told(name, min(end, part.stop) - upto)
        return told

    def _backlogs_of(self, tracker: Any, ends: Mapping[TopicPartition, int]) -> list[Segment]:
        """Claim what the broker says of ends; returns segments that tell backlogs which have changed."""
        todo = tracker.current_restriction()
        told: list[Segment] = []
        for index, part in enumerate(todo.parts):
            name = TopicPartition(part.topic, part.partition)
            if name not in ends:
                continue
            end = ends[name]
            # What a bounded read still wants was once there: it does not come back.
            at_least = part.next if part.stop == UNBOUNDED else part.next + part.backlog
            if end < at_least:
                raise _cut(part, at_least, end)
            tracker.try_claim(Claim(index, part.next, end, 0))
            if not part.is_done:  # as it seems to be if the runner has just taken the rest
                told += self._told(name, max(0, min(end, part.stop) - part.next))
        return told

    def _told(self, name: TopicPartition, backlog: int, *, lost: int = 0) -> list[Segment]:
        known = self._backlogs[name]
        if known.now.records == backlog and not lost:
            return []
        return [Segment(*name, known.add(backlog, (), time.monotonic()), NO_TIMESTAMP_TYPE, (), (), lost=lost)]


class ReadParts(_ReadParts):
    """A read that ends."""

    def process(
        self,
        _: ReadRange,
        tracker: Any = _RANGE,
        watermark: Any = _WATERMARK,
    ) -> Iterator[Any]:
        yield from self._read(tracker, watermark)


class _ReadPartsForEver(_ReadParts):
    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        _: ReadRange,
        tracker: Any = _RANGE,
        watermark: Any = _WATERMARK,
    ) -> Iterator[Any]:
        yield from self._read(tracker, watermark)


class _CommittingReadParts(_ReadParts):
    def process(
        self,
        _: ReadRange,
        # First of the parameters: Beam 2.62 gives tracker and watermark by name, and the others by position.
        finalizer: Any = beam.DoFn.BundleFinalizerParam,
        tracker: Any = _RANGE,
        watermark: Any = _WATERMARK,
    ) -> Iterator[Any]:
        yield from self._read(tracker, watermark, finalizer)


class _CommittingReadPartsForEver(_ReadParts):
    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        _: ReadRange,
        # First of the parameters: Beam 2.62 gives tracker and watermark by name, and the others by position.
        finalizer: Any = beam.DoFn.BundleFinalizerParam,
        tracker: Any = _RANGE,
        watermark: Any = _WATERMARK,
    ) -> Iterator[Any]:
        yield from self._read(tracker, watermark, finalizer)


def make_reader(config: ReadConfig, consumers: ConsumerFactory) -> _ReadParts:
    """The DoFn for a read.

    Beam reads from a class's ``process`` whether it may go on for ever and whether it needs bundle finalization, which
    not every runner has: so there is a class for each.
    """
    if config.commit_offsets:
        form = _CommittingReadParts if config.is_bounded else _CommittingReadPartsForEver
    else:
        form = ReadParts if config.is_bounded else _ReadPartsForEver
    return form(config, consumers)


class _Ends:
    """Where partitions end, of all that a DoFn finds without a backlog: one request tells it of all of them.

    A reader goes from one partition to the next. Would it wait for records of each, or ask for each alone, the others
    would wait as often as there are idle ones.
    """

    def __init__(self, config: ReadConfig, consumers: ConsumerFactory) -> None:
        self._consumers = consumers
        self._is_committed = config.properties.get("isolation.level") == "read_committed"
        self._clients: list[Consumer] = []
        self._names: set[TopicPartition] = set()
        self._found: dict[TopicPartition, tuple[int, int]] = {}
        self._seen: set[TopicPartition] = set()
        self._asked_ms = 0
        self._asked_at = float("-inf")
        self._all_idle = False

    def of(self, name: TopicPartition, now_ms: Callable[[], int]) -> tuple[int, int, int]:
        """Where a partition ends: its stable part, all there is, and when [ms] that was so, since its last record."""
        left_s = self._asked_at + IDLE_DELAY_S - time.monotonic()
        if name in self._seen and self._all_idle:
            time.sleep(max(0, left_s))  # a runner that comes back at once, with nothing else to do
            left_s = 0
        if name not in self._found or left_s <= 0:
            self._ask(name, now_ms)
        self._seen.add(name)
        return *self._found[name], self._asked_ms

    def _ask(self, name: TopicPartition, now_ms: Callable[[], int]) -> None:
        if not self._clients:
            self._clients.append(self._consumers.open())
            if self._is_committed:
                self._clients.append(self._consumers.open(uncommitted=True))
        self._names.add(name)
        self._asked_ms = now_ms()  # before the question: a record may come between the answer and a later clock
        ends = [client.end_offsets(list(self._names)) for client in self._clients]
        self._found = {each: (ends[0][each], ends[-1][each]) for each in self._names}
        self._asked_at = time.monotonic()
        self._all_idle = True
        self._seen.clear()

    def forget(self, name: TopicPartition) -> None:
        """Records of it were read since it was asked for."""
        self._found.pop(name, None)
        self._seen.discard(name)
        self._all_idle = False

    def close(self) -> None:
        while self._clients:
            self._clients.pop().close()
        self._found = {}


class _Assigned:
    """A client and where it stands: the next offset that it will return of each of its partitions."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.positions: dict[TopicPartition, int] = {}


def _cut(part: Part, at_least: int, end: int) -> KafkaError:
    """The partition is not the one whose offsets the range holds.

    Args:
        part: what is left to be read of it.
        at_least: offset where it once ended, or a later one.
        end: where it ends now.
    """
    had = "" if at_least == part.next else f" and had offset {at_least}"
    return KafkaError(
        f"Partition {part.partition} of topic {part.topic} was read up to offset {part.next}{had}, but now it ends at "
        f"{end}: the topic was deleted and made again, or cut.",
        hint="Start the job anew, without its checkpoint: the offsets in it mean other records now. Also reset the "
        "committed offsets of its group, if it has one.",
    )


def _claim(tracker: Any, name: TopicPartition, records: Sequence[ConsumerRecord], end: int) -> Sequence[ConsumerRecord]:
    """Claim records of one partition and return those that are ours."""
    while True:
        todo = tracker.current_restriction()
        index = todo.index(*name)
        part = todo.parts[index]
        upto = records[-1].offset + 1
        if upto > part.stop:
            records = [record for record in records if record.offset < part.stop]
            upto = part.stop
        if todo.records_left is not None and len(records) > todo.records_left:
            records = records[: todo.records_left]
            upto = records[-1].offset + 1 if records else part.next
        if part.is_done or (not records and upto == part.next):
            return ()
        if tracker.try_claim(Claim(index, upto, end, len(records))):
            return records
        # Refused: another thread has split the range since we asked for it. It is smaller now; look again.


def _chunks(records: Sequence[ConsumerRecord]) -> Iterator[Sequence[ConsumerRecord]]:
    """Cut where a frame would grow too large or the type of timestamps changes."""
    start = size = 0
    kind = records[0].timestamp_type
    for at, record in enumerate(records):
        weight = len(record.key or b"") + len(record.value or b"")
        if at > start and (size + weight > FRAME_BYTES or record.timestamp_type != kind):
            yield records[start:at]
            start, size, kind = at, 0, record.timestamp_type
        size += weight
    yield records[start:]


def _timestamp_type(record: ConsumerRecord) -> int:
    if record.timestamp < 0 or record.timestamp_type is None:
        return NO_TIMESTAMP_TYPE
    return record.timestamp_type


def _timestamp(time_ms: int) -> Timestamp:
    return Timestamp(micros=time_ms * 1000)


def _set_watermark(watermark: Any, time_ms: int) -> None:
    new = _timestamp(time_ms)
    current = watermark.current_watermark()
    if current is None or new > current:
        watermark.set_watermark(new)
