"""Builds a job's image with a Docker engine, for whom only the engine reaches the registry, or knows the login.

The layers' content is that of ``RegistryBuilder``, but the engine dates what it builds and compresses what it pushes:
the same job has another digest on another machine. So what is there is found by what it was made from, a label.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

from beam_k8s.errors import ConfigError, ImageError
from beam_k8s.launcher.oci import Image

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from beam_k8s.launcher.oci import ImageReference, Layer, Progress, Runtime

__all__ = ["DockerBuilder"]

_RECIPE = "beam-k8s.dev/recipe"
"""Label: hash of the base image's digest, the layers' and how containers run."""


class DockerBuilder:
    """See ImageBuilder. Needs the package ``docker`` and an engine, found as Docker's own client finds it."""

    def build(
        self,
        base: ImageReference,
        layers: Sequence[Layer],
        runtime: Runtime,
        target: ImageReference,
        progress: Progress,
    ) -> Image:
        """See ImageBuilder. The bytes are counted before the engine compresses them."""
        with _engine() as engine:
            base = replace(base, digest=engine.inspect_distribution(str(base))["Descriptor"]["digest"], tag=None)
            parts = [str(base), *(layer.digest for layer in layers), json.dumps(asdict(runtime), sort_keys=True)]
            recipe = hashlib.sha256("\0".join(parts).encode()).hexdigest()
            name = f"{target.registry}/{target.repository}"
            if (digest := _pushed(engine, target, name, recipe)) is None:
                _build(engine, base, layers, replace(runtime, labels={**runtime.labels, _RECIPE: recipe}), target)
                digest, sent = _push(engine, target, name, progress)
            else:
                sent = 0
        return Image(replace(target, digest=digest), sent)


@contextmanager
def _engine() -> Iterator[Any]:
    """The engine's client; all its errors become ours."""
    try:
        import docker
    except ImportError as cause:
        raise ConfigError(
            "--k8s_image_builder=docker: the package docker is not installed.", hint="pip install 'beam-k8s[docker]'"
        ) from cause
    try:
        with closing(docker.from_env()) as client:
            yield client.api
    except docker.errors.DockerException as cause:
        raise ImageError(
            f"--k8s_image_builder=docker: {getattr(cause, 'explanation', None) or cause}",
            hint="Check `docker version` and `docker login`, or leave the flag out: no engine is needed then.",
        ) from cause


def _pushed(engine: Any, target: ImageReference, name: str, recipe: str) -> str | None:
    """The digest under which the registry has the image, if this engine pushed it and nothing has changed."""
    import docker

    try:
        local = engine.inspect_image(f"{name}:{target.tag}")
        if (local["Config"]["Labels"] or {}).get(_RECIPE) != recipe:
            return None
        there = str(engine.inspect_distribution(f"{name}:{target.tag}")["Descriptor"]["digest"])
    except docker.errors.NotFound:
        return None
    return there if f"{name}@{there}" in local["RepoDigests"] else None


def _build(
    engine: Any, base: ImageReference, layers: Sequence[Layer], runtime: Runtime, target: ImageReference
) -> None:
    with tempfile.TemporaryFile() as context:
        with tarfile.open(fileobj=context, mode="w") as tar:
            content = _dockerfile(base, len(layers), runtime).encode()
            info = tarfile.TarInfo("Dockerfile")
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
            for number, layer in enumerate(layers):
                tar.add(layer.file, f"{number}.tar")
        context.seek(0)
        tag = f"{target.registry}/{target.repository}:{target.tag}"
        for _ in _events(
            engine.build(fileobj=context, custom_context=True, tag=tag, rm=True, forcerm=True, decode=True)
        ):
            pass


def _dockerfile(base: ImageReference, layers: int, runtime: Runtime) -> str:
    """The engine unpacks a tar that is added; its entries keep their dates and modes. Pure."""

    def text(value: str) -> str:
        return json.dumps(value).replace("$", "\\$")

    lines = [f"FROM {base}", *(f"ADD {number}.tar /" for number in range(layers))]
    lines += [f"ENV {name}={text(value)}" for name, value in sorted(runtime.environment.items())]
    lines += [f"LABEL {text(name)}={text(value)}" for name, value in sorted(runtime.labels.items())]
    lines += [f"USER {runtime.user}"] if runtime.user else []
    lines += [f"ENTRYPOINT {json.dumps(runtime.entrypoint)}"] if runtime.entrypoint else []
    lines += [f"CMD {json.dumps(runtime.command)}"] if runtime.command else []
    return "\n".join(lines) + "\n"


def _push(engine: Any, target: ImageReference, name: str, progress: Progress) -> tuple[str, int]:
    """The digest that the registry gave the image, and the bytes sent."""
    sent: dict[str, int] = {}
    digest = ""
    for event in _events(engine.push(name, tag=target.tag, stream=True, decode=True)):
        detail = event.get("progressDetail") or {}
        if event.get("status") == "Pushing" and "current" in detail:
            now = sent[event["id"]] = detail["current"]
            # The engine counts the files' bytes beforehand, and what is around them as it goes.
            progress(event["id"], now, max(now, detail.get("total", now)))
        digest = (event.get("aux") or {}).get("Digest", digest)
    return digest, sum(sent.values())


def _events(stream: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What the engine says, up to the end, where its connection is closed; then the error that it spoke of, if any."""
    error = None
    for event in stream:
        error = error or event.get("errorDetail")
        yield event
    if error:
        raise ImageError(
            f"--k8s_image_builder=docker: {error['message']}",
            hint="Check the names of the images and `docker login`.",
        )
