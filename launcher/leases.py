"""Leases (coordination.k8s.io), held and given up as client-go's leader election does it: whoever holds one acts.

Whether a holder has gone is judged by how long nothing was heard of it here: clocks of two machines are never compared.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from beam_k8s.errors import Conflict, KubernetesError, NotFound
from beam_k8s.launcher.cache import Follower
from beam_k8s.launcher.kube import LEASES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from beam_k8s.launcher.kube import Kube

__all__ = ["HeldLeases", "Lease", "new_identity"]

LEASE_SECONDS = 60
"""After its holder's last sign a Lease is left alone for so long: four ticks of an autoscaler."""


def new_identity() -> str:
    """A name for this process that no other has; people see by it where that runs."""
    return f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:8]}"


class _Sign:
    """The last that was heard of a Lease's holder."""

    def __init__(self) -> None:
        self._spec: Mapping[str, Any] = {}
        self._at = 0.0

    def hear(self, lease: Mapping[str, Any], now: float) -> None:
        """Take in what the Lease says now."""
        spec = lease.get("spec") or {}
        said, before = ((each.get("holderIdentity"), each.get("renewTime")) for each in (spec, self._spec))
        if said != before:
            self._at = now
        self._spec = spec

    def holder(self, now: float) -> str:
        """Who has it; empty: nobody, or nobody who is still there."""
        lasts = self._spec.get("leaseDurationSeconds") or 0
        return (self._spec.get("holderIdentity") or "") if now < self._at + lasts else ""


class HeldLeases:
    """Who holds which Lease, heard by one watch until it is closed: to ask costs nothing. Safe to use from several
    threads.

    What happened a moment ago may not have been heard yet: who acts takes the Lease.

    Args:
        kube: where.
        namespace: of the Leases; empty: all.
        labels: selector of those that matter.
    """

    def __init__(self, kube: Kube, namespace: str, labels: str) -> None:
        self._signs: dict[tuple[str, str], _Sign] = {}
        self._lock = threading.Lock()
        self._follower = Follower(kube, LEASES, namespace, labels, self._hear)

    def holder(self, namespace: str, name: str) -> str:
        """Who has a Lease; empty: nobody, or nobody who is still there."""
        with self._lock:
            sign = self._signs.get((namespace, name))
            return sign.holder(time.monotonic()) if sign is not None else ""

    def close(self) -> None:
        """End the watch. Idempotent."""
        self._follower.close()

    def _hear(self, what: str, lease: Mapping[str, Any]) -> None:
        if what not in {"ADDED", "MODIFIED", "DELETED"}:
            return
        key = lease["metadata"]["namespace"], lease["metadata"]["name"]
        with self._lock:
            if what == "DELETED":
                self._signs.pop(key, None)
            else:
                self._signs.setdefault(key, _Sign()).hear(lease, time.monotonic())


class Lease:
    """A Lease that this process wants. For one thread.

    Args:
        kube: where.
        namespace: of the Lease.
        name: of the Lease.
        identity: of this process.
        seconds: see ``LEASE_SECONDS``.
        metadata: more of the Lease's own: labels, the object with whose end it goes too.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        name: str,
        identity: str,
        *,
        seconds: int = LEASE_SECONDS,
        metadata: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube, self._namespace, self._name, self._identity = kube, namespace, name, identity
        self._seconds, self._metadata, self._clock = seconds, metadata or {}, clock
        self._version = ""
        """Of the object while it is held; empty: it is not."""
        self._renewed = 0.0
        self._sign = _Sign()
        self.holder = ""
        """Who has it, as of the last call."""

    def hold(self) -> bool:
        """Take it, or keep it; whether this process has it now. The server is asked once in a third of its time.

        Raises:
            KubernetesError: nobody answers, so nobody knows.
        """
        now = self._clock()
        if self._version and now < self._renewed + self._seconds / 3:
            return True
        found: dict[str, Any] | None = None
        if self._version:
            with suppress(Conflict, NotFound):
                found = self._write(self._version, {"renewTime": _now()})
        if found is None:
            self._version = ""
            found = self._take(now)
        if found is not None:
            self._version, self._renewed, self.holder = found["metadata"]["resourceVersion"], now, self._identity
        return found is not None

    def release(self) -> None:
        """Let others have it at once. Idempotent."""
        if self._version:
            with suppress(KubernetesError, NotFound):
                self._write(self._version, {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()})
            self._version = ""

    def _take(self, now: float) -> dict[str, Any] | None:
        """The object, if it can be had."""
        there = self._kube.get(LEASES, self._namespace, self._name)
        if there is None:
            metadata = {"name": self._name, "namespace": self._namespace, **self._metadata}
            body = {"apiVersion": f"{LEASES.group}/{LEASES.version}", "kind": "Lease", "metadata": metadata}
            with suppress(Conflict):
                return self._kube.create(LEASES, self._namespace, body | {"spec": self._mine(0)})
            return None
        self._sign.hear(there, self._clock())  # the answer may have taken a while
        if (holder := self._sign.holder(now)) not in {"", self._identity}:
            self.holder = holder
            return None
        spec = there.get("spec") or {}
        changes = int(spec.get("leaseTransitions") or 0) + (spec.get("holderIdentity") != self._identity)
        with suppress(Conflict, NotFound):
            return self._write(there["metadata"]["resourceVersion"], self._mine(changes))
        return None

    def _mine(self, changes: int) -> dict[str, Any]:
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._seconds,
            "acquireTime": _now(),
            "renewTime": _now(),
            "leaseTransitions": changes,
        }

    def _write(self, version: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        body = {"metadata": {"resourceVersion": version}, "spec": spec}
        return self._kube.patch(LEASES, self._namespace, self._name, body)


def _now() -> str:
    """As a MicroTime."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
