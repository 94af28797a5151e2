"""``beam-k8s doctor``: what keeps jobs from running, one line each, with the way out."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beam_k8s.checks import Finding
from beam_k8s.errors import ConfigError
from beam_k8s.launcher.cli_jobs import Cluster, job_object, on_cluster

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["register"]


class Output(StrEnum):
    """Forms of the findings."""

    TABLE = "table"
    JSON = "json"


@on_cluster
def doctor(
    cluster: Cluster,
    arguments: typer.Context,
    *,
    job: Annotated[str | None, typer.Option(help="Look at what this job needs, instead of a pipeline's flags.")] = None,
    broker: Annotated[list[str] | None, typer.Option(metavar="HOST:PORT", help="A Kafka broker that jobs use.")] = None,
    output: Annotated[Output, typer.Option("--output", "-o")] = Output.TABLE,
) -> None:
    """Find what keeps jobs from running; all other flags are those of a pipeline (--k8s_storage=… --num_workers=3).

    Exit code 1: something is wrong. A FlinkDeployment that the operator refuses and a pod of the runtime image are
    created for it and deleted again.
    """
    from beam_k8s.launcher.doctor import examine

    for address in broker or []:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigError(f"--broker={address} is not HOST:PORT.", hint="For example --broker=kafka.team-a:9092")
    kube = cluster.connect()
    findings: list[Finding] = []
    if job is not None:
        deployment: dict[str, Any] | None = job_object(kube, job)
        image = deployment["spec"].get("image") or "" if deployment else ""
    else:
        deployment, image = _draft(cluster._replace(namespace=kube.namespace), arguments.args, findings)
    for finding in findings:
        _show(finding, output)
    for finding in examine(kube, kube.namespace, deployment, image=image, brokers=broker or ()):
        findings.append(finding)
        _show(finding, output)
    if output is Output.JSON:
        print(json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=4, ensure_ascii=False))
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)


def _draft(cluster: Cluster, flags: Sequence[str], findings: list[Finding]) -> tuple[dict[str, Any] | None, str]:
    """The FlinkDeployment of a job with these flags, and an image to look with; wrong flags are a finding."""
    from beam_k8s.launcher.kubernetes_target import KubernetesTarget
    from beam_k8s.launcher.runner import settings_of

    if words := [flag for flag in flags if not flag.startswith("-")]:
        raise ConfigError(f"{words[0]} is no flag of a pipeline.", hint="A job is named with --job=NAME.")
    where = {
        "namespace": cluster.namespace,
        "context": cluster.context,
        "kubeconfig": cluster.kubeconfig,
        "impersonate": cluster.user,
    }
    given = [f"--k8s_{name}={value}" for name, value in where.items() if value is not None]
    try:
        settings = settings_of(["--k8s_target=kubernetes", *flags, *given])
        draft = KubernetesTarget(settings).draft()
    except ConfigError as error:
        # Without flags nobody has said what jobs there are.
        findings.append(Finding("settings", "wrong" if flags else "warning", error.message, error.hint))
        return None, ""
    return draft.deployment.document(), settings.image or settings.runtime_image or ""


def _show(finding: Finding, output: Output) -> None:
    if output is Output.TABLE:
        text = " ".join(f"{finding.message} {finding.hint}".split())
        print(f"{finding.state:<10}{finding.check:<10}{text}", flush=True)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(doctor)
