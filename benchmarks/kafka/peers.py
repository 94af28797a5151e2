"""Each peer's jobs on a Flink cluster of its own, or as processes."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import apache_beam as beam
import psutil

from beam_k8s import versions
from beam_k8s.launcher.flink_rest import FlinkRest
from beam_k8s.launcher.local import SessionCluster, runner_jar
from benchmarks.kafka import beam_jobs
from benchmarks.kafka.measure import Figures, Marks, TooSlowError, measure
from benchmarks.kafka.topics import CACHE, PARTITIONS
from benchmarks.kafka.work import FUNCTIONS, KEYS, METADATA, WORKS
from tests.cluster.expansion import expansion_lib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from apache_beam.transforms.ptransform import PTransform

__all__ = ["Case", "Loop", "Ours", "PyFlink", "Stock"]

Found = TypeVar("Found")

ROOT = Path(__file__).parents[2]
_END_SECONDS = 30
_CHECKPOINT_MS = 10_000


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured."""

    brokers: str
    topic: str
    parallelism: int
    marks: Marks
    work: str
    """Of ``work.WORKS``."""
    sink: str
    """Topic to write to."""


class Loop:
    """A plain Python loop, as many processes as the parallelism.

    Args:
        client: ``confluent`` or ``kafka-python``.
    """

    works: tuple[str, ...] = tuple(FUNCTIONS)

    def __init__(self, client: str) -> None:
        self.name = f"loop, {client}"
        self._client = client

    def run(self, case: Case) -> Figures:
        """Measure one run."""
        with tempfile.TemporaryDirectory(prefix="beam-k8s-bench-") as folder:
            processes = []
            try:
                for number in range(case.parallelism):
                    mine = ",".join(str(each) for each in range(number, PARTITIONS, case.parallelism))
                    command = [sys.executable, "-m", "benchmarks.kafka.loops", self._client, case.brokers, case.topic]
                    processes.append(subprocess.Popen([*command, mine, folder, case.work], cwd=ROOT))
                return measure(Path(folder), [each.pid for each in processes], case.marks)
            finally:
                for process in processes:
                    process.kill()
                    process.wait()

    def close(self) -> None:
        """Nothing runs on."""


class _OnFlink:
    """A peer with a session cluster, of one TaskManager with a slot a subtask."""

    works: tuple[str, ...] = WORKS

    def __init__(self, name: str) -> None:
        self.name = name
        self._stack = ExitStack()
        self._cluster: tuple[int, str, int] | None = None

    def close(self) -> None:
        """End the cluster."""
        self._stack.close()
        self._cluster = None

    def run(self, case: Case, measure: Callable[[Path, list[int], Marks], Found] = measure) -> Found:
        """Measure one job, and end it.

        Args:
            case: what.
            measure: how: from the folder of the meters, the process ids and the marks.
        """
        if self._cluster is None or self._cluster[0] != case.parallelism:
            self.close()
            self._cluster = self._start(case.parallelism)
        _, address, task_manager = self._cluster
        rest = FlinkRest(f"http://{address}")
        with tempfile.TemporaryDirectory(prefix="beam-k8s-bench-") as folder:
            self._submit(case, address, folder)
            try:
                return measure(Path(folder), [task_manager], case.marks)
            except TooSlowError as cause:
                raise TooSlowError(f"{self.name}: {cause}: {_trouble(rest)}") from cause
            finally:
                _cancel_all(rest)

    def _start(self, parallelism: int) -> tuple[int, str, int]:
        scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="beam-k8s-bench-")))
        cluster = self._stack.enter_context(SessionCluster(scratch / "flink", slots=parallelism, jars=self._jars()))
        self._prepare(scratch)
        (task_manager,) = (
            each.pid
            for each in psutil.Process().children(recursive=True)
            if any("TaskManagerRunner" in word for word in each.cmdline()) and str(scratch) in " ".join(each.cmdline())
        )
        return parallelism, cluster.address, task_manager

    def _jars(self) -> list[Path] | None:
        return None

    def _prepare(self, scratch: Path) -> None:
        """Start what the jobs need beside Flink."""

    def _submit(self, case: Case, address: str, folder: str) -> None:
        raise NotImplementedError


class Ours(_OnFlink):
    """This package, with its defaults.

    Args:
        delivery: guarantee of what is written.
    """

    def __init__(self, delivery: str = "exactly_once") -> None:
        super().__init__(f"ours, {delivery}")
        self._delivery = delivery
        self.works = WORKS if delivery == "exactly_once" else ("write",)

    def _submit(self, case: Case, address: str, folder: str) -> None:
        from beam_k8s.transforms import ReadFromKafka, WriteToKafka

        source = ReadFromKafka(
            {"bootstrap.servers": case.brokers, "auto.offset.reset": "earliest"},
            [case.topic],
            timestamp_policy="CreateTime",
            with_metadata=case.work == METADATA,
        )
        sink = WriteToKafka({"bootstrap.servers": case.brokers}, case.sink, delivery_guarantee=self._delivery)
        _submit(
            source,
            sink,
            case,
            folder,
            "--runner=FlinkK8s",
            "--k8s_target=local",
            f"--flink_master={address}",
            f"--k8s_task_slots={case.parallelism}",
        )


class Stock(_OnFlink):
    """Beam's cross-language ReadFromKafka on Beam's FlinkRunner.

    It writes at least once: its Python form has no other. Its Java half runs inside the TaskManager (environment
    EMBEDDED): no process and no socket between them.

    Args:
        deprecated_read: the source as Flink's own kind of source (``use_deprecated_read``), else a splittable DoFn.
        flags: its other settings.
    """

    def __init__(self, *, deprecated_read: bool, flags: Sequence[str] = ()) -> None:
        super().__init__("stock, deprecated read" if deprecated_read else "stock, splittable DoFn")
        self._deprecated = deprecated_read
        self._flags = flags
        self._harness = self._expansion = ""

    def _jars(self) -> list[Path]:
        return []  # all is in the job's jar

    def _prepare(self, scratch: Path) -> None:
        harness = scratch / "harness"
        harness.write_text(
            f'#!/bin/sh\nexport PYTHONPATH={ROOT}\nexec {sys.executable} -m beam_k8s.transforms.boot "$@"\n'
        )
        harness.chmod(0o755)
        self._harness = json.dumps({"command": str(harness)})
        self._expansion = self._stack.enter_context(_expansion_service(scratch, self._experiments()))

    def _experiments(self) -> list[str]:
        return ["--experiments=use_deprecated_read"] if self._deprecated else []

    def _submit(self, case: Case, address: str, folder: str) -> None:
        from apache_beam.io.kafka import ReadFromKafka, WriteToKafka

        source = ReadFromKafka(
            {"bootstrap.servers": case.brokers, "auto.offset.reset": "earliest", "group.id": Path(folder).name},
            [case.topic],
            timestamp_policy="CreateTime",
            with_metadata=case.work == METADATA,
            expansion_service=self._expansion,
        )
        sink = WriteToKafka({"bootstrap.servers": case.brokers}, case.sink, expansion_service=self._expansion)
        _submit(
            source,
            sink,
            case,
            folder,
            "--runner=FlinkRunner",
            f"--flink_master=http://{address}",
            "--flink_submit_uber_jar",
            f"--flink_job_server_jar={_job_jar()}",
            "--environment_type=PROCESS",
            f"--environment_config={self._harness}",
            f"--parallelism={case.parallelism}",
            f"--sdk_worker_parallelism={case.parallelism}",
            f"--checkpointing_interval={_CHECKPOINT_MS}",
            *self._experiments(),
            *self._flags,
        )


class PyFlink(_OnFlink):
    """PyFlink, from its own virtual environment: a DataStream with a Python function, or SQL with one, exactly once."""

    works = (*FUNCTIONS, *KEYS)

    def __init__(self) -> None:
        super().__init__("pyflink")
        self._python, self._home = _pyflink()

    def _jars(self) -> list[Path]:
        have = ("flink-dist-", "log4j-")
        lib = [jar for jar in sorted((self._home / "lib").glob("*.jar")) if not jar.name.startswith(have)]
        return [*lib, *(self._home / "opt").glob("flink-python-*.jar")]

    def _submit(self, case: Case, address: str, folder: str) -> None:
        # JDK 17: PyFlink's gateway looks into these packages.
        opened = " ".join(
            f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in ("java.util", "java.lang", "java.net")
        )
        arguments = (address, case.brokers, case.topic, str(case.parallelism), case.work, folder, case.sink)
        done = subprocess.run(
            [self._python, "-m", "benchmarks.kafka.pyflink_job", *arguments],
            cwd=ROOT,
            env={**os.environ, "JDK_JAVA_OPTIONS": opened},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise TooSlowError(f"not submitted: {done.stderr[-2000:]}")


def _pyflink() -> tuple[str, Path]:
    """Python and pyflink folder of a virtual environment that is made on the first call (2 minutes, 800 MB)."""
    venv = CACHE.parent / f"pyflink-{versions.FLINK}"
    python = str(venv / "bin" / "python")
    home = venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages" / "pyflink"
    ready = venv / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", f"apache-flink=={versions.FLINK}"], check=True)
        maven = ["mvn", "-q", "-B", "-f", str(Path(__file__).with_name("pyflink.xml")), "dependency:copy-dependencies"]
        subprocess.run([*maven, f"-DoutputDirectory={home / 'lib'}", f"-Dflink.version={versions.FLINK}"], check=True)
        ready.touch()
    return python, home


def _submit(source: PTransform, sink: PTransform, case: Case, folder: str, *flags: str) -> None:
    logging.getLogger().setLevel(logging.ERROR)
    options = beam.options.pipeline_options.PipelineOptions(["--streaming", *flags])
    pipeline = beam.Pipeline(options=options)
    beam_jobs.build(pipeline, source, sink, case.work, folder)
    pipeline.run()


def _job_jar() -> Path:
    """Beam's Flink runner and the Java half of its Kafka source in one jar, as Beam's job server jar is."""
    jar = CACHE / "stock.jar"
    source = runner_jar()
    if not jar.exists() or jar.stat().st_mtime < source.stat().st_mtime:
        part = jar.with_suffix(".part")
        shutil.copy(source, part)
        lib = expansion_lib()
        with zipfile.ZipFile(part, "a") as whole:
            known = set(whole.namelist())
            for name in ("beam-sdks-java-io-kafka", "beam-sdks-java-extensions-avro", "avro", "jamm", "spring"):
                for other in lib.glob(f"{name}-*.jar"):
                    with zipfile.ZipFile(other) as content:
                        for entry in content.namelist():
                            if entry not in known and not entry.startswith("META-INF/"):
                                known.add(entry)
                                whole.writestr(entry, content.read(entry))
        part.rename(jar)
    return jar


@contextmanager
def _expansion_service(scratch: Path, flags: Sequence[str]) -> Iterator[str]:
    """Beam's own expansion service; its address."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    empty = scratch / "empty"
    empty.touch()
    command = [
        *("java", "-Xmx384m", "-XX:TieredStopAtLevel=1", "-cp", f"{expansion_lib()}/*"),
        "org.apache.beam.sdk.expansion.service.ExpansionService",
        str(port),
        "--defaultEnvironmentType=EMBEDDED",
        f"--filesToStage={empty}",
        *flags,
    ]
    with (scratch / "expansion.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _END_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"The expansion service did not start:\n{(scratch / 'expansion.log').read_text()}")
        yield f"localhost:{port}"
    finally:
        process.kill()
        process.wait()


def _cancel_all(rest: FlinkRest) -> None:
    deadline = time.monotonic() + _END_SECONDS
    while time.monotonic() < deadline:
        running = [job["id"] for job in rest.get("/jobs")["jobs"] if job["status"] not in _ENDED]
        if not running:
            return
        for job in running:
            rest.cancel(job)
        time.sleep(0.2)
    raise TooSlowError("a job does not end")


_ENDED = {"CANCELED", "FINISHED", "FAILED"}


def _trouble(rest: FlinkRest) -> str:
    for job in rest.get("/jobs")["jobs"]:
        if job["status"] not in _ENDED or job["status"] == "FAILED":
            errors = rest.get(f"/jobs/{job['id']}/exceptions")
            return f"{job['status']} {errors.get('root-exception') or ''}"
    return "no job"
