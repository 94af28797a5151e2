"""HTTP to a pod through the API server, as ``kubectl port-forward`` does: works wherever kubectl does, policies or not.

Kubernetes' protocol (v4.channel.k8s.io): each WebSocket frame begins with the number of its channel; 0 is the port, 1
its errors; the first frame of each says the port's number.
"""

from __future__ import annotations

import http.client
import io
import json
import threading
from typing import TYPE_CHECKING, Any

import websocket

from beam_k8s.errors import FlinkError, KubernetesError
from beam_k8s.launcher.flink_rest import RestError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["REST_PORT", "ForwardedFlink", "PodPort"]

REST_PORT = 8081
_ANSWER_SECONDS = 10.0
_DATA, _ERROR = 0, 1


class PodPort:
    """What http.client needs of a socket, on a WebSocket to one port of a pod."""

    def __init__(self, connected: websocket.WebSocket) -> None:
        connected.settimeout(_ANSWER_SECONDS)
        self._socket = connected
        self._opened: set[int] = set()
        """Channels whose first frame is through."""

    def sendall(self, data: bytes) -> None:
        """Send bytes to the port.

        Raises:
            OSError: the connection is gone.
        """
        try:
            self._socket.send_binary(bytes([_DATA]) + data)
        except websocket.WebSocketException as cause:
            raise ConnectionError(str(cause)) from cause

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What the port sends, as a file."""
        return io.BufferedReader(_Received(self))

    def receive(self) -> bytes:
        """The next bytes that the port sends; none at its end.

        Raises:
            OSError: the connection is gone, or the port refuses.
        """
        while True:
            try:
                opcode, frame = self._socket.recv_data()
            except websocket.WebSocketException as cause:
                raise ConnectionError(str(cause)) from cause
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return b""
            channel, content = frame[0], frame[1:]
            if channel not in self._opened:
                self._opened.add(channel)
            elif channel == _ERROR:
                raise ConnectionError(content.decode(errors="replace"))
            elif content:
                return bytes(content)

    def close(self) -> None:
        """Hang up. Idempotent."""
        self._socket.shutdown()


class _Received(io.RawIOBase):
    """Closing it leaves the connection as it is: http.client makes one for each answer."""

    def __init__(self, port: PodPort) -> None:
        self._port = port
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or self._port.receive()
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


class ForwardedFlink:
    """Flink's REST endpoint through the API server; the connection is kept, and made anew when its pod is another.

    Args:
        name: of the job.
        connect: to the port of its JobManager; raises KubernetesError.
    """

    def __init__(self, name: str, connect: Callable[[], PodPort]) -> None:
        self._name, self._connect = name, connect
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()

    def get(self, path: str) -> Any:
        """See FlinkReads."""
        with self._lock:
            kept = self._connection is not None
            try:
                return self._get(path)
            except (OSError, http.client.HTTPException) as cause:
                self.close()
                if not kept:
                    raise FlinkError(f"Flink of {self._name} does not answer: {type(cause).__name__}.") from cause
            except KubernetesError as cause:
                raise FlinkError(f"no way to Flink of {self._name}: {cause.message}", hint=cause.hint) from cause
            try:
                return self._get(path)
            except (OSError, http.client.HTTPException, KubernetesError) as cause:
                self.close()
                raise FlinkError(f"Flink of {self._name} does not answer: {type(cause).__name__}.") from cause

    def _get(self, path: str) -> Any:
        if self._connection is None:
            port = self._connect()
            self._connection = http.client.HTTPConnection("localhost", REST_PORT)
            self._connection.sock = port
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        content = response.read()
        if response.will_close:
            self.close()
        if response.status >= http.client.BAD_REQUEST:
            raise RestError(f"Flink refused GET {path}: HTTP {response.status}", response.status)
        return json.loads(content)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.sock is not None:
            connection.sock.close()
