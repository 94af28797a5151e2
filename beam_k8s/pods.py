"""What keeps a job's pods from running, for people, with the way out. Pure; objects are the API's own JSON."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Trouble", "deaths", "event_time", "is_made_for", "trouble_of_events", "trouble_of_pods"]


_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"})
_PULL_FINAL = frozenset({"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
"""The kubelet has tried more than once, or will never succeed."""
_CRASHES = 3
"""Restarts of a container that never came up, after which it will not."""
_HASH = "[bcdfghjklmnpqrstvwxz2456789]"
"""Letters of the names that Kubernetes makes."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a job does not start."""

    message: str
    hint: str = ""
    final: bool = False
    """Waiting will not cure it."""


def trouble_of_pods(pods: Iterable[Mapping[str, Any]]) -> Trouble | None:
    """The worst that keeps some of a job's pods from running; None if nothing does.

    Args:
        pods: all pods of the job.
    """
    found = [trouble for pod in pods if (trouble := _of_pod(pod)) is not None]
    return max(found, key=lambda trouble: trouble.final, default=None)


def _of_pod(pod: Mapping[str, Any]) -> Trouble | None:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return Trouble(
                f"pod {name} has no node: {condition.get('message', condition.get('reason', ''))}",
                "Ask for less (--machine_type, --k8s_worker_cpu, --num_workers), or give the cluster more nodes.",
            )
    for container in _containers(status):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in _PULL:
            return Trouble(
                f"pod {name} cannot pull image {container['image']}: {message or reason}",
                "Check that the nodes reach the registry and may pull (imagePullSecrets of the service account).",
                reason in _PULL_FINAL,
            )
        if reason == "CreateContainerConfigError":
            return Trouble(f"pod {name} cannot be made: {message}", "Check what the pod refers to.")
        if reason == "CrashLoopBackOff":
            died = _death(container) or "it ends at once"
            final = container.get("restartCount", 0) >= _CRASHES
            return Trouble(f"pod {name} does not stay up: {died}", _hint_of(died), final)
    return None


def is_made_for(job: str, name: str) -> bool:
    """Whether Kubernetes made a ReplicaSet or a pod of this name for a job; not for another whose name begins so."""
    return re.fullmatch(rf"{job}(-taskmanager)?-{_HASH}{{5,10}}(-{_HASH}{{5}})?", name) is not None


def event_time(event: Mapping[str, Any]) -> float:
    """When an event of core/v1 was last seen, in seconds since 1970; 0: unknown."""
    when = (event.get("series") or {}).get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return datetime.fromisoformat(when).timestamp() if when else 0.0


def trouble_of_events(events: Iterable[Mapping[str, Any]], job: str, created: str) -> Trouble | None:
    """What keeps a job's pods from being made at all, which only events tell; None if nothing does.

    Args:
        events: of the namespace, of reason ``FailedCreate``.
        job: its name.
        created: when its FlinkDeployment was (RFC 3339): events outlive a job of the same name before it.
    """
    since = datetime.fromisoformat(created).timestamp()
    mine = [
        event
        for event in events
        if is_made_for(job, event["involvedObject"].get("name", "")) and event_time(event) >= since
    ]
    newest = max(mine, key=event_time, default=None)
    if newest is None:
        return None
    message = newest.get("message") or ""
    if "exceeded quota" in message:
        return Trouble(
            f"the namespace's quota is used up: {message}",
            "Ask for less (--machine_type, --k8s_worker_cpu, --num_workers), stop other jobs, or have the "
            "ResourceQuota raised.",
            final=True,
        )
    if "serviceaccount" in message and "not found" in message:
        return Trouble(
            f"the pods' account is missing: {message}",
            "Create it (images/deploy), or name another with --k8s_service_account.",
            final=True,
        )
    return Trouble(f"pods cannot be made: {message}", final="is forbidden" in message)


def deaths(pods: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], str]:
    """Containers that have died, by pod and number of the restart, and what of, for people."""
    return {
        (pod["metadata"]["name"], container.get("restartCount", 0)): died
        for pod in pods
        for container in _containers(pod.get("status") or {})
        if (died := _death(container))
    }


def _containers(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _death(container: Mapping[str, Any]) -> str:
    """What the container died of at last; empty if it did not."""
    for state in (container.get("state") or {}, container.get("lastState") or {}):
        ended = state.get("terminated")
        if ended is None:
            continue
        if ended.get("reason") == "OOMKilled":
            return "it was killed for using more memory than its limit (OOMKilled)"
        if ended.get("exitCode"):
            return f"it ended with exit code {ended['exitCode']}"
    return ""


def _hint_of(died: str) -> str:
    if "OOMKilled" in died:
        return "Use a larger --machine_type, or fewer --k8s_task_slots."
    return "Look at `beam-k8s logs --previous`."
