"""images/deploy: what it says is what the API server takes, what the code needs, and what keeps tenants apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from beam_k8s import names
from beam_k8s.errors import Forbidden
from beam_k8s.launcher.kube import DEPLOYMENTS, Kind, Kube
from beam_k8s.launcher.service import NEEDED, KubernetesOperatorService
from tests.cluster.api_server import ApiServer

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).parents[2] / "images" / "deploy"
PLURAL = {"NetworkPolicy": "networkpolicies"}


def rendered(namespace: str = "beam-jobs") -> list[dict[str, Any]]:
    """All objects of the kustomization, in a namespace; it needs no other transformer than that."""
    kustomization = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
    assert kustomization.keys() == {"apiVersion", "kind", "resources"}
    texts = [(DEPLOY / resource).read_text().replace("beam-jobs", namespace) for resource in kustomization["resources"]]
    return [document for text in texts for document in yaml.safe_load_all(text)]


def test_the_kustomization_has_every_file_and_each_object_its_namespace() -> None:
    kustomization = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
    assert sorted(kustomization["resources"]) == sorted(f"tenant/{path.name}" for path in DEPLOY.glob("tenant/*"))
    for each in rendered("team-a"):
        inside = each["metadata"]["name"] if each["kind"] == "Namespace" else each["metadata"]["namespace"]
        assert inside == "team-a"


def test_the_role_grants_what_the_code_asks_for_and_no_more() -> None:
    (role,) = (
        each for each in rendered() if (each["kind"], each["metadata"]["name"]) == ("Role", "beam-k8s-submitter")
    )
    granted = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    needed = {
        (kind.group, f"{kind.plural}/{subresource}" if subresource else kind.plural, verb)
        for kind, subresource, verbs in NEEDED
        for verb in verbs
    }
    assert granted == needed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with ApiServer(tmp_path_factory.mktemp("api-server")) as running:
        yield running


@pytest.mark.cluster
@pytest.mark.timeout(1800)
class TestOnAnApiServer:
    def test_the_server_takes_every_object(self, server: ApiServer) -> None:
        admin = Kube.connect(kubeconfig=str(server.kubeconfig))
        namespace, *objects = rendered("checked")
        admin.create(Kind("", "v1", "namespaces"), "", namespace)
        for each in objects:
            group, _, version = each["apiVersion"].rpartition("/")
            kind = Kind(group, version, PLURAL.get(each["kind"], each["kind"].lower() + "s"))
            taken = admin.create(kind, "checked", each, dry_run=True)
            for part in each.keys() & {"spec", "rules", "subjects"}:
                assert _within(each[part], taken[part]), (each["kind"], part)

    def test_a_tenants_job_is_not_anothers_to_read_or_to_delete(self, server: ApiServer) -> None:
        for team in ("team-a", "team-b"):
            server.create(*rendered(team))
            subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"user-of-{team}"}
            (bound,) = (
                each
                for each in rendered(team)
                if (each["kind"], each["metadata"]["name"]) == ("RoleBinding", "beam-k8s-submitter")
            )
            server.create({**bound, "metadata": {"name": "user", "namespace": team}, "subjects": [subject]})
        a, b = (Kube.connect(kubeconfig=str(server.kubeconfig), impersonate=f"user-of-team-{team}") for team in "ab")
        labels = {**names.JOB_SELECTOR, names.JOB_ID_LABEL: "0" * 32}
        body = {"metadata": {"name": "job", "labels": labels}, "spec": {"image": "none", "flinkVersion": "v1_19"}}
        a.create(DEPLOYMENTS, "team-a", {"apiVersion": "flink.apache.org/v1beta1", "kind": "FlinkDeployment", **body})
        with KubernetesOperatorService(a) as owner, KubernetesOperatorService(b) as stranger:
            assert owner.missing_verbs("team-a") == stranger.missing_verbs("team-b") == []
            assert owner.get_status_of_job_by_name("team-a", "job").ours
            assert stranger.get_all_jobs("team-b") == []
            for verb, tries in (
                ("get", lambda: stranger.get_status_of_job_by_name("team-a", "job")),
                ("list", lambda: stranger.get_status_of_job_by_id("team-a", "0" * 32)),
                ("list", lambda: stranger.get_all_jobs("team-a")),
                ("get", lambda: stranger.delete_job_by_name("team-a", "job")),
                ("delete", lambda: b.delete(DEPLOYMENTS, "team-a", "job")),
                ("patch", lambda: b.patch(DEPLOYMENTS, "team-a", "job", {"spec": {"image": "mine"}})),
            ):
                wanted = f"not allowed to {verb} flinkdeployments.flink.apache.org in namespace team-a"
                with pytest.raises(Forbidden, match=wanted):
                    tries()
            with pytest.raises(Forbidden, match="in all namespaces"):
                stranger.get_all_jobs("")
            assert owner.get_status_of_job_by_name("team-a", "job").image == "none"


def _within(wanted: Any, taken: Any) -> bool:
    """Whether the server has kept all that was wanted; it adds defaults."""
    if isinstance(wanted, dict):
        return all(key in taken and _within(value, taken[key]) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(wanted) == len(taken) and all(map(_within, wanted, taken))
    return bool(wanted == taken)
