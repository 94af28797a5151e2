"""What a job adds to the runtime image, as layers, from rarely to often changed: little is sent for a change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from beam_k8s.launcher.oci import make_layer
from beam_k8s.launcher.staging import IMPORT_PATH
from beam_k8s.spec import IMAGE_DIR

if TYPE_CHECKING:
    from pathlib import Path

    from beam_k8s.launcher.oci import Layer

__all__ = ["job_environment", "job_layers"]

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
