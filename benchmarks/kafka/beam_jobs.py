"""The pipelines of Beam: with our transforms and runner, and with Beam's own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import apache_beam as beam
from apache_beam import typehints
from apache_beam.transforms.window import FixedWindows

from benchmarks.kafka.work import ASKING, FUNCTIONS, KEYS, LATENCY, METADATA, WINDOW_SECONDS, Meter, length, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["MOST_MS", "build"]

MOST_MS = 60_000
"""Longer latencies count as this."""
_RECORD = typehints.Tuple[bytes, bytes]


class _Metered(beam.DoFn):
    _size = 1
    """How many counts."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def setup(self) -> None:
        self._cells = Meter(self._folder, self._size).cells


class Use(_Metered):
    """The user's function on the values of (key, value) records, counted; nothing goes on."""

    def __init__(self, folder: str, function: str) -> None:
        super().__init__(folder)
        self._name = function

    def setup(self) -> None:
        super().setup()
        self._function = FUNCTIONS[self._name]

    def process(self, record: tuple[bytes, bytes]) -> Iterable[Any]:
        self._function(record[1])
        self._cells[0] += 1
        return ()


class UseValue(_Metered):
    """The length of the value of a record with metadata."""

    def process(self, record: Any) -> Iterable[Any]:
        length(record.value)
        self._cells[0] += 1
        return ()


class UseWithTimestamp(_Metered):
    """The length of the value, and the record's event time."""

    def process(self, record: tuple[bytes, bytes], timestamp: Any = beam.DoFn.TimestampParam) -> Iterable[Any]:
        length(record[1])
        self._cells[0] += timestamp.micros > 0
        return ()


class UseWithWindow(_Metered):
    """The length of the value, and the record's window."""

    def process(self, record: tuple[bytes, bytes], window: Any = beam.DoFn.WindowParam) -> Iterable[Any]:
        length(record[1])
        self._cells[0] += window is not None
        return ()


class Pass(_Metered):
    """The records themselves, once they were looked into."""

    def process(self, record: tuple[bytes, bytes]) -> Iterable[tuple[bytes, bytes]]:
        parse(record[1])
        self._cells[0] += 1
        return (record,)


class Age(_Metered):
    """Counts records by the milliseconds since the time [s since 1970] that they hold."""

    _size = MOST_MS + 1

    def process(self, record: tuple[bytes, bytes]) -> Iterable[Any]:
        age = int(1000 * (time.time() - parse(record[1])["at"]))
        self._cells[min(max(age, 0), MOST_MS)] += 1
        return ()


class Key(_Metered):
    """(key, 1), with so many keys."""

    def __init__(self, folder: str, keys: int) -> None:
        super().__init__(folder)
        self._keys = keys

    def process(self, record: tuple[bytes, bytes]) -> Iterator[tuple[bytes, int]]:
        self._cells[0] += 1
        yield b"%d" % (parse(record[1])["id"] % self._keys), 1


def build(pipeline: beam.Pipeline, source: beam.PTransform, sink: beam.PTransform, work: str, folder: str) -> None:
    """Read -> what ``work`` names, see ``work.WORKS``."""
    records = pipeline | "Read" >> source
    if work in FUNCTIONS:
        records | "Use" >> beam.ParDo(Use(folder, work))
    elif work in ASKING:
        if work.startswith("window"):
            records |= beam.WindowInto(FixedWindows(WINDOW_SECONDS))
        ask = {
            "timestamp": UseWithTimestamp(folder),
            "window": Use(folder, "length"),
            "window-param": UseWithWindow(folder),
            METADATA: UseValue(folder),
        }
        records | "Use" >> beam.ParDo(ask[work])
    elif work == LATENCY:
        records | "Age" >> beam.ParDo(Age(folder))
    elif work in KEYS:
        (
            records
            | "Key" >> beam.ParDo(Key(folder, KEYS[work])).with_output_types(typehints.Tuple[bytes, int])
            | beam.WindowInto(FixedWindows(WINDOW_SECONDS))
            | beam.CombinePerKey(sum)
            | "Line" >> beam.MapTuple(lambda key, number: (key, b"%d" % number)).with_output_types(_RECORD)
            | "Write" >> sink
        )
    else:
        records | "Pass" >> beam.ParDo(Pass(folder)).with_output_types(_RECORD) | "Write" >> sink
