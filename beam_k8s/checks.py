"""What in a namespace would keep a job from running, told before it is submitted. Pure; objects are the API's JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Self

from beam_k8s.errors import BeamK8sError, Forbidden, KubernetesError
from beam_k8s.flink_conf import is_secret, operators_autoscaler
from beam_k8s.spec import CONTAINER_SECURITY, POD_SECURITY
from beam_k8s.status import is_ours
from beam_k8s.versions import BEAM, FLINK, OPERATORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = [
    "Finding",
    "Needs",
    "Operator",
    "Probe",
    "account_error",
    "claim_error",
    "crd_error",
    "needs_of",
    "operator_finding",
    "operator_of",
    "operator_probe",
    "probe_finding",
    "probe_of",
    "probe_pod",
    "quota_errors",
    "rights_error",
    "room_for_workers",
    "scaled_by",
    "scaler_errors",
    "version_finding",
]

CRD_VERSION = "v1beta1"
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


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    state: Literal["ok", "warning", "wrong"]
    message: str
    hint: str = ""
    """The way out."""

    @classmethod
    def of(cls, check: str, error: BeamK8sError | None, well: str) -> Self:
        """What an error says, or that all is well."""
        return cls(check, "ok", well) if error is None else cls(check, "wrong", error.message, error.hint)


@dataclass(frozen=True, slots=True)
class Operator:
    """A Deployment of the Flink Kubernetes operator."""

    name: str
    namespace: str
    version: str
    """Empty: its image's tag does not tell."""
    watched: tuple[str, ...]
    """Namespaces; empty: all."""
    available: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """What a pod of a job is to look at."""

    namespace: str
    image: str
    service_account: str
    storage: str
    """URL of the checkpoints; empty: none."""
    mounts: Mapping[str, str]
    """Claims, and where their volumes are mounted."""
    conf: Mapping[str, str]
    """Flink's settings, without secrets."""
    brokers: tuple[str, ...]
    """``host:port``."""


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
    spec, conf = deployment["spec"], _conf(deployment)
    parts = [_asked(spec.get(f"{part}Manager") or {}, f"{part}manager", conf) for part in ("job", "task")]
    resources = {name: sum((part[name] for part in parts), Decimal(0)) for name in parts[0]}
    volumes = ((spec.get("podTemplate") or {}).get("spec") or {}).get("volumes") or ()
    claims = tuple(v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v)
    account = spec.get("serviceAccount") or "default"
    return Needs(deployment["metadata"]["namespace"], account, claims, resources)


def _conf(deployment: Mapping[str, Any]) -> Mapping[str, str]:
    return deployment["spec"].get("flinkConfiguration") or {}


def _asked(manager: Mapping[str, Any], role: str, conf: Mapping[str, str]) -> dict[str, Decimal]:
    """What the pods of a part of a FlinkDeployment ask for, by the names of quotas."""
    count = Decimal(manager.get("replicas") or 1)
    resource = manager.get("resource") or {}
    resources = {"pods": count, "count/pods": count}
    sizes = {
        "cpu": Decimal(str(resource.get("cpu") or 1)),
        "memory": _flink_memory(str(resource.get("memory") or "0")),
    }
    for name, size in sizes.items():
        factor = Decimal(conf.get(f"kubernetes.{role}.{name}.limit-factor", "1"))
        resources[name] = resources[f"requests.{name}"] = count * size  # a quota may name them so too
        resources[f"limits.{name}"] = count * size * factor
    return resources


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
    for quota, name, hard, left in _left(quotas):
        if needs.resources.get(name, 0) > left:
            wanted, free = (_amount(name, number) for number in (needs.resources[name], max(left, Decimal(0))))
            errors.append(
                KubernetesError(
                    f"quota {quota} of namespace {needs.namespace}: the job needs {wanted} of {name}, {free} of "
                    f"{_amount(name, hard)} are left.",
                    hint="Ask for less (--num_workers, --machine_type, --k8s_worker_cpu), stop other jobs, or have "
                    "the ResourceQuota raised.",
                )
            )
    return errors


def room_for_workers(deployment: Mapping[str, Any], quotas: Iterable[Mapping[str, Any]]) -> int | None:
    """For how many more TaskManagers a FlinkDeployment's namespace has room by its quotas; None: for any number."""
    one = _asked((deployment["spec"].get("taskManager") or {}) | {"replicas": 1}, "taskmanager", _conf(deployment))
    rooms = [int(max(left, Decimal(0)) // one[name]) for _, name, _, left in _left(quotas) if one.get(name)]
    return min(rooms, default=None)


def _left(quotas: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, Decimal, Decimal]]:
    """Of quotas that surely are about our pods: name, resource, how much of it is allowed, how much is left."""
    for quota in quotas:
        spec, status = quota.get("spec") or {}, quota.get("status") or {}
        scopes = spec.get("scopes") or ()
        if spec.get("scopeSelector") or "Terminating" in scopes or "BestEffort" in scopes:
            continue
        for name, text in sorted((status.get("hard") or {}).items()):
            hard = quantity(text)
            yield quota["metadata"]["name"], name, hard, hard - quantity((status.get("used") or {}).get(name, "0"))


def _amount(name: str, number: Decimal) -> str:
    return f"{number / 2**20:.0f}Mi" if name.endswith("memory") else f"{number.normalize():f}"


def scaled_by(autoscaler: Mapping[str, Any]) -> str:
    """The job whose workers a HorizontalPodAutoscaler changes, through its FlinkDeployment or behind its back through
    the Deployment of its TaskManagers; empty: none's.
    """
    target = autoscaler["spec"]["scaleTargetRef"]
    kind, name = target.get("kind"), str(target["name"])
    if kind == "FlinkDeployment":
        return name
    job = name.removesuffix("-taskmanager")
    return job if kind == "Deployment" and job != name else ""


def scaler_errors(
    deployments: Iterable[Mapping[str, Any]], autoscalers: Iterable[Mapping[str, Any]]
) -> list[BeamK8sError]:
    """Jobs of ours that somebody else scales too.

    Args:
        deployments: FlinkDeployments of a namespace.
        autoscalers: its HorizontalPodAutoscalers.
    """
    ours = {deployment["metadata"]["name"]: deployment for deployment in deployments if is_ours(deployment)}
    errors: list[BeamK8sError] = []
    for autoscaler in autoscalers:
        if (job := scaled_by(autoscaler)) in ours:
            name = autoscaler["metadata"]["name"]
            errors.append(
                KubernetesError(
                    f"job {job} has two scalers: HorizontalPodAutoscaler {name} changes its workers too.",
                    hint=f"kubectl delete hpa {name} -n {autoscaler['metadata']['namespace']}",
                )
            )
    for name, deployment in sorted(ours.items()):
        if key := operators_autoscaler(deployment["spec"].get("flinkConfiguration") or {}):
            namespace = deployment["metadata"]["namespace"]
            errors.append(
                KubernetesError(
                    f"job {name} has two scalers: the operator's own is on ({key}: true).",
                    hint=f"Set it to false: kubectl edit flinkdeployment {name} -n {namespace}",
                )
            )
    return errors


def rights_error(namespace: str, missing: Sequence[str]) -> BeamK8sError | None:
    """Whether the user may do what launching takes.

    Args:
        namespace: where.
        missing: what he may not do, each as ``VERB RESOURCE``.
    """
    if not missing:
        return None
    return Forbidden(
        f"not allowed in namespace {namespace}: {', '.join(missing)}.",
        hint="Ask for the Role in images/deploy, or act as another user: --as, in a pipeline --k8s_impersonate.",
    )


def operator_of(deployment: Mapping[str, Any]) -> Operator:
    """An operator, from its Deployment."""
    metadata, containers = deployment["metadata"], deployment["spec"]["template"]["spec"]["containers"]
    tags = [match[1] for each in containers if (match := re.search(r":v?(\d+\.\d+\.\d+)(@|$)", each["image"]))]
    variables = {each["name"]: each.get("value") or "" for each in containers[0].get("env") or ()}
    return Operator(
        name=metadata["name"],
        namespace=metadata["namespace"],
        version=tags[0] if tags else "",
        watched=tuple(filter(None, variables.get("WATCH_NAMESPACES", "").split(","))),
        available=bool((deployment.get("status") or {}).get("availableReplicas")),
    )


def operator_probe(namespace: str, name: str) -> dict[str, Any]:
    """A FlinkDeployment that the operator refuses as soon as it looks at it, for a setting that it forbids: it never
    gets a pod.
    """
    resource = {"cpu": 0.1, "memory": "512m"}
    return {
        "apiVersion": f"flink.apache.org/{CRD_VERSION}",
        "kind": "FlinkDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "image": "none",
            "flinkVersion": "v" + "_".join(FLINK.split(".")[:2]),
            "mode": "standalone",
            "serviceAccount": "none",
            "flinkConfiguration": {"kubernetes.namespace": "none"},
            "jobManager": {"replicas": 1, "resource": resource},
            "taskManager": {"replicas": 1, "resource": resource},
            "job": {"entryClass": "none", "state": "running", "upgradeMode": "stateless"},
        },
    }


def operator_finding(namespace: str, *, seen: bool, operators: Sequence[Operator] | None) -> Finding:
    """Whether an operator looks after a namespace.

    Args:
        namespace: its name.
        seen: an operator looked at a FlinkDeployment there.
        operators: all that there are; None if the user may not know.
    """
    if seen:
        return Finding("operator", "ok", f"it watches namespace {namespace}")
    if operators is None:
        message = f"nobody looks at FlinkDeployments of namespace {namespace}: no operator runs, or none watches it."
        return Finding("operator", "wrong", message, f"Install it ({_INSTALL}), or add {namespace} to its namespaces.")
    if not operators:
        return Finding("operator", "wrong", "no Flink Kubernetes operator is installed.", f"Install it: {_INSTALL}")
    one = operators[0]
    where = f"operator {one.name} in namespace {one.namespace}"
    if not any(each.available for each in operators):
        return Finding("operator", "wrong", f"{where} does not run.", f"kubectl describe pods -n {one.namespace}")
    watched = f" (but {', '.join(one.watched)})" if one.watched else ""
    return Finding(
        "operator",
        "wrong",
        f"{where} does not look at namespace {namespace}{watched}.",
        f"Add {namespace} to watchNamespaces of its Helm chart; if it is there, see the operator's log.",
    )


def version_finding(beam: str, operators: Sequence[Operator] | None) -> Finding:
    """Whether Beam, Flink and operator go together.

    Args:
        beam: apache-beam's version here.
        operators: all that there are; None if the user may not know.
    """
    oldest, newest = OPERATORS
    ours = f"Beam {BEAM}, Flink {FLINK}, operator {oldest} to {newest}"
    if beam != BEAM:
        message = f"Beam {beam} does not go with the runner, which is built for {BEAM}."
        return Finding("versions", "wrong", message, f"pip install apache-beam=={BEAM}")
    known = [operator.version for operator in operators or () if operator.version]
    if not known:
        return Finding("versions", "warning", "the operator's version cannot be known.", f"Tested: {ours}.")
    for version in known:
        if _numbers(version) < _numbers(oldest):
            message = f"operator {version} does not know Flink {FLINK}."
            return Finding("versions", "wrong", message, f"Upgrade it: {ours} go together.")
        if _numbers(version) > _numbers(newest):
            return Finding(
                "versions", "warning", f"operator {version} is newer than what is tested.", f"Tested: {ours}."
            )
    return Finding("versions", "ok", f"Beam {beam}, Flink {FLINK}, operator {', '.join(known)}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def probe_of(deployment: Mapping[str, Any], image: str, brokers: Sequence[str]) -> Probe:
    """What a pod of a FlinkDeployment's job is to look at.

    Args:
        deployment: the document.
        image: to run, the job's or the runtime's.
        brokers: ``host:port`` each.
    """
    spec = deployment["spec"]
    conf = spec.get("flinkConfiguration") or {}
    template = (spec.get("podTemplate") or {}).get("spec") or {}
    needs = needs_of(deployment)
    claimed = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in template.get("volumes") or ()
        if "persistentVolumeClaim" in volume
    }
    mounts = (template.get("containers") or [{}])[0].get("volumeMounts") or ()
    return Probe(
        namespace=needs.namespace,
        image=image,
        service_account=needs.service_account,
        storage=conf.get("state.checkpoints.dir") or "",
        mounts={claimed[mount["name"]]: mount["mountPath"] for mount in mounts if mount["name"] in claimed},
        conf={key: value for key, value in conf.items() if not is_secret(key) and not key.startswith("env.java")},
        brokers=tuple(brokers),
    )


def probe_pod(probe: Probe, name: str) -> dict[str, Any]:
    """A pod as those of jobs are, that looks at what a job needs and ends."""
    wanted = {"storage": probe.storage or None, "conf": dict(probe.conf), "brokers": list(probe.brokers)}
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - the pod's own
    for number, (claim, path) in enumerate(sorted(probe.mounts.items())):
        volumes.append({"name": f"claim-{number}", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": f"claim-{number}", "mountPath": path})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": probe.namespace},
        "spec": {
            "restartPolicy": "Never",
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "serviceAccountName": probe.service_account,
            "securityContext": POD_SECURITY,
            "containers": [
                {
                    "name": "probe",
                    "image": probe.image,
                    "command": ["python3", "-m", "beam_k8s.transforms.probe", json.dumps(wanted)],
                    "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "256Mi"},
                        "limits": {"cpu": "1", "memory": "768Mi"},
                    },
                    "securityContext": CONTAINER_SECURITY,
                    "volumeMounts": mounts,
                }
            ],
            "volumes": volumes,
        },
    }


def probe_finding(probe: Probe, check: str, error: str) -> Finding:
    """What the pod has found out.

    Args:
        probe: what it was to look at.
        check: ``account``, ``storage``, or ``broker`` and its address.
        error: why it cannot be used; empty: it can.
    """
    kind, _, broker = check.partition(" ")
    if kind == "account":
        what, well = f"service account {probe.service_account}", "may write ConfigMaps"
        hint = "Bind it to a Role with all verbs on configmaps (images/deploy has one)."
    elif kind == "storage":
        what, well = f"storage {probe.storage}", "can be written, read and deleted"
        hint = (
            "Give the pods their rights through the service account (workload identity); for another scheme add its "
            "file system to the runtime image; for a claim see who owns its files (user and group 9999)."
        )
    else:
        what, well = f"broker {broker}", "is reached from the cluster"
        hint = "Check address, advertised listeners, NetworkPolicy and firewall: pods must reach each broker."
    if error:
        return Finding(kind, "wrong", f"{what} cannot be used from namespace {probe.namespace}: {error}", hint)
    return Finding(kind, "ok", f"{what} {well}")
