"""Keeps the Flink processes of one local cluster: starts, restarts, scales and stops them, by process id.

Its own process, so that it outlives a launcher that detaches (Ctrl-C) and cleans up after one that crashes: it inherits
one end of a connection whose other end the launcher holds, and if that closes without ``detach`` it stops everything.
It is a child subreaper (prctl(2)): Python harnesses whose TaskManager was killed become its children, and end there.

Control protocol, on the inherited connection and on the unix socket ``control.sock`` of the run directory: one JSON
object a line; requests ``{"op": "detach" | "status" | "stop"}`` and ``{"op": "scale", "workers": N}``, each answered by
one object.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

__all__ = ["CONTROL_SOCKET", "ERROR_FILE", "RESTORE", "STOPPED_FILE", "main", "newest_checkpoint"]

CONTROL_SOCKET = "control.sock"
ERROR_FILE = "error"
"""Why the supervisor gave up, if it did."""
STOPPED_FILE = "stopped"
"""There if somebody asked it to stop: the job was cancelled, whatever else it left."""
RESTORE = "@RESTORE@"
"""In the JobManager's arguments, where Flink's own end: what it starts from."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_GRACE_SECONDS = 10.0
"""How long a process may take to follow SIGTERM before it is killed."""
_SHORT_LIFE_SECONDS = 10.0
_SHORT_LIVES = 4
"""A process that ends this often within so few seconds of its start will not be started again."""


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest completed checkpoint or savepoint at or below a folder; None if there is none.

    Flink writes ``_metadata`` last, so a folder that has it is complete.
    """
    found = [path for path in folder.glob("**/_metadata") if path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime_ns).parent if found else None


@dataclass(slots=True)
class _Process:
    role: str
    popen: subprocess.Popen[bytes]
    started: float
    killed_at: float | None = None
    """When it is killed if it is still there: it was asked to leave before."""


@dataclass(slots=True)
class _Supervisor:
    run_dir: Path
    spec: dict[str, Any]
    launcher: socket.socket | None
    """The launcher's connection, until it detaches."""
    processes: dict[int, _Process] = field(default_factory=dict)
    workers: int = 0
    started_workers: int = 0
    short_lives: dict[str, int] = field(default_factory=dict)
    restarts: int = 0
    error: str = ""
    stopping: bool = False

    # Processes

    def start(self, role: str) -> None:
        """Start one JobManager or TaskManager."""
        arguments = list(self.spec[role])
        name = role
        if role == "taskmanager":
            self.started_workers += 1
            name = f"taskmanager-{self.started_workers}"
        elif RESTORE in arguments:
            restore = self.spec["restore"]
            if self.restarts and (checkpoint := self.newest()):
                restore = ["--fromSavepoint", f"file://{checkpoint}"]
            place = arguments.index(RESTORE)
            arguments[place : place + 1] = restore
        arguments = [argument.replace("@NAME@", name) for argument in arguments]
        with (self.run_dir / "logs" / f"{name}.out").open("ab") as out:
            popen = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread
            )
        self.processes[popen.pid] = _Process(role, popen, time.monotonic())

    def newest(self) -> Path | None:
        folder = self.spec.get("checkpoints")
        return newest_checkpoint(Path(folder)) if folder else None

    def reap(self) -> None:
        """Take note of ended children and replace those that are still wanted."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            process = self.processes.pop(pid, None)
            if process is None:
                continue  # a harness of a TaskManager that is gone
            process.popen.returncode = os.waitstatus_to_exitcode(status)
            if not self.stopping:
                self.ended(process)
            self.kill_orphans()

    def ended(self, process: _Process) -> None:
        code = process.popen.returncode
        if process.role == "jobmanager" and code >= 0:
            self.stopping = True  # the job is over, or could not be started: the launcher reads which
            return
        if process.role == "leaving":
            return
        short = time.monotonic() - process.started < _SHORT_LIFE_SECONDS
        lives = self.short_lives[process.role] = self.short_lives.get(process.role, 0) + 1 if short else 0
        if lives >= _SHORT_LIVES:
            self.error = f"the {process.role} ended {lives} times right after its start, last with code {code}"
            self.stopping = True
            return
        self.restarts += process.role == "jobmanager"
        self.start(process.role)

    def kill_orphans(self) -> None:
        """End harnesses whose TaskManager is gone: they are our children now, but we did not start them."""
        for child in psutil.Process().children():
            if child.pid not in self.processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    for process in [*child.children(recursive=True), child]:
                        process.kill()

    def count(self, role: str) -> int:
        return sum(process.role == role for process in self.processes.values())

    def scale(self, workers: int) -> None:
        """Start or stop TaskManagers until there are so many; the newest are stopped first."""
        self.workers = workers
        for _ in range(workers - self.count("taskmanager")):
            self.start("taskmanager")
        running = [pid for pid, process in self.processes.items() if process.role == "taskmanager"]
        for pid in running[workers:]:
            self.processes[pid].role = "leaving"
            self.processes[pid].killed_at = time.monotonic() + _GRACE_SECONDS
            os.kill(pid, signal.SIGTERM)

    def kill_overdue(self) -> float | None:
        """Kill what does not leave in time, as a kubelet does; the seconds to the next such time, if there is one."""
        now = time.monotonic()
        for pid, process in self.processes.items():
            if process.killed_at is not None and process.killed_at <= now:
                process.killed_at = None
                os.kill(pid, signal.SIGKILL)
        return min((process.killed_at - now for process in self.processes.values() if process.killed_at), default=None)

    def stop(self) -> None:
        """End every process, politely first."""
        mine = psutil.Process()
        for process in self.processes.values():
            process.popen.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECONDS
        while (children := mine.children()) and time.monotonic() < deadline:
            psutil.wait_procs(children, timeout=max(0.0, deadline - time.monotonic()))
        for child in mine.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(mine.children(), timeout=_GRACE_SECONDS)
        for name in self.spec["secret_files"]:
            (self.run_dir / name).unlink(missing_ok=True)
        shutil.rmtree(self.run_dir / "tmp", ignore_errors=True)

    # Control

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request:
            case {"op": "detach"}:
                self.launcher = None
            case {"op": "scale", "workers": int(workers)} if workers >= 1:
                self.scale(workers)
            case {"op": "stop"}:
                self.stopping = True
                (self.run_dir / STOPPED_FILE).touch()
            case {"op": "status"}:
                pass
            case _:
                return {"error": f"unknown request {request}"}
        return {
            "jobmanager": [pid for pid, process in self.processes.items() if process.role == "jobmanager"],
            "taskmanagers": [pid for pid, process in self.processes.items() if process.role == "taskmanager"],
            "workers": self.workers,
            "restarts": self.restarts,
            "error": self.error,
        }

    def receive(self, connection: socket.socket) -> bool:
        """Answer what came; False when the peer is gone."""
        try:
            data = connection.recv(65536)
        except OSError:
            data = b""
        if not data:
            if connection is self.launcher:
                self.stopping = True  # the launcher crashed: nobody will look after this cluster
            return False
        for line in data.splitlines():
            try:
                reply = self.answer(json.loads(line))
            except ValueError as error:
                reply = {"error": str(error)}
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(reply).encode() + b"\n")
        return True

    def run(self) -> None:
        read_signals, write_signals = os.pipe()
        os.set_blocking(write_signals, False)
        os.set_blocking(read_signals, False)
        signal.set_wakeup_fd(write_signals, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopping", True))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to handle
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(CONTROL_SOCKET)
        listener.listen()
        with selectors.DefaultSelector() as selector:
            selector.register(read_signals, selectors.EVENT_READ)
            selector.register(listener, selectors.EVENT_READ)
            if self.launcher is not None:
                selector.register(self.launcher, selectors.EVENT_READ)
            self.start("jobmanager")
            self.scale(self.spec["workers"])
            while not self.stopping:
                for key, _ in selector.select(self.kill_overdue()):
                    if key.fileobj is listener:
                        selector.register(listener.accept()[0], selectors.EVENT_READ)
                    elif isinstance(key.fileobj, socket.socket):
                        if not self.receive(key.fileobj):
                            selector.unregister(key.fileobj)
                            key.fileobj.close()
                    else:
                        with contextlib.suppress(BlockingIOError):
                            os.read(read_signals, 4096)
                self.reap()
        if self.error:
            (self.run_dir / ERROR_FILE).write_text(self.error)
        self.stop()
        Path(CONTROL_SOCKET).unlink(missing_ok=True)
        if self.launcher is None:
            self.tidy_up()

    def tidy_up(self) -> None:
        """Do what the launcher of a run would do at its end: a detached one has none any more."""
        if (link := Path(self.spec["registered"])).is_symlink():
            link.unlink()
        if self.spec["remove_when_done"] and self.has_finished():
            shutil.rmtree(self.run_dir, ignore_errors=True)

    def has_finished(self) -> bool:
        """Whether the job has ended well, by what Flink left of it."""
        from beam_k8s.launcher import flink_rest

        job_id = self.spec["job_id"]
        try:
            archive = flink_rest.ArchivedFlink(self.run_dir / "archive" / job_id)
        except (OSError, ValueError):
            return False
        return flink_rest.status(archive, job_id) == "FINISHED"


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def _die_with_parent() -> None:
    os.setpgid(0, 0)  # Ctrl-C in the user's terminal is not for Flink
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Supervise the cluster that ``cluster.json`` in a run directory describes.

    Arguments: the run directory, and the file descriptor of the launcher's connection.
    """
    run_dir, launcher = Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    launcher.set_inheritable(False)
    os.chdir(run_dir)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    spec = json.loads((run_dir / "cluster.json").read_text())
    _Supervisor(run_dir, spec, launcher).run()


if __name__ == "__main__":
    main()
