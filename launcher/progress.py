"""What the person at the terminal is told: on stderr, a line at a time."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Sending", "report"]

_PATIENCE_SECONDS = 2


def report(text: str) -> None:
    """One line of progress for the person at the terminal."""
    print(f"beam-k8s: {text}\n", end="", file=sys.stderr, flush=True)  # at once: other threads report too


class Sending:
    """The progress of what is sent, told every other second: what takes no longer is not worth a line."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told = clock()

    def __call__(self, digest: str, sent: int, total: int) -> None:
        """See oci.Progress."""
        if self._clock() - self._told >= _PATIENCE_SECONDS:
            self._told = self._clock()
            name = digest.removeprefix("sha256:")[:12]
            report(f"image: layer {name}: {sent / 1e6:.0f} of {total / 1e6:.0f} MB pushed")
