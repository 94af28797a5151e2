"""Names that every part of the stack accepts: Kubernetes objects, Flink jobs, folders, labels."""

from __future__ import annotations

import re

from beam_k8s.errors import ConfigError

__all__ = ["MAX_JOB_NAME", "check_job_name"]

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
