"""Offsets of partitions as values: where a read starts and stops, what is left, how it is split, how far time is.

Pure: no broker, no Beam, no clock. Offsets are half-open ranges [next, stop); times are milliseconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from beam_k8s.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from beam_k8s.transforms.config import Start, Stop, TimestampPolicy

__all__ = [
    "NO_TIME",
    "UNBOUNDED",
    "Claim",
    "Part",
    "ReadRange",
    "WatermarkRule",
    "are_event_times",
    "event_times_of",
    "start_offset",
    "stop_offset",
]

# Beam's MIN_TIMESTAMP, and the end of its global window, after which no record may lie [ms].
_MIN_MS = -(2**63) // 1000 + 1
_MAX_MS = 2**63 // 1000 - 24 * 60 * 60 * 1000 - 1

NO_TIME = -(2**63)
"""As a record's event time [ms]: it has none."""

UNBOUNDED = 2**63 - 1
"""The ``stop`` of a partition that is read for ever. Kafka's own offsets are below it."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is to be read of one partition.

    ``end`` is the broker's end offset when it was last asked: what lies between ``next`` and it is known backlog.
    """

    topic: str
    partition: int
    next: int
    stop: int
    end: int

    @property
    def is_done(self) -> bool:
        return self.next >= self.stop

    @property
    def backlog(self) -> int:
        """Records [offsets] known to be left in this part; 0 if none are known."""
        return max(0, min(self.stop, self.end) - self.next)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a reader wants to have read: of part ``index`` all below ``next``, which holds ``records`` records."""

    index: int
    next: int
    end: int
    records: int


@dataclass(frozen=True, slots=True)
class ReadRange:
    """The restriction of the splittable DoFn: parts, and the limits that end the read before its parts do.

    A read without limits has one part a restriction, so that runners spread them. A limited one has all parts in one
    restriction, because a count of records cannot be kept by several readers that do not know of each other.
    """

    parts: tuple[Part, ...]
    records_left: int | None = None
    deadline_ms: int | None = None
    splittable: bool = True
    """False where offsets are committed: of two readers in one partition, the later one would commit what the earlier
    one has not yet read."""

    @property
    def is_limited(self) -> bool:
        return self.records_left is not None or self.deadline_ms is not None

    @property
    def is_bounded(self) -> bool:
        return self.is_limited or all(part.stop < UNBOUNDED for part in self.parts)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left. A deadline does not count: only the reader has a clock."""
        return self.records_left == 0 or all(part.is_done for part in self.parts)

    @property
    def size(self) -> int:
        """Records [offsets] known to be left."""
        backlog = sum(part.backlog for part in self.parts)
        return backlog if self.records_left is None else min(backlog, self.records_left)

    def index(self, topic: str, partition: int) -> int:
        """Which of the parts is of this partition."""
        return next(n for n, part in enumerate(self.parts) if (part.topic, part.partition) == (topic, partition))

    def allows(self, claim: Claim) -> bool:
        """Whether the claim lies within this range. A reader whose range was split must trim and ask again."""
        part = self.parts[claim.index]
        if self.records_left is not None and claim.records > self.records_left:
            return False
        return part.next <= claim.next <= part.stop and not (self.is_done and claim.records)

    def after(self, claim: Claim) -> ReadRange:
        """Return what is left after an allowed claim."""
        parts = list(self.parts)
        part = parts[claim.index]
        # A topic that is cut makes the end smaller, but what was wanted of a bounded read was there.
        end = claim.end if part.stop == UNBOUNDED else max(claim.end, min(part.end, part.stop))
        parts[claim.index] = replace(part, next=claim.next, end=end)
        left = None if self.records_left is None else self.records_left - claim.records
        return replace(self, parts=tuple(parts), records_left=left)

    def checkpoint(self) -> tuple[ReadRange, ReadRange] | None:
        """Cut where the reader stands: (nothing more to read, all that is left). None if nothing is left."""
        if self.is_done:
            return None
        done = tuple(replace(part, stop=part.next) for part in self.parts)
        left = tuple(part for part in self.parts if not part.is_done)
        return replace(self, parts=done), replace(self, parts=left)

    def split(self, fraction: float, *, at_least: int) -> tuple[ReadRange, ReadRange] | None:
        """Cut the known backlog: (the first ``fraction`` of it, the rest).

        Both sides hold at least ``at_least`` known records, else None: an unknown future is not worth a second reader.
        None also for limited reads, whose limits cannot be divided, and where offsets are committed.
        """
        if self.is_limited or not self.splittable or len(self.parts) != 1:
            return None
        (part,) = self.parts
        keep = max(at_least, int(part.backlog * fraction))
        if part.backlog - keep < at_least:
            return None
        cut = part.next + keep
        return (
            replace(self, parts=(replace(part, stop=cut),)),
            replace(self, parts=(replace(part, next=cut),)),
        )


def start_offset(
    start: Start,
    reset: str,
    *,
    beginning: int,
    end: int,
    committed: int | None = None,
    at_time: int | None = None,
    named: int | None = None,
) -> int:
    """Return the offset at which a partition's read starts.

    Args:
        start: as in the payload of the read.
        reset: ``auto.offset.reset``: what holds where the group has no committed offset.
        beginning: first offset that the broker still has.
        end: the broker's end offset.
        committed: the group's offset, None if it has none. The broker may not have it: that is the reader's affair.
        at_time: first offset at or after the wanted time, None if all records are older.
        named: the user's own offset, which wins over ``start``; as with a committed one, the broker may not have it.

    Raises:
        ConfigError: ``reset`` is ``none`` and the group has no offset.
    """
    if named is not None:
        return named
    if isinstance(start, dict):
        return end if at_time is None else at_time
    if start == "committed":
        if committed is not None:
            return committed
        start = reset
    if start == "earliest":
        return beginning
    if start == "latest":
        return end
    raise ConfigError(
        "The consumer group has no committed offset and consumer_config['auto.offset.reset'] is 'none'.",
        hint="Commit an offset for the group, or set auto.offset.reset to 'earliest' or 'latest'.",
    )


def stop_offset(stop: Stop | None, *, end: int, at_time: int | None = None, named: int | None = None) -> int:
    """Return the offset at which a partition's read ends, not included.

    Args:
        stop: as in the payload of the read.
        end: the broker's end offset.
        at_time: first offset at or after the wanted time, None if all records are older.
        named: the user's own offset, which wins over ``stop``.
    """
    if named is not None:
        return named
    if stop is None:
        return UNBOUNDED
    return end if at_time is None else at_time


def are_event_times(times_ms: Sequence[int]) -> bool:
    """Whether all of these, of which there is one at least, can be records' times in Beam: Kafka takes any 64 bits."""
    return min(times_ms) >= _MIN_MS and max(times_ms) <= _MAX_MS


def event_times_of(times_ms: Sequence[int]) -> Sequence[int]:
    """Those of these that can be records' times in Beam; may be none."""
    if not times_ms or are_event_times(times_ms):
        return times_ms
    return [time_ms for time_ms in times_ms if _MIN_MS <= time_ms <= _MAX_MS]


@dataclass(frozen=True, slots=True)
class WatermarkRule:
    """How far event time [ms] of a partition is known to be: no record older than it is expected.

    On Flink a partition that is idle (for the idle timeout it had no backlog, nor records of an open transaction) is
    left out of the minimum over partitions. A splittable DoFn has one watermark a restriction and no way to leave it
    out, so an idle one must advance by the clock instead, or it would hold back all others. It stays the idle timeout
    plus the out-of-orderness behind the clock: as the partition turns idle, its watermark is where it ran out of
    records. A partition with backlog is never idle.

    Two things cannot be as on Flink. If all partitions are idle, Flink's watermark stays; here records older than both
    times together are then late. And one that never held a record is left out at once there; here it must wait like the
    others, or a topic that is filled with old records just after the start would lose them.
    """

    policy: TimestampPolicy
    max_out_of_orderness_ms: int
    idle_timeout_ms: int

    def after_records(self, newest_ms: int, now_ms: int) -> int:
        """The watermark after records of which the newest has this timestamp.

        A timestamp of the future counts as now, or one wrong clock would make all other records late.
        """
        return min(newest_ms, now_ms) - self.max_out_of_orderness_ms

    def without_backlog(self, since_ms: int, now_ms: int) -> int | None:
        """The watermark when the broker said at ``now_ms`` that nothing is left; None: it stays where it is.

        ``since_ms``: when it first said so, no record having come in between.
        """
        if self.policy == "processing_time":
            # What comes later is stamped later: nothing can be late.
            return now_ms
        if self.idle_timeout_ms == 0 or now_ms - since_ms < self.idle_timeout_ms:
            return None
        return now_ms - self.idle_timeout_ms - self.max_out_of_orderness_ms

    def timestamps(self, record_timestamps: Sequence[int], *, is_log_append: bool, now_ms: int) -> Sequence[int]:
        """The event times of records by the policy; NO_TIME for those that have none.

        Raises:
            ConfigError: the policy is log append time, but the records carry another.
        """
        if self.policy == "processing_time":
            return [now_ms] * len(record_timestamps)
        if self.policy == "log_append_time" and not is_log_append:
            raise ConfigError(
                "timestamp_policy is LogAppendTime, but the topic's records carry their create time.",
                hint="Set message.timestamp.type=LogAppendTime on the topic, or use ReadFromKafka.create_time_policy.",
            )
        if min(record_timestamps) < 0:  # in the message format of Kafka 0.9, or of a producer that says so
            return [NO_TIME if time_ms < 0 else time_ms for time_ms in record_timestamps]
        return record_timestamps
