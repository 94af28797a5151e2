"""A real Kubernetes API server alone, with etcd behind it and Flink's custom resources: no node, no operator.

It starts in seconds beside any cluster, and a test may kill it. Objects in it are nobody's but the test's.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import yaml
from kubernetes import client, config

from tests.cluster import parts
from tests.cluster.kafka import free_ports

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["ApiServer"]

_START_SECONDS = 60
_KUBEADM = """
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {{advertiseAddress: 192.0.2.1, bindPort: {port}}} # any but a loopback address; nobody asks there
nodeRegistration: {{name: node, criSocket: "unix:///none"}}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: {version}
certificatesDir: {folder}/pki
encryptionAlgorithm: ECDSA-P256
controlPlaneEndpoint: "127.0.0.1:{port}"
"""


class ApiServer:
    """One API server; it ends with this process.

    Args:
        folder: for its data, certificates and logs.
        crds: YAML documents of the custom resources that it knows; None: those of Flink's operator.
    """

    def __init__(self, folder: Path, crds: Sequence[str] | None = None) -> None:
        self._folder = folder
        self._crds = crds
        self.port, self._etcd, self._peer = free_ports(3)
        self.kubeconfig = folder / "super-admin.conf"
        """Of its administrator, with a client certificate."""
        self.authority = folder / "pki" / "ca.crt"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._processes):
            self.kill(name)

    @property
    def client(self) -> client.ApiClient:
        """A new client, as its administrator."""
        return config.new_client_from_config(str(self.kubeconfig))

    @property
    def pid(self) -> int:
        """Process id of the API server."""
        return self._processes["kube-apiserver"].pid

    def create(self, *manifests: dict[str, Any]) -> None:
        """Create objects."""
        from kubernetes import dynamic

        with self.client as api:
            known = dynamic.DynamicClient(api, cache_file=str(self._folder / "kinds.json"))
            for body in manifests:
                kind = known.resources.get(api_version=body["apiVersion"], kind=body["kind"])
                kind.create(body=body, namespace=body["metadata"].get("namespace"))

    def kill(self, name: str = "kube-apiserver") -> None:
        """End it at once, as a crash would."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def start(self) -> None:
        """Start the API server, again after ``kill``; return when it is ready."""
        pki, etcd = self._folder / "pki", f"http://127.0.0.1:{self._etcd}"
        self._run(
            *("kube-apiserver", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"),
            *(f"--secure-port={self.port}", f"--etcd-servers={etcd}", "--service-cluster-ip-range=10.255.0.0/24"),
            # There is no address that pods could reach it at, and there are no pods.
            *("--endpoint-reconciler-type=none", "--authorization-mode=RBAC", f"--client-ca-file={pki}/ca.crt"),
            *(f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key"),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            *(f"--service-account-key-file={pki}/sa.pub", f"--service-account-signing-key-file={pki}/sa.key"),
        )
        until = time.monotonic() + _START_SECONDS
        with self.client as api:
            while time.monotonic() < until:
                with suppress(Exception):  # refused, or not ready
                    api.call_api("/readyz", "GET", auth_settings=["BearerToken"], _request_timeout=2)
                    return
                if self._processes["kube-apiserver"].poll() is not None:
                    break
                time.sleep(0.1)
        raise RuntimeError(f"The API server did not get ready: {self._folder}/kube-apiserver.log")

    def _start(self) -> None:
        values = {"port": self.port, "folder": self._folder, "version": parts.kubernetes_version()}
        kubeadm = self._folder / "kubeadm.yaml"
        kubeadm.write_text(_KUBEADM.format(**values))
        for phase in (
            *(["certs", name] for name in ("ca", "apiserver", "sa")),
            ["kubeconfig", "super-admin", f"--kubeconfig-dir={self._folder}"],
        ):
            made = self._run("kubeadm", "init", "phase", *phase, f"--config={kubeadm}")
            if made.wait():
                raise RuntimeError(f"kubeadm failed: {self._folder}/kubeadm.log")
        here = "http://127.0.0.1"
        self._run(
            *("etcd", f"--data-dir={self._folder}/etcd", "--unsafe-no-fsync", "--log-level=warn"),
            *(f"--listen-{who}-urls={here}:{port}" for who, port in (("client", self._etcd), ("peer", self._peer))),
            *(f"--advertise-client-urls={here}:{self._etcd}", f"--initial-advertise-peer-urls={here}:{self._peer}"),
            f"--initial-cluster=default={here}:{self._peer}",
        )
        self.start()
        texts = parts.crds() if self._crds is None else self._crds
        crds = [yaml.load(text, yaml.CSafeLoader) for text in texts]
        self.create(*crds)
        with self.client as api:
            extensions = client.ApiextensionsV1Api(api)
            until = time.monotonic() + _START_SECONDS
            for crd in crds:
                while not _is_established(extensions.read_custom_resource_definition(crd["metadata"]["name"])):
                    if time.monotonic() > until:
                        raise RuntimeError("The custom resources are not served.")
                    time.sleep(0.1)

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = ["setpriv", "--pdeathsig", "KILL", str(parts.hyperkube() / program), *arguments]
        with (self._folder / f"{program}.log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self._processes[program] = process
        return process


def _is_established(crd: Any) -> bool:
    return any(each.type == "Established" and each.status == "True" for each in crd.status.conditions or ())
