"""What the service hands to ``beam-k8s run`` and makes of its answer; tests/e2e has the real one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import pytest

from beam_k8s.errors import BeamK8sError, ConfigError, TimedOut
from beam_k8s.launcher.service import KubernetesOperatorService

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from beam_k8s.launcher.kube import Kube


class OneJob:
    """A cluster that has any job it is asked for by id."""

    flags = ("--k8s_context=there", "--k8s_impersonate=jane")

    def find(self, kind: object, namespace: str, *, labels: str) -> tuple[list[dict[str, Any]], str]:
        metadata = {"namespace": namespace, "name": "job", "uid": "1", "resourceVersion": "1"}
        return [{"metadata": {**metadata, "labels": dict(each.split("=") for each in labels.split(","))}}], "1"


@pytest.fixture
def submit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Submits ``my_pipeline.py`` where Python is this shell script."""

    def run(script: str, **arguments: Any) -> Any:
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
        service = KubernetesOperatorService(cast("Kube", OneJob()), cache=False)
        return service.submit_job("team", ["my_pipeline.py", "--topic=words"], **arguments)

    return run


def test_a_script_is_run_detached_as_the_same_user_and_found_by_its_id(
    submit: Callable[..., Any], tmp_path: Path
) -> None:
    status = submit(f"printf '%s\\n' \"$@\" >{tmp_path}/arguments")
    *given, job_id, detach, context, user = (tmp_path / "arguments").read_text().splitlines()
    assert given == ["-m", "beam_k8s", "run", "my_pipeline.py", "--topic=words", "--k8s_namespace=team"]
    assert job_id == f"--k8s_job_id={status.job_id}"
    assert len(status.job_id) == 32
    assert (detach, context, user) == ("--k8s_detach", "--k8s_context=there", "--k8s_impersonate=jane")
    assert (status.namespace, status.ours) == ("team", True)


@pytest.mark.parametrize(
    ("says", "code", "wanted"),
    [
        ("beam-k8s: builds\nerror: --x=1 is wrong.\n  Use 2.", 2, (ConfigError, "--x=1 is wrong.", "Use 2.")),
        ("Traceback ...\nValueError: no", 1, (BeamK8sError, "ValueError: no", "")),
        ("", 9, (BeamK8sError, "beam-k8s run ended with exit code 9.", "")),
    ],
)
def test_what_went_wrong_is_told_as_an_error_of_ours(
    submit: Callable[..., Any], tmp_path: Path, says: str, code: int, wanted: tuple[type, str, str]
) -> None:
    (tmp_path / "says").write_text(says)
    with pytest.raises(BeamK8sError) as raised:
        submit(f"cat {tmp_path}/says >&2; exit {code}")
    assert (type(raised.value), raised.value.message, raised.value.hint) == wanted


def test_a_submission_that_takes_too_long_may_clean_up_and_is_ended(submit: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(TimedOut, match=r"my_pipeline.py was not submitted within 0.5 s"):
        submit(f"trap 'touch {tmp_path}/cleaned; exit 143' TERM; sleep 60 & wait", timeout=0.5)
    assert (tmp_path / "cleaned").exists()
