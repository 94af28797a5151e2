"""Looks after a running job beside whoever waits for it, and tells what nobody would see in its state."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING

from beam_k8s.errors import BeamK8sError
from beam_k8s.lateness import LateRecords
from beam_k8s.launcher.progress import report
from beam_k8s.silence import SILENT_AFTER_SECONDS, Silence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from beam_k8s.silence import SourceLook

__all__ = ["Watch"]

_LOGGER = logging.getLogger(__name__)
_INTERVAL_SECONDS = 5.0

_LAST_LOOK_SECONDS = 10.0
"""Longest wait for a look that is under way when the job has ended."""


class Watch:
    """A thread that looks at a job until it is stopped. What it meets never reaches the thread that waits for the job.

    Args:
        name: of the job.
        late: step -> records that it has dropped as late, as far as is known.
        sources: the sources that run, as far as is known.
    """

    def __init__(
        self, name: str, late: Callable[[], Mapping[str, int]], sources: Callable[[], Iterable[SourceLook]]
    ) -> None:
        self._name, self._late, self._sources = name, late, sources
        self._late_records = LateRecords()
        self._silence = Silence(after=SILENT_AFTER_SECONDS)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {name}", daemon=True)
        self._thread.start()

    def stop(self, late: Mapping[str, int]) -> None:
        """The job has ended, or is left alone: look no more. Idempotent.

        Args:
            late: as the other, of the job's end.
        """
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._thread.join(_LAST_LOOK_SECONDS)
        self._tell(self._late_records.line(math.inf, late))

    def _run(self) -> None:
        while not self._stopped.wait(_INTERVAL_SECONDS):
            try:
                self._tell(self._late_records.line(time.monotonic(), self._late()))
                for line in self._silence.lines(time.monotonic(), self._sources()):
                    self._tell(line)
            except BeamK8sError:
                pass  # Flink is not there yet, or just starts anew
            except Exception:
                _LOGGER.exception("A look at a job failed job=%s", self._name)

    def _tell(self, line: str) -> None:
        if line:
            report(f"{self._name}: {line}")
