"""Frames survive their own codec, and foreign bytes are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_k8s.transforms import frames

I64 = st.integers(-(2**63), 2**63 - 1)
I32 = st.integers(-(2**31), 2**31 - 1)
PAYLOADS = st.none() | st.binary(max_size=40)
RECORDS = st.lists(st.tuples(PAYLOADS, PAYLOADS), max_size=20)
HEADERS = st.lists(st.tuples(st.text(max_size=10), PAYLOADS), max_size=3)


@st.composite
def segments(draw: st.DrawFn, *, metadata: bool) -> frames.Segment:
    records = draw(RECORDS)
    n = len(records)

    def of(each: st.SearchStrategy) -> list:
        return draw(st.lists(each, min_size=n, max_size=n))

    segment = frames.Segment(
        draw(st.text(max_size=30)),
        draw(I32),
        frames.Backlog(draw(I64), draw(I64), draw(I64)),
        draw(st.sampled_from([0, 1, 255])),
        of(I64),
        records,
        lost=draw(I64),
    )
    if not metadata:
        return segment
    return segment._replace(offsets=of(I64), record_timestamps=of(I64), headers=of(HEADERS))


def plain(segment: frames.Segment) -> list:
    """A segment as nested lists: the codec may choose tuples where a caller gave lists."""
    return [
        *segment[:4],
        list(segment.timestamps),
        list(segment.records),
        list(segment.offsets),
        list(segment.record_timestamps),
        [list(block) for block in segment.headers],
        segment.lost,
    ]


@given(st.lists(segments(metadata=False), max_size=4))
def test_a_read_frame_gives_back_its_segments(given_segments: list[frames.Segment]) -> None:
    frame = frames.encode_read_frame(given_segments, metadata=False)
    assert list(map(plain, frames.decode_read_frame(frame))) == list(map(plain, given_segments))


@given(st.lists(segments(metadata=True), max_size=4))
def test_a_read_frame_with_metadata_gives_back_its_segments(
    given_segments: list[frames.Segment],
) -> None:
    frame = frames.encode_read_frame(given_segments, metadata=True)
    assert list(map(plain, frames.decode_read_frame(frame))) == list(map(plain, given_segments))


@st.composite
def batches(draw: st.DrawFn) -> frames.WriteBatch:
    records = draw(RECORDS)
    n = len(records)

    def of(each: st.SearchStrategy) -> list | None:
        return draw(st.none() | st.lists(each, min_size=n, max_size=n))

    return frames.WriteBatch(records, of(I64), of(HEADERS), of(st.text(max_size=10)), of(I32))


@given(batches())
def test_a_write_frame_gives_back_its_records(batch: frames.WriteBatch) -> None:
    again = frames.decode_write_frame(frames.encode_write_frame(batch))
    assert [field is None for field in again] == [field is None for field in batch]
    assert [list(field or ()) for field in again] == [list(field or ()) for field in batch]


def test_the_bytes_of_a_read_frame_are_the_contract_with_the_java_part() -> None:
    frame = frames.encode_read_frame(
        [
            frames.Segment(
                "é", 7, frames.Backlog(3, 9), frames.CREATE_TIME, [10, 11], [(b"k", b"vv"), (None, None)],
                offsets=[5, 6], record_timestamps=[10, 11], headers=[[("h", None), ("i", b"x")], []], lost=4,
            )
        ],
        metadata=True,
    )  # fmt: skip
    assert frame.hex(" ") == (
        "03 01 00 00 00 01"  # version, flags, segments
        " 00 02 c3 a9 00 00 00 07"  # topic, partition
        " 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 09 ff ff ff ff ff ff ff ff"  # backlog: records, bytes, ms
        " 00 00 00 00 00 00 00 04"  # lost
        " 00 00 00 00 02"  # type, n
        " 00 00 00 00 00 00 00 0a 00 00 00 00 00 00 00 0b"  # timestamps
        " 00 00 00 00 00 00 00 05 00 00 00 00 00 00 00 06"  # offsets
        " 00 00 00 00 00 00 00 0a 00 00 00 00 00 00 00 0b"  # the records' own timestamps
        " 00 00 00 01 ff ff ff ff"  # lengths of keys
        " 00 00 00 02 ff ff ff ff"  # lengths of values
        " 00 00 00 11 00 00 00 02"  # lengths of header blocks
        " 6b 76 76"  # first key and value
        " 00 02 00 01 68 ff ff ff ff 00 01 69 00 00 00 01 78"  # its headers
        " 00 00"  # no headers of the second
    )


def test_the_bytes_of_a_write_frame_are_the_contract_with_the_java_part() -> None:
    assert frames.encode_write_frame(frames.WriteBatch([(b"k", None), (None, b"v")])).hex(" ") == (
        "02 00 00 00 00 02 00 00 00 01 ff ff ff ff ff ff ff ff 00 00 00 01 6b 76"
    )
    full = frames.WriteBatch([(b"", b"")] * 3, [1, -1, 2], [[], [], []], ["é", "t", "é"], [-1, 7, 0])
    assert frames.encode_write_frame(full).hex(" ") == (
        "02 0f 00 00 00 03"  # version, flags, n
        " 00 02 00 02 c3 a9 00 01 74 00 00 00 01 00 00"  # table of topics, each record's place in it
        " ff ff ff ff 00 00 00 07 00 00 00 00"  # partitions
        " 00 00 00 00 00 00 00 01 ff ff ff ff ff ff ff ff 00 00 00 00 00 00 00 02"  # timestamps
        " 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00"  # lengths of keys and values
        " 00 00 00 02 00 00 00 02 00 00 00 02 00 00 00 00 00 00"  # header blocks: their lengths, and they
    )


@given(st.lists(segments(metadata=True), min_size=1, max_size=2), st.data())
def test_a_cut_frame_is_refused(given_segments: list[frames.Segment], data: st.DataObject) -> None:
    frame = frames.encode_read_frame(given_segments, metadata=True)
    cut = data.draw(st.integers(0, len(frame) - 1))
    with pytest.raises(frames.FrameError):
        frames.decode_read_frame(frame[:cut])


@given(batches(), st.data())
def test_a_cut_write_frame_is_refused(batch: frames.WriteBatch, data: st.DataObject) -> None:
    frame = frames.encode_write_frame(batch)
    cut = data.draw(st.integers(0, len(frame) - 1))
    with pytest.raises(frames.FrameError):
        frames.decode_write_frame(frame[:cut])


def test_a_tail_is_refused() -> None:
    with pytest.raises(frames.FrameError, match="lengths say"):
        frames.decode_write_frame(frames.encode_write_frame(frames.WriteBatch([])) + b"x")


def test_a_topic_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(frames.FrameError, match="No write frame"):
        frames.decode_write_frame(bytes.fromhex("02 04 00 00 00 01 00 00 00 00" + "00" * 8))


def test_another_version_is_refused_with_the_way_out() -> None:
    for decode in frames.decode_read_frame, frames.decode_write_frame:
        with pytest.raises(frames.FrameError, match="one release") as caught:
            decode(bytes.fromhex("09 00 00 00 00 00"))
        assert "version 9" in caught.value.message


def test_a_sequence_that_is_too_short_is_refused() -> None:
    for field in ("timestamps", "headers", "topics", "partitions"):
        with pytest.raises(frames.FrameError):
            frames.encode_write_frame(frames.WriteBatch([(b"k", b"v")], **{field: []}))
    with pytest.raises(frames.FrameError):
        frames.encode_read_frame([frames.Segment("t", 0, frames.Backlog(), 0, [1], [(b"k", b"v")])], metadata=True)
