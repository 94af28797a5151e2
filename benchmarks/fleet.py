"""One ``beam-k8s autoscale`` for 1,000 jobs on a real API server: how long until each has been looked at again.

The API server, the Leases, the watch and the changes of FlinkDeployments are real; the jobs are simulated: no operator
acts on them, and their figures are made here. Every job is due all the time, and one in twenty gets more than it can
do, so that its workers change. A round is the longest time that any job waited between two looks at it, its first look
counted from the start: it holds the changes, too, and the Leases that are taken for them.

    python -m benchmarks.fleet [--quick] [--json FILE]
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from beam_k8s.autoscaler.model import Observation
from beam_k8s.autoscaler.settings import AutoscalerSettings
from beam_k8s.graph import KafkaSource
from beam_k8s.launcher.fleet import Fleet, FleetJob
from beam_k8s.launcher.kube import Kind, Kube
from beam_k8s.launcher.leases import new_identity
from beam_k8s.launcher.scaled_job import ScaledJob
from beam_k8s.launcher.service import KubernetesOperatorService
from beam_k8s.names import SCALED_ANNOTATION
from benchmarks.report import Report, arguments
from benchmarks.service import NAMESPACE, create, deployment
from tests.cluster.api_server import ApiServer

GOAL = 5.0
"""Seconds of a round."""
BUSY = 20
"""One job of so many needs more workers."""
SETTINGS = AutoscalerSettings(policy="threshold", interval=0.01, window=5, settle=0, max_age=60)


class Simulated:
    """The figures of a job that reads 1,000 records a second and worker."""

    busy = True
    """Whether twice as much comes in."""

    def __init__(self, job: FleetJob, *_: object) -> None:
        self._job, self._began = job, time.time()

    def observe(self) -> Observation:
        """See ``ports.Figures``."""
        now, workers = time.time(), self._job.status.workers
        read = 1000 * (now - self._began)
        return Observation(
            at=now,
            workers=workers,
            ready=workers,
            started=self._began,
            running=frozenset({"attempt"}),
            attempts={"flights-0": "attempt"},
            positions={"flights-0": read},
            ends={"flights-0": 2 * read + 100_000 if self.busy else read},
            cpu=0.9 if self.busy else 0.5,
            useful=64,
        )

    def close(self) -> None:
        """See ``Look``."""


class Counted(Simulated):
    """One of the benchmark's, whose looks are noted."""

    looks: dict[str, list[float]] = defaultdict(list)  # noqa: RUF012 - of all jobs of this process

    def __init__(self, job: FleetJob, *_: object) -> None:
        super().__init__(job)
        self._name = job.name
        self.busy = int(job.name.rpartition("-")[2]) % BUSY == 0

    def observe(self) -> Observation:
        """See ``ports.Figures``."""
        self.looks[self._name].append(time.monotonic())
        return super().observe()


def main() -> None:
    """Measure and report."""
    options = arguments(__doc__ or "")
    count, seconds = 1000, 25 if options.quick else 90
    source = KafkaSource("", "Read", "kafka:9092", ("flights",), {})
    annotations = {SCALED_ANNOTATION: ScaledJob("on", SETTINGS, (source,)).text()}
    with tempfile.TemporaryDirectory(prefix="beam-k8s-bench-") as folder, ApiServer(Path(folder)) as server:
        kube = Kube.connect(kubeconfig=str(server.kubeconfig), namespace=NAMESPACE)
        kube.create(Kind("", "v1", "namespaces"), "", {"metadata": {"name": NAMESPACE}})
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(partial(create, kube), [deployment(number, annotations) for number in range(count)]))
        stopped = threading.Event()
        fleet = Fleet(kube, NAMESPACE, "", identity=new_identity(), look=Counted)
        thread = threading.Thread(target=fleet.run, args=(stopped,))
        began, cpu = time.monotonic(), time.process_time()
        thread.start()
        time.sleep(seconds)
        ended, spent = time.monotonic(), time.process_time() - cpu
        stopped.set()
        thread.join()
        jobs = KubernetesOperatorService(kube, cache=False).get_all_jobs(NAMESPACE)
    looks = Counted.looks
    gaps = [
        later - earlier
        for times in looks.values()
        for earlier, later in zip([began, *times], [*times, ended], strict=True)
    ]
    figures = {
        "jobs looked at": len(looks),
        "looks a second": round(sum(map(len, looks.values())) / seconds),
        "jobs that needed more workers": count // BUSY,
        "jobs that have more workers": sum(job.workers > 1 for job in jobs),
        "cores of this process": round(spent / seconds, 2),
    }
    report = Report("fleet", figures)
    report.table(["what", "figure"], list(figures.items()))
    longest = max(gaps) if len(looks) == count else float("inf")
    report.finish(options.json, metric="round_seconds", value=longest, goal=GOAL, lower_is_better=True)


if __name__ == "__main__":
    main()
