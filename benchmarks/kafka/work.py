"""What every peer does with a record, and how it tells that it did. Standard library only: PyFlink imports it too."""

from __future__ import annotations

import json
import mmap
import os
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["FUNCTIONS", "KEYS", "WINDOW_SECONDS", "WORKS", "Meter", "count", "length", "parse"]

_CELLS = 8
"""Bytes of a count."""


def parse(value: bytes) -> dict[str, Any]:
    """A user's function that does something: most of the Python time of a record is its."""
    record: dict[str, Any] = json.loads(value)
    return record


def length(value: bytes) -> int:
    """One that does next to nothing: what remains is the way from Kafka to it."""
    return len(value)


FUNCTIONS: dict[str, Callable[[bytes], Any]] = {"json": parse, "length": length}
"""Read -> function."""
KEYS = {"keyed-10": 10, "keyed-1000": 1000, "keyed-100000": 100_000}
"""Read -> json -> count by key and window -> write; how many keys."""
WINDOW_SECONDS = 10
WORKS = (*FUNCTIONS, "write", *KEYS)
"""All, and ``write``: read -> json -> write every record."""


class Meter:
    """Counts the records of one worker where another process sees them, at 0.05 us a record.

    Args:
        folder: of all meters of a run.
    """

    def __init__(self, folder: str) -> None:
        file, _ = tempfile.mkstemp(dir=folder)
        os.write(file, bytes(_CELLS))
        self.cells = memoryview(mmap.mmap(file, _CELLS)).cast("q")
        os.close(file)


def count(folder: Path) -> int:
    """Records that all meters of a folder have seen."""
    return sum(int.from_bytes(file.read_bytes()[:_CELLS], "little") for file in folder.iterdir())
