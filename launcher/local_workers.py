"""The TaskManagers of a job on this machine, for its autoscaler."""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import psutil

from beam_k8s.autoscaler.model import Memory
from beam_k8s.errors import Conflict, LocalClusterError
from beam_k8s.launcher.control import Control
from beam_k8s.launcher.target import WorkerFigures

if TYPE_CHECKING:
    from pathlib import Path

    from beam_k8s.autoscaler.model import Rescale

__all__ = ["LocalWorkers"]

_MEMORY_FILE = "autoscaler.json"


class LocalWorkers:
    """See Workers. Asks the supervisor over a connection of its own: the job's belongs to who waits for it.

    Args:
        run_dir: of the job.
        cpu: that a TaskManager may use, as far as this machine has them; nothing here holds it to that.
    """

    def __init__(self, run_dir: Path, cpu: float) -> None:
        self._run_dir = run_dir
        self._cpu = cpu
        self._at = math.nan
        self._used: dict[tuple[int, float], float] = {}

    def look(self) -> WorkerFigures:
        """See Workers."""
        status = self._ask(op="status")
        now, used = time.monotonic(), _cpu_seconds(status["taskmanagers"])
        spent = sum(seconds - self._used.get(process, 0.0) for process, seconds in used.items())
        limit = min(max(1, len(status["taskmanagers"])) * self._cpu, os.cpu_count() or 1)
        cpu = spent / (now - self._at) / limit
        self._at, self._used = now, used
        return WorkerFigures(status["workers"], cpu)

    def load(self) -> Memory:
        """See Workers."""
        try:
            return Memory.from_json(json.loads((self._run_dir / _MEMORY_FILE).read_text()))
        except FileNotFoundError:
            return Memory()
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise LocalClusterError(f"{self._run_dir / _MEMORY_FILE} cannot be read: {cause}") from cause

    def hindrance(self) -> str:
        """See Workers. Only the launcher of a job here knows how to scale it."""
        return ""

    def release(self) -> None:
        """See Workers."""

    def rescale(self, change: Rescale, memory: Memory) -> None:
        """See Workers."""
        wanted = self._ask(op="status")["workers"]
        if wanted != change.current:
            raise Conflict(f"somebody else has changed the workers, from {change.current} to {wanted}.")
        # Memory first: of a change that did not come about, it only makes the next loop wait for a while.
        before = self.load()
        self._keep(memory)
        try:
            self._ask(op="scale", workers=change.target)
        except LocalClusterError:
            self._keep(before)
            raise

    def _keep(self, memory: Memory) -> None:
        new = self._run_dir / f"{_MEMORY_FILE}.new"
        try:
            new.write_text(json.dumps(memory.as_json()))
            new.replace(self._run_dir / _MEMORY_FILE)
        except OSError as cause:
            raise LocalClusterError(f"{new} cannot be written: {cause.strerror}.") from cause

    def _ask(self, **request: Any) -> dict[str, Any]:
        try:
            control = Control.of_run(self._run_dir)
        except OSError as cause:
            raise LocalClusterError("the local cluster has ended.") from cause
        with closing(control):
            return control.ask(**request)


def _cpu_seconds(roots: list[int]) -> dict[tuple[int, float], float]:
    """CPU time of processes and all below them, by process id and start."""
    used = {}
    for root in roots:
        with suppress(psutil.Error):
            top = psutil.Process(root)
            for process in [top, *top.children(recursive=True)]:
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    used[process.pid, process.create_time()] = times.user + times.system
    return used
