"""Records that came too late for their window: how many, where, and when that is worth a line. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["COUNTERS", "LateRecords"]

COUNTERS = ("droppedDueToLateness", "droppedDueToClosedWindow", "StatefulParDoDropped")
"""Beam's counters of records that a step dropped because their window had ended: of a GroupByKey or Combine, of one
whose trigger had closed the window, of a stateful DoFn."""


class LateRecords:
    """What was dropped since the last line, from counters that begin anew with each attempt of the job.

    Args:
        pause: fewest seconds between two lines.
    """

    def __init__(self, *, pause: float = 60.0) -> None:
        self._pause = pause
        self._seen: dict[str, int] = {}
        self._untold: dict[str, int] = {}
        self._told_at = float("-inf")

    def line(self, at: float, dropped: Mapping[str, int]) -> str:
        """What to tell now; empty if nothing.

        Args:
            at: the time, in seconds of any clock that does not go back; infinity: there is no later.
            dropped: step -> records that it has dropped in this attempt of the job. A step that is left out is unknown.
        """
        for step, count in dropped.items():
            seen = self._seen.get(step, 0)
            if more := count - seen if count >= seen else count:
                self._untold[step] = self._untold.get(step, 0) + more
            self._seen[step] = count
        if not self._untold or at - self._told_at < self._pause:
            return ""
        self._told_at = at
        told = ", ".join(f"{count:,} at {step}" for step, count in sorted(self._untold.items()))
        self._untold = {}
        return (
            f"warning: records came late and were dropped: {told}. Their windows had ended: raise max_out_of_orderness "
            "of ReadFromKafka, or allowed_lateness of WindowInto."
        )
