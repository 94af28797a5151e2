"""The autoscaler of all jobs that a selector chooses, as one process; several of them take turns (``beam-k8s
autoscale``).

The jobs are those whose FlinkDeployment says how it is to be scaled. One watch knows them all; each has its own tick,
spread over the interval. A job whose launcher still waits for it is that launcher's, who holds its Lease.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from beam_k8s.autoscaler.loop import Autoscaler
from beam_k8s.autoscaler.ports import Figures
from beam_k8s.errors import BeamK8sError, KubernetesError
from beam_k8s.launcher.autoscale import JobFigures, TellPeople
from beam_k8s.launcher.kafka_admin import Connections
from beam_k8s.launcher.kubernetes_workers import KubernetesWorkers
from beam_k8s.launcher.leases import Lease
from beam_k8s.launcher.port_forward import ForwardedFlink
from beam_k8s.launcher.progress import report
from beam_k8s.launcher.scaled_job import ScaledJob
from beam_k8s.launcher.service import KubernetesOperatorService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from beam_k8s.graph import KafkaSource
    from beam_k8s.launcher.flink_rest import FlinkReads
    from beam_k8s.launcher.kube import Kube
    from beam_k8s.status import JobStatus

__all__ = ["Fleet", "FleetJob", "Look"]

_LOGGER = logging.getLogger(__name__)

THREADS = 128
"""Ticks at the same time. Most of one is waiting: for Flink, a broker, the API server; one that changes a job waits for
seconds until the operator is done with it."""
_BEAT_SECONDS = 0.2
"""Between two looks at who is due."""
_LIST_SECONDS = 5.0
"""Between two looks at which jobs there are."""
_PATIENCE_SECONDS = 10.0
"""How long a rescale waits for the operator to be done with writing a status."""
_SCALED_STATES = {"STARTING", "RUNNING", "UNKNOWN"}
"""Of one that is UNKNOWN people are told."""


class FleetJob:
    """What is asked of a job that another process has started.

    Args:
        kube: where.
        service: the same, with cached reads.
        status: of the job.
    """

    def __init__(self, kube: Kube, service: KubernetesOperatorService, status: JobStatus) -> None:
        self.namespace, self.name = status.namespace, status.name
        self._kube, self._service = kube, service
        self._flink: FlinkReads | None = None

    @property
    def status(self) -> JobStatus:
        """As it is now."""
        return self._service.get_status_of_job_by_name(self.namespace, self.name)

    @property
    def job_id(self) -> str:
        """Flink's; empty as long as it has none."""
        return self.status.flink_job_id

    def flink(self) -> FlinkReads | None:
        """Flink's answers about the job; None while there are none."""
        if not self.job_id:
            return None
        if self._flink is None:
            self._flink = self._kube.flink(self.namespace, self.name)
        return self._flink

    def close(self) -> None:
        """Hang up. Idempotent."""
        if isinstance(self._flink, ForwardedFlink):
            self._flink.close()


class Look(Figures, Protocol):
    """The figures of one job, until nobody wants them any more."""

    def close(self) -> None:
        """Hang up. Idempotent."""


class Fleet:
    """Scales jobs until it is stopped.

    Args:
        kube: the cluster; the Lease of all of its kind is in its namespace.
        namespace: of the jobs; empty: all.
        selector: label selector; as kubectl's ``-l``.
        identity: of this process.
        look: how to see a job: its workers, the sources it reads, the slots of a worker; and what leads to Kafka.
    """

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        selector: str,
        *,
        identity: str,
        look: Callable[[FleetJob, KubernetesWorkers, Sequence[KafkaSource], int, Connections], Look] = JobFigures,
    ) -> None:
        # The jobs share the threads: a tick that waits until the API server throttles no more keeps others waiting.
        self._kube = kube.impatient()
        self._namespace, self._selector, self._identity = namespace, selector, identity
        self._look = look
        self._service = KubernetesOperatorService(self._kube, patience=_PATIENCE_SECONDS)
        of = f"-{zlib.crc32(f'{namespace} {selector}'.encode()):08x}"
        self._leader = Lease(kube, kube.namespace, f"beam-k8s-autoscaler{of}", identity)
        self._connections = Connections()
        """One a Kafka cluster, not one a job."""
        self._held = self._service.held_leases(namespace)
        self._leads = False
        self._loops: dict[str, _Loop] = {}
        """By uid."""
        self._unread: set[str] = set()
        """Of what could not be read, what people were told."""
        self._listed = -_LIST_SECONDS

    def run(self, stopped: threading.Event) -> None:
        """Tick until stopped; then others may go on at once. What one job or the API server does never ends it."""
        with ThreadPoolExecutor(THREADS, thread_name_prefix="autoscale") as pool:
            told = ""
            while not stopped.wait(_LIST_SECONDS if told else _BEAT_SECONDS):
                try:
                    self._beat(pool)
                    told = ""
                except BeamK8sError as error:
                    if told != error.message:
                        told = error.message
                        report(f"autoscale: waits: {told}")
            self._drop(pool, self._loops)
        self._leader.release()
        self._connections.close()
        self._held.close()
        self._service.close()

    def _beat(self, pool: ThreadPoolExecutor) -> None:
        leads = self._leader.hold()
        if leads != self._leads:
            self._leads = leads
            report("autoscale: this process scales now" if leads else f"autoscale: {self._leader.holder} scales")
        if not leads:
            self._drop(pool, self._loops)
            return
        now = time.monotonic()
        if now >= self._listed + _LIST_SECONDS:
            self._listed = now
            self._list(pool, now)
        for loop in self._loops.values():
            if loop.due <= now and not loop.busy:
                loop.busy = True
                loop.due = max(loop.due + loop.interval, now)
                pool.submit(loop.tick)

    def _list(self, pool: ThreadPoolExecutor, now: float) -> None:
        jobs = self._service.get_all_jobs(self._namespace, self._selector)
        there = {job.uid: job for job in jobs if job.scaled and job.state in _SCALED_STATES}
        self._drop(pool, [uid for uid, loop in self._loops.items() if not loop.is_of(there.get(uid))])
        before = len(self._loops)
        for uid, job in there.items():
            if uid not in self._loops and (loop := self._loop(job, now)) is not None:
                self._loops[uid] = loop
        if len(self._loops) != before:
            report(f"autoscale: {len(self._loops)} jobs")

    def _loop(self, job: JobStatus, now: float) -> _Loop | None:
        try:
            scaled = ScaledJob.parse(job.scaled)
        except KubernetesError as error:
            if (told := f"{job.uid} {job.scaled}") not in self._unread:
                self._unread.add(told)
                report(f"{job.name}: autoscaler leaves it alone: {error.message}")
            return None
        seen = FleetJob(self._kube, self._service, job)
        workers = KubernetesWorkers(self._service, job.namespace, job.name, seen.flink, self._identity, held=self._held)
        look = self._look(seen, workers, scaled.sources, job.slots, self._connections)
        people, act = TellPeople(job.name), scaled.mode == "on"
        autoscaler = Autoscaler(scaled.settings, look, workers, people, time.time, act=act)
        ends = workers.release, look.close, seen.close
        return _Loop(job, scaled.settings.interval, autoscaler, ends, now=now)

    def _drop(self, pool: ThreadPoolExecutor, uids: Iterable[str]) -> None:
        for uid in list(uids):
            pool.submit(self._loops.pop(uid).close)


class _Loop:
    """One job's autoscaler and when it is due.

    Args:
        job: whose.
        interval: between two ticks [s].
        autoscaler: ticks.
        ends: what is to be closed with it.
        now: see ``due``.
    """

    def __init__(
        self, job: JobStatus, interval: float, autoscaler: Autoscaler, ends: Sequence[Callable[[], None]], *, now: float
    ) -> None:
        self._job, self._autoscaler, self._ends, self.interval = job, autoscaler, ends, interval
        self._lock = threading.Lock()
        """Whoever stops it waits for a tick that is under way."""
        self._closed = self.busy = False
        # The same place in the interval after each restart, and all places alike full.
        self.due = now + interval * zlib.crc32(job.uid.encode()) / 2**32

    def is_of(self, job: JobStatus | None) -> bool:
        """Whether a job is still what this one was made for."""
        return job is not None and (job.scaled, job.slots) == (self._job.scaled, self._job.slots)

    def tick(self) -> None:
        """Never raises."""
        try:
            with self._lock:
                if not self._closed:
                    self._autoscaler.tick()
        except Exception:
            _LOGGER.exception("A tick of the autoscaler failed job=%s", self._job.name)
        finally:
            self.busy = False

    def close(self) -> None:
        """Tick no more; others may."""
        with self._lock:
            self._closed = True
            for end in self._ends:
                end()
