"""Finds what keeps jobs from running in a namespace: reads it here, and ``beam_k8s.checks`` judges it.

What can only be known from the inside is asked by two objects that are always deleted again: a FlinkDeployment that the
operator refuses, and a pod that looks at what a job needs.
"""

from __future__ import annotations

import json
import secrets
import time
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

from beam_k8s import checks
from beam_k8s.checks import Finding
from beam_k8s.errors import BeamK8sError, Forbidden, NotFound
from beam_k8s.launcher.kube import AUTOSCALERS, DEPLOYMENTS, PODS, QUOTAS, SECRETS, Kind
from beam_k8s.launcher.service import missing_verbs
from beam_k8s.pods import trouble_of_pods

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from beam_k8s.launcher.kube import Kube

__all__ = ["examine", "preflight"]

ACCOUNTS = Kind("", "v1", "serviceaccounts")
CLAIMS = Kind("", "v1", "persistentvolumeclaims")
_DEPLOYMENTS = Kind("apps", "v1", "deployments")
_REVIEWS = Kind("authorization.k8s.io", "v1", "localsubjectaccessreviews")
_OPERATORS = "app.kubernetes.io/name=flink-kubernetes-operator"
"""What the operator's chart calls it."""
_OPERATOR_SECONDS = 30
"""Longest wait for the operator to look at an object; it takes one or two."""
_POD_SECONDS = 240
"""Longest wait for the end of the pod that looks: its image may have to be pulled, 1 GB."""

T = TypeVar("T")


def preflight(kube: Kube, deployment: Mapping[str, Any], more: Iterable[Kind] = ()) -> list[BeamK8sError]:
    """All that would keep a job from running and can be read in a few requests; nothing is written.

    What the user may not read is taken to be right.

    Args:
        kube: where it will run.
        deployment: its FlinkDeployment, as it will be submitted.
        more: with which objects the user must be allowed to work, beside those that every job has.

    Raises:
        KubernetesError: the API server does not answer.
    """
    needs = checks.needs_of(deployment)
    errors = [
        checks.crd_error(kube.versions(DEPLOYMENTS.group), DEPLOYMENTS.group),
        _rights_error(kube, needs.namespace, {DEPLOYMENTS, SECRETS, *more}),
        _account_error(kube, needs),
        *(_claim_error(kube, needs.namespace, name) for name in needs.claims),
        *_quota_errors(kube, needs),
    ]
    return [error for error in errors if error is not None]


def examine(
    kube: Kube,
    namespace: str,
    deployment: Mapping[str, Any] | None,
    *,
    image: str = "",
    brokers: Sequence[str] = (),
) -> Iterator[Finding]:
    """Check all that a job needs, one finding after the other.

    Args:
        kube: where jobs run.
        namespace: of the jobs.
        deployment: the FlinkDeployment of one, as it is or would be; None: only what does not depend on it.
        image: the job's, or the runtime's, for a pod that looks from the inside; empty: none does.
        brokers: ``host:port`` of each, for that pod.

    Raises:
        KubernetesError: the API server does not answer.
    """
    no_crd = checks.crd_error(kube.versions(DEPLOYMENTS.group), DEPLOYMENTS.group)
    yield Finding.of("crd", no_crd, f"FlinkDeployments are known as {checks.CRD_VERSION}")
    operators = _readable(lambda: kube.find(_DEPLOYMENTS, "", labels=_OPERATORS)[0])
    known = None if operators is None else [checks.operator_of(each) for each in operators]
    yield _not_looked("operator", no_crd.message) if no_crd else _operator(kube, namespace, known)
    yield checks.version_finding(version("apache-beam"), known)
    yield Finding.of("rights", _rights_error(kube, namespace), "all that beam_k8s does is allowed")
    if deployment is None:
        yield _not_looked("job", "no job is known: neither account, claim and quota nor image, storage and brokers.")
    else:
        yield from _job(kube, deployment, image, brokers)
    if no_crd is None:
        yield from _scalers(kube, namespace)


def _job(kube: Kube, deployment: Mapping[str, Any], image: str, brokers: Sequence[str]) -> Iterator[Finding]:
    needs = checks.needs_of(deployment)
    account = _account_error(kube, needs)
    yield Finding.of("account", account, f"{needs.service_account} is there")
    claims = {name: _claim_error(kube, needs.namespace, name) for name in needs.claims}
    for name, error in claims.items():
        yield Finding.of("claim", error, f"{name} is there")
    quotas = _quota_errors(kube, needs)
    for error in quotas:
        yield Finding.of("quota", error, "")
    if not quotas:
        yield Finding("quota", "ok", f"there is room for {needs.resources['pods']} pods of the job")
    missing = next(filter(None, (account, *claims.values())), None)
    if missing is not None or not image:
        why = missing.message if missing else "no image is named (--k8s_runtime_image or --k8s_image)."
        yield _not_looked("image", f"no pod was started to look at image, storage and brokers: {why}")
        return
    yield from _inside(kube, checks.probe_of(deployment, image, brokers))


def _not_looked(check: str, why: str, hint: str = "") -> Finding:
    return Finding(check, "warning", f"not looked at: {why}", hint)


def _scalers(kube: Kube, namespace: str) -> Iterator[Finding]:
    deployments = _readable(lambda: kube.find(DEPLOYMENTS, namespace)[0])
    autoscalers = _readable(lambda: kube.find(AUTOSCALERS, namespace)[0])
    if deployments is None or autoscalers is None:
        yield _not_looked("scalers", f"not allowed to list autoscalers and jobs of namespace {namespace}.")
        return
    errors = checks.scaler_errors(deployments, autoscalers)
    for error in errors:
        yield Finding.of("scalers", error, "")
    if not errors:
        yield Finding("scalers", "ok", "no job has two")


def _rights_error(kube: Kube, namespace: str, kinds: set[Kind] | None = None) -> BeamK8sError | None:
    """What the user may not do of all that is ever done, or of that with some kinds of objects."""
    return checks.rights_error(namespace, missing_verbs(kube, namespace, kinds))


def _account_error(kube: Kube, needs: checks.Needs) -> BeamK8sError | None:
    account, namespace = needs.service_account, needs.namespace
    found = _readable(lambda: kube.get(ACCOUNTS, namespace, account) is not None)
    if found is False:
        return checks.account_error(needs, exists=False, may_write=None)
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "LocalSubjectAccessReview",
        "metadata": {"namespace": namespace},
        "spec": {
            "user": f"system:serviceaccount:{namespace}:{account}",
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
            "resourceAttributes": {"namespace": namespace, "verb": "create", "resource": "configmaps"},
        },
    }
    allowed = _readable(lambda: bool(kube.create(_REVIEWS, namespace, review)["status"]["allowed"]))
    return checks.account_error(needs, exists=True, may_write=allowed)


def _claim_error(kube: Kube, namespace: str, name: str) -> BeamK8sError | None:
    found = _readable(lambda: (kube.get(CLAIMS, namespace, name),))
    return checks.claim_error(namespace, name, *found) if found else None


def _quota_errors(kube: Kube, needs: checks.Needs) -> list[BeamK8sError]:
    quotas = _readable(lambda: kube.find(QUOTAS, needs.namespace)[0])
    return checks.quota_errors(needs, quotas or ())


def _readable(read: Callable[[], T]) -> T | None:
    """What is read; None if the user may not."""
    try:
        return read()
    except Forbidden:
        return None


# From the inside


def _operator(kube: Kube, namespace: str, operators: Sequence[checks.Operator] | None) -> Finding:
    name = _name()
    try:
        with _made(kube, DEPLOYMENTS, checks.operator_probe(namespace, name)):
            until = time.monotonic() + _OPERATOR_SECONDS
            for what, found in kube.follow(
                DEPLOYMENTS, namespace, fields=f"metadata.name={name}", seconds=_OPERATOR_SECONDS
            ):
                if what in {"ADDED", "MODIFIED"} and (found.get("status") or found["metadata"].get("finalizers")):
                    return checks.operator_finding(namespace, seen=True, operators=operators)
                if time.monotonic() > until:
                    break
    except Forbidden as error:
        return _not_looked("operator", error.message)
    except BeamK8sError as error:
        if "admission webhook" not in error.message:
            return Finding("operator", "wrong", error.message, error.hint)
        # The operator's own webhook has refused what the operator would have refused.
        return checks.operator_finding(namespace, seen=True, operators=operators)
    return checks.operator_finding(namespace, seen=False, operators=operators)


def _inside(kube: Kube, probe: checks.Probe) -> Iterator[Finding]:
    """What a pod of the job finds: that its image can be pulled, and what it says itself."""
    name = _name()
    try:
        with _made(kube, PODS, checks.probe_pod(probe, name)):
            ended, trouble = _end_of(kube, probe.namespace, name)
            if not ended:
                yield Finding("image", "wrong", *trouble)
                return
            said = list(kube.log(probe.namespace, name))
    except Forbidden as error:
        hint = "Whoever may create, delete and read pods can look from the inside, as with the Role in images/deploy."
        yield _not_looked("image", f"no pod could look at image, storage and brokers: {error.message}", hint)
        return
    except BeamK8sError as error:
        yield Finding("image", "wrong", f"no pod could be started: {error.message}", error.hint)
        return
    try:
        answers = [json.loads(line) for line in said if line.startswith("{")]
        found = [(str(answer["check"]), str(answer["error"])) for answer in answers]
    except (ValueError, KeyError):
        found = []
    if not found:
        message = f"{probe.image} is no image of beam_k8s: {' '.join(said[-1:]) or 'it says nothing'}"
        yield Finding("image", "wrong", message, "Build it from images/runtime, in the same release as this program.")
        return
    yield Finding("image", "ok", f"{probe.image} can be pulled")
    yield from (checks.probe_finding(probe, check, error) for check, error in found)


def _end_of(kube: Kube, namespace: str, name: str) -> tuple[bool, tuple[str, str]]:
    """Wait for a pod's end; whether it came, else why not and the way out."""
    until = time.monotonic() + _POD_SECONDS
    why = (f"the pod {name} has not ended within {_POD_SECONDS} s.", "Look at the nodes and at what the pod waits for.")
    for what, pod in kube.follow(PODS, namespace, fields=f"metadata.name={name}", seconds=_POD_SECONDS):
        if what in {"ADDED", "MODIFIED"}:
            if pod["status"].get("phase") in {"Succeeded", "Failed"}:
                return True, ("", "")
            if (trouble := trouble_of_pods([pod])) is not None:
                why = (trouble.message, trouble.hint)
                if trouble.final:
                    break
        if time.monotonic() > until:
            break
    return False, why


def _name() -> str:
    return f"beam-k8s-doctor-{secrets.token_hex(4)}"


@contextmanager
def _made(kube: Kube, kind: Kind, body: dict[str, Any]) -> Iterator[None]:
    """Create an object, and delete it again whatever happens."""
    namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
    try:
        kube.create(kind, namespace, body)
    except Forbidden:
        raise  # nothing was made, and it may be forbidden to delete too
    except NotFound as cause:
        raise BeamK8sError(f"namespace {namespace} is not there: {cause.message}") from cause
    except BaseException:  # the answer may have got lost
        kube.delete(kind, namespace, name)
        raise
    try:
        yield
    finally:
        kube.delete(kind, namespace, name)
