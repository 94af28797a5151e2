"""``beam-k8s``, also ``kubectl beam``: run a script that does not know us, and look after jobs."""

from __future__ import annotations

import os
import runpy
import sys
import sysconfig
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import beam_k8s
from beam_k8s.errors import BeamK8sError
from beam_k8s.launcher import cli_cluster, cli_doctor, cli_jobs

__all__ = ["app", "main"]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=beam_k8s.__doc__)
autoload = typer.Typer(no_args_is_help=True, help="Make --runner=FlinkK8s known to every script of this environment.")
app.add_typer(autoload, name="autoload")

_PTH = "beam_k8s_autoload.pth"
_PROGRAM = "beam-k8s"
_COMPLETE = "_BEAM_K8S_COMPLETE"
"""Variable by which a shell asks for completions."""


_SCRIPT = {"allow_extra_args": True, "ignore_unknown_options": True}
Script = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The pipeline's program.")]


@app.command(context_settings=_SCRIPT)
def run(context: typer.Context, script: Script) -> None:
    """Run a pipeline script with --runner=FlinkK8s, unless it is given another; all other flags are the script's."""
    _run(script, context.args)


@app.command(context_settings=_SCRIPT)
def plan(
    context: typer.Context,
    script: Script,
    output: Annotated[str, typer.Option("--output", "-o", help="text, or yaml: the FlinkDeployment.")] = "text",
    server: Annotated[bool, typer.Option("--server", help="Let the API server check it, too.")] = False,
) -> None:
    """Say what running the script would do, and do nothing."""
    dry_run = "server" if server else "client"
    _run(script, [*context.args, f"--k8s_dry_run={dry_run}", f"--k8s_output={output}"])


@app.command(context_settings=_SCRIPT)
def build(context: typer.Context, script: Script) -> None:
    """Build and push the image of the script's job; print its name by digest, which --k8s_image takes."""
    _run(script, [*context.args, "--k8s_build_only"])


def _run(script: Path, arguments: list[str]) -> None:
    if not any(argument == "--runner" or argument.startswith("--runner=") for argument in arguments):
        arguments = [*arguments, "--runner=FlinkK8s"]
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent.absolute()))
    runpy.run_path(str(script), run_name="__main__")


cli_jobs.register(app)
cli_doctor.register(app)
cli_cluster.register(app)


class Shell(StrEnum):
    """Shells that can complete commands."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command()
def completion(shell: Shell) -> None:
    """Print a script that makes a shell complete commands: source <(beam-k8s completion bash)."""
    os.environ[_COMPLETE] = f"source_{shell.value}"
    app(prog_name=_PROGRAM, complete_var=_COMPLETE)


@app.command()
def version() -> None:
    """Print the version."""
    print(beam_k8s.__version__)


def _pth() -> Path:
    return Path(sysconfig.get_path("purelib")) / _PTH


@autoload.command()
def enable() -> None:
    """Let this Python environment import beam_k8s at its start (5 ms; Beam itself is not imported)."""
    _pth().write_text("import beam_k8s\n")
    print(f"--runner=FlinkK8s is known to every script run by {sys.executable}")


@autoload.command()
def disable() -> None:
    """Undo ``enable``."""
    _pth().unlink(missing_ok=True)


def main() -> None:
    """The command line: one line per error, exit codes of ``errors``."""
    try:
        app(standalone_mode=True, complete_var=_COMPLETE)
    except BeamK8sError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
