"""Runs pipeline scripts on the test cluster as a user does, and looks at what their jobs leave there."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from beam_k8s.launcher.kube import DEPLOYMENTS, PODS, Kind, Kube
from beam_k8s.launcher.service import KubernetesOperatorService
from beam_k8s.status import job_status
from tests.cluster.kube import user_of
from tests.cluster.launch import Launch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from beam_k8s.status import JobStatus
    from tests.cluster.kube import KubeCluster
    from tests.conftest import Tenant

__all__ = ["Submitter"]

STORAGE = "/flink-data"


class Submitter:
    """Submits to one namespace, as a user with the least rights; two cores hold its jobs: each asks for little.

    Args:
        cluster: the cluster.
        tenant: the namespace.
        runtime_image: base of the jobs' images; they are pushed beside it.
        home: folder that stands for the user's home and working directory.
    """

    def __init__(self, cluster: KubeCluster, tenant: Tenant, runtime_image: str, home: Path) -> None:
        user = user_of(tenant.name)
        kubeconfig = str(cluster.kubeconfig)
        self.kube = Kube.connect(kubeconfig=kubeconfig, namespace=tenant.name)
        """Of an administrator."""
        self.tenant = tenant
        self.registry = runtime_image.partition("/")[0]
        self._users = Kube.connect(kubeconfig=kubeconfig, impersonate=user)
        self.service = KubernetesOperatorService(self._users)
        self.environment = {
            **os.environ,
            "KUBECONFIG": kubeconfig,
            "BEAM_K8S_IMPERSONATE": user,
            "XDG_STATE_HOME": str(home / "state"),
        }
        self._runtime_image = runtime_image
        self._home = home
        self._launched: list[Launch] = []

    def flags(self, name: str) -> list[str]:
        """What a team would have in its beam_k8s.toml."""
        return [
            *("--runner=FlinkK8s", f"--job_name={name}", f"--k8s_namespace={self.tenant.name}"),
            *(f"--k8s_image_repository={self.registry}/jobs", f"--k8s_runtime_image={self._runtime_image}"),
            *("--k8s_insecure_registry", f"--k8s_storage=file://{STORAGE}", "--k8s_storage_claim=flink-data"),
            # A small tenant's share: what it may use beyond it is the node's to give.
            *("--k8s_worker_cpu=0.2", "--k8s_task_slots=1"),
            *("--k8s_flink_conf=kubernetes.taskmanager.cpu.limit-factor=5",),
        ]

    def launch(self, script: Path, name: str, *flags: str, **environment: str) -> Launch:
        """Start ``python SCRIPT FLAGS``; a flag given here wins over those of the team."""
        launch = Launch(script, [*self.flags(name), *flags], self._home, self.environment | environment)
        self._launched.append(launch)
        return launch

    def status(self, name: str) -> JobStatus | None:
        """The job as its FlinkDeployment shows it; None if there is none."""
        found = self.kube.get(DEPLOYMENTS, self.tenant.name, name)
        return None if found is None else job_status(found)

    def await_status(self, name: str, until: Callable[[JobStatus], bool], timeout: float = 240) -> JobStatus:
        """Wait until the job is as wanted; return how it is then."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            status = self.status(name)
            if status is not None and until(status):
                return status
            time.sleep(0.5)
        raise AssertionError(f"{name} after {timeout} s: {status}; {self.troubles()}")

    def pods(self, name: str, component: str) -> list[dict[str, Any]]:
        """A job's pods that are not on their way out."""
        found, _ = self.kube.find(PODS, self.tenant.name, labels=f"app={name},component={component}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def troubles(self) -> list[str]:
        """Each container that waits, and why."""
        pods, _ = self.kube.find(PODS, self.tenant.name)
        return [
            f"{pod['metadata']['name']}: {container['state']}"
            for pod in pods
            for container in pod["status"].get("containerStatuses", ())
        ]

    def left(self) -> list[str]:
        """Every object of a job that the namespace has."""
        kinds = [Kind("", "v1", plural) for plural in ("pods", "services", "configmaps", "secrets")]
        kinds += [Kind("apps", "v1", "deployments"), DEPLOYMENTS]
        return [
            f"{kind.plural}/{each['metadata']['name']}"
            for kind in kinds
            for each in self.kube.find(kind, self.tenant.name)[0]
            if each["metadata"]["name"] != "kube-root-ca.crt"
        ]

    def await_nothing(self, timeout: float = 90) -> None:
        """Wait until nothing of any job is left."""
        deadline = time.monotonic() + timeout
        while left := self.left():
            assert time.monotonic() < deadline, left
            time.sleep(0.5)

    def close(self) -> None:
        """End all launchers."""
        for launch in self._launched:
            launch.kill_all()
        self.service.close()
        self._users.close()
        self.kube.close()
