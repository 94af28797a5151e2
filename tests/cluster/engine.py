"""A real Docker engine on this machine, from Debian's package, for the time of a ``with`` block."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Self

import psutil
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed

from tests.cluster import parts

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DockerEngine"]


class DockerEngine:
    """A running engine. Its containers have this machine's network or none; nothing of this machine is changed for it.

    Args:
        folder: for its files; made if it is missing. Its images and build cache are there the next time, too.
    """

    url: str
    """As in ``DOCKER_HOST``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._folder}/socket"

    def __enter__(self) -> Self:
        _install()
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "daemon.json").write_text("{}")
        (self._folder / "pid").unlink(missing_ok=True)
        command = [
            # It ends with this process, its processes and mounts with the first of them.
            *("setpriv", "--pdeathsig", "KILL"),
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "dockerd"),
            *(f"--config-file={self._folder}/daemon.json", f"--host={self.url}", f"--pidfile={self._folder}/pid"),
            *(f"--data-root={self._folder}/data", f"--exec-root={self._folder}/exec", "--bridge=none"),
            *("--iptables=false", "--ip6tables=false"),
        ]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._await_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    @retry(retry=retry_if_result(lambda up: not up), stop=stop_after_delay(60), wait=wait_fixed(0.1))
    def _await_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        return subprocess.run(self.command("version"), capture_output=True, check=False).returncode == 0

    def command(self, *arguments: str) -> list[str]:
        """Of Docker's client, to be run."""
        return ["docker", "--host", self.url, *arguments]

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is not None:
            for daemon in psutil.Process(process.pid).children():
                daemon.terminate()
            process.wait(60)


def _install() -> None:
    if shutil.which("dockerd") is None:
        if os.geteuid() != 0:
            raise RuntimeError("dockerd is missing. Debian: apt-get install docker.io")
        parts.apt_install("docker.io")
