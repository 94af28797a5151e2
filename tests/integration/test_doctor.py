"""``beam-k8s doctor`` on a real cluster, where each mistake is made for real."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from kubernetes import client

from beam_k8s import checks, names
from beam_k8s.launcher import doctor
from beam_k8s.launcher.kube import DEPLOYMENTS, PODS, Kind, Kube
from tests.cluster import parts
from tests.cluster.api_server import ApiServer
from tests.cluster.count_job import COUNT
from tests.cluster.kube import HOST, user_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cluster.kafka import KafkaBroker
    from tests.cluster.kube import KubeCluster
    from tests.conftest import Tenant

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

PROGRAM = str(Path(sys.executable).with_name("beam-k8s"))
REFUSED = {"kubernetes.namespace": "elsewhere"}
"""A setting that the operator forbids."""


class Doctor(NamedTuple):
    """The command in a namespace of the test's own."""

    tenant: Tenant
    kube: Kube
    flags: list[str]

    def command(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """What it says; a flag given here wins over those of the team."""
        command = [PROGRAM, "doctor", "-n", self.tenant.name, *self.flags, *flags]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
        assert "Traceback" not in ended.stderr
        for kind in (PODS, DEPLOYMENTS):
            found, _ = self.kube.find(kind, self.tenant.name)
            left = [each["metadata"] for each in found if each["metadata"]["name"].startswith("beam-k8s-doctor")]
            assert all("deletionTimestamp" in metadata for metadata in left)
        return ended

    def finds(self, *flags: str) -> dict[str, tuple[str, str]]:
        """State and message of each check."""
        ended = self.command("-o", "json", *flags)
        findings = json.loads(ended.stdout)["findings"]
        states = {finding["state"] for finding in findings}
        assert ended.returncode == ("wrong" in states), ended.stderr
        assert all(finding["hint"] for finding in findings if finding["state"] == "wrong"), findings
        return {finding["check"]: (finding["state"], finding["message"]) for finding in findings}

    def finds_wrong(self, *flags: str) -> dict[str, str]:
        """Messages of what is wrong."""
        return {check: message for check, (state, message) in self.finds(*flags).items() if state == "wrong"}

    def create(self, kind: Kind, name: str, body: dict[str, Any], labels: dict[str, str] | None = None) -> None:
        metadata = {"name": name, "namespace": self.tenant.name, "labels": labels or {}}
        self.kube.create(kind, self.tenant.name, {**body, "metadata": metadata})

    def create_refused_job(self, name: str, **conf: str) -> None:
        """A job of ours that never has a pod."""
        spec = {**COUNT["spec"], "flinkConfiguration": REFUSED | conf}
        self.create(DEPLOYMENTS, name, {**COUNT, "spec": spec}, names.JOB_SELECTOR)


@pytest.fixture
def patient(
    kube_cluster: KubeCluster, tenant: Tenant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Doctor]:
    """A namespace with all that jobs need, but that no image is named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(kube_cluster.kubeconfig))
    flags = ["--k8s_storage=file:///flink-data", "--k8s_storage_claim=flink-data", "--k8s_image_repository=a.b/jobs"]
    kube = Kube.connect(kubeconfig=str(kube_cluster.kubeconfig))
    yield Doctor(tenant, kube, [*flags, "--k8s_runtime_image=a.b/c"])
    # In a namespace that is on its way out the operator never gets done with a job.
    for job in kube.find(DEPLOYMENTS, tenant.name)[0]:
        kube.delete(DEPLOYMENTS, tenant.name, job["metadata"]["name"])
    kube_cluster.await_none("flink.apache.org/v1beta1", "FlinkDeployment", namespace=tenant.name)


@pytest.fixture
def seen(patient: Doctor, runtime_image: str) -> Doctor:
    """The same, and a pod looks from the inside."""
    return patient._replace(flags=[*patient.flags[:-1], f"--k8s_runtime_image={runtime_image}"])


class TestFromTheInside:
    def test_where_all_is_well_every_check_says_so(self, seen: Doctor, pod_broker: KafkaBroker) -> None:
        broker = f"--broker={pod_broker.bootstrap_servers}"
        found = seen.finds(broker)
        assert {state for state, _ in found.values()} == {"ok"}, found
        assert list(found) == [
            *("crd", "operator", "versions", "rights", "account", "claim", "quota"),
            *("image", "broker", "storage", "scalers"),
        ]
        assert not list(seen.tenant.volume.rglob("beam-k8s-doctor*"))
        table = seen.command(broker)
        assert table.returncode == 0
        assert {line.split()[0] for line in table.stdout.splitlines()} == {"ok"}

    def test_a_storage_that_cannot_be_written_and_a_broker_that_is_not_there(self, seen: Doctor) -> None:
        (seen.tenant.volume / seen.tenant.name).write_text("a file where jobs want their folder")
        with socket.create_server((HOST, 0)) as closed:
            port = closed.getsockname()[1]
        wrong = seen.finds_wrong(f"--broker={HOST}:{port}")
        assert set(wrong) == {"storage", "broker"}
        assert "storage file:///flink-data/" in wrong["storage"]
        assert wrong["broker"].endswith(f"cannot be used from namespace {seen.tenant.name}: Connection refused")

    def test_a_scheme_that_the_image_has_no_file_system_for(self, seen: Doctor) -> None:
        flags = [flag for flag in seen.flags if "storage" not in flag]
        wrong = seen._replace(flags=flags).finds_wrong("--k8s_storage=oss://bucket/jobs")
        assert set(wrong) == {"storage"}
        assert "oss" in wrong["storage"]

    def test_an_image_that_is_not_in_its_registry(self, seen: Doctor, runtime_image: str) -> None:
        registry = runtime_image.partition("/")[0]
        wrong = seen.finds_wrong(f"--k8s_runtime_image={registry}/no-such-image:1")
        assert set(wrong) == {"image"}
        assert f"cannot pull image {registry}/no-such-image:1" in wrong["image"]


class TestFromTheOutside:
    def test_a_quota_that_leaves_too_little(self, patient: Doctor) -> None:
        patient.create(doctor.QUOTAS, "small", {"spec": {"hard": {"requests.cpu": "1", "pods": "9"}}})
        while "hard" not in (patient.kube.get(doctor.QUOTAS, patient.tenant.name, "small") or {}).get("status", {}):
            pass
        wrong = patient.finds_wrong("--num_workers=3")
        assert "quota small of namespace" in wrong["quota"]
        assert "needs 3.5 of requests.cpu, 1 of 1 are left" in wrong["quota"]

    @pytest.mark.parametrize(
        ("flag", "check", "message"),
        [
            ("--k8s_service_account=nobody", "account", "there is no service account nobody in namespace"),
            ("--k8s_service_account=default", "account", "default in namespace {} may not create configmaps"),
            ("--k8s_storage_claim=none", "claim", "there is no PersistentVolumeClaim none in namespace {}"),
        ],
    )
    def test_what_the_pods_would_miss(self, patient: Doctor, flag: str, check: str, message: str) -> None:
        found = patient.finds(flag)
        assert found[check][0] == "wrong"
        assert message.format(patient.tenant.name) in found[check][1]
        assert found["image"][0] == "warning"  # no pod was tried

    def test_a_user_without_rights(self, patient: Doctor) -> None:
        found = patient.finds(f"--as=system:serviceaccount:{patient.tenant.name}:default")
        state, message = found["rights"]
        assert state == "wrong"
        for right in ("create flinkdeployments.flink.apache.org", "create secrets", "get pods/log"):
            assert right in message
        assert found["operator"][0] == found["image"][0] == "warning"

    def test_a_user_with_the_role_of_images_deploy_can_launch_and_learns_what_he_cannot_know(
        self, patient: Doctor
    ) -> None:
        found = patient.finds(f"--as={user_of(patient.tenant.name)}")
        # It may look from a pod, too; a.b/c is no image.
        assert [check for check, (state, _) in found.items() if state == "wrong"] == ["image"]
        assert "a.b/c" in found["image"][1]
        assert "versions" in {check for check, (state, _) in found.items() if state == "warning"}

    def test_two_scalers(self, patient: Doctor) -> None:
        scaler = {"scaleTargetRef": {"apiVersion": "flink.apache.org/v1beta1", "kind": "FlinkDeployment", "name": "a"}}
        patient.create(doctor.AUTOSCALERS, "mine", {"spec": {**scaler, "maxReplicas": 2}})
        patient.create_refused_job("a")
        patient.create_refused_job("b", **{"job.autoscaler.enabled": "true"})
        ended = patient.command()
        lines = [line for line in ended.stdout.splitlines() if line.startswith("wrong")]
        assert len(lines) == 3  # and a.b/c is no image
        assert any("job a has two scalers: HorizontalPodAutoscaler mine" in line for line in lines)
        assert any("job b has two scalers: the operator's own is on" in line for line in lines)


class Bare(NamedTuple):
    """An API server without an operator that runs."""

    server: ApiServer
    script: Path

    def findings(self) -> dict[str, checks.Finding]:
        kube = Kube.connect(kubeconfig=str(self.server.kubeconfig), namespace="default")
        return {finding.check: finding for finding in doctor.examine(kube, "default", None)}

    def install_operator(self, image: str, *, watched: str) -> None:
        """Its Deployment, as its chart makes it; there is nobody who would start it, so its status is set here."""
        name, app = "flink-operator", {"app": "flink-operator"}
        labels = {"app.kubernetes.io/name": "flink-kubernetes-operator"}
        container = {"name": "operator", "image": image, "env": [{"name": "WATCH_NAMESPACES", "value": watched}]}
        template = {"metadata": {"labels": app}, "spec": {"containers": [container]}}
        deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "spec": {"selector": {"matchLabels": app}, "template": template},
        }
        self.server.create(deployment)
        with self.server.client as api:
            status = {"status": {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1}}
            client.AppsV1Api(api).patch_namespaced_deployment_status(name, "default", status)

    def submit(self) -> str:
        """What a submission says that is refused."""
        flags = ["--runner=FlinkK8s", "--job_name=a", "--k8s_storage=s3://a/b", "--k8s_image_repository=127.0.0.1:1/a"]
        where = [f"--k8s_kubeconfig={self.server.kubeconfig}", "--k8s_runtime_image=127.0.0.1:1/b"]
        command = [sys.executable, str(self.script), *flags, *where]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert ended.returncode != 0
        return ended.stderr


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Callable[..., Bare]]:
    """Starts API servers with the custom resources that are given."""
    script = tmp_path / "my_pipeline.py"
    script.write_text("import sys, apache_beam, beam_k8s\napache_beam.Pipeline(argv=sys.argv[1:]).run()")
    with ExitStack() as stack:
        yield lambda crds=None: Bare(stack.enter_context(ApiServer(tmp_path, crds)), script)


class TestWhatAnAdministratorHasToMend:
    """Clusters that are broken for real: API servers of the test's own."""

    def test_the_operators_crds_are_missing(self, bare: Callable[..., Bare]) -> None:
        place = bare([])
        found = place.findings()
        assert found["crd"].state == "wrong"
        assert "the CRDs of flink.apache.org are not installed" in found["crd"].message
        assert found["operator"].state == "warning"
        assert (
            "the CRDs of flink.apache.org are not installed.\n  Install the Flink Kubernetes operator" in place.submit()
        )

    def test_the_crds_are_of_another_version(self, bare: Callable[..., Bare]) -> None:
        place = bare([text.replace("v1beta1", "v2") for text in parts.crds()])
        found = place.findings()
        assert found["crd"].state == "wrong"
        says = "the cluster knows FlinkDeployments of flink.apache.org only as v2, this release writes v1beta1"
        assert says in found["crd"].message
        assert says in place.submit()

    def test_no_operator_is_installed(self, bare: Callable[..., Bare]) -> None:
        found = bare().findings()
        assert found["crd"].state == "ok"
        assert (found["operator"].state, found["operator"].message) == (
            "wrong",
            "no Flink Kubernetes operator is installed.",
        )
        assert found["versions"].state == "warning"

    def test_an_operator_does_not_watch_the_namespace_and_is_too_old(self, bare: Callable[..., Bare]) -> None:
        place = bare()
        place.install_operator("flink-kubernetes-operator:1.6.1", watched="team-a,team-b")
        found = place.findings()
        assert found["operator"].state == "wrong"
        assert "does not look at namespace default (but team-a, team-b)" in found["operator"].message
        assert found["versions"].state == "wrong"
        assert "operator 1.6.1 does not know Flink" in found["versions"].message
        kube = Kube.connect(kubeconfig=str(place.server.kubeconfig))
        assert kube.find(DEPLOYMENTS, "default")[0] == []


def test_what_a_running_job_needs_is_looked_at_by_its_name(patient: Doctor) -> None:
    patient.create_refused_job("count")
    found = patient._replace(flags=[]).finds("--job=count")
    assert found["account"] == ("ok", "flink is there")
    state, message = found["image"]
    assert state == "wrong"
    assert "is no image of beam_k8s" in message
    assert patient._replace(flags=[]).command("--job=nobody").returncode == 4


def test_flags_that_are_wrong_are_findings_too(patient: Doctor) -> None:
    found = patient._replace(flags=[]).finds("--k8s_storage=s3://bucket", "--machine_type=m5.large")
    state, message = found["settings"]
    assert state == "wrong"
    assert "--machine_type=m5.large is not a worker type" in message
    assert found["operator"][0] == "ok"
    assert patient.command("count").returncode == 2
    assert patient.command("--broker=kafka").returncode == 2
