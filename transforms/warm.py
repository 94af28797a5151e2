"""Python harnesses that start at once: a process of each TaskManager has imported Beam, and forks.

Importing Beam takes two seconds of CPU, in which a job that was rescaled or has lost a worker does nothing. A fork
takes milliseconds, and what was imported is in memory once for all harnesses. It is what multiprocessing's
``forkserver`` does, for processes that somebody else starts: the command that the TaskManager runs asks the
TaskManager's warm process for a fork and stands for it, with its output, its signals and its exit code. Where none can
be had (whoever started the TaskManager started no warm process; another environment) the command is the harness itself.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Order", "serve", "stand_in"]

_SEND_SECONDS = 5
"""Longest wait for what a command has to say."""
_IMPORT_SECONDS = 60
"""Longest wait for a fork: the warm process may still import."""
_LEAVE_SECONDS = 10
"""How long a fork may take to end by itself when its command is no more."""
_OF_ONE = {"BEAM_K8S_LOG_DIR", "BEAM_K8S_LOG_OUTPUT", "SEMI_PERSISTENT_DIRECTORY", "PWD", "OLDPWD", "SHLVL", "_"}
"""Variables that may differ between harnesses of a TaskManager: nothing that is imported looks at them."""
_LENGTH = struct.Struct("!I")
_PEER = struct.Struct("3i")
_ANSWER = struct.Struct("!i")
"""Process id of the fork, or 0: none is made. Later how it ended, as ``os.waitpid`` says."""


class Order(NamedTuple):
    """What a fork is to be."""

    arguments: list[str]
    environ: dict[str, str]
    folder: str
    """Working directory."""
    pid: int
    """Of the command that stands for it."""
    streams: list[int]
    """File descriptors of its input, output and error output."""
    connection: socket.socket
    """To the command."""

    def when_left(self, end: Callable[[], None]) -> None:
        """Have ``end`` called, in a thread, when the command is no more."""

        def wait() -> None:
            with suppress(OSError):
                self.connection.recv(1)
            end()

        threading.Thread(target=wait, name="command", daemon=True).start()


def stand_in(arguments: list[str]) -> int | None:
    """Be the command of a harness that is forked: wait until that has ended.

    Args:
        arguments: of the command.

    Returns:
        Its exit code; None: there is no fork, and nothing has happened. If a signal ended it, this process ends so too.
    """
    if sys.platform != "linux" or (owner := _java_above()) is None:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(_address(owner))
            if _user(connection) != os.getuid():
                return None
            socket.send_fds(connection, [b"!"], [0, 1, 2])
            order = {"arguments": arguments, "environ": dict(os.environ), "folder": str(Path.cwd()), "pid": os.getpid()}
            text = json.dumps(order).encode()
            connection.sendall(_LENGTH.pack(len(text)) + text)
            connection.settimeout(_IMPORT_SECONDS)
            pid = _answer(connection)
            connection.settimeout(None)
        except OSError:
            return None
        if not pid:
            return None
        signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
        try:
            status = _answer(connection)
        except OSError:  # the warm process is gone, and so is now the fork
            return 1
    if os.WIFSIGNALED(status):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status)


def serve(owner: int, load: Callable[[], None]) -> Order:
    """Be a warm process until its owner ends: import, then fork for each command that asks. Returns in the forks only.

    Args:
        owner: process id of the TaskManager, or of what becomes it.
        load: imports what harnesses need.
    """
    if sys.platform != "linux":
        sys.exit("Only Linux has what a warm process needs.")
    ended = os.pidfd_open(owner)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(_address(owner))
    listener.listen(64)
    own = dict(os.environ)
    load()
    gc.collect()
    gc.freeze()  # else collecting garbage would copy every page in each fork
    forks: dict[int, socket.socket] = {}
    left: dict[int, float] = {}
    """When forks are killed whose command is no more."""
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        followed = [connection for pid, connection in forks.items() if pid not in left]
        sources: list[Any] = [listener, ended, woken, *followed]
        ready, _, _ = select.select(sources, [], [], 1.0 if left else None)
        if ended in ready:
            os._exit(0)
        if woken in ready:
            woken.recv(4096)
            _reap(forks)
        now = time.monotonic()
        left |= {pid: now + _LEAVE_SECONDS for pid, connection in forks.items() if connection in ready}
        for pid in [pid for pid, until in left.items() if pid not in forks or until <= now]:
            del left[pid]
            if pid in forks:
                os.kill(pid, signal.SIGKILL)
        order = _accept(listener, own) if listener in ready else None
        if order is None:
            continue
        try:
            pid = os.fork()
        except OSError:  # no more processes or memory: the command tries by itself
            _dismiss(order.connection, order.streams)
            continue
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(ended)
            for each in (listener, woken, waker, *forks.values()):
                each.close()
            _become(order)
            return order
        forks[pid] = order.connection
        for stream in order.streams:
            os.close(stream)
        _tell(order.connection, pid)


def _become(order: Order) -> None:
    """Let this process look as if the command had become it."""
    for stream, number in zip(order.streams, range(3), strict=True):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(order.environ)
    os.chdir(order.folder)
    sys.argv[1:] = order.arguments
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what is in its background without
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # Python's own generator does it by itself


def _reap(forks: dict[int, socket.socket]) -> None:
    """Tell the commands of forks that have ended how they did."""
    for pid in list(forks):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with forks.pop(pid) as connection:
                _tell(connection, status)


def _accept(listener: socket.socket, own: Mapping[str, str]) -> Order | None:
    """What the next command wants; None if it goes without a fork."""
    try:
        connection, _ = listener.accept()
    except OSError:
        return None
    streams: list[int] = []
    try:
        connection.settimeout(_SEND_SECONDS)
        if _user(connection) == os.getuid():
            _, streams, _, _ = socket.recv_fds(connection, 1, 3)
            (length,) = _LENGTH.unpack(_read(connection, _LENGTH.size))
            said: dict[str, Any] = json.loads(_read(connection, length))
            if len(streams) == 3 and _imported(said["environ"]) == _imported(own) and said["folder"] == str(Path.cwd()):
                connection.settimeout(None)
                return Order(**said, streams=streams, connection=connection)
    except (OSError, ValueError, KeyError):
        pass
    _dismiss(connection, streams)
    return None


def _dismiss(connection: socket.socket, streams: list[int]) -> None:
    """Let a command go without a fork."""
    for stream in streams:
        os.close(stream)
    with connection:
        _tell(connection, 0)


def _imported(environ: Mapping[str, str]) -> dict[str, str]:
    """What decides what is imported, and how."""
    path = filter(os.path.exists, environ.get("PYTHONPATH", "").split(os.pathsep))
    return {key: value for key, value in environ.items() if key not in _OF_ONE} | {"PYTHONPATH": os.pathsep.join(path)}


def _address(owner: int) -> str:
    """Name, in Linux's abstract namespace, of the socket of a TaskManager's warm process: it leaves no file behind.

    Containers may share the namespace of sockets, and process ids are used again.
    """
    since = Path(f"/proc/{owner}/stat").read_text().rpartition(")")[2].split()[19]
    about = (str(Path("/proc/self/ns/pid").readlink()), owner, since, os.getuid(), sys.executable)
    return f"\0beam-k8s-{hashlib.sha256(repr(about).encode()).hexdigest()}"


def _java_above() -> int | None:
    """The nearest process above this one that is a JVM."""
    pid = os.getppid()
    while pid:
        try:
            name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            return None
        if name == "java":
            return pid
        pid = int(rest.split()[1])
    return None


def _user(connection: socket.socket) -> int:
    """Who is at the other end."""
    found: tuple[int, int, int] = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return found[1]


def _read(connection: socket.socket, length: int) -> bytes:
    """So many bytes.

    Raises:
        OSError: the other end has left.
    """
    found = b""
    while len(found) < length:
        if not (more := connection.recv(length - len(found))):
            raise ConnectionResetError
        found += more
    return found


def _answer(connection: socket.socket) -> int:
    return int(_ANSWER.unpack(_read(connection, _ANSWER.size))[0])


def _tell(connection: socket.socket, answer: int) -> None:
    with suppress(OSError):  # who has left needs none
        connection.sendall(_ANSWER.pack(answer))
