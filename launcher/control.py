"""The near end of a connection to the supervisor of a local cluster."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any

from beam_k8s.errors import LocalClusterError
from beam_k8s.launcher import supervisor

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Control"]


class Control:
    """A connection; one request after the other. For one thread."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        self._socket = connection
        self._file = connection.makefile("rb")

    @classmethod
    def of_run(cls, run_dir: Path) -> Control:
        """Connect to the supervisor of a run."""
        # A unix socket's path may have 107 bytes; a path through an open folder is always short.
        folder = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(f"/proc/self/fd/{folder}/{supervisor.CONTROL_SOCKET}")
        except OSError:
            connection.close()
            raise
        finally:
            os.close(folder)
        return cls(connection)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request; the answer.

        Raises:
            LocalClusterError: the supervisor is gone.
        """
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            line = self._file.readline()
        except OSError as cause:
            raise LocalClusterError("the local cluster has ended.") from cause
        if not line:
            raise LocalClusterError("the local cluster has ended.")
        return dict(json.loads(line))

    def close(self) -> None:
        self._file.close()
        self._socket.close()
