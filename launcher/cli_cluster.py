"""``beam-k8s cluster up|down``: a cluster to try things on, with kind; a few commands that a user could type."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import typer

import beam_k8s
from beam_k8s.errors import BeamK8sError
from beam_k8s.launcher.progress import report
from beam_k8s.versions import OPERATORS

__all__ = ["DOWN", "UP", "register"]

_OPERATOR = f"https://archive.apache.org/dist/flink/flink-kubernetes-operator-{OPERATORS[-1]}"
UP = (
    "docker run --detach --name beam-k8s-registry --publish 127.0.0.1:5001:5000 registry:2",
    "kind create cluster --config images/kind/cluster.yaml",
    "docker network connect kind beam-k8s-registry",
    f"helm install flink-operator flink-kubernetes-operator --repo {_OPERATOR} --set webhook.create=false",
    "kubectl apply -f images/kind/tenant.yaml",
)
DOWN = ("kind delete cluster --name beam-k8s", "docker rm --force beam-k8s-registry")

_app = typer.Typer(no_args_is_help=True, help="A Kubernetes cluster on this machine to try things on, with kind.")


@_app.command()
def up() -> None:
    """Start a cluster with the operator, a registry (localhost:5001) and a namespace for jobs (team)."""
    _run(UP)


@_app.command()
def down() -> None:
    """Remove them."""
    _run(DOWN)


def _run(commands: tuple[str, ...]) -> None:
    root = Path(beam_k8s.__file__).resolve().parents[1]
    if not (root / "images" / "kind").is_dir():
        raise BeamK8sError(
            f"images/kind is not in {root}: this is an installed package.", hint="Run it in a source checkout."
        )
    programs = dict.fromkeys(command.partition(" ")[0] for command in commands)
    if missing := [program for program in programs if shutil.which(program) is None]:
        raise BeamK8sError(
            f"not installed: {', '.join(missing)}.",
            hint="https://kind.sigs.k8s.io says how, or use a cluster of your own: --context, --kubeconfig.",
        )
    for command in commands:
        report(command)
        ended = subprocess.run(shlex.split(command), cwd=root, stdout=sys.stderr, check=False)
        if ended.returncode:
            raise BeamK8sError(
                f"`{command}` ended with exit code {ended.returncode}.",
                hint="`beam-k8s cluster down` removes what was made so far.",
            )


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.add_typer(_app, name="cluster")
