"""The client and the cached reads against a real API server that is killed, cut off and asked by all kinds of users."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kubernetes import client, config

from beam_k8s import names
from beam_k8s.errors import Conflict, Forbidden, KubernetesError, NotFound
from beam_k8s.launcher import kube as kube_module
from beam_k8s.launcher.kube import DEPLOYMENTS, Kube
from beam_k8s.launcher.service import NEEDED, KubernetesOperatorService
from tests.cluster.api_server import ApiServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]  # the first run on a machine builds Kubernetes

MINUTES = 600
"""The shortest life of a token that the API grants [s]."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with ApiServer(tmp_path_factory.mktemp("api-server")) as running:
        yield running


@pytest.fixture
def namespace(server: ApiServer, unique: str) -> str:
    server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": unique}})
    return unique


@pytest.fixture
def other(server: ApiServer) -> Kube:
    """Another client, of the administrator: what it writes, the one under test must see."""
    return Kube.connect(kubeconfig=str(server.kubeconfig))


def job(name: str, **labels: str) -> dict[str, Any]:
    job_id = uuid.uuid5(uuid.NAMESPACE_DNS, name).hex
    return {
        "apiVersion": "flink.apache.org/v1beta1",
        "kind": "FlinkDeployment",
        "metadata": {"name": name, "labels": {**names.JOB_SELECTOR, names.JOB_ID_LABEL: job_id, **labels}},
        "spec": {"image": "none", "flinkVersion": "v1_19", "taskManager": {"replicas": 1}},
    }


def scale(kube: Kube, namespace: str, name: str, workers: int) -> None:
    kube.patch(DEPLOYMENTS, namespace, name, {"spec": {"taskManager": {"replicas": workers}}})


def eventually(right: Callable[[], object], timeout: float = 30) -> None:
    """For what nothing tells."""
    until = time.monotonic() + timeout
    while not right():
        assert time.monotonic() < until, right
        time.sleep(0.05)


class Asked:
    """How often a client asks for objects; its watches are not counted."""

    def __init__(self, kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        for name in ("get", "find"):
            monkeypatch.setattr(kube, name, self._counted(getattr(kube, name)))

    def _counted(self, asks: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*arguments: Any, **more: Any) -> Any:
            self.times += 1
            return asks(*arguments, **more)

        return ask


class Proxy:
    """A way to the API server that can be cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._is_cut = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @contextmanager
    def cut(self) -> Iterator[None]:
        """All connections break, and new ones break at once."""
        self._is_cut.set()
        self._close()
        yield
        self._is_cut.clear()

    def close(self) -> None:
        self._listener.close()
        self._close()

    def _close(self) -> None:
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                inner, _ = self._listener.accept()
                if self._is_cut.is_set():
                    inner.close()
                    continue
                outer = socket.create_connection(("127.0.0.1", self._to))
                self._open += [inner, outer]
                for source, sink in ((inner, outer), (outer, inner)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(server: ApiServer) -> Iterator[Proxy]:
    running = Proxy(server.port)
    yield running
    running.close()


def kubeconfig(path: Path, server: ApiServer, user: dict[str, Any], port: int | None = None) -> str:
    """The file of a user, who may have to go by another port."""
    given = yaml.safe_load(server.kubeconfig.read_text())
    given["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port or server.port}"
    given["users"][0]["user"] = user or given["users"][0]["user"]
    path.write_text(yaml.safe_dump(given))
    return str(path)


class TestCache:
    def test_once_in_sync_reads_ask_nobody_and_say_what_others_wrote(
        self, server: ApiServer, namespace: str, other: Kube, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kube = Kube.connect(kubeconfig=str(server.kubeconfig))
        asked = Asked(kube, monkeypatch)
        for name in ("one", "two"):
            other.create(DEPLOYMENTS, namespace, job(name, team=name))
        one = job("one")["metadata"]["labels"][names.JOB_ID_LABEL]
        with KubernetesOperatorService(kube) as service:
            assert {each.name for each in service.get_all_jobs(namespace)} == {"one", "two"}
            eventually(lambda: _asks_nobody(asked, lambda: service.get_all_jobs(namespace)))
            before = asked.times
            assert service.get_status_of_job_by_name(namespace, "one").job_id == one
            assert service.get_status_of_job_by_id(namespace, one).name == "one"
            assert [each.name for each in service.get_all_jobs(namespace, "team=two")] == ["two"]
            scale(other, namespace, "one", 3)
            eventually(lambda: service.get_status_of_job_by_name(namespace, "one").workers == 3)
            other.delete(DEPLOYMENTS, namespace, "two")
            eventually(lambda: len(service.get_all_jobs(namespace)) == 1)
            assert asked.times == before
            with pytest.raises(NotFound):
                service.get_status_of_job_by_name(namespace, "two")
            other.create(DEPLOYMENTS, namespace, job("three"))  # what is not known yet is asked for
            assert service.get_status_of_job_by_name(namespace, "three").ours
            assert service.get_all_jobs(namespace, "team in (one, two)")[0].name == "one"

    def test_one_watch_of_all_namespaces_serves_each(
        self, server: ApiServer, namespace: str, other: Kube, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kube = Kube.connect(kubeconfig=str(server.kubeconfig))
        other.create(DEPLOYMENTS, namespace, job("one"))
        asked = Asked(kube, monkeypatch)
        with KubernetesOperatorService(kube) as service:
            eventually(lambda: _asks_nobody(asked, lambda: service.get_all_jobs("")))
            before = asked.times
            assert [each.namespace for each in service.get_all_jobs(namespace)] == [namespace]
            assert asked.times == before

    def test_a_write_is_seen_by_the_reads_that_follow(self, server: ApiServer, namespace: str, other: Kube) -> None:
        kube = Kube.connect(kubeconfig=str(server.kubeconfig))
        other.create(DEPLOYMENTS, namespace, job("one"))
        with KubernetesOperatorService(kube) as service:
            service.get_all_jobs(namespace)
            for workers in (2, 3, 4):
                service.update_replica(namespace, "one", workers)
                assert service.get_status_of_job_by_name(namespace, "one").workers == workers
            service.delete_job_by_name(namespace, "one")
            assert service.get_all_jobs(namespace) == []


def _asks_nobody(asked: Asked, read: Callable[[], object]) -> bool:
    before = asked.times
    read()
    return asked.times == before


class TestRestart:
    def test_reads_watches_waits_and_the_cache_survive_a_killed_api_server(
        self, server: ApiServer, namespace: str, other: Kube
    ) -> None:
        # Not the administrator: what roles there are, a server knows only a while after it has started.
        Account(server, namespace)
        user = f"system:serviceaccount:{namespace}:reader"
        kube = Kube.connect(kubeconfig=str(server.kubeconfig), impersonate=user)
        for name in ("stays", "goes"):
            other.create(DEPLOYMENTS, namespace, job(name))
        with KubernetesOperatorService(kube) as service:
            changes = service.watch(namespace, seconds=120)
            assert {next(changes).name, next(changes).name} == {"stays", "goes"}
            eventually(lambda: len(service.get_all_jobs(namespace)) == 2)
            told: list[Any] = []
            read: list[Any] = []
            waits = threading.Thread(
                target=lambda: told.append(
                    service.wait(namespace, "stays", lambda status: status.workers == 7, timeout=120)
                )
            )
            waits.start()
            server.kill()
            reads = threading.Thread(target=lambda: read.extend(service.get_all_jobs(namespace)))
            reads.start()  # while nobody answers
            server.start()
            other.delete(DEPLOYMENTS, namespace, "goes")
            scale(other, namespace, "stays", 7)
            reads.join()
            waits.join()
            assert "stays" in {each.name for each in read}
            assert told[0].workers == 7
            seen = {(change.name, change.state): change.workers for change in _until(changes, {"goes", "stays"})}
            assert seen["goes", "CANCELLED"] == 1
            assert 7 in seen.values()
            eventually(
                lambda: [(each.name, each.workers) for each in service.get_all_jobs(namespace)] == [("stays", 7)]
            )

    def test_a_version_that_the_server_no_longer_knows_is_listed_anew(
        self, server: ApiServer, namespace: str, other: Kube
    ) -> None:
        other.create(DEPLOYMENTS, namespace, job("one"))
        _, version = other.find(DEPLOYMENTS, namespace)
        kube = Kube.connect(kubeconfig=str(server.kubeconfig))
        followed = kube.follow(DEPLOYMENTS, namespace, seconds=60)
        assert [what for what, _ in (next(followed), next(followed))] == ["ADDED", "OPEN"]
        server.kill()
        server.start()  # it knows nothing of what was before
        for workers in (2, 3):
            scale(other, namespace, "one", workers)
        with pytest.raises(Conflict, match="too old"):
            list(kube.watch(DEPLOYMENTS, namespace, version, seconds=5))
        events = []
        for what, thing in followed:
            events.append(what)
            if thing and thing["spec"]["taskManager"]["replicas"] == 3:
                break
        assert "LOST" in events
        assert events[-1] == "MODIFIED"


def _until(changes: Iterator[Any], wanted: set[str]) -> Iterator[Any]:
    for change in changes:
        yield change
        wanted.discard(change.name)
        if not wanted:
            return


class TestCutOff:
    def test_reads_a_watch_and_the_cache_survive_a_cut_connection(
        self, server: ApiServer, namespace: str, other: Kube, proxy: Proxy, tmp_path: Path
    ) -> None:
        kube = Kube.connect(kubeconfig=kubeconfig(tmp_path / "config", server, {}, proxy.port))
        other.create(DEPLOYMENTS, namespace, job("one"))
        with KubernetesOperatorService(kube) as service:
            changes = service.watch(namespace, seconds=120)
            assert next(changes).workers == 1
            eventually(lambda: service.get_status_of_job_by_name(namespace, "one").workers == 1)
            read: list[Any] = []
            with proxy.cut():
                scale(other, namespace, "one", 2)
                reads = threading.Thread(
                    target=lambda: read.append(service.get_status_of_job_by_name(namespace, "one"))
                )
                # Once the cache has noticed, a read goes to the server, and waits for it.
                eventually(lambda: service._cache(namespace).by_name(namespace, "one") is None)
                reads.start()
                reads.join(2)
                assert not read
            reads.join()
            assert read[0].workers == 2
            assert next(change.workers for change in changes if change.workers != 1) == 2
            scale(other, namespace, "one", 3)
            eventually(lambda: service.get_status_of_job_by_name(namespace, "one").workers == 3)

    def test_a_server_that_stays_away_is_an_error_after_a_while(
        self, server: ApiServer, namespace: str, proxy: Proxy, tmp_path: Path
    ) -> None:
        kube = Kube.connect(kubeconfig=kubeconfig(tmp_path / "config", server, {}, proxy.port))
        with proxy.cut(), pytest.raises(KubernetesError, match=r"the API server .* does not answer"):
            kube.find(DEPLOYMENTS, namespace, patience=2)


class Account:
    """A service account that may read jobs in a namespace, and its tokens."""

    def __init__(self, server: ApiServer, namespace: str, name: str = "reader") -> None:
        self._core = client.CoreV1Api(server.client)
        self._server = server
        self.namespace, self.name = namespace, name
        rules = [
            {"apiGroups": ["flink.apache.org"], "resources": ["flinkdeployments"], "verbs": ["get", "list", "watch"]}
        ]
        of_all = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name, "namespace": namespace}}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        self.create()
        server.create(
            of_all | {"kind": "Role", "rules": rules},
            of_all | {"kind": "RoleBinding", "roleRef": role, "subjects": [subject]},
        )

    def create(self) -> None:
        self._core.create_namespaced_service_account(self.namespace, {"metadata": {"name": self.name}})

    def token(self) -> str:
        wanted = client.AuthenticationV1TokenRequest(spec={"audiences": [], "expirationSeconds": MINUTES})
        made = self._core.create_namespaced_service_account_token(self.name, self.namespace, wanted)
        return str(made.status.token)

    def expire(self, token: str) -> None:
        """Make a token one that the server refuses: the account is another one now."""
        self._core.delete_namespaced_service_account(self.name, self.namespace)
        self.create()
        made = client.Configuration(host=f"https://127.0.0.1:{self._server.port}")
        made.ssl_ca_cert = str(self._server.authority)
        made.api_key = {"authorization": f"Bearer {token}"}

        def is_refused() -> bool:
            try:
                client.CustomObjectsApi(client.ApiClient(made)).list_namespaced_custom_object(
                    "flink.apache.org", "v1beta1", self.namespace, "flinkdeployments"
                )
            except client.ApiException as error:
                return bool(error.status == 401)
            return False

        eventually(is_refused)  # the server remembers for ten seconds whom it knows


class TestUsers:
    def test_a_token_of_an_exec_plugin_is_fetched_anew_when_it_has_expired(
        self, server: ApiServer, namespace: str, other: Kube, tmp_path: Path
    ) -> None:
        account = Account(server, namespace)
        kept, plugin = tmp_path / "token", tmp_path / "plugin"
        kept.write_text(account.token())
        status = (
            '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "%s"}}'
        )
        plugin.write_text(f"#!/bin/sh\nprintf '{status}' \"$(cat {kept})\"\necho called >>{tmp_path}/calls\n")
        plugin.chmod(0o755)
        calls = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "Never"}
        kube = Kube.connect(kubeconfig=kubeconfig(tmp_path / "config", server, {"exec": calls}))
        self._survives_an_expired_token(kube, account, kept, other)
        assert (tmp_path / "calls").read_text().count("called") < 6  # when the server refuses a token, not each time

    def test_a_pods_token_is_read_anew_when_it_was_rotated(
        self, server: ApiServer, namespace: str, other: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        account = Account(server, namespace)
        (tmp_path / "token").write_text(account.token())
        (tmp_path / "namespace").write_text(namespace)
        monkeypatch.delenv("KUBECONFIG", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        monkeypatch.setattr(config.incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
        monkeypatch.setattr(config.incluster_config, "SERVICE_CERT_FILENAME", str(server.authority))
        monkeypatch.setattr(kube_module, "_IN_POD", tmp_path)
        kube = Kube.connect()
        assert kube.namespace == namespace
        self._survives_an_expired_token(kube, account, tmp_path / "token", other)

    def _survives_an_expired_token(self, kube: Kube, account: Account, kept: Path, other: Kube) -> None:
        other.create(DEPLOYMENTS, account.namespace, job("one"))
        with KubernetesOperatorService(kube) as service:
            changes = service.watch(account.namespace, seconds=120)
            assert next(changes).name == "one"
            old = kept.read_text()
            account.expire(old)
            with pytest.raises(KubernetesError, match="credentials are missing or have expired"):
                kube.find(DEPLOYMENTS, account.namespace)
            kept.write_text(account.token())
            assert kube.find(DEPLOYMENTS, account.namespace)[0]
            scale(other, account.namespace, "one", 2)
            assert next(change.workers for change in changes if change.workers != 1) == 2
            eventually(lambda: service.get_status_of_job_by_name(account.namespace, "one").workers == 2)

    def test_who_is_impersonated_has_his_own_rights(self, server: ApiServer, namespace: str, other: Kube) -> None:
        Account(server, namespace)
        other.create(DEPLOYMENTS, namespace, job("one"))
        user = f"system:serviceaccount:{namespace}:reader"
        kube = Kube.connect(kubeconfig=str(server.kubeconfig), impersonate=user)
        with KubernetesOperatorService(kube, cache=False) as service:
            assert service.get_status_of_job_by_name(namespace, "one").ours
            with pytest.raises(Forbidden, match=f"not allowed to patch flinkdeployments.* in namespace {namespace}"):
                service.resume(namespace, "one")
            with pytest.raises(Forbidden, match=f"not allowed to delete flinkdeployments.* in namespace {namespace}"):
                kube.delete(DEPLOYMENTS, namespace, "one")
            missing = service.missing_verbs(namespace)
        everything = [f"{verb} {kind}{'/' * bool(part)}{part}" for kind, part, verbs in NEEDED for verb in verbs]
        held = {f"{verb} flinkdeployments.flink.apache.org" for verb in ("get", "list", "watch")}
        assert missing == [each for each in everything if each not in held]

    def test_without_rights_each_read_says_what_is_missing(self, server: ApiServer, namespace: str) -> None:
        kube = Kube.connect(kubeconfig=str(server.kubeconfig), impersonate="jane")
        with KubernetesOperatorService(kube) as service:
            for verb, read in (
                ("get", lambda: service.get_status_of_job_by_name(namespace, "one")),
                ("list", lambda: service.get_all_jobs(namespace)),
                ("list", lambda: next(service.watch(namespace))),
            ):
                with pytest.raises(
                    Forbidden, match=f"{verb} flinkdeployments.flink.apache.org in namespace {namespace}"
                ):
                    read()


def test_a_server_that_is_not_to_be_trusted_is_refused_at_once(server: ApiServer, tmp_path: Path) -> None:
    given = yaml.safe_load(server.kubeconfig.read_text())
    del given["clusters"][0]["cluster"]["certificate-authority-data"]
    (tmp_path / "config").write_text(yaml.safe_dump(given))
    kube = Kube.connect(kubeconfig=str(tmp_path / "config"))
    with pytest.raises(KubernetesError, match="CERTIFICATE_VERIFY_FAILED"):
        kube.find(DEPLOYMENTS, "default", patience=3600)
