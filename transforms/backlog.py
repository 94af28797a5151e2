"""How much of a partition is left to read: in records, bytes and seconds. Pure.

Flink's reader computes the same (``PartitionBacklog.java``): who reads a partition sees all of its records, which who
unpacks frames may not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from beam_k8s.transforms.frames import Backlog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from beam_k8s.transforms.frames import Record

__all__ = ["PartitionBacklog"]

_SMOOTHED_READS = 8
"""Over how many reads the size of a record is smoothed."""
_SMOOTHED_S = 30.0
"""Over how much time [s] of reading the rate is smoothed."""


class PartitionBacklog:
    """A partition's backlog, by the size and the rate of what was read of it.

    The rate is that of reading while there was a backlog, as Dataflow's "backlog seconds" are the time that it takes to
    read what is there: a reader that waits for records says nothing about how fast it can read them.
    """

    def __init__(self) -> None:
        self.now = Backlog()
        """What was found last."""
        self._size: float | None = None
        self._at: float | None = None
        self._read = 0.0
        self._seconds = 0.0

    def add(self, left: int, records: Sequence[Record], now: float) -> Backlog:
        """Take a read into account.

        Args:
            left: records that the broker has beyond these.
            records: what was read; may be none.
            now: monotonic time [s]; all before these was read until then.
        """
        if records:
            mean = sum(len(key or b"") + len(value or b"") for key, value in records) / len(records)
            self._size = mean if self._size is None else self._size + (mean - self._size) / _SMOOTHED_READS
        if self._at is not None and self.now.records > 0:
            passed = now - self._at
            kept = math.exp(-passed / _SMOOTHED_S)
            self._read = self._read * kept + len(records)
            self._seconds = self._seconds * kept + passed
        self._at = now
        if left == 0:
            self.now = Backlog(0, 0, 0)
        else:
            self.now = Backlog(
                left,
                Backlog().bytes if self._size is None else round(left * self._size),
                round(1000 * left * self._seconds / self._read) if self._read else Backlog().ms,
            )
        return self.now
