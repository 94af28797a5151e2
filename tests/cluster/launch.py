"""Runs a pipeline script as a user would, in a process of its own, and looks for what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]


class Launch:
    """One run of ``python SCRIPT FLAGS``; its runs are registered below ``home``, not below the tester's own.

    Args:
        script: the user's program.
        flags: its command line.
        home: folder that stands for the user's home and working directory.
        environment: more environment variables.
    """

    def __init__(
        self, script: Path, flags: Sequence[str], home: Path, environment: dict[str, str] | None = None
    ) -> None:
        self.home = home
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, str(script), *flags],
            cwd=home,
            env={**os.environ, "XDG_STATE_HOME": str(home / "state"), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self.lines.append("")
            self._changed.notify_all()

    @property
    def output(self) -> str:
        """All it has printed so far."""
        return "".join(self.lines)

    def await_output(self, pattern: str, timeout: float = 120) -> re.Match[str]:
        """Wait until it has printed what the pattern finds."""
        found: list[re.Match[str]] = []

        def seen() -> bool:
            found.extend(re.finditer(pattern, self.output))
            return bool(found) or self.lines[-1:] == [""]

        with self._changed:
            assert self._changed.wait_for(seen, timeout), f"no {pattern!r} in:\n{self.output}"
        assert found, f"ended without {pattern!r}:\n{self.output}"
        return found[0]

    def wait(self, timeout: float = 240) -> int:
        """Its exit code; what it printed is complete then."""
        code = self.process.wait(timeout)
        self._reader.join(30)
        return code

    def interrupt(self) -> None:
        """Ctrl-C in its terminal."""
        os.killpg(self.process.pid, signal.SIGINT)

    @property
    def run_dirs(self) -> list[Path]:
        """Run directories that are there."""
        return sorted((self.home / "state" / "beam_k8s" / "runs").glob("*"))

    def processes(self, role: str = "") -> list[psutil.Process]:
        """All processes that work for its runs, or those whose command line has the role.

        Args:
            role: TaskManagerRunner, ClusterEntryPoint, transforms.boot or supervisor.
        """
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):  # it may end meanwhile
                command = process.cmdline()
                words = [*command, *process.environ().values(), process.cwd()]
                ours = process.pid not in {os.getpid(), self.process.pid} and any(
                    str(self.home) in each for each in words
                )
                if ours and any(role in each for each in command):
                    found.append(process)
        return found

    def kill_all(self) -> None:
        """End everything, for a test's last line."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        self.process.wait(30)
        self._reader.join(30)
        self.process.stdout.close()


def await_gone(processes: list[psutil.Process], timeout: float = 60) -> None:
    """Wait until the processes have ended."""
    _, alive = psutil.wait_procs(processes, timeout=timeout)
    assert not alive, alive
