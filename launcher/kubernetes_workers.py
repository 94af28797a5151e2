"""The TaskManagers of a job on Kubernetes, for its autoscaler."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from beam_k8s.autoscaler.model import Memory
from beam_k8s.errors import Conflict, KubernetesError
from beam_k8s.launcher import flink_rest
from beam_k8s.launcher.service import lease_name
from beam_k8s.launcher.target import WorkerFigures
from beam_k8s.names import AUTOSCALER_ANNOTATION

if TYPE_CHECKING:
    from collections.abc import Callable

    from beam_k8s.autoscaler.model import Rescale
    from beam_k8s.launcher.flink_rest import FlinkReads
    from beam_k8s.launcher.leases import HeldLeases, Lease
    from beam_k8s.launcher.service import KubernetesOperatorService

__all__ = ["KubernetesWorkers"]

_SCALES = "{} scales it"


class KubernetesWorkers:
    """See Workers. What the autoscaler must remember is an annotation of the FlinkDeployment, written with each change.

    One Lease a job: whoever holds it scales the job. A launcher holds it as long as it waits for the job; one of many
    jobs, which hears who holds which, takes that of a job when it changes it, and keeps others off for a while: a
    thousand idle jobs cost the API server nothing.

    Args:
        service: the cluster.
        namespace: of the job.
        name: of the job.
        flink: Flink's answers about it; None while there are none.
        identity: of this process, by which others know that it scales the job.
        held: who holds which Lease; None: this one holds the job's all the time.
    """

    def __init__(
        self,
        service: KubernetesOperatorService,
        namespace: str,
        name: str,
        flink: Callable[[], FlinkReads | None],
        identity: str,
        *,
        held: HeldLeases | None = None,
    ) -> None:
        self._service, self._namespace, self._name, self._flink = service, namespace, name, flink
        self._identity, self._held = identity, held
        self._lease: Lease | None = None
        self._loaded = False
        self._read: dict[str, tuple[float, float]] = {}
        self._cpus: dict[str, float] = {}

    def look(self) -> WorkerFigures:
        """See Workers."""
        status = self._service.get_status_of_job_by_name(self._namespace, self._name)
        flink = self._flink() if status.flink_state == "RUNNING" else None
        read = {} if flink is None else flink_rest.container_cpu(flink, status.flink_job_id)
        self._cpus = {worker: self._cpu(worker, *now) for worker, now in read.items()}
        self._read = read
        known = [cpu for cpu in self._cpus.values() if not math.isnan(cpu)]
        cpu = sum(known) / len(known) / status.worker_cpu if known else math.nan
        return WorkerFigures(status.workers, cpu, self._service.room_for_workers(self._namespace, self._name))

    def _cpu(self, worker: str, at: float, used: float) -> float:
        """CPUs that a worker has used of late; NaN: not known yet."""
        before, used_before = self._read.get(worker, (at, used))
        return (used - used_before) / (at - before) if at > before else self._cpus.get(worker, math.nan)

    def load(self) -> Memory:
        """See Workers."""
        # At first, when a thousand jobs are asked for at once, the cache will do: what it says of their workers is as
        # old. Later it is whether a change was made that is to be known.
        kept = self._service.memory(self._namespace, self._name, cached=not self._loaded)
        self._loaded = True
        try:
            return Memory() if kept is None else Memory.from_json(json.loads(kept))
        except (ValueError, KeyError, TypeError, AttributeError) as cause:
            raise KubernetesError(
                f"annotation {AUTOSCALER_ANNOTATION} of {self._name} cannot be read: {cause}.", hint="Remove it."
            ) from cause

    def hindrance(self) -> str:
        """See Workers."""
        status = self._service.get_status_of_job_by_name(self._namespace, self._name)
        if status.state == "UNKNOWN":
            return status.reason
        if status.frozen:
            return f"it is frozen; to go on: beam-k8s unfreeze {self._name} -n {self._namespace}"
        if status.rival:
            return (
                f"the operator's own autoscaler is on ({status.rival}: true); to go on, set it to false: kubectl edit "
                f"flinkdeployment {self._name} -n {self._namespace}"
            )
        if autoscaler := self._service.horizontal_autoscaler(self._namespace, self._name):
            return (
                f"HorizontalPodAutoscaler {autoscaler} changes its workers; to go on: kubectl delete hpa {autoscaler} "
                f"-n {self._namespace}"
            )
        if self._held is None:
            return self._take()
        holder = self._held.holder(self._namespace, lease_name(self._name))
        return "" if holder in {"", self._identity} else _SCALES.format(holder)

    def _take(self) -> str:
        """Hold the Lease; empty, or who has it."""
        if self._lease is None:
            status = self._service.get_status_of_job_by_name(self._namespace, self._name)
            self._lease = self._service.lease(status, self._identity)
        return "" if self._lease.hold() else _SCALES.format(self._lease.holder or "somebody else")

    def release(self) -> None:
        """See Workers."""
        if self._lease is not None:
            self._lease.release()

    def rescale(self, change: Rescale, memory: Memory) -> None:
        """See Workers."""
        if others := self._take():
            raise Conflict(others)
        notes = {AUTOSCALER_ANNOTATION: json.dumps(memory.as_json())}
        self._service.rescale(self._namespace, self._name, change.current, change.target, notes)
