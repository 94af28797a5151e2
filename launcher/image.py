"""A job's image: what it adds to the runtime image, as layers from rarely to often changed, and who builds it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from beam_k8s.launcher import oci
from beam_k8s.launcher.oci import Runtime, make_layer
from beam_k8s.launcher.staging import IMPORT_PATH
from beam_k8s.spec import IMAGE_DIR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from beam_k8s.launcher.oci import Image, ImageReference, Layer, Progress, Registry

__all__ = ["ImageBuilder", "RegistryBuilder", "build_job_image", "job_environment", "job_layers"]

_NOT_OURS = {
    "__pycache__",  # its bytes hold the time of the source
    "bin",  # scripts that begin with the path of the Python that installed them
    "direct_url.json",  # the path a package was installed from
    "RECORD",  # lists the others
}


def job_layers(staged: Path, job: Path, scratch: Path) -> list[Layer]:
    """The layers of a job: requirements, the user's packages, his main session, the pipeline.

    The same requirements, packages and pipeline give the same layers wherever and whenever they are made. A layer that
    would be empty is left out.

    Args:
        staged: what ``staging.stage`` laid out.
        job: folder with ``pipeline.pb`` and ``translator.json``.
        scratch: existing folder for the layers' files.
    """
    folders = [
        *((staged / name, f"{IMAGE_DIR}/staged/{name}") for name in reversed(IMPORT_PATH)),
        (staged, f"{IMAGE_DIR}/staged"),
        (job, f"{IMAGE_DIR}/job"),
    ]
    apart = {staged / name for name in IMPORT_PATH}

    def own(path: Path) -> bool:
        return path not in apart and path.name not in _NOT_OURS

    return [
        make_layer(folder, at, scratch / f"{number}.tar", own=own)
        for number, (folder, at) in enumerate(folders)
        if folder.is_dir() and any(own(path) for path in folder.iterdir())
    ]


def job_environment() -> dict[str, str]:
    """Environment variables of a container in which the job's layers are found."""
    return {"PYTHONPATH": ":".join(f"{IMAGE_DIR}/staged/{name}" for name in IMPORT_PATH)}


class ImageBuilder(Protocol):
    """Puts layers on a base image and has a registry keep the result."""

    def build(
        self,
        base: ImageReference,
        layers: Sequence[Layer],
        runtime: Runtime,
        target: ImageReference,
        progress: Progress,
    ) -> Image:
        """Build and push; nothing is sent, and nothing built, if the registry has the image under that name.

        Args:
            base: the image below.
            layers: from rarely to often changed.
            runtime: how its containers run.
            target: name with a tag.
            progress: told what is sent, as it is sent.

        Raises:
            ImageError: it cannot be built, or a registry does not take it.
        """
        ...


class RegistryBuilder:
    """Builds with nothing but the HTTP API of the registries.

    Args:
        registry: the client of the registry on a host.
    """

    def __init__(self, registry: Callable[[str], Registry] = oci.Registry) -> None:
        self._registry = registry

    def build(
        self,
        base: ImageReference,
        layers: Sequence[Layer],
        runtime: Runtime,
        target: ImageReference,
        progress: Progress,
    ) -> Image:
        """See ImageBuilder. Of a base in another registry, what the target lacks goes through here, once."""
        to = self._registry(target.registry)
        source = to if base.registry == target.registry else self._registry(base.registry)
        return oci.build(to, base, layers, runtime, target, source=source, progress=progress)


def build_job_image(
    builder: ImageBuilder,
    *,
    base: ImageReference,
    repository: ImageReference,
    name: str,
    staged: Path,
    job: Path,
    scratch: Path,
    progress: Progress,
) -> Image:
    """Build and push the image of a job. Its tag is the job's name and what is in its layers.

    Args:
        builder: who does it.
        base: the runtime image.
        repository: where the image belongs.
        name: of the job.
        staged: what ``staging.stage`` laid out.
        job: folder with ``pipeline.pb`` and ``translator.json``.
        scratch: existing folder for the layers' files.
        progress: told what is sent, as it is sent.

    Raises:
        ImageError: it cannot be built, or a registry does not take it.
    """
    layers = job_layers(staged, job, scratch)
    content = hashlib.sha256("".join(layer.digest for layer in layers).encode()).hexdigest()
    target = replace(repository, tag=f"{name}-{content[:12]}", digest=None)
    return builder.build(base, layers, Runtime(environment=job_environment()), target, progress)
