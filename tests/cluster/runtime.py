"""The runtime image, built from ``images/runtime/Dockerfile`` by a real Docker engine, without pulling an image."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import IO

from beam_k8s.launcher.oci import ImageReference, Registry
from beam_k8s.versions import FLINK
from tests.cluster import parts
from tests.cluster.engine import DockerEngine

__all__ = [
    "BASE",
    "ENGINE",
    "RUNTIME_IMAGE",
    "dependency_wheels",
    "load_base",
    "push",
    "runtime_context",
    "runtime_image",
]

RUNTIME_IMAGE = "beam-k8s.test/runtime:1"
"""The name that it has in its layout."""
ENGINE = parts.CACHE / "engine"
"""Folder of the engine that builds it, with what it keeps of earlier builds."""
_FILE_SYSTEMS = ("s3",)
_ROOT = parts._REPO
_SOURCES = _ROOT / "images" / "runtime"
BASE = "base:bookworm"
"""The tests' base image, as the engine knows it."""
_PIP = [sys.executable, "-m", "pip", "wheel", "--quiet"]


def runtime_image() -> Path:
    """An OCI layout with the runtime image of this checkout; built again when anything changes that it is made of."""
    base, wheels = parts._base(), dependency_wheels()

    def build(folder: Path) -> None:
        kept = ENGINE.exists()
        try:
            _build(folder, wheels)
        except subprocess.CalledProcessError:
            if not kept:
                raise
            shutil.rmtree(ENGINE)  # an engine that was killed may have left a cache that it cannot use any more
            _build(folder, wheels)

    files = [_ROOT / "pyproject.toml", *_SOURCES.iterdir(), Path(__file__)]
    for package in ("beam_k8s", "launcher", "transforms"):
        files += [path for path in (_ROOT / package).rglob("*") if path.suffix in {".py", ".jar"}]
    contents = [f"{path}\0{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in sorted(files)]
    return parts._part("runtime", build, base.name, wheels.name, FLINK, *_FILE_SYSTEMS, *contents)


def _build(folder: Path, wheels: Path) -> None:
    with tempfile.TemporaryDirectory(dir=parts.CACHE) as scratch, DockerEngine(ENGINE) as engine:
        runtime_context(Path(scratch), wheels)
        load_base(engine)
        command = ["build", "--quiet", "--network=host", f"--build-arg=BASE={BASE}", "--build-arg=PIP_NO_INDEX=1"]
        env = {**os.environ, "DOCKER_BUILDKIT": "1", "PATH": f"/usr/bin:{os.environ['PATH']}"}
        subprocess.run(
            engine.command(*command, f"--tag={RUNTIME_IMAGE}", f"{scratch}/context"),
            check=True,
            stdout=sys.stderr,
            env=env,
        )
        with subprocess.Popen(engine.command("save", RUNTIME_IMAGE), stdout=subprocess.PIPE) as saved:
            assert saved.stdout is not None
            _lay_out(saved.stdout, folder)
        assert saved.returncode == 0
        for prune in (("image", "prune", "--force"), ("builder", "prune", "--force", "--keep-storage=4gb")):
            subprocess.run(engine.command(*prune), check=True, stdout=subprocess.DEVNULL, env=env)


def load_base(engine: DockerEngine) -> None:
    """Give the engine the tests' base image; at once if it has it."""
    command = ["import", str(parts._base() / "root.tar"), BASE]
    if subprocess.run(engine.command("image", "inspect", BASE), capture_output=True, check=False).returncode:
        subprocess.run(engine.command(*command), check=True, stdout=sys.stderr)


def runtime_context(folder: Path, wheels: Path) -> Path:
    """Lay out the build context in a folder, as `make runtime-context` does, with all wheels in it."""
    subprocess.run([*_PIP, "--no-deps", "--wheel-dir", folder, _ROOT], check=True, stdout=sys.stderr)
    (wheel,) = folder.glob("beam_k8s-*.whl")
    context = folder / "context"
    subprocess.run([_SOURCES / "context.sh", wheel, FLINK, context, *_FILE_SYSTEMS], check=True, stdout=sys.stderr)
    for each in wheels.glob("*.whl"):
        os.link(each, context / "wheels" / each.name)
    return context


def push(registry: str, repository: str, tag: str = "1", *, layout: Path | None = None) -> ImageReference:
    """Put the runtime image into a registry that speaks plain HTTP; nothing is sent that it has.

    Args:
        registry: ``ADDRESS:PORT``.
        repository: its name there.
        tag: the other half of its name.
        layout: of another image than the runtime's.
    """
    layout = layout or runtime_image()
    blobs = layout / "blobs" / "sha256"
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    content = (blobs / entry["digest"].removeprefix("sha256:")).read_bytes()
    manifest = json.loads(content)
    api = Registry(registry, plain_http=True)
    for blob in (*manifest["layers"], manifest["config"]):
        api.send(repository, blob["digest"], blobs / blob["digest"].removeprefix("sha256:"))
    api.send_manifest(repository, tag, content)
    return ImageReference(registry, repository, tag, entry["digest"])


def dependency_wheels() -> Path:
    """The wheels of all requirements, so that the build asks no index."""
    requirements = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    # redis wants it on Pythons older than 3.11.3: Debian's is, this one may not be.
    requirements = [*requirements, "async-timeout"]

    def build(folder: Path) -> None:
        subprocess.run([*_PIP, "--wheel-dir", folder, *requirements], check=True, stdout=sys.stderr)

    return parts._part("wheels", build, *requirements)


def _lay_out(saved: IO[bytes], folder: Path) -> None:
    """Turn what ``docker save`` writes into an OCI layout of the same layers."""
    layout = parts._Layout(folder)
    layers, documents = {}, {}
    with tarfile.open(fileobj=saved, mode="r|") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() else None
            if content is not None and member.name.endswith("/layer.tar"):
                with (folder / "layer.tar").open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                layers[member.name] = layout.layer(folder / "layer.tar")
            elif content is not None and member.name.endswith(".json"):
                documents[member.name] = content.read()
    (image,) = json.loads(documents["manifest.json"])
    config = documents[image["Config"]]
    layout.image(RUNTIME_IMAGE, [layers[name] for name in image["Layers"]], **json.loads(config)["config"])
    layout.close()
