"""All jobs of a namespace in memory, kept up to date by one watch: reading a status asks nobody.

Only what a JobStatus says is kept, and the labels: 1,000 jobs take 2 MB, where their objects would take 20.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from beam_k8s.errors import BeamK8sError
from beam_k8s.launcher.kube import DEPLOYMENTS, Cut
from beam_k8s.status import JobStatus, job_status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from beam_k8s.launcher.kube import Kind, Kube

__all__ = ["Entry", "Follower", "JobCache", "JobIndex"]

_LOGGER = logging.getLogger(__name__)

_REMEMBERED = 10_000
"""Deleted objects whose late events are still known as such."""
_FIRST_SECONDS = 10.0
"""For which a new cache's first list is waited for."""
_AGAIN_SECONDS = 5.0
"""Pause before a watch that has ended is tried again."""


class Entry(NamedTuple):
    """What is kept of one FlinkDeployment."""

    status: JobStatus
    labels: Mapping[str, str]
    since: float
    """When this version of it came, in seconds of ``time.monotonic``."""


class JobIndex:
    """Jobs by name and by id. Pure; events may come late, twice and in any order: the newest of an object counts."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[str, str], Entry] = {}
        self._ids: dict[str, set[tuple[str, str]]] = {}
        self._gone: dict[str, None] = {}
        self._order: deque[str] = deque()

    def apply(self, what: str, deployment: Mapping[str, Any], now: float = 0.0) -> None:
        """Take in an event.

        Args:
            what: DELETED, or anything else for an object that is there.
            deployment: the object; of a deleted one its metadata suffice.
            now: see ``Entry.since``.
        """
        metadata = deployment["metadata"]
        key, uid = (metadata["namespace"], metadata["name"]), metadata["uid"]
        kept = self._jobs.get(key)
        if what == "DELETED":
            self._forget(uid)
            if kept is not None and kept.status.uid == uid:
                self._remove(key)
            return
        # Versions are opaque by the letter, but numbers of one count in every server there is.
        if uid in self._gone or (kept is not None and int(kept.status.version) >= int(metadata["resourceVersion"])):
            return
        self._remove(key)
        entry = self._jobs[key] = Entry(job_status(deployment), metadata.get("labels") or {}, now)
        self._ids.setdefault(entry.status.job_id, set()).add(key)

    def by_name(self, namespace: str, name: str) -> Entry | None:
        """The job of that name, if there is one."""
        return self._jobs.get((namespace, name))

    def by_id(self, namespace: str, job_id: str) -> Entry | None:
        """The job of that id; with an empty namespace, wherever it is."""
        for key in self._ids.get(job_id, ()):
            if namespace in {"", key[0]}:
                return self._jobs[key]
        return None

    def all(self, namespace: str) -> list[Entry]:
        """All jobs of a namespace, or with an empty one of all."""
        return [entry for key, entry in self._jobs.items() if namespace in {"", key[0]}]

    def _remove(self, key: tuple[str, str]) -> None:
        if (entry := self._jobs.pop(key, None)) is not None:
            keys = self._ids[entry.status.job_id]
            keys.discard(key)
            if not keys:
                del self._ids[entry.status.job_id]

    def _forget(self, uid: str) -> None:
        if uid not in self._gone:
            self._gone[uid] = None
            self._order.append(uid)
            if len(self._order) > _REMEMBERED:
                del self._gone[self._order.popleft()]


class Follower:
    """A thread that hears what happens to objects, through restarts of the server, until it is closed. Whatever ends
    the watch, it is told so, and begins another.

    Args:
        kube: where.
        kind: of what kind.
        namespace: empty: all.
        labels: selector.
        hear: gets what ``Kube.follow`` says, and ANEW: what went away until now is not told.
    """

    def __init__(
        self, kube: Kube, kind: Kind, namespace: str, labels: str, hear: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        self._kube, self._kind, self._namespace, self._labels, self._hear = kube, kind, namespace, labels, hear
        self._cut = Cut()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{kind} of {namespace or 'all'}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hear no more. Idempotent."""
        self._stop.set()
        self._cut.cut()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                for what, thing in self._kube.follow(self._kind, self._namespace, labels=self._labels, cut=self._cut):
                    self._hear(what, thing)
            except BeamK8sError:
                pass  # who reads asks the server himself, and hears it from there
            except Exception:
                _LOGGER.exception("The watch of %s failed", self._thread.name)
            self._hear("LOST", {})
            self._stop.wait(_AGAIN_SECONDS)
            self._hear("ANEW", {})


class JobCache:
    """The index of a namespace, filled by a thread of its own until it is closed. Safe to use from several threads.

    Args:
        kube: where.
        namespace: empty: all.
        labels: selector of what is kept.
    """

    def __init__(self, kube: Kube, namespace: str, labels: str) -> None:
        self._index = JobIndex()
        self._lock = threading.Lock()
        self._synced = False
        self._heard = threading.Event()
        """Whether the server has told which jobs there are, or that it does not."""
        self._follower = Follower(kube, DEPLOYMENTS, namespace, labels, self._hear)

    def close(self) -> None:
        """End the watch. Idempotent."""
        self._follower.close()

    def by_name(self, namespace: str, name: str) -> JobStatus | None:
        """See JobIndex; None too if what is known may be out of date."""
        with self._lock:
            entry = self._index.by_name(namespace, name) if self._synced else None
        return entry and entry.status

    def settled_version(self, namespace: str, name: str, seconds: float) -> str:
        """The version that a job's object has had for so long [s], as far as is known; empty: it is younger."""
        with self._lock:
            entry = self._index.by_name(namespace, name) if self._synced else None
        return entry.status.version if entry is not None and time.monotonic() - entry.since >= seconds else ""

    def by_id(self, namespace: str, job_id: str) -> JobStatus | None:
        """See JobIndex; None too if what is known may be out of date."""
        with self._lock:
            entry = self._index.by_id(namespace, job_id) if self._synced else None
        return entry and entry.status

    def all(self, namespace: str, labels: Mapping[str, str]) -> list[JobStatus] | None:
        """All jobs that have these labels; None if what is known may be out of date.

        A cache that is new is waited for: to ask the server beside it would take as long, and twice the work.
        """
        self._heard.wait(_FIRST_SECONDS)
        with self._lock:
            if not self._synced:
                return None
            entries = self._index.all(namespace)
        return [entry.status for entry in entries if labels.items() <= entry.labels.items()]

    def apply(self, what: str, deployment: Mapping[str, Any]) -> None:
        """Take in what the server answered to a write, so that it is seen before its event comes."""
        with self._lock:
            self._index.apply(what, deployment, time.monotonic())

    def _hear(self, what: str, deployment: Mapping[str, Any]) -> None:
        with self._lock:
            if what in {"OPEN", "LOST"}:
                self._synced = what == "OPEN"
                self._heard.set()
            elif what == "ANEW":
                self._index = JobIndex()
            else:
                self._index.apply(what, deployment, time.monotonic())
