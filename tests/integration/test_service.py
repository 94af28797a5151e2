"""The service library against real FlinkDeployments: what it says is what Kubernetes has, what it asks for is done."""

from __future__ import annotations

import copy
import itertools
import os
import threading
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from beam_k8s import names
from beam_k8s.autoscaler.model import Memory, Rescale
from beam_k8s.errors import ConfigError, Conflict, Forbidden, KubernetesError, NotFound, TimedOut
from beam_k8s.launcher.kube import DEPLOYMENTS, PODS, SECRETS, Kind, Kube
from beam_k8s.launcher.kubernetes_workers import KubernetesWorkers
from beam_k8s.launcher.service import KubernetesOperatorService
from tests.cluster.count_job import COUNT
from tests.cluster.kube import user_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from beam_k8s.status import JobStatus
    from tests.cluster.kube import KubeCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

WHAT_A_JOB_HAS = (
    PODS,
    Kind("apps", "v1", "deployments"),
    Kind("", "v1", "services"),
    Kind("", "v1", "configmaps"),
)


class Place(NamedTuple):
    """Where the tests' jobs are."""

    namespace: str
    volume: Path
    kube: Kube
    """Of a user who has the Role of images/deploy and no other right."""
    service: KubernetesOperatorService
    """His too."""
    admin: Kube


@pytest.fixture(scope="module")
def place(kube_cluster: KubeCluster) -> Iterator[Place]:
    namespace = f"service-{uuid.uuid4().hex[:8]}"
    volume = kube_cluster.tenant(namespace)
    users = (None, user_of(namespace))
    admin, jane = (Kube.connect(kubeconfig=str(kube_cluster.kubeconfig), impersonate=who) for who in users)
    with KubernetesOperatorService(jane) as service:
        yield Place(namespace, volume, jane, service, admin)
    kube_cluster.remove_tenant(namespace)


def create(place: Place, name: str, job_id: str = "", change: Callable[[dict[str, Any]], object] = id) -> JobStatus:
    """A count job that this package could have made, if it has a job id."""
    job = copy.deepcopy(COUNT)
    labels = {**names.JOB_SELECTOR, names.JOB_ID_LABEL: job_id, "team": "counters"} if job_id else {}
    job["metadata"] = {"name": name, "namespace": place.namespace, "labels": labels}
    job["spec"]["job"]["upgradeMode"] = "savepoint"
    job["spec"]["flinkConfiguration"] |= {
        "state.savepoints.dir": "file:///flink-data/savepoints",
        "pipeline.max-parallelism": "8",
        "kubernetes.operator.savepoint.trigger.grace-period": "1s",
    }
    change(job["spec"])
    place.kube.create(DEPLOYMENTS, place.namespace, job)
    return place.service.get_status_of_job_by_name(place.namespace, name)


def runs(status: JobStatus) -> bool:
    return (status.state, status.lifecycle) == ("RUNNING", "STABLE")


@pytest.fixture
def count(place: Place) -> JobStatus:
    """A running count job with one worker: the one that the tests share, or another if one of them has ended it."""
    jobs = [job for job in place.service.get_all_jobs(place.namespace, "team=counters") if job.name == "count"]
    if not jobs:
        create(place, "count", uuid.uuid4().hex)
    elif jobs[0].suspended:
        place.service.resume(place.namespace, "count")
    elif jobs[0].workers != 1:
        place.service.update_replica(place.namespace, "count", 1)
    deadline = time.monotonic() + 120
    while len(place.kube.find(PODS, place.namespace, labels="app=count,component=taskmanager")[0]) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.2)  # one that leaves has its log still
    return place.service.wait(place.namespace, "count", runs, timeout=300)


def pods(place: Place, component: str, name: str = "count") -> set[str]:
    found, _ = place.kube.find(PODS, place.namespace, labels=f"app={name},component={component}")
    return {pod["metadata"]["uid"] for pod in found if "deletionTimestamp" not in pod["metadata"]}


def in_volume(place: Place, url: str) -> Path:
    return place.volume / url.removeprefix("file:").lstrip("/").removeprefix("flink-data/")


@contextmanager
def read_only(place: Place) -> Iterator[None]:
    """The folder of savepoints cannot be written meanwhile."""
    folder = place.volume / "savepoints"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o777)


def left_of(place: Place, name: str) -> list[str]:
    return [
        f"{kind} {each['metadata']['name']}"
        for kind in WHAT_A_JOB_HAS
        for each in place.admin.find(kind, place.namespace, labels=f"app={name}")[0]
    ]


class TestReads:
    def test_a_job_is_found_by_its_name_by_its_id_and_among_all(self, place: Place, count: JobStatus) -> None:
        service, namespace = place.service, place.namespace
        everywhere = KubernetesOperatorService(place.admin, cache=False)
        assert count.workers == count.slots == 1
        assert (count.ours, count.suspended, count.error) == (True, False, "")
        assert len(count.flink_job_id) == 32

        def identity(status: JobStatus) -> tuple[str, str, str]:
            return (status.namespace, status.name, status.uid)

        for found in (
            service.get_status_of_job_by_name(namespace, "count"),
            service.get_status_of_job_by_id(namespace, count.job_id),
            everywhere.get_status_of_job_by_id("", count.job_id),
            *service.get_all_jobs(namespace),
            *service.get_all_jobs(namespace, "team in (counters, others)"),
            *everywhere.get_all_jobs("", f"{names.JOB_ID_LABEL}={count.job_id}"),
        ):
            assert identity(found) == identity(count)
        assert len(service.get_all_jobs(namespace)) == 1
        assert service.get_all_jobs(namespace, "team=others") == []

    def test_what_is_not_there_is_not_found(self, place: Place) -> None:
        with pytest.raises(NotFound, match="no job nobody is in namespace"):
            place.service.get_status_of_job_by_name(place.namespace, "nobody")
        with pytest.raises(NotFound, match="no job of id"):
            place.service.get_status_of_job_by_id(place.namespace, "0" * 32)
        with pytest.raises(NotFound, match="nobody"):
            place.service.wait(place.namespace, "nobody", runs, timeout=60)

    def test_a_wait_that_is_not_fulfilled_says_what_the_job_is_instead(self, place: Place, count: JobStatus) -> None:
        with pytest.raises(TimedOut, match=r"count in .* is RUNNING after 1 s"):
            place.service.wait(place.namespace, "count", lambda status: status.state == "DONE", timeout=1)

    def test_logs_come_from_the_component_that_was_asked_for(self, place: Place, count: JobStatus) -> None:
        def heads(**arguments: Any) -> tuple[set[str], str]:
            lines = list(place.service.logs(place.namespace, "count", **arguments))
            return {pod for pod, _ in lines}, "\n".join(line for _, line in lines)

        names_of, text = heads()
        assert len(names_of) == 1
        assert "TaskManagerRunner" in text
        names_of, text = heads(component="jobmanager")
        assert "StandaloneApplicationClusterEntryPoint" in text
        assert len(heads(component="all", tail=3)[0]) == 2
        assert len(heads(tail=3)[1].splitlines()) == 3
        assert heads(workers_only=True)[1] == ""  # there is no Python in it
        assert heads(since_time="2999-01-01T00:00:00Z")[1] == ""
        with pytest.raises(NotFound):
            place.service.logs(place.namespace, "nobody")

    def test_the_role_of_the_deploy_folder_has_all_verbs_and_no_others(self, place: Place) -> None:
        assert place.service.missing_verbs(place.namespace) == []
        with pytest.raises(Forbidden, match="not allowed to list secrets in namespace"):
            place.kube.find(SECRETS, place.namespace)
        with pytest.raises(Forbidden, match=r"not allowed to list flinkdeployments.* in all namespaces"):
            place.service.get_all_jobs("")

    def test_flink_answers_through_the_api_server(self, place: Place, count: JobStatus) -> None:
        flink = place.kube.flink(place.namespace, "count")
        try:
            assert flink.get("/jobs")["jobs"] == [{"id": count.flink_job_id, "status": "RUNNING"}]
        finally:
            flink.close()


class TestRestart:
    def test_a_job_is_watched_and_scaled_across_a_killed_api_server(
        self, kube_cluster: KubeCluster, place: Place, count: JobStatus
    ) -> None:
        """tests/integration/test_kube_client.py does the same, and more, with an API server of its own."""
        if "BEAM_K8S_TEST_CLUSTER" in os.environ:
            pytest.skip("the cluster is not ours to break")
        changes = place.service.watch(place.namespace, seconds=300)
        assert next(changes).name == "count"
        kube_cluster.restart("kube-apiserver")
        place.service.update_replica(place.namespace, "count", 2)
        assert next(change for change in changes if runs(change) and change.ready_workers == 2)
        now = place.service.update_replica(place.namespace, "count", 1)
        assert now.flink_job_id == count.flink_job_id


class TestWrites:
    def test_workers_join_and_leave_while_the_job_goes_on(self, place: Place, count: JobStatus) -> None:
        service, namespace = place.service, place.namespace
        job_managers = pods(place, "jobmanager")
        followed = service.logs(namespace, "count", follow=True)
        seen: dict[str, str] = {}
        autoscaled = KubernetesWorkers(service, namespace, "count", lambda: None, "test")
        memory = Memory(rescaled_at=1.5, target=1, capacity={2: 7.0})
        for workers in (2, 1):
            if workers == 2:
                assert service.update_replica(namespace, "count", 2).workers == 2
            else:
                with pytest.raises(Conflict, match="somebody else has changed the workers of count, to 2"):
                    autoscaled.rescale(Rescale(1, 3, ""), memory)
                assert autoscaled.load() == Memory()
                autoscaled.rescale(Rescale(2, 1, ""), memory)
                assert autoscaled.load() == memory
            service.wait(
                namespace,
                "count",
                lambda status, workers=workers: runs(status) and status.ready_workers == workers,
                timeout=300,
            )
            while len(pods(place, "taskmanager")) != workers:
                threading.Event().wait(0.2)  # the Deployment follows the status
            while len(seen) < 2:  # the log of a worker that came later comes too
                pod, line = next(followed)
                seen[pod] = line
        followed.close()
        now = service.wait(namespace, "count", runs, timeout=300)
        assert now.flink_job_id == count.flink_job_id
        assert pods(place, "jobmanager") == job_managers

    @pytest.mark.parametrize(
        ("workers", "wrong"), [(0, "cannot have 0 workers"), (9, "9 workers of 1 slots: its maximum parallelism is 8")]
    )
    def test_a_number_of_workers_that_cannot_be_is_refused(
        self, place: Place, count: JobStatus, workers: int, wrong: str
    ) -> None:
        with pytest.raises(ConfigError, match=wrong):
            place.service.update_replica(place.namespace, "count", workers)
        assert place.service.get_status_of_job_by_name(place.namespace, "count").workers == count.workers

    def test_a_savepoint_is_where_its_url_says(self, place: Place, count: JobStatus) -> None:
        url = place.service.savepoint(place.namespace, "count")
        assert (in_volume(place, url) / "_metadata").is_file()
        now = place.service.get_status_of_job_by_name(place.namespace, "count")
        assert (now.state, now.savepoint) == ("RUNNING", url)

    def test_a_savepoint_that_fails_says_why_and_the_job_goes_on(self, place: Place, count: JobStatus) -> None:
        failing = pytest.raises(KubernetesError, match="the savepoint of count failed: ")
        with read_only(place), failing as failed:
            place.service.savepoint(place.namespace, "count")
        assert "avepoint" in failed.value.message.partition("failed: ")[2]
        assert place.service.get_status_of_job_by_name(place.namespace, "count").state == "RUNNING"

    def test_a_job_that_cannot_be_stopped_with_a_savepoint_goes_on(
        self, place: Place, count: JobStatus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("beam_k8s.launcher.service._GRACE_SECONDS", 5)
        service = KubernetesOperatorService(place.kube, cache=False, patience=10)
        with read_only(place), pytest.raises(KubernetesError, match="count cannot be stopped with a savepoint: "):
            service.delete_job_by_name(place.namespace, "count")
        now = place.service.wait(place.namespace, "count", runs, timeout=300)
        assert (now.uid, now.suspended) == (count.uid, False)

    def test_a_job_is_suspended_with_a_savepoint_and_resumed_from_it(self, place: Place, count: JobStatus) -> None:
        service, namespace = place.service, place.namespace
        changes = service.watch(namespace, seconds=300)
        assert next(changes).state == "RUNNING"
        suspended = service.suspend(namespace, "count")
        assert (suspended.state, suspended.suspended) == ("STOPPED", True)
        assert (in_volume(place, suspended.savepoint) / "_metadata").is_file()
        assert not service.resume(namespace, "count").suspended
        service.wait(namespace, "count", runs, timeout=300)
        lines = service.logs(namespace, "count", component="jobmanager")
        assert any(suspended.savepoint.removeprefix("file:").lstrip("/") in line for _, line in lines)
        states = [key for key, _ in itertools.groupby(self._until_running(changes))]
        assert states[-3:] == ["STOPPED", "STARTING", "RUNNING"]

    def _until_running(self, changes: Iterator[JobStatus]) -> Iterator[str]:
        stopped = False
        for change in changes:
            yield change.state
            stopped = stopped or change.state == "STOPPED"
            if stopped and change.state == "RUNNING":
                return

    def test_a_deleted_job_leaves_its_savepoint_and_nothing_else(self, place: Place, count: JobStatus) -> None:
        service, namespace = place.service, place.namespace
        changes = service.watch(namespace, seconds=300)
        assert next(changes).name == "count"
        followed = service.logs(namespace, "count", follow=True, component="jobmanager")
        assert next(followed)
        last = service.delete_job_by_id(namespace, count.job_id)
        assert (in_volume(place, last.savepoint) / "_metadata").is_file()
        assert left_of(place, "count") == []
        with pytest.raises(NotFound):
            service.get_status_of_job_by_name(namespace, "count")
        assert next(change.state for change in changes if change.lifecycle == "DELETED") == "CANCELLED"
        assert sum(1 for _ in followed) > 0  # to the end, which came

    def test_without_a_savepoint_a_job_is_deleted_whatever_it_does(self, place: Place, count: JobStatus) -> None:
        before = {path.name for path in place.volume.glob("savepoints/*")}
        place.service.delete_job_by_name(place.namespace, "count", savepoint=False)
        assert left_of(place, "count") == []
        assert {path.name for path in place.volume.glob("savepoints/*")} == before

    def test_a_job_that_never_ran_is_deleted_without_a_savepoint(self, place: Place) -> None:
        create(place, "never", uuid.uuid4().hex, lambda spec: spec.update(image="beam-k8s.test/no-such:1"))
        place.service.wait(place.namespace, "never", lambda status: status.lifecycle == "DEPLOYED", timeout=60)
        assert place.service.delete_job_by_name(place.namespace, "never").savepoint == ""
        assert left_of(place, "never") == []

    def test_a_job_of_which_no_savepoint_can_be_taken_is_not_deleted_but_on_demand(
        self, place: Place, count: JobStatus
    ) -> None:
        none = {"spec": {"replicas": 0}}
        place.admin.patch(Kind("apps", "v1", "deployments"), place.namespace, "count", none)  # no JobManager
        service = KubernetesOperatorService(place.kube, cache=False, patience=5)
        place.service.wait(place.namespace, "count", lambda status: status.flink_state != "RUNNING", timeout=300)
        with pytest.raises(KubernetesError, match="No savepoint can be taken") as refused:
            service.delete_job_by_name(place.namespace, "count")
        assert "--no-savepoint" in refused.value.hint
        assert service.get_status_of_job_by_name(place.namespace, "count").lifecycle != "DELETING"
        place.service.delete_job_by_name(place.namespace, "count", savepoint=False)
        assert left_of(place, "count") == []

    def test_what_others_made_is_shown_and_never_changed(self, place: Place) -> None:
        service, namespace = place.service, place.namespace
        create(place, "foreign", change=lambda spec: spec["job"].update(state="suspended"))
        before = place.kube.get(DEPLOYMENTS, namespace, "foreign")
        assert before is not None
        assert not service.get_status_of_job_by_name(namespace, "foreign").ours
        assert "foreign" not in {job.name for job in service.get_all_jobs(namespace)}
        for change in (
            lambda: service.update_replica(namespace, "foreign", 2),
            lambda: service.savepoint(namespace, "foreign"),
            lambda: service.suspend(namespace, "foreign"),
            lambda: service.resume(namespace, "foreign"),
            lambda: service.delete_job_by_name(namespace, "foreign"),
            lambda: service.delete_job_by_name(namespace, "foreign", savepoint=False),
        ):
            with pytest.raises(KubernetesError, match=r"foreign in .* was not made by beam_k8s"):
                change()
        after = place.kube.get(DEPLOYMENTS, namespace, "foreign")
        assert after is not None
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        for part in ("job", "taskManager", "flinkConfiguration"):
            assert before["spec"][part].items() <= after["spec"][part].items()  # the operator adds its defaults
        assert "savepointTriggerNonce" not in after["spec"]["job"]
        assert not any("savepoint-on-deletion" in key for key in after["spec"]["flinkConfiguration"])
        place.kube.delete(DEPLOYMENTS, namespace, "foreign")
