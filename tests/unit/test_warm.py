"""Harnesses that are forked: to whoever starts the command, each looks as if it were the command."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from beam_k8s.names import WORKER_LINE
from beam_k8s.transforms import warm
from beam_k8s.transforms.boot import LOG_OUTPUT
from tests.waiting import await_that

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has warm processes")

HARNESS = [sys.executable, "-m", "beam_k8s.transforms.boot"]
RUN_COMMANDS = """
import json, subprocess, sys, threading
def end(process):
    print(json.dumps([process.pid, process.wait()]), flush=True)
for line in sys.stdin:
    process = subprocess.Popen(**json.loads(line))
    print(json.dumps([process.pid, None]), flush=True)
    threading.Thread(target=end, args=(process,)).start()
"""


class Jvm:
    """Stands for a TaskManager: a process named java, with a warm process, that runs harnesses whose runner does not
    answer."""

    def __init__(self, folder):
        (folder / "java").symlink_to(sys.executable)
        self.output = folder / "output"
        self.silent = socket.create_server(("127.0.0.1", 0))
        self.process = subprocess.Popen(
            [folder / "java", "-c", RUN_COMMANDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.codes = {}
        self.environ = {**os.environ, LOG_OUTPUT: str(self.output)}
        self.warm = subprocess.Popen([*HARNESS, f"--warm={self.process.pid}"], env=self.environ)
        address = warm._address(self.process.pid).replace("\0", "@")
        await_that(lambda: address in Path("/proc/net/unix").read_text())

    def start(self, port=None, **environ):
        """Start a harness; returns its process id."""
        endpoint = f"--provision_endpoint=127.0.0.1:{port or self.silent.getsockname()[1]}"
        order = {"args": [*HARNESS, endpoint], "env": self.environ | environ}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._heard(None)

    def code(self, pid):
        """How a harness ended."""
        while pid not in self.codes:
            self._heard(0)
        return self.codes[pid]

    def _heard(self, until):
        while True:
            pid, code = json.loads(self.process.stdout.readline())
            if code is None:
                return pid
            self.codes[pid] = code
            if until is not None:
                return pid

    def forks(self, count):
        """Wait until there are so many; returns them."""
        await_that(lambda: len(self._forks()) == count)
        return self._forks()

    def _forks(self):
        flag = f"--warm={self.process.pid}"
        processes = [each for each in psutil.process_iter(["cmdline"]) if flag in (each.info["cmdline"] or [])]
        return [each for each in processes if each.pid != self.warm.pid]

    def close(self):
        for each in [self.process, self.warm, *self._forks()]:
            each.kill()
        self.process.communicate()
        self.warm.wait()
        self.silent.close()


@pytest.fixture
def jvm(tmp_path):
    jvm = Jvm(tmp_path)
    yield jvm
    jvm.close()


def test_harnesses_are_forks_of_one_process_that_ends_with_the_jvm(jvm):
    pids = [jvm.start() for _ in range(3)]
    assert {each.ppid() for each in jvm.forks(3)} == {jvm.warm.pid}
    os.kill(pids[0], signal.SIGKILL)
    jvm.forks(2)
    os.kill(pids[1], signal.SIGTERM)
    assert jvm.code(pids[1]) == 128 + signal.SIGTERM
    (last,) = jvm.forks(1)
    last.kill()
    assert jvm.code(pids[2]) == -signal.SIGKILL
    jvm.process.kill()
    assert jvm.warm.wait(30) == 0


def test_a_fork_speaks_for_its_command_and_gives_its_exit_code(jvm):
    pid = jvm.start()
    jvm.forks(1)
    jvm.silent.close()
    assert jvm.code(pid) == 1
    said = jvm.output.read_text()
    assert "StatusCode.UNAVAILABLE" in said
    assert all(line.startswith(WORKER_LINE.format(pid=pid)) for line in said.splitlines())


def test_a_command_that_would_import_otherwise_is_the_harness_itself(jvm):
    pid = jvm.start(OMP_NUM_THREADS="7")
    await_that(lambda: any("cygrpc" in each.path for each in psutil.Process(pid).memory_maps()))
    assert not jvm.forks(0)


def test_forks_outlive_the_warm_process_and_those_who_come_later_do_without(jvm):
    pid = jvm.start()
    (fork,) = jvm.forks(1)
    jvm.warm.kill()
    jvm.warm.wait()
    assert jvm.code(jvm.start(port=1)) == 1
    assert fork.is_running()
    fork.kill()
    assert jvm.code(pid) == 1
