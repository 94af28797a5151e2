"""Rate and CPU from the middle of a run: between two marks, when all is warm and nothing has run dry."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks.kafka.work import count

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

__all__ = ["Figures", "Marks", "TooSlowError", "measure", "thread_name"]

_POLL_SECONDS = 0.05
_TICKS = os.sysconf("SC_CLK_TCK")
_WARM_SHARE = 0.1
"""A JVM is warm when its compilers use less than this of the CPU that the run uses. While they are at it they use most:
a first job takes 30 s to a minute until its CPU a record is what it stays at."""
_LOOK_SECONDS = 4
"""Over which that is looked at: compilers pause for a second now and then."""


class TooSlowError(Exception):
    """A peer did not get as far as the first mark."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Where the middle begins and ends."""

    warm_seconds: float
    """From the first record to the first mark, at least."""
    seconds: float
    """From the first mark to the second, if the records last."""
    total: int
    """Records that there are; the second mark comes before the last 3 % of them."""
    compile_seconds: float = 0
    """How much later the first mark may be, for the JVM's compilers to be done."""
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
    threads: dict[str, float]
    """Of the JVMs' threads, most first: CPU seconds for a million records. Those of compilers are what is not warm."""

    @property
    def cpu(self) -> float:
        """CPU seconds for a million records."""
        return self.jvm + self.python


def measure(
    folder: Path, roots: Sequence[int], marks: Marks, recording: AbstractContextManager[object] | None = None
) -> Figures:
    """Watch the meters of a run.

    Args:
        folder: of the meters.
        roots: process ids; the CPU is theirs and that of all below them.
        marks: when.
        recording: what is to be entered at the first mark and left at the second.

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
    _await_compilers(roots, marks, folder, last)
    with recording or contextlib.nullcontext():
        cpu, threads, begin, first = _cpu(roots), _threads(roots), time.monotonic(), count(folder)
        if first >= last:
            raise TooSlowError(f"{first} of {marks.total} records were read before it was warm")
        while True:
            time.sleep(_POLL_SECONDS)
            now = count(folder)
            if now >= last or time.monotonic() - begin >= marks.seconds:
                break
        seconds = time.monotonic() - begin
        after, threads_after = _cpu(roots), _threads(roots)
    records = now - first
    if records == 0:
        raise TooSlowError(f"stuck at {now} records")
    per_million = 1e6 / records
    threads_after.subtract(threads)
    return Figures(
        rate=records / seconds,
        jvm=(after[0] - cpu[0]) * per_million,
        python=(after[1] - cpu[1]) * per_million,
        records=records,
        seconds=seconds,
        threads={name: used / _TICKS * per_million for name, used in threads_after.most_common()},
    )


def _await_compilers(roots: Sequence[int], marks: Marks, folder: Path, last: int) -> None:
    """Wait until the JVMs are warm, while time and the records that remain to be measured allow it."""
    deadline = time.monotonic() + marks.compile_seconds
    while time.monotonic() < deadline:
        before, used, read = _threads(roots), sum(_cpu(roots)), count(folder)
        time.sleep(_LOOK_SECONDS)
        spent = _threads(roots)
        spent.subtract(before)
        compilers = sum(ticks for name, ticks in spent.items() if "CompilerThre" in name) / _TICKS
        now = count(folder)
        needed = (now - read) / _LOOK_SECONDS * (marks.seconds + _LOOK_SECONDS)
        if compilers < _WARM_SHARE * (sum(_cpu(roots)) - used) or last - now < needed:
            return


def _processes(roots: Sequence[int]) -> list[psutil.Process]:
    found = []
    for root in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(root)
            found += [process, *process.children(recursive=True)]
    return found


def _cpu(roots: Sequence[int]) -> tuple[float, float]:
    """CPU seconds of JVMs and of Python processes so far."""
    jvm = python = 0.0
    for each in _processes(roots):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            if each.name() == "java":
                jvm += times.user + times.system
            elif each.name().startswith("python"):
                python += times.user + times.system
    return jvm, python


def _threads(roots: Sequence[int]) -> Counter[str]:
    """CPU ticks of the JVMs' threads so far, by name without its number (Linux cuts names at 15 characters)."""
    ticks: Counter[str] = Counter()
    for each in _processes(roots):
        with contextlib.suppress(psutil.NoSuchProcess, OSError):
            if each.name() == "java":
                for task in Path(f"/proc/{each.pid}/task").iterdir():
                    with contextlib.suppress(OSError):
                        name, _, fields = (task / "stat").read_text().partition("(")[2].rpartition(") ")
                        user, system = fields.split()[11:13]
                        ticks[thread_name(name)] += int(user) + int(system)
    return ticks


def thread_name(name: str) -> str:
    """Of a thread without its number, as Linux cuts it."""
    return name[:15].rstrip("0123456789#-")
