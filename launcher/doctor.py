"""Finds what keeps jobs from running in a namespace: reads it here, and ``beam_k8s.checks`` judges it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from beam_k8s import checks
from beam_k8s.errors import Forbidden
from beam_k8s.launcher.kube import DEPLOYMENTS, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from beam_k8s.errors import BeamK8sError
    from beam_k8s.launcher.kube import Kube

__all__ = ["preflight"]

ACCOUNTS = Kind("", "v1", "serviceaccounts")
CLAIMS = Kind("", "v1", "persistentvolumeclaims")
QUOTAS = Kind("", "v1", "resourcequotas")
_REVIEWS = Kind("authorization.k8s.io", "v1", "localsubjectaccessreviews")

T = TypeVar("T")


def preflight(kube: Kube, deployment: Mapping[str, Any]) -> list[BeamK8sError]:
    """All that would keep a job from running and can be read in a few requests; nothing is written.

    What the user may not read is taken to be right.

    Args:
        kube: where it will run.
        deployment: its FlinkDeployment, as it will be submitted.

    Raises:
        KubernetesError: the API server does not answer.
    """
    needs = checks.needs_of(deployment)
    errors = [
        checks.crd_error(kube.versions(DEPLOYMENTS.group), DEPLOYMENTS.group),
        _account_error(kube, needs),
        *(_claim_error(kube, needs.namespace, name) for name in needs.claims),
        *_quota_errors(kube, needs),
    ]
    return [error for error in errors if error is not None]


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
