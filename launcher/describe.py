"""All about one job on Kubernetes, from its FlinkDeployment, its pods, their events and Flink itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_k8s.errors import FlinkError, Forbidden
from beam_k8s.launcher import flink_rest
from beam_k8s.launcher.kube import EVENTS, PODS
from beam_k8s.pods import event_time, is_made_for
from beam_k8s.status import JobStatus, job_status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from beam_k8s.launcher.flink_rest import Checkpoints, Source
    from beam_k8s.launcher.kube import Kube

__all__ = ["Description", "Event", "Pod", "describe", "event_of", "pod_of"]

_LAST_EVENTS = 15


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the job."""

    name: str
    role: str
    """jobmanager or taskmanager."""
    phase: str
    ready: bool
    restarts: int
    node: str
    reason: str
    """Why it does not run, or what its last container died of; for people."""


@dataclass(frozen=True, slots=True)
class Event:
    """What Kubernetes or the operator said about the job."""

    at: float
    """Seconds since 1970; 0: unknown."""
    kind: str
    """Normal or Warning."""
    about: str
    """Kind and name of the object."""
    reason: str
    message: str
    count: int


@dataclass(frozen=True, slots=True)
class Description:
    """All about one job."""

    status: JobStatus
    sources: tuple[Source, ...]
    checkpoints: Checkpoints | None
    """None if Flink does not tell."""
    unanswered: str
    """Why Flink does not answer; empty if it does."""
    pods: tuple[Pod, ...]
    events: tuple[Event, ...]
    """The last ones, oldest first."""

    @property
    def ready_workers(self) -> int:
        """TaskManagers whose pods are ready."""
        return sum(pod.ready for pod in self.pods if pod.role == "taskmanager")


def describe(kube: Kube, deployment: Mapping[str, Any]) -> Description:
    """Read all about the job of a FlinkDeployment; what Flink does not answer is left out.

    Raises:
        KubernetesError: the API server does not answer, or the user may not read pods.
    """
    status = job_status(deployment)
    pods, _ = kube.find(PODS, status.namespace, labels=f"app={status.name}")
    sources: tuple[Source, ...] = ()
    checkpoints, unanswered = None, "" if status.flink_job_id else "there is no job yet"
    if status.flink_job_id:
        flink = kube.flink(status.namespace, status.name)
        try:
            checkpoints = flink_rest.checkpoints(flink, status.flink_job_id)
            sources = tuple(flink_rest.sources(flink, status.flink_job_id))
        except FlinkError as error:
            unanswered = f"does not answer; sources and checkpoints are left out ({error.message})"
    return Description(
        status, sources, checkpoints, unanswered, tuple(map(pod_of, pods)), _events(kube, status.namespace, status.name)
    )


def pod_of(pod: Mapping[str, Any]) -> Pod:
    """What there is to say of a pod, the API's own JSON."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    containers = status.get("containerStatuses") or []
    return Pod(
        name=metadata["name"],
        role=(metadata.get("labels") or {}).get("component", ""),
        phase="Terminating" if "deletionTimestamp" in metadata else status.get("phase", "Unknown"),
        ready=bool(containers) and all(each.get("ready") for each in containers),
        restarts=sum(each.get("restartCount", 0) for each in containers),
        node=(pod.get("spec") or {}).get("nodeName", ""),
        reason=_reason(status, containers),
    )


def _reason(status: Mapping[str, Any], containers: list[dict[str, Any]]) -> str:
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}"
    found: list[str] = []
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if reason := waiting.get("reason"):
            message = waiting.get("message")
            found.append(f"{reason}: {message}" if message else reason)
        for state, when in (("state", "ended"), ("lastState", "last ended")):
            if ended := (container.get(state) or {}).get("terminated"):
                found.append(f"{when}: {ended.get('reason', '')}, exit code {ended.get('exitCode')}")
    return "; ".join(found) or status.get("reason", "")


def event_of(event: Mapping[str, Any]) -> Event:
    """An event of core/v1, the API's own JSON."""
    series = event.get("series") or {}
    about = event["involvedObject"]
    return Event(
        at=event_time(event),
        kind=event.get("type") or "",
        about=f"{about.get('kind', '').lower()}/{about.get('name', '')}",
        reason=event.get("reason") or "",
        message=event.get("message") or "",
        count=series.get("count") or event.get("count") or 1,
    )


def _events(kube: Kube, namespace: str, name: str) -> tuple[Event, ...]:
    """The last events of the FlinkDeployment and of what Kubernetes made for it; none if the user may not read them."""
    found: list[Event] = []
    try:
        for kind in ("FlinkDeployment", "ReplicaSet", "Pod"):
            events, _ = kube.find(EVENTS, namespace, fields=f"involvedObject.kind={kind}")
            for event in events:
                about = event["involvedObject"].get("name", "")
                if about == name if kind == "FlinkDeployment" else is_made_for(name, about):
                    found.append(event_of(event))
    except Forbidden:
        return ()
    return tuple(sorted(found, key=lambda event: event.at)[-_LAST_EVENTS:])
