"""What in a namespace would keep a job from running, told before it is submitted. Pure; objects are the API's JSON."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from beam_k8s.errors import BeamK8sError, KubernetesError
from beam_k8s.names import JOB_SELECTOR

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Needs", "account_error", "claim_error", "crd_error", "needs_of", "quota_errors", "scaler_errors"]

CRD_VERSION = "v1beta1"
AUTOSCALER_KEYS = ("job.autoscaler.enabled", "kubernetes.operator.job.autoscaler.enabled")
"""Of the operator's own autoscaler, new and old."""
_INSTALL = "https://nightlies.apache.org/flink/flink-kubernetes-operator-docs-stable"

_QUANTITY = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkKMGTPE]?i?)")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = "KMGTPE"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job asks of its namespace."""

    namespace: str
    service_account: str
    claims: tuple[str, ...]
    """PersistentVolumeClaims of its pods."""
    resources: Mapping[str, Decimal]
    """By the names of quotas: ``pods``, and cores and bytes as ``requests.cpu``, ``limits.memory`` …"""


def quantity(text: str) -> Decimal:
    """A Kubernetes quantity (``500m``, ``1Gi``) as a number."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text} is no quantity")
    number, unit = Decimal(match[1]), match[2]
    if unit.endswith("i"):
        return number * Decimal(1024) ** (_BINARY.index(unit[0]) + 1)
    return number.scaleb(_DECIMAL[unit])


def _flink_memory(text: str) -> Decimal:
    """Bytes of a memory size as Flink reads it: ``2048m`` and ``2g`` are binary."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?).*", text.lower())
    if match is None:
        raise ValueError(f"{text} is no memory size")
    return Decimal(match[1]) * Decimal(1024) ** (" kmgt".index(match[2] or " "))


def needs_of(deployment: Mapping[str, Any]) -> Needs:
    """What the job of a FlinkDeployment asks of its namespace.

    Args:
        deployment: the document, as it will be or is.
    """
    spec = deployment["spec"]
    conf = spec.get("flinkConfiguration") or {}
    resources = dict.fromkeys(("pods", "requests.cpu", "limits.cpu", "requests.memory", "limits.memory"), Decimal(0))
    for part, role in (("jobManager", "jobmanager"), ("taskManager", "taskmanager")):
        wanted = spec.get(part) or {}
        count = wanted.get("replicas") or 1
        resource = wanted.get("resource") or {}
        sizes = {
            "cpu": Decimal(str(resource.get("cpu") or 1)),
            "memory": _flink_memory(str(resource.get("memory") or "0")),
        }
        resources["pods"] += count
        for name, size in sizes.items():
            factor = Decimal(conf.get(f"kubernetes.{role}.{name}.limit-factor", "1"))
            resources[f"requests.{name}"] += count * size
            resources[f"limits.{name}"] += count * size * factor
    # A quota may name them so too.
    resources |= {"count/pods": resources["pods"]}
    resources |= {name: resources[f"requests.{name}"] for name in ("cpu", "memory")}
    volumes = ((spec.get("podTemplate") or {}).get("spec") or {}).get("volumes") or ()
    claims = tuple(v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v)
    account = spec.get("serviceAccount") or "default"
    return Needs(deployment["metadata"]["namespace"], account, claims, resources)


def crd_error(versions: Sequence[str], group: str) -> BeamK8sError | None:
    """Whether the server knows FlinkDeployments as this release writes them.

    Args:
        versions: those that it serves of the operator's API group.
        group: its name.
    """
    if not versions:
        return KubernetesError(
            f"the cluster knows no FlinkDeployment: the CRDs of {group} are not installed.",
            hint=f"Install the Flink Kubernetes operator with its CRDs: {_INSTALL}",
        )
    if CRD_VERSION not in versions:
        return KubernetesError(
            f"the cluster knows FlinkDeployments of {group} only as {', '.join(versions)}, this release writes "
            f"{CRD_VERSION}.",
            hint=f"Use an operator that serves {CRD_VERSION}, or a release of beam_k8s that is made for it.",
        )
    return None


def account_error(needs: Needs, *, exists: bool, may_write: bool | None) -> BeamK8sError | None:
    """Whether the pods' account can do its work.

    Args:
        needs: the job's.
        exists: whether the account is there.
        may_write: whether it may write ConfigMaps; None if that cannot be known.
    """
    account, namespace = needs.service_account, needs.namespace
    if not exists:
        return KubernetesError(
            f"there is no service account {account} in namespace {namespace}: no pod of the job would be made.",
            hint="Create it with its Role (images/deploy), or name another with --k8s_service_account.",
        )
    if may_write is False:
        return KubernetesError(
            f"service account {account} in namespace {namespace} may not create configmaps: Flink's high availability "
            "would not start.",
            hint="Bind it to a Role with all verbs on configmaps (images/deploy has one).",
        )
    return None


def claim_error(namespace: str, name: str, claim: Mapping[str, Any] | None) -> BeamK8sError | None:
    """Whether a PersistentVolumeClaim can be mounted; None stands for one that is not there."""
    if claim is None:
        return KubernetesError(
            f"there is no PersistentVolumeClaim {name} in namespace {namespace}: no pod of the job would start.",
            hint="Create it, or name another with --k8s_storage_claim.",
        )
    if (claim.get("status") or {}).get("phase") == "Lost":
        return KubernetesError(
            f"PersistentVolumeClaim {name} in namespace {namespace} has lost its volume.",
            hint="Bring the volume back, or name another with --k8s_storage_claim.",
        )
    return None


def quota_errors(needs: Needs, quotas: Iterable[Mapping[str, Any]]) -> list[BeamK8sError]:
    """What the namespace's ResourceQuotas have too little of for one more job like this."""
    errors: list[BeamK8sError] = []
    for quota in quotas:
        scopes = (quota.get("spec") or {}).get("scopes") or ()
        if (quota.get("spec") or {}).get("scopeSelector") or "Terminating" in scopes or "BestEffort" in scopes:
            continue  # not, or not surely, about our pods
        status = quota.get("status") or {}
        for name, hard in sorted((status.get("hard") or {}).items()):
            if name not in needs.resources:
                continue
            left = quantity(hard) - quantity((status.get("used") or {}).get(name, "0"))
            if needs.resources[name] > left:
                wanted, free = (_amount(name, number) for number in (needs.resources[name], max(left, Decimal(0))))
                errors.append(
                    KubernetesError(
                        f"quota {quota['metadata']['name']} of namespace {needs.namespace}: the job needs {wanted} of "
                        f"{name}, {free} of {_amount(name, quantity(hard))} are left.",
                        hint="Ask for less (--num_workers, --machine_type, --k8s_worker_cpu), stop other jobs, or have "
                        "the ResourceQuota raised.",
                    )
                )
    return errors


def _amount(name: str, number: Decimal) -> str:
    return f"{number / 2**20:.0f}Mi" if name.endswith("memory") else f"{number.normalize():f}"


def scaler_errors(
    deployments: Iterable[Mapping[str, Any]], autoscalers: Iterable[Mapping[str, Any]]
) -> list[BeamK8sError]:
    """Jobs of ours that somebody else scales too.

    Args:
        deployments: FlinkDeployments of a namespace.
        autoscalers: its HorizontalPodAutoscalers.
    """
    ours = {
        deployment["metadata"]["name"]: deployment
        for deployment in deployments
        if JOB_SELECTOR.items() <= (deployment["metadata"].get("labels") or {}).items()
    }
    errors: list[BeamK8sError] = []
    for autoscaler in autoscalers:
        target = autoscaler["spec"]["scaleTargetRef"]
        if target.get("kind") == "FlinkDeployment" and target["name"] in ours:
            name = autoscaler["metadata"]["name"]
            errors.append(
                KubernetesError(
                    f"job {target['name']} has two scalers: HorizontalPodAutoscaler {name} changes its workers too.",
                    hint=f"kubectl delete hpa {name} -n {autoscaler['metadata']['namespace']}",
                )
            )
    for name, deployment in sorted(ours.items()):
        conf = deployment["spec"].get("flinkConfiguration") or {}
        errors += [
            KubernetesError(
                f"job {name} has two scalers: the operator's own is on ({key}: true).",
                hint=f"Submit it without --k8s_flink_conf={key}=true.",
            )
            for key in AUTOSCALER_KEYS
            if str(conf.get(key)).lower() == "true"
        ]
    return errors
