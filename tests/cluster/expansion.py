"""Beam's Java expansion service and Java harness for tests, from Maven's jars, on loopback, without Docker.

with ExpansionService(folder) as service:
    ... GenerateSequence(..., expansion_service=service.address) ...

Beam's Flink job server brings both; FlinkK8s has no job server, so a test of cross-language transforms starts them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Self

from beam_k8s.versions import BEAM

__all__ = ["ExpansionService", "expansion_lib"]

_SOURCE = Path(__file__).with_name("ExpansionAndHarness.java")
_POM = Path(__file__).with_name("expansion-pom.xml")
_REPO = Path(__file__).resolve().parents[2]
_REGISTRARS = "META-INF/services/org.apache.beam.sdk.expansion.ExternalTransformRegistrar"


def expansion_lib() -> Path:
    """Return the folder of the jars: a cache that Maven fills on the first call.

    Raises:
        subprocess.CalledProcessError: Maven failed.
    """
    lib = _REPO / ".cache" / f"expansion-{BEAM}" / "lib"
    lib.parent.mkdir(parents=True, exist_ok=True)
    # Test processes side by side fill it once; a folder that is there is complete, because it was renamed into place.
    with (lib.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not lib.is_dir():
            part = lib.with_name("lib.part")
            shutil.rmtree(part, ignore_errors=True)
            subprocess.run(
                [
                    *("mvn", "-q", "-B", "-f", str(_POM)),
                    "dependency:copy-dependencies",
                    f"-DoutputDirectory={part}",
                    f"-Dbeam.version={BEAM}",
                ],
                check=True,
                stdout=sys.stderr,
            )
            part.rename(lib)
    return lib


class ExpansionService:
    """One process that is both. It stops when the ``with`` block ends, or this process.

    Args:
        folder: where its classes and its log lie; made if it is missing.
    """

    address: str
    """host:port of the expansion service, once it runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        classes = self._folder / "classes"
        registrars = classes / _REGISTRARS
        registrars.parent.mkdir(parents=True)
        registrars.write_text("ExpansionAndHarness$Sql\n")
        path = os.pathsep.join([str(classes), f"{expansion_lib()}/*"])
        subprocess.run(["javac", "-nowarn", "-cp", path, "-d", str(classes), str(_SOURCE)], check=True)
        log = self._folder / "log"
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                # What it compiles once is hardly run twice.
                [*("java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", path), _SOURCE.stem, str(registrars)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        if not port:
            self.__exit__()
            raise RuntimeError(f"The expansion service did not start:\n{log.read_text()}")
        self.address = f"127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.communicate()  # closes its standard input, which ends it
