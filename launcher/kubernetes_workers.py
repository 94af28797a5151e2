"""The TaskManagers of a job on Kubernetes, for its autoscaler."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING

from beam_k8s.autoscaler.model import Memory
from beam_k8s.errors import KubernetesError
from beam_k8s.launcher import flink_rest
from beam_k8s.launcher.target import WorkerFigures
from beam_k8s.names import AUTOSCALER_ANNOTATION

if TYPE_CHECKING:
    from collections.abc import Callable

    from beam_k8s.autoscaler.model import Rescale
    from beam_k8s.launcher.flink_rest import FlinkReads
    from beam_k8s.launcher.service import KubernetesOperatorService

__all__ = ["KubernetesWorkers"]


class KubernetesWorkers:
    """See Workers. What the autoscaler must remember is an annotation of the FlinkDeployment.

    Args:
        service: the cluster.
        namespace: of the job.
        name: of the job.
        flink: Flink's answers about it; None while there are none.
        cpu: vCPUs of one TaskManager.
    """

    def __init__(
        self,
        service: KubernetesOperatorService,
        namespace: str,
        name: str,
        flink: Callable[[], FlinkReads | None],
        cpu: float,
    ) -> None:
        self._service, self._namespace, self._name, self._flink, self._cpu = service, namespace, name, flink, cpu
        self._at = math.nan
        self._used: dict[str, float] = {}

    def look(self) -> WorkerFigures:
        """See Workers."""
        status = self._service.get_status_of_job_by_name(self._namespace, self._name)
        flink = self._flink() if status.flink_state == "RUNNING" else None
        used = {} if flink is None else flink_rest.container_cpu_seconds(flink, status.flink_job_id)
        now, both = time.monotonic(), used.keys() & self._used.keys()
        spent = sum(used[worker] - self._used[worker] for worker in both)
        cpu = spent / (now - self._at) / self._cpu / len(both) if both else math.nan
        self._at, self._used = now, used
        return WorkerFigures(status.workers, cpu)

    def load(self) -> Memory:
        """See Workers."""
        kept = self._service.notes(self._namespace, self._name).get(AUTOSCALER_ANNOTATION)
        try:
            return Memory() if kept is None else Memory.from_json(json.loads(kept))
        except (ValueError, KeyError, TypeError, AttributeError) as cause:
            raise KubernetesError(
                f"annotation {AUTOSCALER_ANNOTATION} of {self._name} cannot be read: {cause}.", hint="Remove it."
            ) from cause

    def rescale(self, change: Rescale, memory: Memory) -> None:
        """See Workers."""
        notes = {AUTOSCALER_ANNOTATION: json.dumps(memory.as_json())}
        self._service.rescale(self._namespace, self._name, change.current, change.target, notes)
