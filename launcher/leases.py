"""Leases (coordination.k8s.io), held and given up as client-go's leader election does it: whoever holds one acts."""

from __future__ import annotations

import os
import socket
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from beam_k8s.errors import Conflict, KubernetesError, NotFound
from beam_k8s.launcher.kube import LEASES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from beam_k8s.launcher.kube import Kube

__all__ = ["Lease", "new_identity"]

LEASE_SECONDS = 60
"""After its holder's last sign a Lease is left alone for so long: four ticks of an autoscaler."""


def new_identity() -> str:
    """A name for this process that no other has; people see by it where that runs."""
    return f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:8]}"


class Lease:
    """A Lease that this process wants. For one thread.

    Whether its holder has gone is judged by how long nothing was heard of it here: clocks of two machines are never
    compared.

    Args:
        kube: where.
        namespace: of the Lease.
        name: of the Lease.
        identity: of this process.
        seconds: see ``LEASE_SECONDS``.
        owner: the object with whose end the Lease goes too: an ownerReference.
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
        owner: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube, self._namespace, self._name, self._identity = kube, namespace, name, identity
        self._seconds, self._owner, self._clock = seconds, owner, clock
        self._version = ""
        """Of the object while it is held; empty: it is not."""
        self._renewed = 0.0
        self._seen: object = None
        """What the other holder said last, and when that was heard."""
        self._seen_at = 0.0
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
            metadata: dict[str, Any] = {"name": self._name, "namespace": self._namespace}
            if self._owner is not None:
                metadata["ownerReferences"] = [self._owner]
            body = {"apiVersion": f"{LEASES.group}/{LEASES.version}", "kind": "Lease", "metadata": metadata}
            with suppress(Conflict):
                return self._kube.create(LEASES, self._namespace, body | {"spec": self._mine(0)})
            return None
        spec = there.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if self._seen != (sign := (holder, spec.get("renewTime"))):
            self._seen, self._seen_at = sign, now
        if holder not in {"", self._identity} and now < self._seen_at + (spec.get("leaseDurationSeconds") or 0):
            self.holder = holder
            return None
        changes = int(spec.get("leaseTransitions") or 0) + (holder != self._identity)
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
