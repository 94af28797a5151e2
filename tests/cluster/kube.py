"""A real Kubernetes cluster with Flink's operator, for tests: one node on this machine, from package registries only.

    with KubeCluster() as cluster:
        cluster.import_image(Path("image.tar"))
        cluster.create(Path("job.yaml").read_text())
        ... cluster.kubeconfig, cluster.client ...

By hand: ``python -m tests.cluster.kube up``, ``status``, ``down``.

All its processes live in namespaces of their own (network, mounts, process ids) below one first process. When that one
ends, the kernel ends all the others and takes their mounts and interfaces away: however a test ends, nothing stays.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import psutil
import urllib3
import yaml
from kubernetes import client, config, dynamic
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.cluster import parts, runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["FOLDER", "HOST", "INTERFACE", "KubeCluster", "KubeError", "members", "user_of"]

FOLDER = parts.CACHE / "run"
"""Its state: made anew when it starts, emptied but for ``log`` when it stops."""
LOCK = Path("/run/lock/beam-k8s-cluster")
"""Held by the first process of the cluster as long as it lives, and names its id: the addresses and names below are
fixed, so a machine has one such cluster at a time."""
CGROUP = "beam-k8s-cluster"
OUTSIDE = ("/var/lib/cni", "/var/lib/kubelet")
"""Folders that the programs cannot be talked out of; in the cluster's mount namespace they are others."""
INTERFACE = "beam-k8s"
"""This machine's end of the only way in and out of the cluster's network namespace."""

# Benchmarking's own addresses (RFC 2544): no real network has them.
NETWORK = "198.18.0.0/15"
HOST = "198.18.0.1"
"""This machine as pods see it: what listens there, they reach."""
NODE = "198.18.0.2"
PODS = "198.18.64.0/24"
SERVICES = "198.19.0.0/16"

_DEPLOY = Path(__file__).parents[2] / "images" / "deploy"

START_SECONDS = 180
"""Longest wait for any step of a start [s]. All of them together take 15 to 30."""

_CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "/run/containerd-state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  stream_server_address = "127.0.0.1"
  # A container, as CI may be, lacks the right to lower the score.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{folder}/registries"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
"""

_NETWORK = """
cniVersion: 0.4.0
name: pods
plugins:
- type: ptp
  ipam: {{type: host-local, dataDir: /run/cni, ranges: [[{{subnet: {pods}}}]], routes: [{{dst: 0.0.0.0/0}}]}}
- type: portmap
  capabilities: {{portMappings: true}}
"""

_KUBEADM = """
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {{advertiseAddress: {node}, bindPort: 6443}}
nodeRegistration: {{name: node, criSocket: "unix://{folder}/containerd.sock"}}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: {version}
certificatesDir: {folder}/pki
encryptionAlgorithm: ECDSA-P256 # made in no time
controlPlaneEndpoint: "{node}:6443"
networking: {{serviceSubnet: {services}}}
"""

_KUBELET = """
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://{folder}/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
failCgroupV1: false # a machine of the older kind will do
failSwapOn: false
clusterDNS: [{node}]
clusterDomain: cluster.local
resolvConf: {folder}/resolv.conf
volumePluginDir: {folder}/plugins
podLogsDir: {folder}/log/pods
authentication:
  anonymous: {{enabled: false}}
  x509: {{clientCAFile: {folder}/pki/ca.crt}}
# The images are all there is: never remove one, and let a full disk be the machine's own concern.
imageGCHighThresholdPercent: 100
evictionHard: {{memory.available: 200Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}}
nodeStatusUpdateFrequency: 5s
"""

_PROXY = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: {pods}
hostnameOverride: node
clientConnection: {{kubeconfig: {folder}/kubeconfig}}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
"""

_DNS = """
.:53 {{
    bind {node}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {folder}/kubeconfig
        ttl 1
    }}
}}
"""

_FIRST_GROUP = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: kubeadm:cluster-admins}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "kubeadm:cluster-admins"}]
"""


class KubeError(RuntimeError):
    """The cluster did not start, or has ended. The message names the logs."""


def user_of(tenant: str) -> str:
    """The user whose only rights are those of a tenant's submitters."""
    return f"user-of-{tenant}"


class KubeCluster:
    """One cluster.

    Args:
        detached: let it go on when this process ends; else it ends with it.
        kubeconfig: a cluster that is there already, with the operator and the images: it is used as it is.
    """

    def __init__(self, *, detached: bool = False, kubeconfig: Path | None = None) -> None:
        self.kubeconfig = kubeconfig or FOLDER / "kubeconfig"
        self._folder = self.kubeconfig.parent
        """Where images, registries and volumes are told: another checkout may have started the cluster."""
        self.seconds: dict[str, float] = {}
        """How long each step of the start took [s]."""
        self._given = kubeconfig is not None
        self._detached = detached
        self._owns = False
        self._first = 0
        self._programs = Path()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._registries: list[str] = []
        self._dynamic: dynamic.DynamicClient | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def client(self) -> client.ApiClient:
        """A client of its API, as its administrator."""
        return self._api.client

    def start(self) -> None:
        """Build what is missing, start it all, and wait until the operator is available.

        Raises:
            KubeError: it did not start, or another one runs on this machine. Nothing is left of it.
            PartsError: a part cannot be had.
        """
        if self._given:
            return
        clock = time.monotonic()

        def done(step: str) -> None:
            nonlocal clock
            before, clock = clock, time.monotonic()
            self.seconds[step] = round(clock - before, 1)

        parts.install_packages()
        self._programs, store = parts.hyperkube(), parts.image_store()
        done("parts")
        LOCK.parent.mkdir(parents=True, exist_ok=True)
        with LOCK.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise KubeError(
                    "A test cluster runs on this machine already. `python -m tests.cluster.kube down` stops it."
                ) from None
            self._owns = True
            try:
                self._end(0)  # what one that was killed has left
                self._make_room(lock)
                self._write_registries()
                parts.copy_store(store, FOLDER / "containerd")
                done("room")
                self._start_control_plane()
                operator = Path(__file__).with_name("operator.yaml").read_text()
                for document in (*parts.crds(), operator.replace("OPERATOR_IMAGE", parts.OPERATOR_IMAGE)):
                    self.create(document)
                done("control plane")
                self._start_node()
                done("node")
                self.await_object("apps/v1", "Deployment", "flink-operator", _available, namespace="flink-operator")
                done("operator")
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """End what was started here and remove what it left. Its logs stay."""
        if self._dynamic is not None:
            self._dynamic.client.close()
            self._dynamic = None
        if self._owns:
            self._end(self._first)
            self._owns = False

    def take_over(self) -> None:
        """Own the cluster that runs on this machine, if there is one: ``stop`` then ends it."""
        self._first, self._owns = _running(), True

    def _end(self, first: int) -> None:
        members = _members(first)
        for process in members:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for started in self._processes.values():
            started.kill()
            started.wait()
        _, alive = psutil.wait_procs(members, timeout=60)
        if alive:
            raise KubeError(f"These processes of the cluster do not end: {alive}")
        self._processes.clear()
        self._first = 0
        subprocess.run(["ip", "link", "delete", INTERFACE], check=False, capture_output=True)
        _remove_cgroups()
        for name in OUTSIDE:
            with suppress(OSError):
                Path(name).rmdir()  # if it was made for us, it is empty
        for path in FOLDER.glob("*"):
            if path.name != "log":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def restart(self, name: str) -> None:
        """Kill one of its programs, as a crash would, and start it again; return when the API server is ready.

        Args:
            name: as in ``log``: kube-apiserver, kubelet …

        Raises:
            KubeError: another process has started the cluster.
        """
        if name not in self._processes:
            raise KubeError(f"{name} was not started by this process.")
        waiting = self._processes[name]
        for process in psutil.Process(waiting.pid).children(recursive=True):
            process.kill()
        waiting.wait()
        assert isinstance(waiting.args, list)
        self._run(name, *waiting.args[waiting.args.index("--") + 1 :])
        self._await_api()

    def import_image(self, image: Path) -> None:
        """Make an image known to the node, under the names that it has in itself.

        Args:
            image: an OCI layout as a folder, or a tar of one or of ``docker save``.
        """
        parts.import_image(self._folder / "containerd.sock", image)

    def pull_from(self, registry: str) -> None:
        """Let the node pull from a registry that speaks plain HTTP, ``ADDRESS:PORT`` as in the names of its images.

        It may do so as long as this object lives, also after ``stop`` and ``start``.
        """
        self._registries.append(registry)
        self._write_registries()

    def _write_registries(self) -> None:
        for registry in self._registries:
            folder = self._folder / "registries" / registry
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "hosts.toml").write_text(f'[host."http://{registry}"]\ncapabilities = ["pull", "resolve"]\n')

    def create(self, manifests: str) -> None:
        """Create all objects of a YAML text."""
        for body in yaml.load_all(manifests, yaml.CSafeLoader):  # the slow loader takes 2 s for a CRD
            self.resource(body["apiVersion"], body["kind"]).create(
                body=body, namespace=body["metadata"].get("namespace")
            )

    def tenant(self, name: str) -> Path:
        """Create a namespace for jobs, with the claim of tests/cluster/tenant.yaml and the roles of images/deploy.

        ``user_of(name)`` is a user who has the submitter's Role there, and no other right.

        Returns:
            The folder behind the claim.
        """
        volume = self._folder / "volumes" / name
        volume.mkdir(parents=True)
        volume.chmod(0o777)
        template = Path(__file__).with_name("tenant.yaml").read_text()
        self.create(template.replace("TENANT", name).replace("VOLUME", str(volume)))
        for file in ("account.yaml", "submitter.yaml"):
            self.create((_DEPLOY / "tenant" / file).read_text().replace("beam-jobs", name))
        group = "rbac.authorization.k8s.io"
        binding = {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": user_of(name), "namespace": name},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "beam-k8s-submitter"},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user_of(name)}],
        }
        self.create(yaml.safe_dump(binding))
        return volume

    def remove_tenant(self, name: str) -> None:
        """Remove such a namespace, its jobs first: in a namespace that ends, the operator cannot end a job any more."""
        kind = ("flink.apache.org/v1beta1", "FlinkDeployment")
        jobs = self.resource(*kind)

        def patch_all(body: dict[str, Any]) -> None:
            for job in jobs.get(namespace=name).items:
                place = {"name": job.metadata.name, "namespace": name}
                with suppress(dynamic.exceptions.NotFoundError):
                    jobs.patch(**place, body=body, content_type="application/merge-patch+json")

        no_savepoint = {"kubernetes.operator.job.savepoint-on-deletion": "false"}
        patch_all({"spec": {"flinkConfiguration": no_savepoint}})
        for job in jobs.get(namespace=name).items:
            with suppress(dynamic.exceptions.NotFoundError):
                jobs.delete(name=job.metadata.name, namespace=name)
        try:
            self.await_none(*kind, namespace=name, timeout=60)
        except TimeoutError:  # what a test broke on purpose
            patch_all({"metadata": {"finalizers": []}})
        self.resource("v1", "Namespace").delete(name=name)
        self.resource("v1", "PersistentVolume").delete(name=f"{name}-flink-data")

    def resource(self, api_version: str, kind: str) -> Any:
        """The client of one kind of objects: ``get``, ``create``, ``patch``, ``delete``, ``watch`` …"""
        return self._api.resources.get(api_version=api_version, kind=kind)

    def await_object(
        self,
        api_version: str,
        kind: str,
        name: str,
        until: Callable[[dict[str, Any]], bool],
        *,
        namespace: str | None = None,
        timeout: int = START_SECONDS,
    ) -> dict[str, Any]:
        """Watch an object until it is as wanted, and return it so.

        Args:
            until: says whether it is.
            timeout: longest wait [s].

        Raises:
            TimeoutError: it was not; names the status that it had at last.
        """
        last: dict[str, Any] = {}
        resource = self.resource(api_version, kind)
        for event in resource.watch(namespace=namespace, name=name, timeout=timeout):
            last = event["raw_object"]
            if event["type"] != "DELETED" and until(last):
                return last
        raise TimeoutError(f"{kind} {name} after {timeout} s: {json.dumps(last.get('status'), indent=1)}")

    def await_none(self, api_version: str, kind: str, *, namespace: str, labels: str = "", timeout: int = 120) -> None:
        """Watch until no object of a kind is left in a namespace, or none with these labels.

        Args:
            labels: a label selector.
            timeout: longest wait [s].
        """
        resource = self.resource(api_version, kind)
        listed = resource.get(namespace=namespace, label_selector=labels)
        left = {item.metadata.name for item in listed.items}
        if not left:
            return
        watched = {"resource_version": listed.metadata.resourceVersion, "label_selector": labels, "timeout": timeout}
        for event in resource.watch(namespace=namespace, **watched):
            name = event["raw_object"]["metadata"]["name"]
            left = left - {name} if event["type"] == "DELETED" else left | {name}
            if not left:
                return
        raise TimeoutError(f"{kind} in {namespace} after {timeout} s: {sorted(left)}")

    def memory(self) -> dict[str, int]:
        """Resident memory of its processes by program [MiB]."""
        found: dict[str, int] = {}
        for process in members():
            with suppress(psutil.Error):
                name = process.name()
                found[name] = found.get(name, 0) + (process.memory_info().rss >> 20)
        return dict(sorted(found.items()))

    @property
    def _api(self) -> dynamic.DynamicClient:
        if self._dynamic is None:
            api = config.new_client_from_config(str(self.kubeconfig))
            # It keeps what kinds there are in a file, by default in /tmp for ever.
            self._folder.mkdir(parents=True, exist_ok=True)
            self._dynamic = dynamic.DynamicClient(api, cache_file=str(self._folder / f"kinds-{os.getpid()}.json"))
        return self._dynamic

    def _make_room(self, lock: IO[str]) -> None:
        """Start the first process, in namespaces of its own, and lay the wire to it."""
        shutil.rmtree(FOLDER, ignore_errors=True)
        for path in (FOLDER / "log", FOLDER / "cni"):
            path.mkdir(parents=True)
        for root in _cgroup_roots(existing=False):
            root.mkdir(exist_ok=True)
        first = (
            # What the programs write outside of the folder goes away with them.
            f"for d in /run /var/log {' '.join(OUTSIDE)}; do mkdir -p $d; mount -t tmpfs tmpfs $d; done\n"
            "echo 1 >/proc/sys/net/ipv4/ip_forward; ip link set lo up\n"
            # It inherits all orphans, and this is how they are buried.
            "trap '' CHLD; echo ready; exec sleep infinity\n"
        )
        process = subprocess.Popen(
            [
                *(() if self._detached else ("setpriv", "--pdeathsig", "KILL")),
                *("unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"),
                *("sh", "-ec", first),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[lock.fileno()],
            start_new_session=True,
        )
        self._processes["first"] = process
        assert process.stdout is not None
        with process.stdout:
            if process.stdout.readline() != b"ready\n":
                raise KubeError("The cluster's namespaces cannot be made here.")
        self._first = psutil.Process(process.pid).children()[0].pid
        lock.truncate(0)
        lock.write(str(self._first))
        lock.flush()
        _ip(
            # Once the cluster is gone, a client that still asks for it gets no further than this. It stays.
            f"route replace unreachable {NETWORK}",
            f"link add {INTERFACE} type veth peer name eth0 netns {self._first}",
            f"address add {HOST}/30 dev {INTERFACE}",
            f"link set {INTERFACE} up",
            *(f"route add {net} via {NODE}" for net in (PODS, SERVICES)),
        )
        _ip(
            f"address add {NODE}/30 dev eth0",
            "link set eth0 up",
            # kube-proxy sends what goes to a service elsewhere, but first it must have a way to go.
            f"route add {SERVICES} dev eth0 src {NODE}",
            inside=self._first,
        )

    def _start_control_plane(self) -> None:
        pki = FOLDER / "pki"
        self._run("containerd", "containerd", "--config", self._write("containerd.toml", _CONTAINERD))
        # No disk is waited for: what is in there lives as long as the cluster.
        self._run("etcd", "etcd", f"--data-dir={FOLDER}/etcd", "--unsafe-no-fsync", "--log-level=warn")
        kubeadm = self._write("kubeadm.yaml", _KUBEADM)
        for phase in (["certs", "all"], ["kubeconfig", "all", f"--kubeconfig-dir={FOLDER}"]):
            if self._run("kubeadm", "kubeadm", "init", "phase", *phase, f"--config={kubeadm}").wait():
                raise KubeError(f"kubeadm failed: {FOLDER}/log/kubeadm.log")
        (FOLDER / "super-admin.conf").rename(self.kubeconfig)
        self._run(
            *("kube-apiserver", "kube-apiserver", f"--advertise-address={NODE}", "--secure-port=6443"),
            *("--etcd-servers=http://127.0.0.1:2379", f"--service-cluster-ip-range={SERVICES}"),
            *("--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"),
            *("--allow-privileged=true", f"--client-ca-file={pki}/ca.crt"),
            *(f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key"),
            f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
            f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
            f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            *(f"--service-account-key-file={pki}/sa.pub", f"--service-account-signing-key-file={pki}/sa.key"),
        )
        self._await_api()
        self.create(_FIRST_GROUP)
        for name, *arguments in (
            (
                *("controller-manager", f"--service-account-private-key-file={pki}/sa.key"),
                *(f"--root-ca-file={pki}/ca.crt", "--use-service-account-credentials=true"),
                f"--flex-volume-plugin-dir={FOLDER}/plugins",
            ),
            ("scheduler",),
        ):
            who = f"{FOLDER}/{name}.conf"
            asks = [f"--{kind}kubeconfig={who}" for kind in ("", "authentication-", "authorization-")]
            program = f"kube-{name}"
            self._run(program, program, *asks, "--bind-address=127.0.0.1", "--leader-elect=false", *arguments)

    def _start_node(self) -> None:
        self._write("cni/pods.conflist", json.dumps(yaml.safe_load(_NETWORK.format(pods=PODS))), plain=True)
        self._write("resolv.conf", f"nameserver {NODE}\n", plain=True)
        self._run(
            *("kubelet", "kubelet", f"--config={self._write('kubelet.yaml', _KUBELET)}"),
            *(f"--kubeconfig={FOLDER}/kubelet.conf", f"--root-dir={FOLDER}/kubelet"),
            *(f"--cert-dir={FOLDER}/kubelet/pki", f"--node-ip={NODE}", "--hostname-override=node"),
        )
        self._run("kube-proxy", "kube-proxy", f"--config={self._write('proxy.yaml', _PROXY)}")
        self._run("coredns", "coredns", "-conf", self._write("Corefile", _DNS))
        self.await_object("v1", "Node", "node", _ready)

    def _write(self, name: str, text: str, *, plain: bool = False) -> str:
        path = FOLDER / name
        values = {
            "folder": FOLDER,
            "cgroup": CGROUP,
            "node": NODE,
            "pods": PODS,
            "services": SERVICES,
            "pause": parts.PAUSE_IMAGE,
            "version": parts.kubernetes_version(),
        }
        path.write_text(text if plain else text.format(**values))
        return str(path)

    def _run(self, name: str, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a program in the cluster's namespaces; what it says goes to its log."""
        ours = self._programs / program
        command = [str(ours) if ours.exists() else program, *arguments]
        with (FOLDER / "log" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                ["nsenter", f"--target={self._first}", "--net", "--mount", "--pid", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=FOLDER,
            )
        self._processes[name] = process
        return process

    def _await_api(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            for name in ("etcd", "kube-apiserver"):
                if self._processes[name].poll() is not None:
                    raise KubeError(f"{name} has ended: {FOLDER}/log/{name}.log")
            with suppress(urllib3.exceptions.HTTPError):
                pool = config.new_client_from_config(str(self.kubeconfig)).rest_client.pool_manager
                if pool.request("GET", f"https://{NODE}:6443/readyz", retries=False, timeout=5).status == 200:
                    return
            time.sleep(0.1)
        raise KubeError(f"The API server did not get ready in {START_SECONDS} s: {FOLDER}/log")


def _ready(node: dict[str, Any]) -> bool:
    return _condition(node, "Ready")


def _available(deployment: dict[str, Any]) -> bool:
    return _condition(deployment, "Available")


def _condition(of: dict[str, Any], kind: str) -> bool:
    conditions = of.get("status", {}).get("conditions") or []
    return any(condition["type"] == kind and condition["status"] == "True" for condition in conditions)


def _ip(*commands: str, inside: int | None = None) -> None:
    enter = ["nsenter", f"--target={inside}", "--net", "--"] if inside else []
    subprocess.run([*enter, "ip", "-batch", "-"], check=True, text=True, input="\n".join(commands))


def _running() -> int:
    """The process id of the first process of the machine's cluster, 0 if there is none."""
    with suppress(FileNotFoundError), LOCK.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(lock.read() or 0)
    return 0


def members() -> list[psutil.Process]:
    """All processes of the cluster that runs on this machine; none if there is none."""
    return _members(_running())


def _members(first: int) -> list[psutil.Process]:
    """All processes of the cluster, and those that wait for one of them."""
    # In its process namespace, or waiting outside for one that is; pods have namespaces below.
    space = "/proc/{}/ns/pid_for_children"
    found: dict[int, psutil.Process] = {}
    with suppress(OSError):
        ours = Path(space.format(first)).readlink()
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):
                if Path(space.format(process.pid)).readlink() == ours:
                    found |= {each.pid: each for each in (process, *process.children(recursive=True))}
    return list(found.values())


def _cgroup_roots(*, existing: bool = True) -> list[Path]:
    """The cluster's folder in each hierarchy of control groups; the older version has one for each controller."""
    mounts = [
        partition.mountpoint
        for partition in psutil.disk_partitions(all=True)
        if partition.fstype in {"cgroup", "cgroup2"}
    ]
    roots = [Path(mount) / CGROUP for mount in mounts]
    return [root for root in roots if root.exists() or not existing]


# The processes of a cluster whose owner was killed may still be on their way out.
@retry(retry=retry_if_exception_type(OSError), stop=stop_after_delay(30), wait=wait_fixed(0.05), reraise=True)
def _remove_cgroups() -> None:
    for root in _cgroup_roots():
        for folder, _, _ in os.walk(root, topdown=False):
            Path(folder).rmdir()


def main() -> int:
    """``up``, ``build``, ``down`` or ``status``; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.kube", description="The test cluster by hand.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="build what is missing, start the cluster, leave it running")
    up.add_argument("--json", type=Path, help="write seconds of each step and MiB of each program to this file")
    verbs.add_parser("build", help="only build what is missing")
    verbs.add_parser("down", help="stop it and remove all but its logs")
    verbs.add_parser("status", help="MiB of each of its programs; exit code 4 if it does not run")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a start that is ended so is taken back too
    try:
        return _do(arguments)
    except (KubeError, parts.PartsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _do(arguments: argparse.Namespace) -> int:
    cluster = KubeCluster(detached=True)
    if arguments.verb == "build":
        parts.install_packages()
        parts.hyperkube()
        parts.image_store()
        runtime.runtime_image()
    elif arguments.verb == "down":
        cluster.take_over()
        cluster.stop()
    elif arguments.verb == "up":
        clock = time.monotonic()
        cluster.start()
        seconds = {**cluster.seconds, "all": round(time.monotonic() - clock, 1)}
        if arguments.json:
            arguments.json.write_text(json.dumps({"seconds": seconds, "mib": cluster.memory()}, indent=1) + "\n")
        print(f"The test cluster is up after {seconds['all']} s.", file=sys.stderr)
        print(f"export KUBECONFIG={cluster.kubeconfig}")
    elif not _running():
        print("The test cluster does not run.", file=sys.stderr)
        return 4
    else:
        for name, mib in cluster.memory().items():
            print(f"{mib:6} MiB  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
