"""A real image registry on this machine, from Debian's package, for the time of a ``with`` block."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING, Self

import requests
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.cluster import parts

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ImageRegistry"]

_PROGRAM = "docker-registry"
_CONFIG = """\
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {folder}/data}}
  delete: {{enabled: true}}
http: {{addr: {host}}}
{auth}
"""
_AUTH = "auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}"


class ImageRegistry:
    """A running registry; it speaks plain HTTP.

    Args:
        folder: for its files; made if it is missing.
        htpasswd: a line ``user:bcrypt`` of who may use it; None = everybody.
        address: where it listens; ``tests.cluster.kube.HOST`` is the one that the test cluster reaches.
    """

    host: str
    """``ADDRESS:PORT``, as in the names of its images."""

    def __init__(self, folder: Path, *, htpasswd: str | None = None, address: str = "127.0.0.1") -> None:
        self.folder = folder
        self._htpasswd = htpasswd
        self._address = address
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        with closing(socket.socket()) as probe:
            probe.bind((self._address, 0))
            self.host = f"{self._address}:{probe.getsockname()[1]}"
        auth = ""
        if self._htpasswd is not None:
            (self.folder / "htpasswd").write_text(self._htpasswd + "\n")
            auth = _AUTH.format(folder=self.folder)
        config = self.folder / "config.yml"
        config.write_text(_CONFIG.format(folder=self.folder, host=self.host, auth=auth))
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [_program(), "serve", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
            )
        try:
            self._await_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    @retry(
        retry=retry_if_exception_type(requests.ConnectionError),
        stop=stop_after_delay(30),
        wait=wait_fixed(0.05),
        reraise=True,
    )
    def _await_ready(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        requests.get(f"http://{self.host}/v2/", timeout=10)

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(30)


def _program() -> str:
    if shutil.which(_PROGRAM) is None:
        if os.geteuid() != 0:
            raise RuntimeError(f"{_PROGRAM} is missing. Debian: apt-get install {_PROGRAM}")
        parts.apt_install(_PROGRAM)
    return _PROGRAM
