"""``--runner=FlinkK8s``: from a pipeline to a running job.

Data flows one way: options, settings, proto, facts, plan (pure), and only then something is created.
"""

from __future__ import annotations

import getpass
import logging
import os
import random
import re
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions, PortableOptions, StandardOptions
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.runner import PipelineResult, PipelineRunner
from apache_beam.transforms import environments

from beam_k8s import graph
from beam_k8s.errors import BeamK8sError, ConfigError, KafkaError, NoPythonForm, NotHere
from beam_k8s.launcher.autoscale import Autoscaling
from beam_k8s.launcher.kafka_admin import Brokers
from beam_k8s.launcher.plan import conflicts, make_plan
from beam_k8s.launcher.progress import report
from beam_k8s.launcher.result import FlinkK8sPipelineResult
from beam_k8s.launcher.staging import stage
from beam_k8s.lifting import lifted
from beam_k8s.options import FlinkK8sOptions
from beam_k8s.settings import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from beam_k8s.launcher.plan import SubmitPlan
    from beam_k8s.launcher.target import Target
    from beam_k8s.settings import Settings

__all__ = ["FlinkK8s", "FlinkK8sRunner", "settings_of"]

_HARNESS = "beam-k8s-harness"
"""Stands for the command of the Python harness until it is known."""
_OPTIONS_LOGGER = "apache_beam.options.pipeline_options"


_UNKNOWN = {"local": (NoPythonForm,), "kubernetes": (NoPythonForm, NotHere, KafkaError)}
"""What cannot be known of Kafka from here: on Kubernetes the job's network and secrets are others."""


class FlinkK8s(PipelineRunner):
    """Runs pipelines as managed Flink jobs."""

    def default_environment(self, options: Any) -> Any:
        """The worker's environment. The command is filled in when it is known where the job will run."""
        if options.view_as(PortableOptions).environment_type == "LOOPBACK":
            return environments.Environment.from_options(options.view_as(PortableOptions))
        return environments.ProcessEnvironment(
            _HARNESS,
            capabilities=environments.python_sdk_capabilities(),
            resource_hints=environments.resource_hints_from_options(options),
        )

    def run_portable_pipeline(self, pipeline: Any, options: Any) -> PipelineResult:
        """Plan, check, and run.

        Raises:
            ConfigError: something is wrong that was found before anything was created; all of it at once.
            BeamK8sError: the job could not be started; nothing is left behind.
        """
        flags = _all_options(options)
        flags.setdefault("job_name", _generated_name())
        settings = resolve(flags, os.environ, _file_settings(), must_stream=graph.needs_streaming(pipeline))
        target = _target(settings)
        errors: list[BeamK8sError] = [*conflicts(pipeline, settings, flags), *target.preflight()]
        partitions: dict[str, Mapping[str, int]] = {}
        unknown = _UNKNOWN[settings.target]
        sources = graph.kafka_sources(pipeline)
        with Brokers() as brokers:
            for source in sources:
                try:
                    partitions[source.transform_id] = brokers.partition_counts(source)
                except unknown as why:
                    report(f"warning: {source.name}: nobody looked whether {source.what} can be read: {why.message}")
                except BeamK8sError as error:
                    errors.append(error)
            for sink in graph.kafka_sinks(pipeline):
                try:
                    brokers.check_sink(sink, sink.transactional_id(target.global_name))
                except unknown as why:
                    report(f"warning: {sink.name}: nobody looked whether it can write: {why.message}")
                except BeamK8sError as error:
                    if error not in errors:  # as that of a source of the same broker
                        errors.append(error)
        if errors:
            raise ConfigError.of_all(errors) if len(errors) > 1 else errors[0]
        options.view_as(StandardOptions).streaming = settings.streaming
        # Before the pipeline is optimized: fusion copies the environments into the stages.
        pipeline = _with_harness(pipeline, target.harness_command())
        if settings.dry_run != "none":
            print(target.dry_run(_plan(pipeline, settings, options, flags, partitions)))
            return _Planned()
        cleanup = PortableRunner.start_and_replace_loopback_environments(pipeline, options)
        try:
            plan = _plan(pipeline, settings, options, flags, partitions)
            for source_plan in plan.sources:
                report(source_plan.sentence())
            for warning in plan.warnings():
                report(f"warning: {warning}")
            target.prepare()
            stage(options, target.staged)
            if settings.build_only:
                print(target.build(plan))
                return _Planned()
            job = target.deploy(plan)
        except BaseException:
            target.remove()
            for callback in cleanup:
                callback()
            raise
        autoscaling = Autoscaling(job, sources, settings) if settings.autoscaler and not settings.detach else None
        return FlinkK8sPipelineResult(job, cleanup=cleanup, detach=settings.detach, autoscaling=autoscaling)


FlinkK8sRunner = FlinkK8s
"""Beam's naming habit; ``--runner=FlinkK8sRunner`` works too."""


class _Planned(PipelineResult):
    """What a dry run returns: a job that never was, so it is done."""

    def __init__(self) -> None:
        super().__init__("DONE")

    def wait_until_finish(self, duration: float | None = None) -> str:  # noqa: ARG002 - Beam's signature
        return "DONE"


def _target(settings: Settings) -> Target:
    if settings.target == "local":
        from beam_k8s.launcher.local import LocalTarget

        return LocalTarget(settings)
    from beam_k8s.launcher.kubernetes_target import KubernetesTarget

    return KubernetesTarget(settings)


def _plan(
    pipeline: Any,
    settings: Settings,
    options: Any,
    flags: Mapping[str, Any],
    partitions: Mapping[str, Mapping[str, int]],
) -> SubmitPlan:
    optimized = PortableRunner._optimize_pipeline(pipeline, options)  # noqa: SLF001 - as Beam's own Flink runner
    if settings.streaming and options.view_as(DebugOptions).lookup_experiment("pre_optimize") != "none":
        optimized = lifted(optimized)
    return make_plan(optimized, settings, flags, partitions)


def _with_harness(pipeline: Any, command: str) -> Any:
    """The pipeline with the command of its Python environments filled in; those of other languages stay as they are."""
    from apache_beam.portability import common_urns
    from apache_beam.portability.api import beam_runner_api_pb2

    for environment in pipeline.components.environments.values():
        if environment.urn == common_urns.environments.PROCESS.urn:
            payload = beam_runner_api_pb2.ProcessPayload.FromString(environment.payload)
            if payload.command == _HARNESS:
                payload = beam_runner_api_pb2.ProcessPayload(command=command)
                environment.payload = payload.SerializeToString()
    return pipeline


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Keep a logger silent. Beam warns of options it does not know with their values, which may be secrets."""
    silenced = logging.getLogger(logger)
    silenced.disabled, before = True, silenced.disabled
    try:
        yield
    finally:
        silenced.disabled = before


def settings_of(arguments: Sequence[str]) -> Settings:
    """The settings that a submission with these flags would have, before its pipeline is known.

    Raises:
        ConfigError: with everything that is wrong.
    """
    flags = _all_options(PipelineOptions(list(arguments)))
    flags.setdefault("job_name", _generated_name())
    return resolve(flags, os.environ, _file_settings())


def _all_options(options: Any) -> dict[str, Any]:
    """Every option by name, those unknown to Python too: the user's own and Beam's Java ones."""
    options.view_as(FlinkK8sOptions)
    with _quiet(_OPTIONS_LOGGER):
        found: dict[str, Any] = options.get_all_options(drop_default=True, retain_unknown_options=True)
    return {name: value for name, value in found.items() if value is not None}


def _generated_name() -> str:
    """A job name as Dataflow makes one: beamapp-USER-MMDDHHMMSS-RANDOM."""
    user = re.sub(r"[^a-z0-9]", "", getpass.getuser().lower())[:10] or "user"
    return f"beamapp-{user}-{time.strftime('%m%d%H%M%S')}-{random.randrange(16**6):06x}"  # noqa: S311 - no secret


def _file_settings() -> dict[str, Any]:
    """``beam_k8s.toml`` of the working directory, else ``[tool.beam_k8s]`` of its pyproject.toml, else nothing."""
    for name, table in (("beam_k8s.toml", ()), ("pyproject.toml", ("tool", "beam_k8s"))):
        file = Path(name)
        if file.is_file():
            try:
                content: dict[str, Any] = tomllib.loads(file.read_text())
            except tomllib.TOMLDecodeError as cause:
                raise ConfigError(f"{file} is not TOML: {cause}", hint="Correct the file.") from cause
            for key in table:
                content = content.get(key, {})
            if content:
                return content
    return {}
