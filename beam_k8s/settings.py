"""What a user asked for, resolved and checked: flag > environment (``BEAM_K8S_*``) > file > default.

Pure: the caller reads the environment and the file and passes them in. Flags that Beam's own option classes or Beam's
Java FlinkPipelineOptions know keep their meaning there (``--num_workers``, ``--checkpointing_interval``, ...).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from beam_k8s.autoscaler.settings import AutoscalerSettings
from beam_k8s.errors import BeamK8sError, ConfigError
from beam_k8s.names import check_job_name, is_dns_label, is_subdomain
from beam_k8s.versions import FLINK

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Settings", "resolve"]

_MACHINE_TYPE = re.compile(r"n1-(standard|highmem|highcpu)-([1-9]\d*)")

_SHORTEST_INTERVAL = 100
"""Milliseconds; a bundle ends with each checkpoint."""

_PROTECTED = {
    "execution.checkpointing.mode": "exactly-once is what the Kafka source and sink rely on",
    "jobmanager.rpc.address": "the target chooses addresses and ports",
    "jobmanager.rpc.port": "the target chooses addresses and ports",
    "pipeline.jars": "the runner jar belongs in Flink's lib folder: as a user jar each rescale leaks metaspace",
}
"""Flink settings that would break the job, with the reason."""


class Settings(BaseModel):
    """All that steers one submission. Units stand in each field's docstring."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    job_name: str
    """Name of the job, of the FlinkDeployment and of the run directory; a DNS label of at most 45 characters."""
    target: Literal["kubernetes", "local"] = "kubernetes"
    """Where the job runs. Default as the product's name says; ``local`` is for a desk and for tests."""
    dry_run: Literal["none", "client", "server"] = "none"
    """``client``: print the plan, create nothing. ``server``: the API server checks the objects too, and keeps none."""
    output: Literal["text", "yaml"] = "text"
    """Form of a dry run: for people, or the Kubernetes objects to commit."""
    build_only: bool = False
    """Build and push the job's image, print its name by digest, and stop."""
    kubeconfig: str | None = None
    """Default: as kubectl, ``$KUBECONFIG`` or ``~/.kube/config``; in a pod its own account."""
    context: str | None = None
    """Of the kubeconfig. Default: its current one."""
    namespace: str | None = None
    """Where the job lives. Default: that of the context, or of the pod that launches."""
    impersonate: str | None = None
    """User whom the launcher acts as, such as ``system:serviceaccount:NAMESPACE:NAME``."""
    image_repository: str | None = None
    """Where the job's image is pushed: ``REGISTRY/REPOSITORY``. Credentials are those of ``docker login``."""
    image: str | None = None
    """The job's image, built earlier from this pipeline: nothing is built then."""
    runtime_image: str | None = None
    """Base of the job's image (``images/runtime``). Nothing of it is sent if it is in the same registry.
    ``--sdk_container_image`` means it too."""
    image_builder: Literal["registry", "docker"] = "registry"
    """Who builds the job's image: we, with the registry's HTTP API alone, or a Docker engine. The first needs nothing,
    and gives the same digest on every machine."""
    insecure_registry: bool = False
    """Speak plain HTTP with the registry; the nodes must do so too."""
    service_account: str = "flink"
    """Who the pods run as. Flink's high availability writes ConfigMaps."""
    storage_claim: str | None = None
    """PersistentVolumeClaim, to be mounted in all pods at the path of a ``file://`` storage."""
    secrets: tuple[str, ...] = ()
    """Secrets to mount in all pods, each a folder of files below ``/etc/secrets``: what a transform refers to
    by ``file:/etc/secrets/NAME/KEY``."""
    worker_cpu: float | None = Field(default=None, gt=0, le=256)
    """vCPUs of a worker where they are not the machine type's: 0.5 for a small tenant. Its memory goes with them."""
    tenant: str = ""
    """Whom the job belongs to; a label."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the job's objects. Dataflow's flag, KEY=VALUE."""
    update: bool = False
    """Dataflow's flag; refused until jobs can be upgraded in place."""
    start_timeout: int = Field(default=600, ge=1)
    """Seconds after which a job that has never run is given up and removed. Default: ten minutes, in which a cluster
    adds a node and pulls an image."""
    detach: bool = False
    """Return when the API server has the job: ``wait_until_finish`` does not wait."""
    job_id: str | None = Field(default=None, pattern="^[0-9a-f]{32}$")
    """Id of this submission, 32 hexadecimal digits. Default: a new one."""
    num_workers: int = Field(default=1, ge=1, le=10_000)
    """TaskManagers at the start. Dataflow's flag and default."""
    max_num_workers: int | None = Field(default=None, ge=1, le=10_000)
    """TaskManagers that the autoscaler may go up to. Dataflow's flag; default: its 100, within ``max_parallelism``."""
    autoscaler_mode: Literal["off", "recommend", "on"] = "off"
    """``on``: workers come and go with the load while the launcher runs. ``recommend``: only say what it would do."""
    autoscaler_conf: dict[str, str] = Field(default_factory=dict)
    """``AutoscalerSettings`` by name: policy, limits, thresholds."""
    machine_type: str = "n1-standard-1"
    """Worker type; its last number is the vCPUs of a TaskManager. Named as on Google Cloud, whose users come here."""
    task_slots: int | None = Field(default=None, ge=1, le=256)
    """Slots of a TaskManager. Default: one a vCPU, since each slot has one Python worker that can fill a core."""
    parallelism: int | None = Field(default=None, ge=1)
    """Subtasks wanted. Becomes ``num_workers`` (rounded up to whole TaskManagers) where that is not given."""
    max_parallelism: int = Field(default=128, ge=1, le=32_768)
    """Key groups, hence the most subtasks a job can ever have without losing its state. Flink's own default."""
    flink_version: str = FLINK.rpartition(".")[0]
    """Only the version that this release is built with."""
    flink_master: str | None = None
    """``local``: host:port of a Flink session cluster of ours on this machine to run in, instead of starting one."""
    storage: str | None = None
    """URL of the folder for checkpoints and savepoints. ``local``: default inside the run directory."""
    savepoint_path: str | None = None
    """Checkpoint or savepoint to start from; Beam's Flink flag. A folder with several checkpoints means its newest."""
    allow_non_restored_state: bool = False
    """Start although the savepoint has state of a step that is gone."""
    run_dir: str | None = None
    """``local``: folder of logs and working files; default: a new one, removed when the job is DONE."""
    flink_conf: dict[str, str] = Field(default_factory=dict)
    """Flink settings of the user; they win over ours."""
    streaming: bool = False
    """``--streaming``. A pipeline that is unbounded or uses Kafka runs as streaming anyway."""
    checkpointing_interval: int = Field(default=10_000, ge=-1)
    """Milliseconds between checkpoints of a streaming job; -1, as in Beam: none, so that a failure starts the job over.
    Default: the original system's 10 s, what a restart replays."""
    checkpoint_timeout_millis: int = Field(default=60_000, ge=1000)
    """Milliseconds after which a checkpoint is given up. The original system's 60 s."""
    max_bundle_size: int = Field(default=20_000, ge=1)
    """Elements in a bundle of a streaming job, at most. 20,000 gave +36 % over Beam's 1,000 (one record an element)."""
    max_bundle_time_mills: int = Field(default=1000, ge=1)
    """Milliseconds a bundle stays open at most: what an idle stream adds to latency. Beam's default for streaming.
    Bundles are made so small that the Python worker does not need longer for one either."""
    finish_bundle_before_checkpointing: bool = True
    """Must stay true for streaming. With false, Beam's operator holds the outputs of a bundle that a checkpoint ended
    until the next element: an idle source keeps them for ever, a pipeline that starts with Impulse hangs."""
    object_reuse: bool = True
    """Flink passes elements between chained operators without copying. Safe: Beam forbids changing elements."""
    faster_copy: bool = True
    """Beam's coders do not copy where Flink asks for it, for the same reason."""
    sdk_worker_parallelism: int | None = Field(default=None, ge=1)
    """Python processes of a TaskManager. Default: one a slot (25 to 74 % more records a second than one in all)."""
    environment_type: Literal["PROCESS", "LOOPBACK"] = "PROCESS"
    """``PROCESS``: the TaskManager starts the Python harness. ``LOOPBACK``: the harness is the launching process
    itself, for a debugger; local only."""

    @field_validator("job_name")
    @classmethod
    def _job_name(cls, value: str) -> str:
        return check_job_name(value)

    @field_validator("checkpointing_interval")
    @classmethod
    def _checkpointing_interval(cls, value: int) -> int:
        if -1 < value < _SHORTEST_INTERVAL:
            raise ConfigError(
                f"--checkpointing_interval={value} is too short.",
                hint=f"Use at least {_SHORTEST_INTERVAL} milliseconds, or -1 for no checkpoints.",
            )
        return value

    @field_validator("machine_type")
    @classmethod
    def _machine_type(cls, value: str) -> str:
        if not _MACHINE_TYPE.fullmatch(value):
            raise ConfigError(
                f"--machine_type={value} is not a worker type.",
                hint="Use n1-standard-N, n1-highmem-N or n1-highcpu-N, N being the vCPUs of a worker.",
            )
        return value

    @field_validator("flink_version")
    @classmethod
    def _flink_version(cls, value: str) -> str:
        ours = FLINK.rpartition(".")[0]
        if value != ours:
            raise ConfigError(
                f"--flink_version={value} is not supported.",
                hint=f"This release runs Flink {FLINK}: leave the flag out or say --flink_version={ours}.",
            )
        return value

    @field_validator("namespace")
    @classmethod
    def _namespace(cls, value: str | None) -> str | None:
        if value is not None and not is_dns_label(value):
            raise ConfigError(f"--k8s_namespace={value} cannot name a namespace.", hint="Use for example team-a")
        return value

    @field_validator("secrets", mode="before")
    @classmethod
    def _secrets(cls, value: str | list[str]) -> tuple[str, ...]:
        names = value.split(",") if isinstance(value, str) else value
        for name in names:
            if not is_subdomain(name):
                raise ConfigError(f"--k8s_secrets={name} cannot name a Secret.", hint="Use for example kafka-login")
        return tuple(dict.fromkeys(names))

    @field_validator("flink_conf")
    @classmethod
    def _flink_conf(cls, value: dict[str, str]) -> dict[str, str]:
        for key, reason in _PROTECTED.items():
            if key in value:
                raise ConfigError(f"--k8s_flink_conf={key}={value[key]} is refused: {reason}.", hint="Leave it out.")
        return value

    @property
    def slots(self) -> int:
        """Slots of one TaskManager."""
        if self.task_slots is not None:
            return self.task_slots
        return int(self.machine_type.rpartition("-")[2])

    @property
    def workers(self) -> int:
        """TaskManagers at the start."""
        if self.parallelism is not None and "num_workers" not in self.model_fields_set:
            return -(-self.parallelism // self.slots)
        if self.autoscaler is not None and "num_workers" not in self.model_fields_set:
            return self.autoscaler.min_workers
        return self.num_workers

    @property
    def autoscaler(self) -> AutoscalerSettings | None:
        """How workers come and go; None: they do not, and nothing is said of it.

        Raises:
            ConfigError: a setting of it is wrong; ``resolve`` has told.
        """
        if self.autoscaler_mode == "off":
            return None
        most = self.max_num_workers or min(
            AutoscalerSettings.model_fields["max_workers"].default, max(1, self.max_parallelism // self.slots)
        )
        return AutoscalerSettings.of({"max_workers": most, **self.autoscaler_conf})

    @property
    def python_workers(self) -> int:
        """Python processes of one TaskManager."""
        return self.sdk_worker_parallelism or self.slots


_FLAG_OF = {
    name: f"--k8s_{name}"
    for name in (
        *("target", "dry_run", "output", "kubeconfig", "context", "namespace", "impersonate", "detach", "job_id"),
        *("build_only", "secrets"),
        *("image_repository", "image", "runtime_image", "image_builder", "insecure_registry"),
        *("service_account", "start_timeout"),
        *("task_slots", "worker_cpu", "tenant", "storage", "storage_claim", "run_dir", "flink_conf"),
        *("autoscaler_mode", "autoscaler_conf"),
    )
}
"""Fields whose flag is ours; every other field is named as Beam names its flag."""
_ALSO = {"runtime_image": "--sdk_container_image"}
"""Beam's flags that mean the same as one of ours, which is preferred."""
_PAIRS = ("autoscaler_conf", "flink_conf", "labels")
"""Fields that are given as KEY=VALUE."""

_EXAMPLES = {"labels": "team=search", "autoscaler_conf": "backlog_slo=30"}

_ABSENT = {"parallelism": -1, "max_parallelism": -1, "flink_master": "[auto]"}
"""What Beam's own option classes say for "not given"."""


def resolve(
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: Mapping[str, Any],
    *,
    must_stream: bool = False,
) -> Settings:
    """Resolve the settings of one submission.

    Args:
        flags: the pipeline options as Beam gives them, ours as ``k8s_NAME``. None means not given.
        environment: the process environment; ``BEAM_K8S_TASK_SLOTS=2`` is ``--k8s_task_slots=2``.
        file: the table of ``beam_k8s.toml`` or ``[tool.beam_k8s]``, keyed by field name.
        must_stream: the pipeline can only run as a stream, whatever the flag says (``graph.needs_streaming``).

    Raises:
        ConfigError: with everything that is wrong, each with its option, value and way out.
    """
    errors: list[BeamK8sError] = []
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    known = set(Settings.model_fields)
    errors += [
        ConfigError(f"beam_k8s.toml: {key} is not a setting.", hint=f"Known: {', '.join(sorted(known))}")
        for key in file
        if key not in known
    ]
    for field in sorted(known):
        flag = _FLAG_OF.get(field, f"--{field}")
        variable = f"BEAM_K8S_{field.upper()}"
        given = flags.get(flag.removeprefix("--"))
        if given is None and field in _ALSO:
            flag = _ALSO[field]
            given = flags.get(flag.removeprefix("--"))
        if given is not None and given != _ABSENT.get(field):
            values[field], origin[field] = given, flag
        elif variable in environment:
            values[field], origin[field] = environment[variable], variable
        elif field in file:
            values[field], origin[field] = file[field], f"beam_k8s.toml: {field}"
    if must_stream:
        values["streaming"] = True
    for field in _PAIRS:
        if field in values:
            values[field] = _pairs(values[field], origin[field], errors)
    settings: Settings | None = None
    try:
        settings = Settings(**values)
    except ValidationError as problems:
        for problem in problems.errors():
            cause = problem.get("ctx", {}).get("error")
            if isinstance(cause, BeamK8sError):
                errors.append(cause)
            else:
                field = str(problem["loc"][0])
                errors.append(
                    ConfigError(
                        f"{origin.get(field, _FLAG_OF.get(field, '--' + field))}={problem['input']} is refused.",
                        hint=f"{problem['msg']}.",
                    )
                )
    if settings is not None:
        errors += _across(settings)
    if errors:
        raise ConfigError.of_all(errors)
    assert settings is not None  # noqa: S101 - for the type checker: no errors means it validated
    return settings


def _pairs(given: Any, origin: str, errors: list[BeamK8sError]) -> dict[str, str]:
    if isinstance(given, dict):
        return {str(key): str(value) for key, value in given.items()}
    pairs = {}
    for item in given.split(",") if isinstance(given, str) else given:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            example = next((text for end, text in _EXAMPLES.items() if origin.endswith(end)), "rest.port=8081")
            errors.append(ConfigError(f"{origin}={item} is not KEY=VALUE.", hint=f"For example {origin}={example}"))
        pairs[key.strip()] = value.strip()
    return pairs


def _across(settings: Settings) -> list[BeamK8sError]:
    """What is wrong between two settings that are each fine alone."""
    errors: list[BeamK8sError] = []
    if settings.streaming and not settings.finish_bundle_before_checkpointing:
        errors.append(
            ConfigError(
                "--finish_bundle_before_checkpointing=false is refused for a streaming job: outputs of a bundle that a "
                "checkpoint ended would stay in Flink's state until the next record, an idle source keeps them for "
                "ever, and a pipeline that starts with Impulse or Create may hang at its start.",
                hint="Leave it out: true is the default here.",
            )
        )
    try:
        autoscaler = settings.autoscaler
    except ConfigError as error:
        return [*errors, error]
    errors += _of_autoscaler(settings, autoscaler) if autoscaler else []
    if settings.workers * settings.slots > settings.max_parallelism:
        errors.append(
            ConfigError(
                f"{settings.workers} workers with {settings.slots} slots are more than "
                f"--max_parallelism={settings.max_parallelism} subtasks.",
                hint="Raise --max_parallelism (it fixes the number of key groups: state of an older job is lost) or "
                "lower --num_workers.",
            )
        )
    errors += _of_kubernetes(settings) if settings.target == "kubernetes" else _of_local(settings)
    return errors


def _of_autoscaler(settings: Settings, autoscaler: AutoscalerSettings) -> list[BeamK8sError]:
    errors: list[BeamK8sError] = []
    flag = f"--k8s_autoscaler_mode={settings.autoscaler_mode}"
    if settings.flink_master is not None:
        hint = "Leave one of the two out."
        errors.append(
            ConfigError(f"{flag}: workers of --flink_master={settings.flink_master} are not ours.", hint=hint)
        )
    if settings.detach and settings.target == "local":
        hint = "Leave --k8s_detach out, or run `beam-k8s scale` where the load changes."
        errors.append(
            ConfigError(f"{flag}: the autoscaler ends with the launcher, and --k8s_detach ends it.", hint=hint)
        )
    if autoscaler.max_workers * settings.slots > settings.max_parallelism:
        errors.append(
            ConfigError(
                f"--max_num_workers={autoscaler.max_workers} with {settings.slots} slots each are more than "
                f"--max_parallelism={settings.max_parallelism} subtasks.",
                hint="Lower it, or raise --max_parallelism (it fixes the number of key groups: state of an older job is"
                " lost).",
            )
        )
    if not autoscaler.min_workers <= settings.workers <= autoscaler.max_workers:
        errors.append(
            ConfigError(
                f"--num_workers={settings.workers} is outside the autoscaler's limits, {autoscaler.min_workers} to "
                f"{autoscaler.max_workers}.",
                hint="Change it, or --max_num_workers, or --k8s_autoscaler_conf=min_workers.",
            )
        )
    return errors


def _of_local(settings: Settings) -> list[BeamK8sError]:
    if settings.build_only:
        return [ConfigError("--k8s_build_only: --k8s_target=local has no image.", hint="Use --k8s_target=kubernetes.")]
    if settings.dry_run != "server" and settings.output != "yaml":
        return []
    flag = "--k8s_dry_run=server" if settings.dry_run == "server" else "--k8s_output=yaml"
    hint = "Use --k8s_dry_run=client, or --k8s_target=kubernetes."
    return [ConfigError(f"{flag}: --k8s_target=local has no Kubernetes objects.", hint=hint)]


def _of_kubernetes(settings: Settings) -> list[BeamK8sError]:
    errors: list[BeamK8sError] = []

    def refuse(message: str, hint: str) -> None:
        errors.append(ConfigError(message, hint=hint))

    here = "Leave it out, or run on this machine with --k8s_target=local."
    if settings.environment_type == "LOOPBACK":
        refuse("--environment_type=LOOPBACK: pods cannot call this process.", here)
    if settings.flink_master is not None:
        refuse(f"--flink_master={settings.flink_master}: on Kubernetes a job has a Flink of its own.", here)
    if settings.run_dir is not None:
        refuse(f"--k8s_run_dir={settings.run_dir}: on Kubernetes logs are in the pods.", here)
    if settings.storage is None:
        refuse(
            "--k8s_storage is missing: on Kubernetes checkpoints need a place that all pods reach.",
            "Use for example --k8s_storage=s3://bucket/path, or --k8s_target=local to run on this machine.",
        )
    if settings.build_only and settings.image is not None:
        refuse(f"--k8s_image={settings.image}: --k8s_build_only builds one.", "Leave one of the two out.")
    if settings.image is None:
        for name, example in (("image_repository", "registry.example/team/jobs"), ("runtime_image", "...")):
            if getattr(settings, name) is None:
                refuse(
                    f"--k8s_{name} is missing.",
                    f"Use --k8s_{name}={example} (README, Kubernetes), or --k8s_target=local to run on this machine.",
                )
    if settings.update:
        refuse(
            f"--update: a running job cannot be replaced in place yet (--job_name={settings.job_name}).",
            f"Run `beam-k8s cancel {settings.job_name}`, which takes a savepoint, and start the new one with "
            "--savepoint_path=SAVEPOINT.",
        )
    return errors
