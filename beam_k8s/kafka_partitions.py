"""Which partitions a Kafka read is of, and whether the offsets that its user named lie in them.

Asked twice, of the same broker: by the launcher, before anything is created, and by the Python form of the read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from beam_k8s.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Offsets", "matching", "misplaced", "offsets", "triples"]

Offsets = dict[tuple[str, int], int]
"""(topic, partition) -> offset."""


def triples(named: Offsets) -> list[list[object]]:
    """Offsets as JSON can hold them, in one order."""
    return [[*partition, offset] for partition, offset in sorted(named.items())]


def offsets(listed: Iterable[tuple[str, int, int]]) -> Offsets:
    """Inverse of ``triples``."""
    return {(topic, partition): offset for topic, partition, offset in listed}


def matching(pattern: str, topics: Iterable[str]) -> list[str]:
    """The topics whose whole name matches, in order."""
    return sorted(topic for topic in topics if re.fullmatch(pattern, topic))


def misplaced(start: Offsets, stop: Offsets, ends: Offsets) -> Iterable[ConfigError]:
    """What is wrong with the offsets that a read starts and stops at.

    Args:
        start: the read's ``start_offsets``.
        stop: its ``stop_offsets``, which may lie where nothing is yet written.
        ends: the end offset of every partition that there is of those named.
    """
    for option, named in (("start_offsets", start), ("stop_offsets", stop)):
        for (topic, partition), offset in named.items():
            end = ends.get((topic, partition))
            if end is None:
                yield ConfigError(
                    f"{option} has partition {partition} of topic {topic}, which has no such partition.",
                    hint="Partitions are counted from 0.",
                )
            elif option == "start_offsets" and offset > end:
                yield ConfigError(
                    f"start_offsets has {offset} for partition {partition} of topic {topic}, which ends at {end}.",
                    hint="Start at an offset that it has, or at its end.",
                )
