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

__all__ = [
    "ASKING",
    "FUNCTIONS",
    "KEYS",
    "LATENCY",
    "METADATA",
    "WINDOW_SECONDS",
    "WORKS",
    "Meter",
    "cells",
    "count",
    "length",
    "parse",
]

_CELL = 8
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
METADATA = "metadata"
ASKING = ("timestamp", "window", "window-param", METADATA)
"""As ``length``, of more than key and value: with a TimestampParam; behind a WindowInto; behind one and with a
WindowParam; of records with metadata. Of Beam's peers."""
WORKS = (*FUNCTIONS, "write", *KEYS, *ASKING)
"""All, and ``write``: read -> json -> write every record."""
LATENCY = "latency"
"""Read -> json -> count by milliseconds since the time that the record holds; not of ``WORKS``: see ``latency``."""


class Meter:
    """Counts the records of one worker where another process sees them, at 0.05 us a record.

    Args:
        folder: of all meters of a run.
        size: how many counts.
    """

    def __init__(self, folder: str, size: int = 1) -> None:
        file, _ = tempfile.mkstemp(dir=folder)
        os.write(file, bytes(size * _CELL))
        self.cells = memoryview(mmap.mmap(file, size * _CELL)).cast("q")
        os.close(file)


def count(folder: Path) -> int:
    """Records that all meters of a folder have seen."""
    return sum(each[0] for each in cells(folder))


def cells(folder: Path) -> list[memoryview]:
    """The counts of each meter of a folder."""
    return [memoryview(file.read_bytes()).cast("q") for file in folder.iterdir()]
