"""Names that every part of the stack accepts: Kubernetes objects, Flink jobs, folders, labels."""

from __future__ import annotations

import re

from beam_k8s.errors import ConfigError

__all__ = [
    "AUTOSCALER_ANNOTATION",
    "FROZEN_ANNOTATION",
    "INSTANCE_LABEL",
    "JOB_ID_LABEL",
    "JOB_SELECTOR",
    "MANAGED_BY_LABEL",
    "MAX_JOB_NAME",
    "NAME_LABEL",
    "OUT_OF_MEMORY",
    "SCALED_ANNOTATION",
    "TENANT_LABEL",
    "VERSION_LABEL",
    "WORKER_LINE",
    "check_job_name",
    "is_dns_label",
    "is_label_value",
    "is_subdomain",
    "label_error",
]

AUTOSCALER_ANNOTATION = "beam-k8s/autoscaler"
"""Of a FlinkDeployment: what its autoscaler had done and learned when it changed the workers last, as JSON."""
SCALED_ANNOTATION = "beam-k8s/autoscaler-job"
"""Of a FlinkDeployment: how it is to be scaled, as JSON; see ``launcher.scaled_job``."""
FROZEN_ANNOTATION = "beam-k8s/autoscaler-frozen"
"""Of a FlinkDeployment: ``true`` as long as no autoscaler may change its workers."""

MAX_JOB_NAME = 45
"""Longest job name in characters. The operator and Flink append suffixes such as ``-taskmanager-1-1`` to it, and
Kubernetes allows 63 (RFC 1035 label); 45 is the operator's own limit for FlinkDeployments."""

_DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def check_job_name(name: str) -> str:
    """Return the name if it can be a Kubernetes object's name (RFC 1035 label, at most 45 characters).

    Raises:
        ConfigError: it cannot; the hint is a name near to it that can.
    """
    if len(name) <= MAX_JOB_NAME and _DNS_LABEL.fullmatch(name):
        return name
    near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    near = re.sub(r"^[^a-z]+", "", near)[:MAX_JOB_NAME].strip("-") or "my-job"
    raise ConfigError(
        f"--job_name={name} cannot name a job: it must be lower-case letters, digits and '-', begin with a letter, "
        f"end with a letter or digit, and have at most {MAX_JOB_NAME} characters.",
        hint=f"Use for example --job_name={near}",
    )


NAME_LABEL = "app.kubernetes.io/name"
INSTANCE_LABEL = "app.kubernetes.io/instance"
"""The job's name."""
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
VERSION_LABEL = "app.kubernetes.io/version"
"""The image that is the job: the first 12 digits of its digest."""
JOB_ID_LABEL = "beam-k8s.dev/job-id"
"""Unique id of the submission. Jobs are found by it: a label is indexed by caches and selected by the server."""
TENANT_LABEL = "beam-k8s.dev/tenant"
"""Whom the job belongs to, where a namespace is shared."""
JOB_SELECTOR = {NAME_LABEL: "beam-job", MANAGED_BY_LABEL: "beam-k8s"}
"""What every object of every job has."""

WORKER_LINE = "python[{pid}] "
"""What a Python worker's lines begin with where they share a container's output with Flink's."""

OUT_OF_MEMORY = "was killed: out of memory"
"""What the last line of a Python worker begins with that the kernel has ended so (images/runtime/harness)."""

MAX_LABEL = 63
"""Longest name part of a label's key, and longest value, in characters; Kubernetes' limit."""
_OWN_PREFIXES = ("app.kubernetes.io/", "beam-k8s.dev/")
_LABEL_PART = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
MAX_SUBDOMAIN = 253
"""Characters of an RFC 1123 subdomain."""


def is_subdomain(name: str) -> bool:
    """Whether Kubernetes takes it as an object's name (RFC 1123 subdomain)."""
    return len(name) <= MAX_SUBDOMAIN and _SUBDOMAIN.fullmatch(name) is not None


def is_dns_label(name: str) -> bool:
    """Whether Kubernetes takes it as a namespace's name, among others (RFC 1123 label)."""
    return is_subdomain(name) and len(name) <= MAX_LABEL and "." not in name


def is_label_value(value: str) -> bool:
    """Whether Kubernetes takes it as a label's value."""
    return not value or (len(value) <= MAX_LABEL and _LABEL_PART.fullmatch(value) is not None)


def label_error(key: str, value: str) -> ConfigError | None:
    """What is wrong with a label of the user, if anything."""
    prefix, slash, name = key.rpartition("/")
    if key.startswith(_OWN_PREFIXES):
        return ConfigError(f"label {key}={value}: labels that begin with {prefix}/ are set by beam_k8s.")
    if (slash and not is_subdomain(prefix)) or len(name) > MAX_LABEL or not _LABEL_PART.fullmatch(name):
        return ConfigError(f"label {key}={value}: Kubernetes refuses the key.", hint="Use for example team or a.b/team")
    if not is_label_value(value):
        return ConfigError(
            f"label {key}={value}: Kubernetes refuses the value.",
            hint=f"Use at most {MAX_LABEL} letters, digits, '-', '_', '.', the first and last a letter or digit.",
        )
    return None
