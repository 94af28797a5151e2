"""``beam-k8s`` as a user runs it, on real jobs: what it prints, what it does, how it exits."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml

from beam_k8s import names
from beam_k8s.launcher.kube import DEPLOYMENTS, PODS, Kube
from tests.cluster.count_job import COUNT, is_running
from tests.cluster.kube import user_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.kube import KubeCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

PROGRAMS = Path(sys.executable).parent
JOB_ID = uuid.uuid4().hex


class Place(NamedTuple):
    """A namespace, and the command line in it."""

    cluster: KubeCluster
    namespace: str
    volume: Path
    kube: Kube

    def command(self, *words: str, program: str = "beam-k8s") -> list[str]:
        """As a user with the least rights, unless the words name another or want all namespaces."""
        whom = [] if any(word.startswith(("--as", "-A")) for word in words) else [f"--as={user_of(self.namespace)}"]
        where = ["-n", self.namespace, f"--kubeconfig={self.cluster.kubeconfig}"]
        return [str(PROGRAMS / program), *words, *whom, *where]

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """What a command printed; it must have exited with that code."""
        ended = subprocess.run(self.command(*words), capture_output=True, text=True, check=False, timeout=300)
        assert ended.returncode == code, ended.stderr
        assert "Traceback" not in ended.stderr
        return ended

    def says(self, *words: str) -> list[str]:
        """The lines that a command printed on stdout."""
        return self.run(*words).stdout.splitlines()

    def error(self, *words: str, code: int) -> str:
        """What a command said that failed, and printed nothing."""
        ended = self.run(*words, code=code)
        assert not ended.stdout
        return ended.stderr

    def object(self, name: str = "count") -> dict[str, Any]:
        found = self.kube.get(DEPLOYMENTS, self.namespace, name)
        assert found is not None
        del found["metadata"]["managedFields"]
        return found

    def pods(self, component: str) -> list[str]:
        found, _ = self.kube.find(PODS, self.namespace, labels=f"app=count,component={component}")
        return [pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def create(self, name: str, *, ours: bool = True, **spec: Any) -> None:
        job = copy.deepcopy(COUNT)
        labels = {**names.JOB_SELECTOR, names.JOB_ID_LABEL: JOB_ID, "team": "counters"} if ours else {}
        job["metadata"] = {"name": name, "namespace": self.namespace, "labels": labels}
        job["spec"]["job"]["upgradeMode"] = "savepoint"
        job["spec"]["flinkConfiguration"]["state.savepoints.dir"] = "file:///flink-data/savepoints"
        job["spec"] |= spec
        self.kube.create(DEPLOYMENTS, self.namespace, job)

    def await_running(self) -> None:
        place = {"name": "count", "namespace": self.namespace}
        self.cluster.await_object("flink.apache.org/v1beta1", "FlinkDeployment", until=is_running, **place)

    def in_volume(self, url: str) -> Path:
        return self.volume / url.removeprefix("file:").lstrip("/").removeprefix("flink-data/")


@pytest.fixture(scope="module")
def place(kube_cluster: KubeCluster) -> Iterator[Place]:
    namespace = f"cli-{uuid.uuid4().hex[:8]}"
    volume = kube_cluster.tenant(namespace)
    kube = Kube.connect(kubeconfig=str(kube_cluster.kubeconfig))
    yield Place(kube_cluster, namespace, volume, kube)
    # In a namespace that is on its way out the operator cannot write events, and never gets done with a job.
    for job in kube.find(DEPLOYMENTS, namespace)[0]:
        kube.delete(DEPLOYMENTS, namespace, job["metadata"]["name"])
    kube_cluster.await_none("flink.apache.org/v1beta1", "FlinkDeployment", namespace=namespace)
    kube_cluster.resource("v1", "Namespace").delete(name=namespace)


@pytest.fixture
def count(place: Place) -> Place:
    """The place, with a running job: the one that the tests share, or another if one of them has ended it."""
    if place.kube.get(DEPLOYMENTS, place.namespace, "count") is None:
        place.create("count")
    place.await_running()
    return place


@pytest.fixture(scope="module")
def refused(place: Place) -> Place:
    """The place, with a job that the operator refuses: it fails at once and never has a pod."""
    conf = {"kubernetes.namespace": "elsewhere"}
    place.create("refused", flinkConfiguration=conf)
    place.run("wait", "refused", "--for=FAILED", "--timeout=1m")
    return place


class TestGet:
    def test_a_table_has_one_line_for_each_job(self, count: Place) -> None:
        head, *rows = [line.split() for line in count.says("get")]
        assert head == ["NAME", "STATE", "WORKERS", "AGE"]
        assert ["count", "RUNNING", "1/1"] in [row[:3] for row in rows]

    def test_wide_has_more_columns_and_all_namespaces_one_in_front(self, count: Place) -> None:
        head, *rows = [line.split() for line in count.says("get", "jobs", "-A", "-l", "team=counters", "-o", "wide")]
        (row,) = (row for row in rows if row[:2] == [count.namespace, "count"])
        assert (
            dict(zip(head, row, strict=True)).items() >= {"JOB-ID": JOB_ID, "SLOTS": "1", "OPERATOR": "STABLE"}.items()
        )

    def test_json_and_yaml_are_the_objects_of_the_api(self, count: Place) -> None:
        for form, read in (("json", json.loads), ("yaml", yaml.safe_load)):
            before = None
            while before != count.object():  # the operator writes its status now and then
                before = count.object()
                one = read(count.run("get", "count", "-o", form).stdout)
                several = read(count.run("get", "-l", "team=counters", "-o", form).stdout)
            assert one == before
            assert several["kind"] == "List"
            assert before in several["items"]

    def test_names_are_as_kubectl_takes_them(self, count: Place) -> None:
        assert count.says("get", "count", "-o", "name") == ["flinkdeployment.flink.apache.org/count"]

    def test_a_selector_that_fits_no_job_leaves_stdout_empty(self, count: Place) -> None:
        ended = count.run("get", "-l", "team=nobody")
        assert not ended.stdout
        assert ended.stderr == f"No jobs found in namespace {count.namespace}.\n"

    def test_kubectl_finds_us_as_its_plugin(self, count: Place) -> None:
        command = count.command("get", "count", "-o", "name", program="kubectl-beam")
        if kubectl := shutil.which("kubectl"):
            command[:1] = [kubectl, "beam"]
        path = {"PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
        said = subprocess.run(command, env={**os.environ, **path}, capture_output=True, text=True, check=True).stdout
        assert said == "flinkdeployment.flink.apache.org/count\n"


def test_describe_shows_state_checkpoints_pods_and_events(count: Place) -> None:
    lines = [" ".join(line.split()) for line in count.says("describe", "count")]
    assert {"Name: count", f"Namespace: {count.namespace}", f"Job ID: {JOB_ID}", "State: RUNNING"} <= set(lines)
    assert "numbers - - 1 - - -" in lines
    assert any(line.startswith("Checkpoints: number ") for line in lines)
    (job_manager,) = count.pods("jobmanager")
    assert f"{job_manager} jobmanager Running yes 0 node -" in lines
    assert any("flinkdeployment/count JobStatusChanged" in line for line in lines)
    assert any(f"pod/{job_manager} Started" in line for line in lines)


def test_describe_tells_what_the_operator_cannot_do(refused: Place) -> None:
    text = refused.run("describe", "refused").stdout
    assert "State:         FAILED" in text
    assert "Error:         Forbidden Flink config key: kubernetes.namespace" in text
    assert "Flink:         there is no job yet" in text
    assert "Pods:          none" in text


class TestLogs:
    def test_of_each_component_with_as_many_lines_as_asked_for(self, count: Place) -> None:
        assert "Connecting to ResourceManager" in count.run("logs", "count").stdout
        lines = count.says("logs", "count", "--component=jobmanager", "--tail=3", "--prefix", "--since=1h")
        (job_manager,) = count.pods("jobmanager")
        assert len(lines) == 3
        assert all(line.startswith(f"[pod/{job_manager}] ") for line in lines)

    def test_followed_until_ctrl_c(self, count: Place) -> None:
        command = count.command("logs", "count", "-f", "--component=jobmanager")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
            assert following.stdout is not None
            while "Completed checkpoint" not in following.stdout.readline():
                assert following.poll() is None
            following.send_signal(signal.SIGINT)
            assert following.wait(30) == 130


class TestWait:
    def test_for_a_state_that_it_has(self, count: Place) -> None:
        ended = count.run("wait", "count", "--for=RUNNING", "--timeout=1m")
        assert not ended.stdout
        assert ended.stderr == "count is RUNNING\n"

    def test_for_a_state_that_does_not_come_in_time(self, count: Place) -> None:
        assert "count" in count.error("wait", "count", "--for=done", "--timeout=1s", code=124)

    def test_for_a_state_that_never_comes(self, refused: Place) -> None:
        error = refused.error("wait", "refused", "--for=RUNNING", code=3)
        assert "refused is FAILED, it will not be RUNNING: Forbidden Flink config key: kubernetes.namespace" in error

    def test_for_no_state_at_all(self, place: Place) -> None:
        assert "--for=HAPPY is no state of a job" in place.error("wait", "count", "--for=HAPPY", code=2)


def test_scale_adds_a_worker_and_a_watch_sees_it(count: Place) -> None:
    with subprocess.Popen(count.command("get", "count", "-w"), stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().split()[0] == "NAME"
        job_manager = count.pods("jobmanager")
        ended = count.run("scale", "count", "--replicas=2")
        assert not ended.stdout
        while watching.stdout.readline().split()[:3] != ["count", "RUNNING", "2/2"]:
            assert watching.poll() is None
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130
    assert len(count.pods("taskmanager")) == 2
    assert count.pods("jobmanager") == job_manager
    assert "--replicas" in count.error("scale", "count", code=2)
    assert "cannot have 0 workers" in count.error("scale", "count", "--replicas=0", code=2)
    count.run("scale", "count", "--replicas=1")


def test_a_savepoint_a_suspension_and_a_new_start(count: Place) -> None:
    (url,) = count.says("savepoint", "count")
    assert (count.in_volume(url) / "_metadata").exists()
    (suspended,) = count.says("suspend", "count")
    assert (count.in_volume(suspended) / "_metadata").exists()
    assert suspended != url
    text = count.run("describe", "count").stdout
    assert "State:         STOPPED" in text
    assert f"Savepoint:     {suspended}" in text
    assert "Flink:         does not answer" in text
    assert count.error("savepoint", "count", code=1)
    assert not count.says("resume", "count")
    count.run("wait", "count", "--for=RUNNING", "--timeout=3m")


def test_cancel_takes_a_savepoint_and_leaves_nothing_running(count: Place) -> None:
    (url,) = count.says("cancel", "count")
    assert (count.in_volume(url) / "_metadata").exists()
    assert not count.pods("jobmanager") + count.pods("taskmanager")
    assert count.kube.get(DEPLOYMENTS, count.namespace, "count") is None
    count.run("wait", "count", "--for=delete", "--timeout=1m")


def test_delete_of_a_job_that_never_ran(place: Place) -> None:
    place.create("never", image="beam-k8s.test/no-such-image:1")
    ended = place.run("delete", "never")
    assert not ended.stdout
    assert ended.stderr == "never is deleted\n"
    assert place.kube.get(DEPLOYMENTS, place.namespace, "never") is None
    assert not place.says("delete", "never", "--ignore-not-found")


@pytest.mark.parametrize(
    "command",
    [
        *("get", "describe", "logs", "wait", "savepoint", "suspend", "resume", "cancel", "delete"),
        "scale --replicas=2",
    ],
)
def test_a_job_that_is_not_there_is_named_with_its_namespace(place: Place, command: str) -> None:
    verb, *flags = command.split()
    error = place.error(verb, "nope", *flags, code=4)
    assert error.startswith("error: ")
    assert "nope" in error
    assert place.namespace in error
    assert "beam-k8s get" in error


def test_a_foreign_flink_deployment_is_shown_and_left_alone(place: Place) -> None:
    place.create("foreign", ours=False, flinkConfiguration={"kubernetes.namespace": "elsewhere"})
    place.run("wait", "foreign", "--for=FAILED", "--timeout=1m")
    before = place.object("foreign")["spec"]
    assert "foreign" not in place.run("get", code=0).stdout
    assert place.says("get", "foreign", "-o", "name") == ["flinkdeployment.flink.apache.org/foreign"]
    for command in ("delete", "cancel", "suspend"):
        assert "foreign" in place.error(command, "foreign", code=1)
    assert place.object("foreign")["spec"] == before
    place.kube.delete(DEPLOYMENTS, place.namespace, "foreign")


def test_a_user_without_rights_is_told_which_one_is_missing(count: Place) -> None:
    stranger = f"--as=system:serviceaccount:{count.namespace}:default"
    for command, verb in (("get", "list"), ("describe count", "get"), ("cancel count", "get")):
        error = count.error(*command.split(), stranger, code=1)
        assert f"not allowed to {verb} flinkdeployments.flink.apache.org in namespace {count.namespace}" in error
