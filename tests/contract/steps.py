"""Steps of the contract's pipelines. In a module of their own, so that workers import them by name."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import apache_beam as beam
from apache_beam.transforms.window import FixedWindows

from beam_k8s.transforms import ProducerRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from beam_k8s.transforms import DeadLetter, KafkaRecord


def show_record(record: KafkaRecord) -> tuple[None, bytes]:
    """A record with all its metadata, as text that a test can compare."""
    assert type(record).__name__ == "KafkaRecord"
    fields = record._asdict()
    fields["headers"] = [(header.key, header.value) for header in record.headers]
    return None, repr(fields).encode()


def rewritten(record: KafkaRecord, topics: list[str | None]) -> ProducerRecord:
    """The record as it is, for a topic by its offset; every third with a key is left to the partitioner."""
    headers = [tuple(header) for header in record.headers]
    topic = topics[record.offset % len(topics)]
    partition = None if record.key and record.offset % 3 == 0 else record.partition
    return ProducerRecord(record.key, record.value, topic, headers, record.timestamp, partition)


def show(element: object) -> tuple[None, bytes]:
    return None, repr(element).encode()


class ShowTimestamp(beam.DoFn):
    def process(
        self, element: tuple[bytes, bytes], timestamp: Any = beam.DoFn.TimestampParam
    ) -> Iterator[tuple[bytes, bytes]]:
        yield element[0], str(timestamp.micros).encode()


class ShowWindow(beam.DoFn):
    def process(self, element: tuple[bytes, int], window: Any = beam.DoFn.WindowParam) -> Iterator[tuple[bytes, bytes]]:
        yield element[0], b"%d %d" % (window.start.micros // 1000, element[1])


class CountWindows(beam.PTransform):
    """Records -> (key, "start [ms] count") of each window of 10 s."""

    def expand(self, records: beam.PCollection) -> beam.PCollection:
        ones = records | beam.Map(one_each)
        return ones | beam.WindowInto(FixedWindows(10)) | beam.CombinePerKey(sum) | beam.ParDo(ShowWindow())


def event_time(record: KafkaRecord) -> float:
    """The value as ms since the epoch; it fails for others."""
    return int(record.value or b"") / 1000


def one_each(record: tuple[bytes, bytes]) -> tuple[bytes, int]:
    return record[0], 1


def slow_first(record: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    if record[0] == b"k0":
        time.sleep(1)
    return record


def until_stop(record: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    if record[1] == b"stop":
        raise RuntimeError("asked to stop")
    return record


def upper(data: bytes) -> bytes:
    return data.upper()


def upper_text(data: bytes) -> str:
    return data.decode().upper()


def encoded(record: tuple[bytes | None, str | None]) -> tuple[bytes | None, bytes | None]:
    return record[0], None if record[1] is None else record[1].encode()


def show_letter(letter: DeadLetter) -> tuple[None, bytes]:
    assert type(letter).__name__ == "DeadLetter"
    return None, repr((*letter[:6], [tuple(header) for header in letter.headers], letter.error)).encode()


def large(_: object) -> tuple[bytes, bytes]:
    return b"k", b"x" * 3_000_000
