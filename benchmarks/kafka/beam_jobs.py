"""The pipelines of Beam: with our transforms and runner, and with Beam's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import apache_beam as beam

from benchmarks.kafka.work import FUNCTIONS, Meter

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Parse", "read"]


class Parse(beam.DoFn):
    """The user's function on the values of (key, value) records, counted; nothing goes on."""

    def __init__(self, folder: str, function: str) -> None:
        self._folder = folder
        self._name = function

    def setup(self) -> None:
        self._function = FUNCTIONS[self._name]
        self._cells = Meter(self._folder).cells

    def process(self, record: tuple[bytes, bytes]) -> Iterable[Any]:
        self._function(record[1])
        self._cells[0] += 1
        return ()


def read(pipeline: beam.Pipeline, source: beam.PTransform, folder: str, function: str) -> None:
    """Read -> DoFn."""
    pipeline | "Read" >> source | "Parse" >> beam.ParDo(Parse(folder, function))
