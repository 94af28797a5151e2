"""A Python worker's output in a container: every line marked as its own, and none lost, however it ends."""

import os
import subprocess
import sys

import pytest

from beam_k8s.names import WORKER_LINE
from beam_k8s.transforms.boot import LOG_DIR, LOG_OUTPUT

SPEAK = "import os, signal, sys; from beam_k8s.transforms import boot; marker = boot._redirect_output(os.getpid()); "


def run(*arguments, env):
    """Run Python; return its exit code, process id, and what came out where its output was sent to."""
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, *arguments], env=env | {LOG_OUTPUT: f"/proc/self/fd/{writing}"}, pass_fds=[writing]
    ) as process:
        os.close(writing)
        with os.fdopen(reading) as output:
            said = output.read()  # until all that could still write have ended
    return process.returncode, process.pid, said


@pytest.mark.parametrize(
    ("end", "code"), [("os.kill(os.getpid(), signal.SIGKILL)", -9), ("boot._end(3, marker)", 3), ("sys.exit(4)", 4)]
)
def test_each_line_of_both_streams_is_marked_up_to_the_last(end, code):
    speak = SPEAK + f"[print(n, 'of [user] & \\\\1') for n in range(1000)]; print('err', file=sys.stderr); {end}"
    ended, pid, said = run("-c", speak, env=dict(os.environ))
    mark = WORKER_LINE.format(pid=pid)
    assert ended == code
    assert said.splitlines() == [*(f"{mark}{n} of [user] & \\1" for n in range(1000)), f"{mark}err"]


def test_a_worker_that_cannot_reach_its_runner_says_so_there():
    code, pid, said = run("-m", "beam_k8s.transforms.boot", "--provision_endpoint=127.0.0.1:1", env=dict(os.environ))
    mark = WORKER_LINE.format(pid=pid)
    assert code == 1
    assert "StatusCode.UNAVAILABLE" in said
    assert all(line.startswith(mark) for line in said.splitlines())


def test_a_worker_ends_on_sigterm_with_its_last_line():
    speak = SPEAK.replace("marker = boot._redirect_output(os.getpid()); ", "") + (
        "boot.sys.argv = ['boot', '--provision_endpoint=127.0.0.1:1']; "
        "import grpc; grpc.insecure_channel = lambda *_: (print('last'), os.kill(os.getpid(), signal.SIGTERM)); "
        "boot.main()"
    )
    code, pid, said = run("-c", speak, env={key: value for key, value in os.environ.items() if key != LOG_DIR})
    assert code == 128 + 15
    assert said == f"{WORKER_LINE.format(pid=pid)}last\n"


def test_a_bundle_does_not_wait_long_for_the_sampler_at_its_end():
    show = "from beam_k8s.transforms import boot; boot.sample_often(); "
    show += "from apache_beam.runners.worker import bundle_processor as b; "
    show += "print(b.statesampler.StateSampler('of a bundle', None).sampling_period_ms)"
    assert subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True).stdout == "10\n"
