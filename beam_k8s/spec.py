"""The Kubernetes objects of one job: its FlinkDeployment and the Secret with its pipeline options. Pure.

The image is the job: code, requirements, pipeline and translator options are in it, so the FlinkDeployment alone can
stand in Git. Pipeline options may hold secrets and are in the Secret only; the pods read them from a file. Both kinds
of pods have one template: the operator merges templates list by list and by position, which nobody wants to read.
What the operator does with each field was read in its sources, 1.7.0 and 1.10.0.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from beam_k8s import names
from beam_k8s.crd import (
    FlinkDeployment,
    FlinkDeploymentSpec,
    JobManagerSpec,
    JobSpec,
    ObjectMeta,
    Resource,
    TaskManagerSpec,
)
from beam_k8s.errors import BeamK8sError, ConfigError
from beam_k8s.flink_conf import (
    JAVA_OPTIONS,
    PROMETHEUS_PORT,
    TaskManagerMemory,
    is_secret,
    kubernetes_conf,
    log4j_properties,
)
from beam_k8s.versions import FLINK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from beam_k8s.settings import Settings

__all__ = ["JOB_MAIN", "MAIN_CONTAINER", "DeploymentRequest", "Manifests", "build_deployment", "worker_size"]

JOB_MAIN = "org.beamk8s.runner.JobMain"
"""In Flink's lib folder. The job names no jar: with one, the operator sets ``pipeline.classpaths``, and each rescale
leaks the metaspace of another class loader."""
IMAGE_DIR = "/opt/beam_k8s"
"""Folder of the job in its image: ``job/`` with pipeline and translator options, ``staged/`` with a main session."""
HARNESS = f"{IMAGE_DIR}/harness"
"""Command of the Python harness in the runtime image."""
OPTIONS_DIR = "/etc/beam_k8s"
OPTIONS_FILE = "options.json"
SECRETS_DIR = "/etc/secrets"
"""Beside the options: one Secret cannot be mounted inside of another."""
LOG_DIR = "/opt/flink/log"
MAIN_CONTAINER = "flink-main-container"
"""The operator's name for the container it fills in."""
FLINK_USER = 9999
"""User and group of Flink's images."""

POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": FLINK_USER,
    "runAsGroup": FLINK_USER,
    "fsGroup": FLINK_USER,
    # Else each start changes the owner of every file of the claim.
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""Of every pod of ours: with the containers', what the ``restricted`` Pod Security Standard asks for."""
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

_MEMORY = {"standard": 4096, "highmem": 6656, "highcpu": 1024}
"""MiB of a worker a vCPU: Google's n1 types (3.75, 6.5 and 0.9 GB), as the original system rounds them."""
_SMALLEST_POD = 2048
"""MiB below which a TaskManager's JVM and Python do not both fit."""
_SMALLEST_HARNESS = 256
"""MiB a Python harness needs at least: idle, with Beam imported, it has 155."""
_JOB_MANAGER = Resource(cpu=0.5, memory="2048m")
"""The original system's. The limit is one vCPU: at half of one a JobManager takes over 40 s to start."""
_JOB_MANAGER_LIMIT_FACTOR = "2.0"
_GRACE_SECONDS = 30
"""Between SIGTERM and SIGKILL; Kubernetes' own default. A pod that ignores SIGTERM adds this to each scale-down."""

_DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
_JOB_ID = re.compile(r"[0-9a-f]{32}")
_STORAGE = re.compile(r"[a-z][a-z0-9]*://[^/]*(/.*)?")
_OPERATORS_OWN = ("kubernetes.namespace", "kubernetes.cluster-id", "high-availability.cluster-id")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRequest:
    """What a FlinkDeployment needs beside the settings."""

    namespace: str
    job_id: str
    """Unique id of the submission, 32 hexadecimal digits; a label. Flink's own job id is the operator's to give."""
    image: str
    """The job's image by digest: ``registry/repository@sha256:...``."""
    flink_conf: Mapping[str, str]
    """Of the plan: the job's settings and, over them, the user's."""
    options: str = field(repr=False)
    """All pipeline options for the Python harness, as the JSON of a protobuf Struct."""
    service_account: str = "flink"
    """Who the pods run as. Kubernetes HA needs it: it may write ConfigMaps."""
    storage_claim: str | None = None
    """PersistentVolumeClaim mounted at the path of a ``file://`` storage."""
    tenant: str = ""
    """Whom the job belongs to; a label."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Of the FlinkDeployment."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """The user's own, on the FlinkDeployment, the Secret and the pods."""
    cpu: float | None = None
    """vCPUs of a worker where they are not the machine type's: half a one for a small tenant."""


@dataclass(frozen=True, slots=True)
class Manifests:
    """The objects of one job."""

    deployment: FlinkDeployment
    options: Mapping[str, Any] = field(repr=False)
    """A v1 Secret. Whoever writes it makes the FlinkDeployment its owner, once that has a uid."""


def worker_size(machine_type: str, cpu: float | None = None) -> tuple[float, int]:
    """VCPUs and memory in MiB of a TaskManager's pod.

    Args:
        machine_type: ``n1-standard-1`` and the like.
        cpu: vCPUs instead of the type's; the memory goes with them, down to 2048 MiB.
    """
    _, family, cores = machine_type.split("-")
    vcpus = float(cores) if cpu is None else cpu
    return vcpus, max(_SMALLEST_POD, round(_MEMORY[family] * vcpus))


def build_deployment(settings: Settings, request: DeploymentRequest) -> Manifests:
    """The objects of one job.

    Raises:
        ConfigError: with everything that is wrong.
    """
    errors = _errors(settings, request)
    if errors:
        raise ConfigError.of_all(errors)
    labels = {
        **request.labels,
        **names.JOB_SELECTOR,
        names.INSTANCE_LABEL: settings.job_name,
        names.VERSION_LABEL: request.image.rpartition(":")[2][:12],
        names.JOB_ID_LABEL: request.job_id,
    }
    if request.tenant:
        labels[names.TENANT_LABEL] = request.tenant
    secret = f"{settings.job_name}-options"
    deployment = FlinkDeployment(
        metadata=ObjectMeta(
            name=settings.job_name,
            namespace=request.namespace,
            labels=labels,
            annotations=dict(request.annotations) or None,
        ),
        spec=_spec(settings, request, _pod_template(labels, secret, settings.secrets, _claim_mount(settings, request))),
    )
    options = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret, "namespace": request.namespace, "labels": labels},
        "type": "Opaque",
        "data": {OPTIONS_FILE: base64.b64encode(request.options.encode()).decode()},
    }
    return Manifests(deployment, options)


def _spec(settings: Settings, request: DeploymentRequest, pod_template: dict[str, Any]) -> FlinkDeploymentSpec:
    cpu, memory = worker_size(settings.machine_type, request.cpu)
    folder = f"{_storage(settings)}/{request.namespace}/{settings.job_name}"
    conf = kubernetes_conf(settings, folder, TaskManagerMemory.of_pod(memory))
    conf["kubernetes.jobmanager.cpu.limit-factor"] = _JOB_MANAGER_LIMIT_FACTOR
    java_options = " ".join(filter(None, (conf[JAVA_OPTIONS], request.flink_conf.get(JAVA_OPTIONS))))
    return FlinkDeploymentSpec(
        image=request.image,
        image_pull_policy="IfNotPresent",
        flink_version="v" + "_".join(FLINK.split(".")[:2]),
        mode="standalone",
        service_account=request.service_account,
        flink_configuration=dict(sorted({**conf, **request.flink_conf, JAVA_OPTIONS: java_options}.items())),
        log_configuration={"log4j-console.properties": log4j_properties(console=True)},
        pod_template=pod_template,
        job_manager=JobManagerSpec(replicas=1, resource=_JOB_MANAGER),
        task_manager=TaskManagerSpec(replicas=settings.workers, resource=Resource(cpu=cpu, memory=f"{memory}m")),
        job=JobSpec(
            entry_class=JOB_MAIN,
            args=[
                *("--pipeline", f"{IMAGE_DIR}/job/pipeline.pb"),
                *("--options-reference", f"{OPTIONS_DIR}/{OPTIONS_FILE}"),
                *("--translator-options", f"{IMAGE_DIR}/job/translator.json"),
            ],
            state="running",
            # A savepoint survives a change of the pipeline, which a checkpoint may not. Batch jobs have no state to
            # carry over: they start again.
            upgrade_mode="savepoint" if settings.streaming else "stateless",
            initial_savepoint_path=settings.savepoint_path,
            allow_non_restored_state=settings.allow_non_restored_state or None,
        ),
    )


def _pod_template(
    labels: Mapping[str, str], secret: str, mounted: Sequence[str], claim: tuple[str, str] | None
) -> dict[str, Any]:
    """The template of all pods; they pass the ``restricted`` Pod Security Standard.

    Args:
        labels: of the pods.
        secret: name of the options' Secret.
        mounted: names of the user's own Secrets.
        claim: PersistentVolumeClaim of the storage and where it is mounted.
    """
    volumes: list[dict[str, Any]] = [
        # Readable for Flink's group, which fsGroup makes that of the files.
        {"name": "options", "secret": {"secretName": secret, "defaultMode": 0o440}},
        {"name": "log", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "options", "mountPath": OPTIONS_DIR, "readOnly": True},
        {"name": "log", "mountPath": LOG_DIR},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own
    ]
    for number, name in enumerate(mounted):
        volumes.append({"name": f"secret-{number}", "secret": {"secretName": name, "defaultMode": 0o440}})
        mounts.append({"name": f"secret-{number}", "mountPath": f"{SECRETS_DIR}/{name}", "readOnly": True})
    if claim is not None:
        name, path = claim
        volumes.append({"name": "storage", "persistentVolumeClaim": {"claimName": name}})
        mounts.append({"name": "storage", "mountPath": path})
    return {
        "metadata": {"labels": dict(labels)},
        "spec": {
            # Else each pod gets a dozen variables for each of the namespace's services: ten thousand jobs' too many.
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": _GRACE_SECONDS,
            "securityContext": POD_SECURITY,
            "containers": [
                {
                    "name": MAIN_CONTAINER,
                    "securityContext": CONTAINER_SECURITY,
                    # The TaskManager hands its environment on to the Python harness.
                    "env": [
                        # Of the first process: what `kubectl logs` shows.
                        {"name": "BEAM_K8S_LOG_OUTPUT", "value": "/proc/1/fd/1"},
                        {"name": "SEMI_PERSISTENT_DIRECTORY", "value": IMAGE_DIR},
                        # The only places that can be written are the emptyDirs.
                        {"name": "HOME", "value": "/tmp"},  # noqa: S108
                        {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
                        # A harness has the core of one slot; numeric libraries start a thread for each of the node's.
                        {"name": "OMP_NUM_THREADS", "value": "1"},
                    ],
                    "ports": [{"name": "prometheus", "containerPort": PROMETHEUS_PORT}],
                    "volumeMounts": mounts,
                }
            ],
            "volumes": volumes,
        },
    }


def _storage(settings: Settings) -> str:
    return (settings.storage or "").rstrip("/")


def _claim_mount(settings: Settings, request: DeploymentRequest) -> tuple[str, str] | None:
    if request.storage_claim is None:
        return None
    return request.storage_claim, _storage(settings).removeprefix("file://")


def _errors(settings: Settings, request: DeploymentRequest) -> list[BeamK8sError]:
    """All that would be refused later, or not work."""
    errors: list[BeamK8sError] = []

    def check(right: object, message: str, hint: str) -> None:
        if not right:
            errors.append(ConfigError(message, hint=hint))

    check(names.is_dns_label(request.namespace), f"namespace={request.namespace} is no namespace's name.", "")
    check(_JOB_ID.fullmatch(request.job_id), f"job id {request.job_id} is not 32 hexadecimal digits.", "")
    check(
        _DIGEST.fullmatch(request.image),
        f"image={request.image} is not pinned by its digest.",
        "Use REPOSITORY@sha256:DIGEST: a tag may name other code tomorrow.",
    )
    check(
        names.is_subdomain(request.service_account),
        f"service account {request.service_account} is no service account's name.",
        "",
    )
    check(names.is_label_value(request.tenant), f"tenant {request.tenant} cannot be a label's value.", "")
    errors += [error for key, value in request.labels.items() if (error := names.label_error(key, value))]
    errors += _storage_errors(settings, request)
    errors += _size_errors(settings, request)
    for key in request.flink_conf:
        check(key not in _OPERATORS_OWN, f"--k8s_flink_conf={key} is refused: the operator sets it.", "Leave it out.")
        check(
            not is_secret(key),
            f"--k8s_flink_conf={key} is refused: everyone who may read the FlinkDeployment would read the secret.",
            "Give the pods their rights through the service account (workload identity).",
        )
    return errors


def _storage_errors(settings: Settings, request: DeploymentRequest) -> list[BeamK8sError]:
    if settings.storage is None:
        return [ConfigError("--k8s_storage is missing.", hint="Name a folder that all pods reach: s3://bucket/path")]
    storage = f"--k8s_storage={settings.storage}"
    if not _STORAGE.fullmatch(settings.storage):
        return [ConfigError(f"{storage} is not a URL.", hint="For example s3://bucket/path")]
    on_claim = settings.storage.startswith("file:")
    if on_claim != (request.storage_claim is not None):
        return [
            ConfigError(
                f"{storage} needs a PersistentVolumeClaim: else each pod has another folder."
                if on_claim
                else f"{storage} is not on PersistentVolumeClaim {request.storage_claim}.",
                hint="Use a file:// URL together with a claim.",
            )
        ]
    if on_claim and not _storage(settings).startswith("file:///"):
        return [ConfigError(f"{storage} has no path at which a claim can be mounted.", hint="Use file:///data")]
    if request.storage_claim is not None and not names.is_subdomain(request.storage_claim):
        return [ConfigError(f"claim {request.storage_claim} is no PersistentVolumeClaim's name.")]
    return []


def _size_errors(settings: Settings, request: DeploymentRequest) -> list[BeamK8sError]:
    if request.cpu is not None and not 0 < request.cpu < float("inf"):
        return [ConfigError(f"cpu={request.cpu} is not a number of vCPUs.", hint="Use for example 0.5")]
    _, memory = worker_size(settings.machine_type, request.cpu)
    python = TaskManagerMemory.of_pod(memory).python
    if python < settings.python_workers * _SMALLEST_HARNESS:
        return [
            ConfigError(
                f"{settings.python_workers} Python workers have {python} MiB of a worker's {memory}, and each needs "
                f"{_SMALLEST_HARNESS} at least.",
                hint="Use a larger --machine_type, or fewer --k8s_task_slots.",
            )
        ]
    return []
