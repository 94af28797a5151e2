"""What the person at the terminal is told: on stderr, a line at a time."""

from __future__ import annotations

import sys

__all__ = ["report"]


def report(text: str) -> None:
    """One line of progress for the person at the terminal."""
    print(f"beam-k8s: {text}", file=sys.stderr, flush=True)
