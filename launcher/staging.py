"""The user's code for the workers: main session, requirements, packages, each where the worker looks for it.

All that pip installs goes into folders of the run, so that the user's environment is not touched; on Kubernetes they
become layers of the job's image (``image``), so what changes rarely stands apart from what changes often.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apache_beam.internal import pickler
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions
from apache_beam.runners.internal import names

from beam_k8s.errors import ConfigError
from beam_k8s.options import OPTIONS_HERE, options_of_worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from beam_k8s.launcher.plan import SubmitPlan

__all__ = ["IMPORT_PATH", "PIPELINE_FILE", "TRANSLATOR_FILE", "options_json", "stage", "write_job"]

PIPELINE_FILE = "pipeline.pb"
TRANSLATOR_FILE = "translator.json"

_PINNED = re.compile(r"[\w.-]+(\[[\w.,\s-]*\])?\s*==\s*[^*\s;]+(\s*;.*)?")
_KEPT = 8
"""Installed requirements files, of which the newest are kept."""

IMPORT_PATH = ("packages", "requirements")
"""Folders of what pip installed, as they follow on the worker's import path: the user's own packages come first."""


def stage(options: Any, folder: Path) -> None:
    """Lay out what ``--save_main_session --requirements_file --setup_file --extra_package`` ask for.

    Args:
        options: the PipelineOptions.
        folder: existing folder that the worker sees as ``staged`` in its semi-persistent directory.

    Raises:
        ConfigError: the main session cannot be pickled, or pip cannot install something.
    """
    setup = options.view_as(SetupOptions)
    if setup.requirements_file:
        _install_requirements(Path(setup.requirements_file), folder / "requirements")
    packages = list(setup.extra_packages or [])
    if setup.setup_file:
        packages.append(setup.setup_file.removesuffix("setup.py") or ".")
    if packages:
        _pip_install(packages, folder / "packages")
    if setup.save_main_session:
        pickler.set_library(setup.pickle_library)
        try:
            with _options_by_reference():
                pickler.dump_session(str(folder / names.PICKLED_MAIN_SESSION_FILE))
        except Exception as cause:
            raise ConfigError(
                f"--save_main_session: the main module cannot be pickled: {cause}",
                hint="Move what it names into functions or a module, or leave the flag out.",
            ) from cause


@contextmanager
def _options_by_reference() -> Iterator[None]:
    """Pickle PipelineOptions as those that the worker has: the same, but not in the file, for they may hold secrets."""

    def reduce(self: PipelineOptions) -> tuple[Any, ...]:
        number = next((key for key, known in OPTIONS_HERE.items() if known is self), len(OPTIONS_HERE))
        OPTIONS_HERE[number] = self
        return options_of_worker, (type(self), number)

    PipelineOptions.__reduce__ = reduce
    try:
        yield
    finally:
        del PipelineOptions.__reduce__
        OPTIONS_HERE.clear()  # Beam has loaded the session again by now


def write_job(plan: SubmitPlan, folder: Path) -> None:
    """Write what Flink's side reads of a job and everybody may know: the pipeline and the translator's options.

    Args:
        plan: of the submission.
        folder: existing folder.
    """
    (folder / PIPELINE_FILE).write_bytes(plan.pipeline.SerializeToString(deterministic=True))
    (folder / TRANSLATOR_FILE).write_text(options_json(plan.translator_options))


def options_json(options: Mapping[str, Any]) -> str:
    """Pipeline options as Beam's runners read them: the JSON of a protobuf Struct."""
    from apache_beam.runners.portability.portable_runner import JobServiceHandle
    from google.protobuf import json_format

    return str(json_format.MessageToJson(JobServiceHandle.encode_pipeline_options(dict(options)), sort_keys=True))


def _install_requirements(file: Path, target: Path) -> None:
    """Install a requirements file; where all of it is pinned, from what the same file has given here before."""
    text = file.read_text() if file.is_file() else ""
    if not _is_pinned(text):
        _pip_install(["-r", str(file)], target)
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "beam_k8s" / "requirements"
    known = cache / hashlib.sha256(f"{sys.version}\0{text}".encode()).hexdigest()[:16]
    if not known.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".") as fresh:
            _pip_install(["-r", str(file)], Path(fresh) / "installed")
            with suppress(OSError):  # somebody else was faster
                (Path(fresh) / "installed").rename(known)
        for old in sorted(cache.glob("[!.]*"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(known, target, symlinks=True)


def _is_pinned(requirements: str) -> bool:
    lines = [line.partition("#")[0].strip() for line in requirements.splitlines()]
    return any(lines) and all(_PINNED.fullmatch(line) for line in lines if line)


def _pip_install(what: list[str], target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), *what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(
            f"pip could not install {' '.join(what)} for the workers:\n{done.stderr.strip()}",
            hint="Correct --requirements_file, --extra_package or --setup_file.",
        )
