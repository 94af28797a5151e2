"""What a job's pods write, as one stream: of pods too that come later, and through restarts of the API server."""

from __future__ import annotations

import queue
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_k8s.errors import BeamK8sError, KubernetesError, NotFound
from beam_k8s.launcher.kube import PODS, Cut
from beam_k8s.names import WORKER_LINE
from beam_k8s.spec import MAIN_CONTAINER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from beam_k8s.launcher.kube import Kube

__all__ = ["Wanted", "is_later", "of_worker", "of_workers", "read"]

_WORKER = re.compile(re.escape(WORKER_LINE).replace(re.escape("{pid}"), r"\d+"))
_BUFFER = 1000
"""Lines that may wait for their reader."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines of each pod."""

    tail: int | None = None
    """Only so many of the last."""
    since_time: str | None = None
    """Only since then (RFC 3339)."""
    previous: bool = False
    """Of the container before its last restart."""


def of_worker(line: str) -> str | None:
    """What a Python worker wrote, of a line of its TaskManager's; None if Flink wrote it."""
    mark = _WORKER.match(line)
    return line[mark.end() :] if mark else None


def is_later(stamp: str, last: str) -> bool:
    """Whether a line's time is after another's, of one clock; the fractions have as many digits as they need."""
    return stamp.partition("+")[0].removesuffix("Z") > last.partition("+")[0].removesuffix("Z")


def of_workers(lines: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Of TaskManagers' lines those that their Python workers wrote: logs, prints, tracebacks."""
    for pod, line in lines:
        if (own := of_worker(line)) is not None:
            yield pod, own


def read(
    kube: Kube, namespace: str, labels: str, wanted: Wanted, until: Callable[[], None] | None
) -> Iterator[tuple[str, str]]:
    """Lines of all pods that a selector chooses, each with its pod's name.

    Args:
        kube: where.
        namespace: of the pods.
        labels: selector.
        wanted: which lines.
        until: go on with new lines until this returns; None: only what is there, pod after pod.
    """
    if until is not None:
        return _Following(kube, namespace, wanted).lines(labels, until)
    return _written(kube, namespace, labels, wanted)


def _written(kube: Kube, namespace: str, labels: str, wanted: Wanted) -> Iterator[tuple[str, str]]:
    pods, _ = kube.find(PODS, namespace, labels=labels)
    chosen: dict[str, Any] = {"tail": wanted.tail, "since_time": wanted.since_time, "container": MAIN_CONTAINER}
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["name"])):
        if (starts := _starts(pod)) is None or (wanted.previous and not starts):
            continue
        name = pod["metadata"]["name"]
        with suppress(NotFound):  # it went away meanwhile
            for line in kube.log(namespace, name, **chosen, previous=wanted.previous):
                yield name, line


def _starts(pod: Mapping[str, Any]) -> int | None:
    """How often the main container was started again; None as long as it has no log."""
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        state = container.get("state") or {}
        has_log = container.get("lastState") or state.keys() & {"running", "terminated"}
        if container["name"] == MAIN_CONTAINER and has_log:
            return int(container["restartCount"])
    return None


class _Following:
    """A thread for each container that writes, one that looks for more of them, one that waits for the end."""

    def __init__(self, kube: Kube, namespace: str, wanted: Wanted) -> None:
        self._kube, self._namespace, self._wanted = kube, namespace, wanted
        self._lines: queue.Queue[tuple[str, str] | BeamK8sError | None] = queue.Queue(_BUFFER)
        self._cut = Cut()
        """Of all streams."""
        self._left = threading.Event()
        """Nobody reads any more."""
        self._readers: dict[tuple[str, int], threading.Thread] = {}

    def lines(self, labels: str, until: Callable[[], None]) -> Iterator[tuple[str, str]]:
        """See ``read``."""
        for work in (lambda: self._find(labels), lambda: self._await(until)):
            threading.Thread(target=self._do, args=(work,), daemon=True).start()
        try:
            while (line := self._lines.get()) is not None:
                if isinstance(line, BeamK8sError):
                    raise line
                yield line
        finally:
            self._left.set()
            self._cut.cut()

    def _put(self, line: tuple[str, str] | BeamK8sError | None) -> None:
        while not self._left.is_set():
            with suppress(queue.Full):
                self._lines.put(line, timeout=1)
                return

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BeamK8sError as error:
            self._put(error)

    def _await(self, until: Callable[[], None]) -> None:
        until()
        self._cut.cut()  # each reader then reads what was written meanwhile, and ends
        while alive := [thread for thread in self._readers.values() if thread.is_alive()]:
            alive[0].join()
        self._put(None)

    def _find(self, labels: str) -> None:
        for what, pod in self._kube.follow(PODS, self._namespace, labels=labels, cut=self._cut):
            if what not in {"ADDED", "MODIFIED"} or (starts := _starts(pod)) is None:
                continue
            key = (pod["metadata"]["uid"], starts)
            if key not in self._readers and not self._cut.done:
                name = pod["metadata"]["name"]
                thread = threading.Thread(target=self._do, args=(lambda name=name: self._read(name),), daemon=True)
                self._readers[key] = thread
                thread.start()

    def _read(self, pod: str) -> None:
        tail, last = self._wanted.tail, ""
        while not self._left.is_set():
            # Once cut, a stream that follows would be cut too; what is there already comes whole.
            ending = self._cut.done
            chosen: dict[str, Any] = {"follow": not ending, "cut": None if ending else self._cut}
            try:
                for line in self._kube.log(
                    self._namespace,
                    pod,
                    tail=tail,
                    since_time=last or self._wanted.since_time,
                    container=MAIN_CONTAINER,
                    timestamps=True,
                    **chosen,
                ):
                    stamp, _, text = line.partition(" ")
                    if is_later(stamp, last):  # the server counts from the beginning of the second
                        self._put((pod, text))
                        tail, last = None, stamp
                if ending or not self._cut.done:  # all is read, or the container has ended
                    return
            except NotFound:
                return
            except KubernetesError:
                if not self._cut.done:
                    time.sleep(1)
