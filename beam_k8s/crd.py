"""FlinkDeployment v1beta1 (flink.apache.org) of the Flink Kubernetes operator: the fields that are set or read here.

The operator's CRD is the contract and changes with each operator, so a model here never loses what it does not know:
unknown fields are kept and written back. Fields are named in snake_case, as Kubernetes names them in documents. Pod
templates have the schema of core/v1 and stay plain mappings.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

__all__ = [
    "FlinkDeployment",
    "FlinkDeploymentSpec",
    "FlinkDeploymentStatus",
    "IngressSpec",
    "JobManagerSpec",
    "JobSpec",
    "JobStatus",
    "ObjectMeta",
    "ReconciliationStatus",
    "Resource",
    "SavepointInfo",
    "Snapshot",
    "TaskManagerInfo",
    "TaskManagerSpec",
]


def _alias(name: str) -> str:
    return "jarURI" if name == "jar_uri" else to_camel(name)


class _Part(BaseModel):
    """A part of a document. What is None is absent from it."""

    model_config = ConfigDict(
        alias_generator=_alias, populate_by_name=True, extra="allow", frozen=True, use_attribute_docstrings=True
    )

    def document(self) -> dict[str, Any]:
        """The part as plain values, named as in Kubernetes documents, without Nones; for JSON and YAML."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ObjectMeta(_Part):
    """Metadata of an object; the rest of Kubernetes' ObjectMeta passes through unread."""

    name: str
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    uid: str | None = None
    resource_version: str | None = None
    generation: int | None = None
    """Counts the changes of the spec."""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    """Set once the object is being deleted; the operator stops the job first."""


class Resource(_Part):
    """What a pod's main container gets."""

    cpu: float | None = None
    """vCPUs requested; the limit is this times ``kubernetes.{jobmanager,taskmanager}.cpu.limit-factor``."""
    memory: str | None = None
    """Memory of the container, and Flink's process size: ``4096m`` is 4096 MiB, as Flink reads it."""
    ephemeral_storage: str | None = None
    """A Kubernetes quantity."""


class JobManagerSpec(_Part):
    """The JobManager's Deployment."""

    resource: Resource | None = None
    replicas: int | None = None
    pod_template: dict[str, Any] | None = None
    """Merged over the common one, lists by position."""


class TaskManagerSpec(_Part):
    """The TaskManagers' Deployment."""

    resource: Resource | None = None
    replicas: int | None = None
    """Pods. In standalone mode with ``scheduler-mode: reactive`` a change scales the job in place."""
    pod_template: dict[str, Any] | None = None
    """Merged over the common one, lists by position."""


class JobSpec(_Part):
    """The job of an application cluster."""

    jar_uri: str | None = None
    """Absent: the entry class is on Flink's own classpath."""
    entry_class: str | None = None
    args: list[str] | None = None
    parallelism: int | None = None
    """Ignored by the operator where the TaskManagers' replicas are given."""
    state: Literal["running", "suspended"] | None = None
    """What is wanted."""
    upgrade_mode: Literal["savepoint", "last-state", "stateless"] | None = None
    """How state is carried over a change of the spec."""
    savepoint_trigger_nonce: int | None = None
    """A change takes a savepoint."""
    checkpoint_trigger_nonce: int | None = None
    """A change takes a checkpoint."""
    savepoint_redeploy_nonce: int | None = None
    """A change starts the job again from ``initial_savepoint_path``; operators from 1.8 on."""
    initial_savepoint_path: str | None = None
    """Where the first start restores from."""
    allow_non_restored_state: bool | None = None


class IngressSpec(_Part):
    """An Ingress to Flink's web pages."""

    template: str | None = None
    """Host and path with ``{{name}}`` and ``{{namespace}}``."""
    class_name: str | None = None
    annotations: dict[str, str] | None = None


class FlinkDeploymentSpec(_Part):
    """What is wanted."""

    image: str | None = None
    image_pull_policy: str | None = None
    flink_version: str | None = None
    """``v1_19``."""
    flink_configuration: dict[str, str] | None = None
    """The CRD takes strings only: "5", not 5."""
    service_account: str | None = None
    mode: Literal["native", "standalone"] | None = None
    """``standalone``: Deployments that Kubernetes scales; ``native``: Flink asks for pods itself."""
    job_manager: JobManagerSpec | None = None
    task_manager: TaskManagerSpec | None = None
    pod_template: dict[str, Any] | None = None
    """Of both kinds of pods."""
    job: JobSpec | None = None
    """Absent: a session cluster."""
    restart_nonce: int | None = None
    """A change restarts the pods."""
    log_configuration: dict[str, str] | None = None
    """``log4j-console.properties`` or ``logback-console.xml`` -> content."""
    ingress: IngressSpec | None = None


class Snapshot(_Part):
    """A savepoint or checkpoint that was completed."""

    location: str | None = None
    """URL; the operator tells that of savepoints only."""
    time_stamp: int | None = None
    """Milliseconds since 1970."""
    trigger_type: str | None = None
    format_type: str | None = None
    trigger_nonce: int | None = None


class SavepointInfo(_Part):
    """Savepoints of the job."""

    last_savepoint: Snapshot | None = None
    savepoint_history: list[Snapshot] | None = None
    trigger_id: str | None = None
    """Not empty while one is being taken."""
    trigger_timestamp: int | None = None
    """Milliseconds since 1970."""


class JobStatus(_Part):
    """The Flink job as the operator saw it last."""

    job_name: str | None = None
    job_id: str | None = None
    """Flink's, 32 hexadecimal digits."""
    state: str | None = None
    """Flink's job state. After the operator stopped the job itself, FINISHED."""
    start_time: str | None = None
    """Milliseconds since 1970."""
    update_time: str | None = None
    """Milliseconds since 1970: when the state changed."""
    savepoint_info: SavepointInfo | None = None
    upgrade_savepoint_path: str | None = None
    """Where the next start restores from; operators from 1.10 on."""


class ReconciliationStatus(_Part):
    """How far the operator is with the spec."""

    state: str | None = None
    """DEPLOYED, UPGRADING, ROLLING_BACK or ROLLED_BACK."""
    last_reconciled_spec: str | None = None
    """JSON."""
    last_stable_spec: str | None = None
    """JSON."""
    reconciliation_timestamp: int | None = None
    """Milliseconds since 1970."""


class TaskManagerInfo(_Part):
    """What the scale subresource shows."""

    replicas: int | None = None
    label_selector: str | None = None


class FlinkDeploymentStatus(_Part):
    """What is. Enumerations are plain strings: a newer operator may say more than this release knows."""

    lifecycle_state: str | None = None
    job_status: JobStatus | None = None
    job_manager_deployment_status: str | None = None
    """READY, DEPLOYED_NOT_READY, DEPLOYING, MISSING or ERROR."""
    reconciliation_status: ReconciliationStatus | None = None
    task_manager: TaskManagerInfo | None = None
    error: str | None = None
    """JSON of the last exception; stays until the deployment is healthy."""
    cluster_info: dict[str, str] | None = None
    observed_generation: int | None = None
    """Operators from 1.8 on."""


class FlinkDeployment(_Part):
    """One Flink cluster with, in application mode, its one job."""

    api_version: Literal["flink.apache.org/v1beta1"] = "flink.apache.org/v1beta1"
    kind: Literal["FlinkDeployment"] = "FlinkDeployment"
    metadata: ObjectMeta
    spec: FlinkDeploymentSpec = Field(default_factory=FlinkDeploymentSpec)
    status: FlinkDeploymentStatus | None = None
    """Written by the operator alone."""
