"""What a FlinkDeployment says about its job, as one value. Pure; the object is the API's own JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from beam_k8s.flink_conf import operators_autoscaler
from beam_k8s.names import (
    AUTOSCALER_ANNOTATION,
    FROZEN_ANNOTATION,
    JOB_ID_LABEL,
    JOB_SELECTOR,
    SCALED_ANNOTATION,
    TENANT_LABEL,
)
from beam_k8s.states import deployment_state

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["JobStatus", "is_ours", "job_status"]

_SLOTS = "taskmanager.numberOfTaskSlots"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One job on Kubernetes as its FlinkDeployment shows it. What is not known yet is empty or 0."""

    namespace: str
    name: str
    job_id: str
    """Of the submission, 32 hexadecimal digits: the label."""
    flink_job_id: str
    """Flink's own, for its REST endpoint."""
    state: str
    """Beam's PipelineState."""
    reason: str
    """Why, for people."""
    lifecycle: str
    """The operator's lifecycleState, in capitals."""
    flink_state: str
    """Flink's state of the job, in capitals."""
    job_manager: str
    """State of the JobManager's deployment, in capitals."""
    error: str
    """What the operator could not do at last; its own words."""
    workers: int
    """TaskManagers wanted."""
    ready_workers: int
    """TaskManagers that the operator counts."""
    slots: int
    """Of each TaskManager."""
    worker_cpu: float
    """VCPUs of each TaskManager."""
    scaled: str
    """How an autoscaler is to scale it: the annotation's text; empty: none is to."""
    memory: str | None
    """What its autoscaler must remember: the annotation's text; None: there is none."""
    frozen: bool
    """No autoscaler may change it now."""
    rival: str
    """The setting by which the operator's own autoscaler is on; empty: it is not."""
    image: str
    tenant: str
    created: str
    """RFC 3339."""
    savepoint: str
    """URL of the last savepoint."""
    suspended: bool
    """Wanted so: ``spec.job.state`` is suspended."""
    ours: bool
    """Made by this package."""
    uid: str
    version: str
    """``metadata.resourceVersion``."""


def is_ours(deployment: Mapping[str, Any]) -> bool:
    """Whether this package made it: what it has not made it never changes."""
    labels = deployment["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in JOB_SELECTOR.items())


def job_status(deployment: Mapping[str, Any]) -> JobStatus:
    """The job of a FlinkDeployment.

    The API server takes configuration that means nothing. Such a job is UNKNOWN, and its reason says what is wrong:
    whoever reads others with it reads on.

    Args:
        deployment: the object as the API server gives it.
    """
    try:
        return _read(deployment)
    except (ValueError, TypeError, KeyError, AttributeError) as cause:
        reason = f"its FlinkDeployment cannot be read: {cause}; correct it with kubectl edit"
        return replace(_read({"metadata": deployment["metadata"]}), state="UNKNOWN", reason=reason)


def _read(deployment: Mapping[str, Any]) -> JobStatus:
    metadata, spec, status = deployment["metadata"], deployment.get("spec") or {}, deployment.get("status") or {}
    labels, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
    job = status.get("jobStatus") or {}
    lifecycle = status.get("lifecycleState") or ""
    if "deletionTimestamp" in metadata:
        lifecycle = "DELETING"
    job_manager = status.get("jobManagerDeploymentStatus") or ""
    state, reason = deployment_state(lifecycle, job.get("state"), job_manager)
    workers = spec.get("taskManager") or {}
    savepoint = (job.get("savepointInfo") or {}).get("lastSavepoint") or {}
    conf = spec.get("flinkConfiguration") or {}
    return JobStatus(
        namespace=metadata["namespace"],
        name=metadata["name"],
        job_id=labels.get(JOB_ID_LABEL, ""),
        flink_job_id=job.get("jobId") or "",
        state=state,
        reason=reason,
        lifecycle=lifecycle,
        flink_state=job.get("state") or "",
        job_manager=job_manager,
        error=_message(status.get("error") or ""),
        workers=workers.get("replicas") or 0,
        ready_workers=(status.get("taskManager") or {}).get("replicas") or 0,
        slots=_slots(conf),
        worker_cpu=float((workers.get("resource") or {}).get("cpu") or 1),
        scaled=notes.get(SCALED_ANNOTATION, ""),
        memory=notes.get(AUTOSCALER_ANNOTATION),
        frozen=notes.get(FROZEN_ANNOTATION) == "true",
        rival=operators_autoscaler(conf),
        image=spec.get("image") or "",
        tenant=labels.get(TENANT_LABEL, ""),
        created=metadata.get("creationTimestamp") or "",
        savepoint=savepoint.get("location") or "",
        suspended=(spec.get("job") or {}).get("state") == "suspended",
        ours=is_ours(deployment),
        uid=metadata["uid"],
        version=metadata["resourceVersion"],
    )


def _slots(conf: Mapping[str, Any]) -> int:
    text = str(conf.get(_SLOTS, 1))
    if not text.isdecimal() or not int(text):
        raise ValueError(f"flinkConfiguration says {_SLOTS}: {text}, which is no number of slots")
    return int(text)


def _message(error: str) -> str:
    """The message of the operator's error, which is JSON with the type, the message and the causes."""
    try:
        found = json.loads(error)
    except ValueError:
        return error
    if not isinstance(found, dict):
        return error
    messages = [found.get("message"), *(each.get("message") for each in found.get("throwableList") or ())]
    return str(next((text for text in reversed(messages) if text), error))
