"""Looks for a text in everything that a checkpoint wrote, also where it is compressed.

Flink compresses serializer snapshots with snappy in xerial framing: the magic ``82 "SNAPPY" 00``, two version numbers
of 4 bytes, then chunks of a 4-byte big-endian length and raw snappy data. A grep sees only what is not compressed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cramjam

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAGIC = b"\x82SNAPPY\x00"


def snappy_frames(data: bytes) -> Iterator[bytes]:
    """Every snappy frame in the data, decompressed; of a broken frame what could be read."""
    start = data.find(_MAGIC)
    while start >= 0:
        position, plain = start + 16, b""
        while position + 4 <= len(data):
            length = int.from_bytes(data[position : position + 4], "big")
            if not 0 < length <= len(data) - position - 4:
                break
            try:
                plain += bytes(cramjam.snappy.decompress_raw(data[position + 4 : position + 4 + length]))
            except cramjam.DecompressionError:
                break
            position += 4 + length
        yield plain
        start = data.find(_MAGIC, start + 8)


def occurrences(folder: Path, text: str) -> tuple[int, int]:
    """How often the text occurs in the files below a folder: (plain, inside snappy frames)."""
    needle, plain, compressed = text.encode(), 0, 0
    for file in folder.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            plain += data.count(needle)
            compressed += sum(frame.count(needle) for frame in snappy_frames(data))
    return plain, compressed
