"""The command line without a cluster: what it takes, refuses and prints."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

import beam_k8s
from beam_k8s.launcher.cli_jobs import duration

PROGRAM = Path(sys.executable).with_name("beam-k8s")


def run(*words, **environment):
    """As a user runs it, with no cluster configured."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nowhere", **environment}
    return subprocess.run([PROGRAM, *words], env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1h5s", 3605), ("2.5s", 2.5), ("7", 7), ("0", 0)],
)
def test_durations_are_those_of_kubectl(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "ten minutes", "-5s", "5x", "1m1h"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(typer.BadParameter, match="is no duration"):
        duration(text)


@pytest.mark.parametrize(
    "words",
    [
        ("get", "-o", "xml"),
        ("get", "a", "-A"),
        ("get", "a", "-l", "team=x"),
        ("wait", "a", "--for=HAPPY"),
        ("wait", "a", "--timeout=soon"),
        ("logs", "a", "--tail=-1"),
        ("logs", "a", "--component=operator"),
        ("scale", "a"),
        ("describe",),
        ("freeze",),
        ("unfreeze", "a", "b"),
        ("fly", "a"),
    ],
)
def test_a_wrong_command_is_a_usage_error(words):
    ended = run(*words)
    assert ended.returncode == 2
    assert not ended.stdout
    assert ended.stderr


@pytest.mark.parametrize("verb", ["get", "describe a", "logs a", "delete a", "freeze a"])
def test_without_a_cluster_one_error_says_the_way_out(verb):
    ended = run(*verb.split())
    assert ended.returncode == 1
    assert not ended.stdout
    assert ended.stderr.startswith("error: no Kubernetes cluster is configured")
    assert "--kubeconfig" in ended.stderr


def test_without_a_cluster_an_unknown_job_to_cancel_is_one_of_this_machine():
    ended = run("cancel", "a")
    assert ended.returncode == 4
    assert "no job a runs on this machine" in ended.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program(shell):
    assert "beam-k8s" in run("completion", shell).stdout


def test_bash_completes_verbs_and_flags():
    script = f"""
        PATH={PROGRAM.parent}:$PATH
        source <(beam-k8s completion bash)
        COMP_WORDS=(beam-k8s "$1"); COMP_CWORD=1; [ $# = 1 ] || {{ COMP_WORDS+=("$2"); COMP_CWORD=2; }}
        _beam_k8s_completion beam-k8s
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    for words, expected in ((["sa"], ["savepoint"]), (["get", "--sel"], ["--selector"])):
        said = subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, text=True, check=True).stdout
        assert said.split() == expected


def test_a_cluster_of_kind_needs_its_programs(tmp_path):
    ended = run("cluster", "up", PATH=str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: not installed: docker, kind, helm, kubectl.")
    assert not ended.stdout


def test_the_version_is_that_of_the_package():
    assert run("version").stdout == f"{beam_k8s.__version__}\n"
