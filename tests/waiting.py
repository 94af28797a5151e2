"""Waiting for what a test has no event of."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["await_that"]


def await_that(what: Callable[[], object]) -> None:
    """Look again and again until something holds; fails after a minute."""
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)
