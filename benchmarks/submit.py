"""Bytes and seconds of a submission until its image is in the registry: ours against `docker build` and `docker push`.

A pipeline with a requirement, a package of its own and a proto is submitted anew, unchanged, and with a change in the
package's code. Ours is what `beam-k8s build` does once Beam is imported: pip for the workers' folders, layers, push.
Docker's two forms get the same files, the requirement as a wheel beside them: `everything` is one Dockerfile that
copies all there is (Flink, Beam, the code) and installs it; `by layers` stands on the runtime image and copies what
changes rarely first. Bytes are what the registry's storage grew by; it and the engine (BuildKit) are on this machine.

    python -m benchmarks.submit [--quick] [--json FILE]
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_k8s import spec
from beam_k8s.launcher.image import RegistryBuilder, build_job_image
from beam_k8s.launcher.oci import ImageReference
from beam_k8s.launcher.runner import FlinkK8s, _all_options, _plan, _with_harness
from beam_k8s.launcher.staging import stage, write_job
from beam_k8s.settings import resolve
from benchmarks.report import Report, arguments
from tests.cluster import runtime
from tests.cluster.engine import DockerEngine
from tests.cluster.registry import ImageRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

GOAL = 0.1
"""Seconds of a submission with changed code, ours to `everything`."""

REQUIREMENT = "tenacity==9.2.1"
SETUP = "import setuptools\nsetuptools.setup(name='mine', version='1', py_modules=['mine'])\n"

PIP = "apt-get update && apt-get install --yes --no-install-recommends python3-pip"
EVERYTHING = f"""
    FROM {{base}}
    RUN {PIP}
    ENV PIP_NO_INDEX=1
    WORKDIR /build
    COPY . .
    RUN sh install.sh dependencies && sh install.sh ours && cp -r /out/dependencies/. /out/jars/. /out/ours/. / \\
     && rm -r /out \\
     && pip install --target /opt/beam_k8s/staged/requirements --find-links wheels --no-index {{requirement}} \\
     && pip install --target /opt/beam_k8s/staged/packages --no-deps --no-build-isolation ./src \\
     && cp -r job /opt/beam_k8s
    USER 9999:9999
    ENTRYPOINT ["/docker-entrypoint.sh"]
"""
BY_LAYERS = """
    FROM {base}
    COPY wheels /wheels
    RUN pip install --target /opt/beam_k8s/staged/requirements --find-links /wheels --no-index {requirement}
    COPY src /src
    RUN pip install --target /opt/beam_k8s/staged/packages --no-deps --no-build-isolation /src
    COPY job /opt/beam_k8s/job
    USER 9999:9999
"""


class Planned(FlinkK8s):
    """Stops where a pipeline is planned."""

    plan: Any

    def run_portable_pipeline(self, pipeline: Any, options: Any) -> Any:
        flags = _all_options(options)
        settings = resolve(flags, {}, {})
        self.plan = _plan(_with_harness(pipeline, spec.HARNESS), settings, options, flags, {})


class Bench:
    """A registry, an engine, a project, and the three ways from it to an image."""

    def __init__(self, scratch: Path, registry: ImageRegistry, engine: DockerEngine) -> None:
        self._scratch, self._registry, self._engine = scratch, registry, engine
        self._base = runtime.push(registry.host, "runtime")
        self._project = scratch / "project"
        (self._project / "src").mkdir(parents=True)
        (self._project / "src" / "setup.py").write_text(SETUP)
        (self._project / "requirements.txt").write_text(REQUIREMENT + "\n")
        self.change(0)
        # What the engine needs beside, and what it would have on any machine that built before.
        runtime.load_base(engine)
        self._context = runtime.runtime_context(scratch, runtime.dependency_wheels())
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--wheel-dir", scratch / "layers" / "wheels", REQUIREMENT], check=True)
        shutil.copytree(scratch / "layers" / "wheels", self._context / "wheels", dirs_exist_ok=True)
        self._file(
            "with-pip",
            f"FROM {self._base}\nUSER root\nRUN {PIP}\n",
        )
        (scratch / "none").mkdir()
        self._docker("with-pip", scratch / "none")

    def change(self, number: int) -> None:
        """Change a line of the user's code."""
        (self._project / "src" / "mine.py").write_text(f"ANSWER = {number}\n")

    def ours(self) -> None:
        """From the pipeline to the image, as the launcher does it."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as name:
            folder = Path(name)
            for part in ("staged", "job", "layers"):
                (folder / part).mkdir()
            project, host = self._project, self._registry.host
            flags = ["--job_name=mine", "--k8s_storage=s3://bucket/path", f"--setup_file={project}/src/setup.py"]
            flags += [f"--requirements_file={project}/requirements.txt"]
            flags += [f"--k8s_image_repository={host}/jobs", f"--k8s_runtime_image={self._base}"]
            runner, options = Planned(), PipelineOptions(flags)
            pipeline = beam.Pipeline(runner=runner, options=options)
            pipeline | beam.Create([20, 22]) | beam.CombineGlobally(sum)
            pipeline.run()
            stage(options, folder / "staged")
            write_job(runner.plan, folder / "job")
            shutil.copytree(folder / "job", self._project / "job", dirs_exist_ok=True)  # for the peers
            build_job_image(
                RegistryBuilder(),
                base=self._base,
                repository=ImageReference(host, "jobs"),
                name="mine",
                staged=folder / "staged",
                job=folder / "job",
                scratch=folder / "layers",
                progress=lambda *_: None,
            )

    def everything(self) -> None:
        """One Dockerfile for all."""
        self._file("everything", EVERYTHING.format(base=runtime.BASE, requirement=REQUIREMENT))
        self._docker("everything", self._context)

    def by_layers(self) -> None:
        """A Dockerfile as one who knows Docker writes it."""
        self._file("by-layers", BY_LAYERS.format(base=f"{self._registry.host}/with-pip:1", requirement=REQUIREMENT))
        self._docker("by-layers", self._scratch / "layers")

    def measured(self, way: Callable[[], None]) -> tuple[float, int]:
        """Seconds, and bytes by which the registry's storage grew."""
        before, clock = self._stored(), time.monotonic()
        way()
        figures = time.monotonic() - clock, self._stored() - before
        print(f"{way.__name__}: {figures[0]:.1f} s, {figures[1]:,} bytes", file=sys.stderr)
        return figures

    def _stored(self) -> int:
        return sum(path.stat().st_size for path in (self._scratch / "registry").rglob("blobs/**/data"))

    def _file(self, name: str, text: str) -> None:
        (self._scratch / name).write_text(textwrap.dedent(text))

    def _docker(self, name: str, context: Path) -> None:
        for part in ("src", "job"):
            if (self._project / part).exists() and context.name != "none":
                shutil.copytree(self._project / part, context / part, dirs_exist_ok=True)
        tag = f"{self._registry.host}/{name}:1"
        env = {**os.environ, "DOCKER_BUILDKIT": "1", "PATH": f"/usr/bin:{os.environ['PATH']}"}
        file = self._scratch / name
        build = ("build", "--quiet", "--network=host", f"--tag={tag}", f"--file={file}")
        for command in ((*build, str(context)), ("push", "--quiet", tag)):
            subprocess.run(self._engine.command(*command), check=True, env=env, stdout=sys.stderr)


def main() -> None:
    """Measure and report."""
    options = arguments(__doc__ or "")
    rounds = 1 if options.quick else 3
    figures: dict[str, dict[str, list[tuple[float, int]]]] = {}
    with tempfile.TemporaryDirectory(prefix="beam-k8s-bench-") as folder:
        scratch = Path(folder)
        with ImageRegistry(scratch / "registry") as registry, DockerEngine(scratch / "engine") as engine:
            bench = Bench(scratch, registry, engine)
            ways = {"ours": bench.ours, "docker, by layers": bench.by_layers, "docker, everything": bench.everything}
            for name, way in ways.items():
                figures[name] = {"first": [bench.measured(way)], "unchanged": [], "changed": []}
            for turn in range(1, rounds + 1):
                for name, way in ways.items():
                    figures[name]["unchanged"].append(bench.measured(way))
                bench.change(turn)
                for name, way in ways.items():
                    figures[name]["changed"].append(bench.measured(way))
    medians = {
        name: {case: [statistics.median(each) for each in zip(*runs, strict=True)] for case, runs in cases.items()}
        for name, cases in figures.items()
    }
    ratio = medians["ours"]["changed"][0] / medians["docker, everything"]["changed"][0]
    report = Report("submit", {"seconds_and_bytes": figures, "medians": medians, "ratio": ratio})
    cases = ("first", "unchanged", "changed")
    report.table(
        ("way", *(f"{case}: s, bytes pushed" for case in cases)),
        [(name, *(f"{of[case][0]:.1f}, {of[case][1]:,.0f}" for case in cases)) for name, of in medians.items()],
    )
    report.finish(options.json, metric="changed_ours_to_everything", value=ratio, goal=GOAL, lower_is_better=True)


if __name__ == "__main__":
    main()
