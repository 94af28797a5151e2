"""The test cluster itself: real Kubernetes, the real operator, a Flink job in it, and nothing left of it afterwards."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import yaml
from kubernetes import client

from beam_k8s.launcher.oci import Registry
from tests.cluster import kube, parts
from tests.cluster.count_job import COUNT, FLINK, RESTRICTED, is_running
from tests.cluster.launch import ROOT, await_gone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.kube import KubeCluster
    from tests.cluster.registry import ImageRegistry
    from tests.conftest import Tenant

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]  # the first run on a machine builds Kubernetes


def test_the_operator_is_available_and_runs_as_a_pod_with_an_account_of_its_own(kube_cluster: KubeCluster) -> None:
    pods = client.CoreV1Api(kube_cluster.client).list_namespaced_pod("flink-operator").items
    assert [(pod.status.phase, pod.spec.service_account_name) for pod in pods] == [("Running", "flink-operator")]
    operator = client.AppsV1Api(kube_cluster.client).read_namespaced_deployment("flink-operator", "flink-operator")
    assert operator.status.available_replicas == 1


def test_the_cluster_is_the_kubernetes_that_its_go_module_names(kube_cluster: KubeCluster) -> None:
    assert client.VersionApi(kube_cluster.client).get_code().git_version == parts.kubernetes_version()


def test_a_flink_job_runs_in_restricted_pods_rescales_in_place_and_leaves_nothing_when_it_is_deleted(
    kube_cluster: KubeCluster, tenant: Tenant
) -> None:
    place = {"name": "count", "namespace": tenant.name}
    kube_cluster.create(yaml.safe_dump({**COUNT, "metadata": place}))
    kube_cluster.await_object(FLINK, "FlinkDeployment", until=is_running, **place)
    core = client.CoreV1Api(kube_cluster.client)
    pods = {pod.metadata.labels["component"]: pod for pod in core.list_namespaced_pod(tenant.name).items}
    assert sorted(pods) == ["jobmanager", "taskmanager"]
    assert {pod.status.phase for pod in pods.values()} == {"Running"}
    assert all(pod.spec.containers[0].security_context.read_only_root_filesystem for pod in pods.values())

    deployments = kube_cluster.resource(FLINK, "FlinkDeployment")
    two = {"spec": {"taskManager": {"replicas": 2}}}
    deployments.patch(**place, body=two, content_type="application/merge-patch+json")
    kube_cluster.await_object(
        *(FLINK, "FlinkDeployment"),
        until=lambda it: is_running(it) and it["status"]["taskManager"]["replicas"] == 2,
        **place,
    )
    names = {pod.metadata.name for pod in core.list_namespaced_pod(tenant.name).items}
    assert len(names) == 3
    assert {pod.metadata.name for pod in pods.values()} < names
    assert list(tenant.volume.glob("checkpoints/*/chk-*/_metadata"))

    deployments.delete(**place)
    for version, kind in (("v1", "Pod"), ("apps/v1", "Deployment"), ("v1", "Service")):
        kube_cluster.await_none(version, kind, namespace=tenant.name)
    kube_cluster.await_none("v1", "ConfigMap", namespace=tenant.name, labels="app=count")


def test_a_pod_that_is_not_restricted_is_refused(kube_cluster: KubeCluster, tenant: Tenant) -> None:
    pod = {"metadata": {"name": "root"}, "spec": {"containers": [{"name": "root", "image": parts.BASE_IMAGE}]}}
    with pytest.raises(client.ApiException, match="violates PodSecurity"):
        client.CoreV1Api(kube_cluster.client).create_namespaced_pod(tenant.name, pod)


def test_a_pod_has_java_and_python_finds_services_by_name_and_has_no_way_out(
    kube_cluster: KubeCluster, tenant: Tenant
) -> None:
    script = (
        "java -version && python3 --version && getent hosts kubernetes.default.svc.cluster.local && "
        "python3 -c 'import socket; print(socket.socket().connect_ex((\"192.0.2.77\", 80)))'"
    )
    container = {
        **RESTRICTED["containers"][0],
        "name": "looks",
        "image": parts.BASE_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-ec", script],
    }
    spec = {**RESTRICTED, "containers": [container], "restartPolicy": "Never"}
    core = client.CoreV1Api(kube_cluster.client)
    core.create_namespaced_pod(tenant.name, {"metadata": {"name": "looks"}, "spec": spec})
    ended = {"Succeeded", "Failed"}
    kube_cluster.await_object(
        *("v1", "Pod", "looks"), until=lambda pod: pod["status"]["phase"] in ended, namespace=tenant.name
    )
    said = core.read_namespaced_pod_log("looks", tenant.name)
    assert 'openjdk version "17' in said
    assert "Python 3.11" in said
    assert "198.19.0.1" in said
    assert said.splitlines()[-1] == str(errno.ENETUNREACH)  # at once: nothing left the node


class Trace:
    """What a running cluster has, and what of it is there later."""

    def __init__(self) -> None:
        self.processes = kube.members()
        self._spaces = {space for process in self.processes for space in spaces(process.pid)} - spaces(os.getpid())

    def left(self) -> list[str]:
        """Everything of any test cluster that this machine still has."""
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return [
            *(str(process) for process in self.processes if process.is_running()),
            *(space for pid in psutil.pids() for space in spaces(pid) & self._spaces),
            *(line for line in mounts if str(kube.FOLDER) in line or any(space in line for space in self._spaces)),
            *(interface for interface in psutil.net_if_addrs() if interface == kube.INTERFACE),
            *(str(path) for path in Path("/sys/fs/cgroup").rglob("*") if kube.CGROUP in path.name),
            *(str(path) for path in kube.FOLDER.glob("*") if path.name != "log"),
        ]


def spaces(pid: int) -> set[str]:
    with suppress(OSError):
        return {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("net", "mnt", "pid")}
    return set()


@pytest.mark.slow  # it stops and starts the cluster, whose tests these are
class TestNothingIsLeft:
    @pytest.fixture(scope="class")
    def stopped(self, kube_cluster: KubeCluster, pod_registry: ImageRegistry) -> Iterator[Trace]:
        """What the shared cluster was made of, which is stopped for these tests."""
        if "BEAM_K8S_TEST_CLUSTER" in os.environ:
            pytest.skip("the cluster is not ours to stop")
        trace = Trace()
        kube_cluster.stop()
        yield trace
        kube_cluster.start()

    def test_a_cluster_that_was_stopped_has_left_nothing(self, stopped: Trace) -> None:
        assert len(stopped.processes) > 10
        assert not stopped.left()

    def test_a_start_that_fails_half_way_leaves_nothing(self, stopped: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
        traces = []

        def fail(cluster: KubeCluster) -> None:
            traces.append(Trace())
            raise OSError("no node today")

        monkeypatch.setattr(kube.KubeCluster, "_start_node", fail)
        with pytest.raises(OSError, match="no node today"):
            kube.KubeCluster().start()
        assert len(traces[0].processes) > 5
        assert not traces[0].left()

    def test_a_cluster_ends_with_the_process_that_started_it(self, stopped: Trace) -> None:
        script = (
            "from tests.cluster.kube import KubeCluster\nwith KubeCluster():\n    print('up', flush=True)\n    input()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        ) as owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"up\n"
            processes = kube.members()
            owner.kill()
        assert len(processes) > 10
        await_gone(processes)
        rest = kube.KubeCluster()  # folders, which the next start would remove
        rest.take_over()
        rest.stop()


def test_the_node_pulls_an_image_from_a_registry_that_it_was_told_of_before_it_was_stopped(
    kube_cluster: KubeCluster, tenant: Tenant, pod_registry: ImageRegistry
) -> None:
    blobs = parts.images() / "blobs" / "sha256"
    index = json.loads((parts.images() / "index.json").read_text())
    (digest,) = (
        manifest["digest"]
        for manifest in index["manifests"]
        if manifest["annotations"]["io.containerd.image.name"] == parts.PAUSE_IMAGE
    )
    content = (blobs / digest.removeprefix("sha256:")).read_bytes()
    manifest = json.loads(content)
    api = Registry(pod_registry.host, plain_http=True)
    for blob in (manifest["config"], *manifest["layers"]):
        api.send("pulled", blob["digest"], blobs / blob["digest"].removeprefix("sha256:"))
    api.send_manifest("pulled", digest, content)
    container = {**RESTRICTED["containers"][0], "name": "pulled", "image": f"{pod_registry.host}/pulled@{digest}"}
    client.CoreV1Api(kube_cluster.client).create_namespaced_pod(
        tenant.name, {"metadata": {"name": "pulled"}, "spec": {**RESTRICTED, "containers": [container]}}
    )
    kube_cluster.await_object(
        *("v1", "Pod", "pulled"), until=lambda pod: pod["status"]["phase"] == "Running", namespace=tenant.name
    )
