"""images/deploy: what it says is what the API server takes, what the code needs, and what keeps tenants apart."""

from __future__ import annotations

import functools
import operator
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from beam_k8s import names
from beam_k8s.errors import Forbidden
from beam_k8s.launcher.kube import DEPLOYMENTS, Kind, Kube
from beam_k8s.launcher.port_forward import REST_PORT
from beam_k8s.launcher.service import NEEDED, KubernetesOperatorService
from beam_k8s.status import job_status
from tests.cluster.api_server import ApiServer
from tests.integration.test_fleet import Overloaded, job
from tests.integration.test_fleet import running as fleet_of
from tests.waiting import await_that

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DEPLOY = Path(__file__).parents[2] / "images" / "deploy"
FOLDERS = [".", "autoscaler", "autoscaler-all"]
DEPLOYMENT = ("Deployment", "beam-k8s-autoscaler")
PLURAL = {"NetworkPolicy": "networkpolicies"}
OF_NO_NAMESPACE = {"Namespace", "ClusterRole", "ClusterRoleBinding"}


def rendered(namespace: str = "beam-jobs", folder: str = ".") -> list[dict[str, Any]]:
    """All objects of a kustomization, in a namespace unless it names one itself, as kustomize makes them."""
    kustomization = yaml.safe_load((DEPLOY / folder / "kustomization.yaml").read_text())
    assert kustomization.keys() <= {"apiVersion", "kind", "resources", "namespace", "patches"}
    namespace = kustomization.get("namespace", namespace)
    objects = []
    for resource in kustomization["resources"]:
        path = DEPLOY / folder / resource
        if path.is_dir():
            objects += rendered(namespace, f"{folder}/{resource}")
        else:
            objects += yaml.safe_load_all(path.read_text().replace("beam-jobs", namespace))
    for patch in kustomization.get("patches", ()):
        (target,) = (each for each in objects if _is(each, **patch["target"]))
        for step in yaml.safe_load(patch["patch"]):
            *way, last = (int(key) if key.isdecimal() else key for key in step["path"].split("/")[1:])
            place = functools.reduce(operator.getitem, way, target)
            assert step["op"] == "add"
            if last == "-":
                place.append(step["value"])
            else:
                place[last] = step["value"]
    return objects


def _is(each: dict[str, Any], kind: str, name: str) -> bool:
    return (each["kind"], each["metadata"]["name"]) == (kind, name)


def _one(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in objects if _is(each, kind, name))
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_kustomization_has_every_file_and_each_object_its_namespace(folder: str) -> None:
    kustomization = yaml.safe_load((DEPLOY / folder / "kustomization.yaml").read_text())
    files = {
        str(path.relative_to(DEPLOY / folder)) for path in (DEPLOY / folder).glob("tenant/*" if folder == "." else "*")
    }
    assert files - {"kustomization.yaml"} == set(kustomization["resources"]) - {"../autoscaler"}
    namespace = kustomization.get("namespace", "team-a")
    for each in rendered("team-a", folder):
        if each["kind"] in OF_NO_NAMESPACE:
            assert "namespace" not in each["metadata"]
            assert each["kind"] != "Namespace" or each["metadata"]["name"] == namespace
        else:
            assert each["metadata"]["namespace"] == namespace
        assert all(subject.get("namespace") in {None, namespace} for subject in each.get("subjects", ()))


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, which has kustomize in it")
@pytest.mark.parametrize("folder", FOLDERS)
def test_kustomize_makes_what_is_looked_at_here(folder: str) -> None:
    made = subprocess.run(["kubectl", "kustomize", DEPLOY / folder], capture_output=True, text=True, check=True).stdout

    def by_name(objects: Iterable[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
        return {(each["kind"], each["metadata"]["name"]): each for each in objects}

    assert by_name(yaml.safe_load_all(made)) == by_name(rendered(folder=folder))


def test_the_autoscaler_of_all_namespaces_reaches_every_job_and_tenants_let_it_in() -> None:
    objects = rendered(folder="autoscaler-all")
    deployment, policy = (_one(objects, *which) for which in (DEPLOYMENT, ("NetworkPolicy", "autoscaler")))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python3", "-m", "beam_k8s", "autoscale", "-A"]
    ours = {"matchLabels": names.JOB_SELECTOR}
    assert {"namespaceSelector": {}, "podSelector": ours} in policy["spec"]["egress"][0]["to"]
    jobs = _one(rendered(), "NetworkPolicy", "jobs")
    home = {"kubernetes.io/metadata.name": deployment["metadata"]["namespace"]}
    let_in = {"from": [{"namespaceSelector": {"matchLabels": home}}], "ports": [{"port": REST_PORT}]}
    assert let_in in jobs["spec"]["ingress"]


def _granted(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_role_grants_what_the_code_asks_for_and_no_more() -> None:
    needed = {
        (kind.group, f"{kind.plural}/{subresource}" if subresource else kind.plural, verb)
        for kind, subresource, verbs in NEEDED
        for verb in verbs
    }
    assert _granted(_one(rendered(), "Role", "beam-k8s-submitter")) == needed


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
        for each in [*objects, *rendered("checked", "autoscaler"), *rendered(folder="autoscaler-all")]:
            group, _, version = each["apiVersion"].rpartition("/")
            kind = Kind(group, version, PLURAL.get(each["kind"], each["kind"].lower() + "s"))
            within = "" if each["kind"] in OF_NO_NAMESPACE else "checked"
            # Other tests leave objects of no namespace under their real names.
            own = {"namespace": within} if within else {"name": f"checked-{each['metadata']['name']}"}
            body = {**each, "metadata": each["metadata"] | own}
            taken = admin.create(kind, within, body, dry_run=True)
            for part in each.keys() & {"spec", "rules", "subjects"}:
                assert _within(each[part], taken[part]), (each["kind"], part)

    def test_a_tenants_job_is_not_anothers_to_read_or_to_delete(self, server: ApiServer) -> None:
        for team in ("team-a", "team-b"):
            server.create(*rendered(team))
            subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"user-of-{team}"}
            bound = _one(rendered(team), "RoleBinding", "beam-k8s-submitter")
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

    @pytest.mark.parametrize(("folder", "tenants"), [("autoscaler", ["scaled"]), ("autoscaler-all", ["one", "two"])])
    def test_an_autoscaler_needs_all_of_its_rights_and_no_others(
        self, server: ApiServer, folder: str, tenants: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        objects = rendered(tenants[0], folder)
        home = _one(objects, *DEPLOYMENT)["metadata"]["namespace"]
        admin = Kube.connect(kubeconfig=str(server.kubeconfig))
        for namespace in {home, *tenants}:
            admin.create(Kind("", "v1", "namespaces"), "", {"metadata": {"name": namespace}})
        server.create(*(each for each in objects if each["kind"] not in {"Namespace", "Deployment", "NetworkPolicy"}))
        for namespace in tenants:
            body = job(1)
            body["metadata"]["namespace"] = namespace
            admin.create(DEPLOYMENTS, namespace, body)
        user = f"system:serviceaccount:{home}:beam-k8s-autoscaler"
        kube = Kube.connect(kubeconfig=str(server.kubeconfig), namespace=home, impersonate=user)
        asked, ask = set(), Kube._ask

        def noted(self: Kube, method: str, path: str, verb: str, kind: Kind, *more: Any, **arguments: Any) -> Any:
            if "Impersonate-User" in self._client.default_headers:
                asked.add((kind.group, kind.plural, verb))
            return ask(self, method, path, verb, kind, *more, **arguments)

        class Looking(Overloaded):
            def __init__(self, job: Any, workers: Any, *more: Any) -> None:
                super().__init__(job, workers, *more)
                self.observe = lambda: workers.look() and super(Looking, self).observe()

        def workers(namespace: str) -> int:
            return job_status(admin.get(DEPLOYMENTS, namespace, "job-00001") or {}).workers

        monkeypatch.setattr(Kube, "_ask", noted)
        everywhere = folder == "autoscaler-all"
        with fleet_of(kube, Looking, namespace="" if everywhere else home):
            await_that(lambda: min(map(workers, tenants)) > 1)
        kind = "ClusterRole" if everywhere else "Role"
        assert asked == _granted(_one(objects, kind, "beam-k8s-autoscaler"))


def _within(wanted: Any, taken: Any) -> bool:
    """Whether the server has kept all that was wanted; it adds defaults."""
    if isinstance(wanted, dict):
        return all(key in taken and _within(value, taken[key]) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(wanted) == len(taken) and all(map(_within, wanted, taken))
    return bool(wanted == taken)
