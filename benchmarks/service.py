"""1,000 jobs on a real API server: list them, read one by name and by id, from the cache and without, against kubectl.

The API server and etcd are real and of this benchmark alone; no operator acts on the jobs, so none has pods. Each has
the size that one has on a cluster: configuration, pod template, the operator's status with two copies of the spec.
Cold means a process that has asked the server nothing yet; kubectl is one for each call, and prints names only.

    python -m benchmarks.service [--quick] [--json FILE]
"""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from beam_k8s import names
from beam_k8s.launcher.kube import DEPLOYMENTS, Kind, Kube
from beam_k8s.launcher.service import KubernetesOperatorService
from beam_k8s.settings import Settings
from beam_k8s.spec import DeploymentRequest, build_deployment
from benchmarks.report import Report, arguments
from tests.cluster import parts
from tests.cluster.api_server import ApiServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

GOAL_STATUS = 5.0
"""Milliseconds of a status from the cache."""
GOAL_LIST = 1.0
"""Seconds of a list of 1,000, cold."""
NAMESPACE = "jobs"
_COLD = """
import sys, time
from beam_k8s.launcher.kube import Kube
from beam_k8s.launcher.service import KubernetesOperatorService
begin, cpu = time.monotonic(), time.process_time()
with KubernetesOperatorService(Kube.connect(kubeconfig=sys.argv[1]), cache=False) as service:
    jobs = service.get_all_jobs(sys.argv[2])
print(len(jobs), time.monotonic() - begin, time.process_time() - cpu)
"""


def deployment(number: int, annotations: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """A job as the launcher writes it, and its status as the operator does."""
    settings = Settings(
        job_name=f"job-{number:05}", streaming=True, storage="s3://bucket/jobs", image_repository="registry.test/jobs"
    )
    request = DeploymentRequest(
        namespace=NAMESPACE,
        job_id=f"{number:032x}",
        image=f"registry.test/jobs@sha256:{number:064x}",
        flink_conf={},
        options="{}",
        annotations=annotations,
    )
    body = build_deployment(settings, request).deployment.document()
    copy = json.dumps({"spec": body["spec"], "resource_metadata": {"firstDeployment": False}})
    body["status"] = {
        "lifecycleState": "STABLE",
        "jobManagerDeploymentStatus": "READY",
        "clusterInfo": {"flink-version": "1.19.3", "total-cpu": "2.0", "total-memory": "6442450944"},
        "jobStatus": {"state": "RUNNING", "jobId": f"{number:032x}", "jobName": settings.job_name},
        "reconciliationStatus": {"lastReconciledSpec": copy, "lastStableSpec": copy, "state": "DEPLOYED"},
        "taskManager": {"labelSelector": "component=taskmanager", "replicas": 1},
    }
    return body


def create(kube: Kube, body: dict[str, Any]) -> None:
    """Make such a job."""
    kube.create(DEPLOYMENTS, NAMESPACE, body)
    kube.patch(DEPLOYMENTS, NAMESPACE, body["metadata"]["name"], {"status": body["status"]}, subresource="status")


def milliseconds(call: Callable[[int], object], numbers: list[int]) -> list[float]:
    """How long each call took."""
    took = []
    for number in numbers:
        begin = time.perf_counter()
        call(number)
        took.append((time.perf_counter() - begin) * 1000)
    return took


def cold_list(kubeconfig: Path, namespace: str) -> tuple[float, float]:
    """Seconds, and those of CPU, of the first list of a process, its connection included and Python's start not."""
    answer = subprocess.check_output([sys.executable, "-c", _COLD, str(kubeconfig), namespace], text=True)
    _, seconds, cpu = map(float, answer.split())
    return seconds, cpu


def kubectl(program: Path, kubeconfig: Path, *flags: str) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    place = [f"--kubeconfig={kubeconfig}", f"--namespace={NAMESPACE}", f"--cache-dir={kubeconfig.parent}/kubectl"]
    subprocess.run(
        [program, *place, "get", str(DEPLOYMENTS), "-o", "name", *flags], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - begin


def cache_bytes(kube: Kube, count: int) -> int:
    """What a service's cache of all jobs adds to Python's heap."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    with KubernetesOperatorService(kube) as service:
        in_sync(service, count)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return held


def in_sync(service: KubernetesOperatorService, count: int) -> None:
    """Wait until the cache answers."""
    service.get_all_jobs(NAMESPACE)
    cache = service._cache(NAMESPACE)  # noqa: SLF001 - nothing tells that it is
    assert cache is not None
    while len(cache.all(NAMESPACE, {}) or ()) < count:
        time.sleep(0.01)


def main() -> None:
    """Measure and report."""
    options = arguments(__doc__ or "")
    count, rounds = (1000, 3) if options.quick else (1000, 10)
    program = parts.kubectl()
    with tempfile.TemporaryDirectory(prefix="beam-k8s-bench-") as folder, ApiServer(Path(folder)) as server:
        kube = Kube.connect(kubeconfig=str(server.kubeconfig))
        kube.create(Kind("", "v1", "namespaces"), "", {"metadata": {"name": NAMESPACE}})
        bodies = [deployment(number) for number in range(count)]

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(partial(create, kube), bodies))
        found, _ = kube.find(DEPLOYMENTS, NAMESPACE)
        size = len(json.dumps(found))
        del found
        numbers = random.Random(1).sample(range(count), rounds * 20)
        name = "job-{:05}".format
        cold = [cold_list(server.kubeconfig, NAMESPACE) for _ in range(rounds)]
        seconds: dict[str, list[float]] = {
            "list, cold: get_all_jobs": [wall for wall, _ in cold],
            "list: kubectl get": [kubectl(program, server.kubeconfig) for _ in range(rounds)],
            "by name: kubectl get": [kubectl(program, server.kubeconfig, name(n)) for n in numbers[:rounds]],
            "by id: kubectl get -l": [
                kubectl(program, server.kubeconfig, f"-l{names.JOB_ID_LABEL}={n:032x}") for n in numbers[:rounds]
            ],
        }
        took = {each: [value * 1000 for value in values] for each, values in seconds.items()}
        for title, cached in (("cached", True), ("uncached", False)):
            with KubernetesOperatorService(kube, cache=cached) as service:
                if cached:
                    in_sync(service, count)
                get_name, get_id = service.get_status_of_job_by_name, service.get_status_of_job_by_id
                took[f"by name, {title}"] = milliseconds(lambda n, get=get_name: get(NAMESPACE, name(n)), numbers)
                took[f"by id, {title}"] = milliseconds(lambda n, get=get_id: get(NAMESPACE, f"{n:032x}"), numbers)
                took[f"list, {title}"] = milliseconds(
                    lambda _, get=service.get_all_jobs: get(NAMESPACE), numbers[:rounds]
                )
        held = cache_bytes(kube, count)
    medians = {each: statistics.median(values) for each, values in took.items()}
    figures = {
        "jobs": count,
        "bytes_of_a_job": size // count,
        "median_ms": medians,
        "max_ms": {each: max(values) for each, values in took.items()},
        "cold_list_cpu_seconds": statistics.median(cpu for _, cpu in cold),
        "cache_bytes": held,
        "load_average": os.getloadavg()[0],
    }
    report = Report("service", figures)
    rows = [(each, f"{medians[each]:.3g}", f"{max(took[each]):.3g}", len(took[each])) for each in sorted(took)]
    report.table(("what", "median ms", "max ms", "runs"), rows)
    print(f"cache: {held / 1e6:.1f} MB for {count} jobs of {size / count / 1000:.1f} kB")
    listed = medians["list, cold: get_all_jobs"] / 1000
    status = max(medians["by name, cached"], medians["by id, cached"])
    print(f"list of {count}, cold: {listed:.2f} s, goal {GOAL_LIST:g} s: {'ok' if listed < GOAL_LIST else 'short'}")
    report.finish(options.json, metric="status_ms_cached", value=status, goal=GOAL_STATUS, lower_is_better=True)


if __name__ == "__main__":
    main()
