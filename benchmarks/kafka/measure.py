"""Rate and CPU from the middle of a run: between two marks, when all is warm and nothing has run dry."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from benchmarks.kafka.work import count

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Figures", "Marks", "TooSlowError", "measure"]

_POLL_SECONDS = 0.05


class TooSlowError(Exception):
    """A peer did not get as far as the first mark."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Where the middle begins and ends."""

    warm_seconds: float
    """From the first record to the first mark."""
    seconds: float
    """From the first mark to the second, if the records last."""
    total: int
    """Records that there are; the second mark comes before the last 3 % of them."""
    patience: float = 120
    """Seconds until the first record."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run."""

    rate: float
    """Records a second."""
    jvm: float
    """CPU seconds of the JVMs for a million records."""
    python: float
    """CPU seconds of the Python processes for a million records."""
    records: int
    """Records between the marks."""
    seconds: float
    """Time between the marks."""

    @property
    def cpu(self) -> float:
        """CPU seconds for a million records."""
        return self.jvm + self.python


def measure(folder: Path, roots: Sequence[int], marks: Marks) -> Figures:
    """Watch the meters of a run.

    Args:
        folder: of the meters.
        roots: process ids; the CPU is theirs and that of all below them.
        marks: when.

    Raises:
        TooSlowError: nothing came, or it ended before it was warm.
    """
    deadline = time.monotonic() + marks.patience
    while count(folder) == 0:
        if time.monotonic() > deadline:
            raise TooSlowError(f"no record within {marks.patience:g} s")
        time.sleep(_POLL_SECONDS)
    last = int(marks.total * 0.97)
    time.sleep(marks.warm_seconds)
    cpu, begin, first = _cpu(roots), time.monotonic(), count(folder)
    if first >= last:
        raise TooSlowError(f"{first} of {marks.total} records were read before it was warm")
    while True:
        time.sleep(_POLL_SECONDS)
        now = count(folder)
        if now >= last or time.monotonic() - begin >= marks.seconds:
            break
    seconds = time.monotonic() - begin
    after = _cpu(roots)
    records = now - first
    if records == 0:
        raise TooSlowError(f"stuck at {now} records")
    per_million = 1e6 / records
    return Figures(
        rate=records / seconds,
        jvm=(after[0] - cpu[0]) * per_million,
        python=(after[1] - cpu[1]) * per_million,
        records=records,
        seconds=seconds,
    )


def _cpu(roots: Sequence[int]) -> tuple[float, float]:
    """CPU seconds of JVMs and of Python processes so far."""
    jvm = python = 0.0
    for root in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(root)
            for each in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = each.cpu_times()
                    if each.name() == "java":
                        jvm += times.user + times.system
                    elif each.name().startswith("python"):
                        python += times.user + times.system
    return jvm, python
