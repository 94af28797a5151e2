"""``beam-k8s autoscale``, and launchers, on a real API server: who may scale which job, and that it does.

No job of these has pods.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from kubernetes import client

from beam_k8s.autoscaler.settings import AutoscalerSettings
from beam_k8s.graph import KafkaSource
from beam_k8s.launcher.autoscale import Autoscaling
from beam_k8s.launcher.fleet import Fleet
from beam_k8s.launcher.kube import AUTOSCALERS, DEPLOYMENTS, LEASES, QUOTAS, Kind, Kube
from beam_k8s.launcher.kubernetes_workers import KubernetesWorkers
from beam_k8s.launcher.leases import HeldLeases, Lease, new_identity
from beam_k8s.launcher.scaled_job import ScaledJob
from beam_k8s.launcher.service import KubernetesOperatorService
from beam_k8s.names import NAME_LABEL, SCALED_ANNOTATION
from beam_k8s.settings import Settings
from benchmarks.fleet import Simulated
from benchmarks.service import NAMESPACE, create, deployment
from tests.cluster.api_server import ApiServer
from tests.cluster.launch import ROOT
from tests.waiting import await_that

if TYPE_CHECKING:
    from collections.abc import Iterator

    from beam_k8s.status import JobStatus

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SOURCES = (KafkaSource("", "Read", "kafka:9092", ("flights",), {"sasl.jaas.config": "env:KAFKA_LOGIN"}),)
SETTINGS = AutoscalerSettings(policy="threshold", max_workers=4, interval=0.5, window=1, settle=0, max_age=60)


class Overloaded(Simulated):
    """Sees a job that gets twice what it can do."""

    def __init__(self, job, workers, sources, slots, connections):
        assert [source.topics for source in sources] == [("flights",)]
        super().__init__(job)


@pytest.fixture
def server(tmp_path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as running:
        yield running


@pytest.fixture
def kube(server) -> Kube:
    kube = Kube.connect(kubeconfig=str(server.kubeconfig), namespace=NAMESPACE)
    kube.create(Kind("", "v1", "namespaces"), "", {"metadata": {"name": NAMESPACE}})
    return kube


def job(number: int, mode: str = "on") -> dict:
    text = ScaledJob(mode, SETTINGS, SOURCES).text()
    return deployment(number, {SCALED_ANNOTATION: text} if mode != "off" else {})


@contextmanager
def running(
    kube: Kube, look: type[Overloaded] = Overloaded, selector: str = "", namespace: str = NAMESPACE
) -> Iterator[threading.Event]:
    """A fleet's autoscaler; the event ends it."""
    stopped = threading.Event()
    fleet = Fleet(kube, namespace, selector, identity=new_identity(), look=look)
    thread = threading.Thread(target=fleet.run, args=(stopped,))
    thread.start()
    try:
        yield stopped
    finally:
        stopped.set()
        thread.join(60)


def test_each_job_is_scaled_once_by_whoever_may(kube, capfd):
    for number in range(6):
        create(kube, job(number, mode={2: "off", 3: "recommend"}.get(number, "on")))
    service = KubernetesOperatorService(kube, cache=False)
    service.freeze(NAMESPACE, "job-00004", frozen=True)
    launchers = service.lease(service.get_status_of_job_by_name(NAMESPACE, "job-00005"), "a-launcher")
    assert launchers.hold()

    def scaled() -> set[str]:
        return {status.name[-1] for status in service.get_all_jobs(NAMESPACE) if status.workers > 1}

    told = []

    def said() -> str:
        told.append(capfd.readouterr().err)
        return "".join(told)

    with running(kube) as first:
        await_that(lambda: scaled() == {"0", "1"})
        with running(kube):
            first.set()
            await_that(lambda: "job-00005: autoscaler leaves the workers as they are: a-launcher scales it" in said())
            await_that(lambda: "job-00003: autoscaler would scale from 1 to 4" in said())
            assert scaled() == {"0", "1"}
            service.freeze(NAMESPACE, "job-00004", frozen=False)
            launchers.release()
            await_that(lambda: scaled() == {"0", "1", "4", "5"})
    jobs, _ = kube.find(DEPLOYMENTS, NAMESPACE)
    assert {each["metadata"]["generation"] for each in jobs if each["spec"]["taskManager"]["replicas"] > 1} == {2}
    leases, _ = kube.find(LEASES, NAMESPACE)
    assert {each["spec"]["holderIdentity"] for each in leases} == {""}, "all are given up"


@pytest.mark.parametrize(
    ("key", "values", "told"),
    [
        ("taskmanager.numberOfTaskSlots", ("two", "2"), "its FlinkDeployment cannot be read: "),
        ("job.autoscaler.enabled", ("true", "false"), "the operator's own autoscaler is on (job.autoscaler.enabled: "),
    ],
)
def test_what_somebody_has_edited_so_is_left_alone_until_it_is_right_and_told_once(kube, capfd, key, values, told):
    wrong, right = values

    def edit(value: str) -> None:
        kube.patch(DEPLOYMENTS, NAMESPACE, "job-00000", {"spec": {"flinkConfiguration": {key: value}}})

    create(kube, job(0))
    edit(wrong)
    service = KubernetesOperatorService(kube, cache=False)
    with running(kube):
        for number in (1, 2):
            create(kube, job(number))
            await_that(lambda: scaled(service) == number)  # noqa: B023 - called here
        edit(right)
        await_that(lambda: scaled(service) == 3)
    said = capfd.readouterr().err
    assert said.count(f"job-00000: autoscaler leaves the workers as they are: {told}") == 1


def test_a_job_that_a_horizontal_pod_autoscaler_scales_is_left_alone_until_that_is_gone(kube, capfd, monkeypatch):
    monkeypatch.setattr("beam_k8s.launcher.service._AUTOSCALERS_SECONDS", 0)
    targets = {
        "theirs": ("flink.apache.org/v1beta1", "FlinkDeployment", "job-00000"),
        "behind": ("apps/v1", "Deployment", "job-00001-taskmanager"),
    }
    for name, target in targets.items():
        spec = {"scaleTargetRef": dict(zip(("apiVersion", "kind", "name"), target, strict=True)), "maxReplicas": 9}
        kube.create(AUTOSCALERS, NAMESPACE, {"metadata": {"name": name}, "spec": spec})
    for number in range(3):
        create(kube, job(number))
    service = KubernetesOperatorService(kube, cache=False)
    with running(kube):
        await_that(lambda: scaled(service) == 1)
        assert service.get_status_of_job_by_name(NAMESPACE, "job-00002").workers > 1
        for name in targets:
            kube.delete(AUTOSCALERS, NAMESPACE, name)
        await_that(lambda: scaled(service) == 3)
    said = capfd.readouterr().err
    for number, name in enumerate(targets):
        leaves = f"job-0000{number}: autoscaler leaves the workers as they are: HorizontalPodAutoscaler {name} changes"
        assert said.count(leaves) == 1


JOBS = 30


def create_all(kube: Kube) -> KubernetesOperatorService:
    """Make jobs that all need more workers; returns what tells of them."""
    for number in range(JOBS):
        create(kube, job(number))
    return KubernetesOperatorService(kube, cache=False)


def scaled(service: KubernetesOperatorService) -> int:
    """How many jobs have more workers."""
    return sum(status.workers > 1 for status in service.get_all_jobs(NAMESPACE))


def test_an_api_server_that_is_killed_while_it_is_asked_for_workers_is_asked_once_for_each_job(server, kube):
    service = create_all(kube)
    looks: Counter[str] = Counter()

    class Counted(Overloaded):
        def observe(self):
            looks[self._job.name] += 1
            return super().observe()

    with running(kube, Counted):
        for at_least in (1, JOBS // 3, JOBS):  # in the middle of the others' changes; at last with all made
            await_that(lambda: scaled(service) >= at_least)  # noqa: B023 - called here
            server.kill()
            server.start()
        looks.clear()
        await_that(lambda: len(looks) == JOBS and min(looks.values()) > 2)  # and each is left as it is
    assert_each_was_changed_once(kube, service)


def assert_each_was_changed_once(kube: Kube, service: KubernetesOperatorService) -> None:
    for each in kube.find(DEPLOYMENTS, NAMESPACE)[0]:
        metadata = each["metadata"]
        assert (metadata["generation"], each["spec"]["taskManager"]["replicas"]) == (2, 4)
        assert KubernetesWorkers(service, NAMESPACE, metadata["name"], lambda: None, "me").load().target == 4


def scale_all(kubeconfig: str) -> None:
    """What a process of its own does."""
    kube = Kube.connect(kubeconfig=kubeconfig, namespace=NAMESPACE)
    Fleet(kube, NAMESPACE, "", identity=new_identity(), look=Overloaded).run(threading.Event())


def test_a_process_that_is_killed_among_its_changes_leaves_none_half_made_and_the_next_makes_the_others(server, kube):
    service = create_all(kube)
    program = f"from tests.integration.test_fleet import scale_all; scale_all({str(server.kubeconfig)!r})"
    for at_least in (1, JOBS // 2, JOBS):
        process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
        try:
            await_that(lambda: scaled(service) >= at_least)  # noqa: B023 - called here
        finally:
            process.kill()
            process.wait()
        for lease in kube.find(LEASES, NAMESPACE)[0]:  # rather than wait until they are over
            kube.delete(LEASES, NAMESPACE, lease["metadata"]["name"])
    assert_each_was_changed_once(kube, service)


class Waited:
    """A job that a launcher waits for. What its one worker cannot do, four can."""

    def __init__(self, kube: Kube, name: str) -> None:
        self._service, self.name = KubernetesOperatorService(kube, cache=False), name
        self.looks = 0

    def workers(self) -> KubernetesWorkers:
        return KubernetesWorkers(self._service, NAMESPACE, self.name, lambda: None, new_identity())

    @property
    def status(self) -> JobStatus:
        self.looks += 1
        return self._service.get_status_of_job_by_name(NAMESPACE, self.name)


class Relieved(Simulated):
    """Sees such a job."""

    @property
    def busy(self) -> bool:
        return self._job.status.workers == 1


def launcher(kube: Kube, name: str) -> tuple[Waited, Autoscaling]:
    """One that scales a job as long as it waits for it."""
    conf = SETTINGS.model_dump(exclude={"max_workers"}, exclude_defaults=True)
    conf = {key: str(value) for key, value in conf.items()}
    settings = Settings(job_name=name, autoscaler_mode="on", max_num_workers=64, autoscaler_conf=conf)
    waited = Waited(kube, name)
    with patch("beam_k8s.launcher.autoscale.JobFigures", Relieved):
        return waited, Autoscaling(waited, [], settings)


def stand_still(kubeconfig: str, name: str, moment: str) -> None:
    """What a process of its own does: a launcher that stands still before or after it asks for more workers."""
    kube = Kube.connect(kubeconfig=kubeconfig, namespace=NAMESPACE)
    ask, reached = kube._client.call_api, threading.Event()

    def call_api(path: str, method: str, **arguments: object) -> object:
        changes = method == "PATCH" and name in path and DEPLOYMENTS.plural in path
        answer = None if changes and moment == "before" else ask(path, method, **arguments)
        if changes:
            reached.set()
            threading.Event().wait()
        return answer

    kube._client.call_api = call_api
    launcher(kube, name)
    reached.wait()
    print(moment, flush=True)
    threading.Event().wait()


def test_a_launcher_that_is_killed_in_the_middle_of_a_change_has_made_it_or_not_and_the_next_makes_no_other(
    server, kube, capfd
):
    moments = {"job-00000": "before", "job-00001": "after"}
    for number in range(len(moments)):
        create(kube, job(number, "off"))
    program = "import sys; from tests.integration.test_fleet import stand_still; stand_still(*sys.argv[1:])"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(server.kubeconfig), *each], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for each in moments.items()
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline().strip() in moments.values()
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    service = KubernetesOperatorService(kube, cache=False)
    assert [service.get_status_of_job_by_name(NAMESPACE, name).workers for name in moments] == [1, 4]
    launchers = [launcher(kube, name) for name in moments]
    try:
        told = []

        def heard() -> str:
            told.append(capfd.readouterr().err)
            return "".join(told)

        await_that(lambda: heard().count("autoscaler leaves the workers as they are: ") == len(moments))
        assert scaled(service) == 1  # as long as the dead one's Lease lasts
        for name in moments:  # rather than wait until it is over
            kube.delete(LEASES, NAMESPACE, f"{name}-autoscaler")
        await_that(lambda: scaled(service) == len(moments))
        looks = {waited: waited.looks for waited, _ in launchers}
        await_that(lambda: all(waited.looks > before + 8 for waited, before in looks.items()))
    finally:
        for _, autoscaling in launchers:
            autoscaling.stop()
    assert_each_was_changed_once(kube, service)


def test_of_two_whose_selectors_choose_the_same_jobs_one_changes_each(kube):
    service = create_all(kube)
    jobs = [f"job-{number:05}" for number in range(JOBS)]

    def freeze(frozen: bool) -> None:
        # At once: each waits until nobody has written to its object for seconds.
        with ThreadPoolExecutor(JOBS) as pool:
            list(pool.map(lambda name: service.freeze(NAMESPACE, name, frozen=frozen), jobs))

    freeze(frozen=True)

    def held() -> set[str]:
        return {each["metadata"]["name"] for each in kube.find(LEASES, NAMESPACE)[0]}

    with running(kube), running(kube, selector=f"{NAME_LABEL}=beam-job"):
        await_that(lambda: len(held()) == 2)  # each leads those of its selector
        freeze(frozen=False)
        await_that(lambda: scaled(service) == JOBS)
        assert {f"{name}-autoscaler" for name in jobs} < held()
    assert_each_was_changed_once(kube, service)


def test_a_job_whose_change_is_throttled_keeps_no_other_waiting_and_is_changed_later(kube, monkeypatch):
    monkeypatch.setattr("beam_k8s.launcher.fleet.THREADS", 1)
    monkeypatch.setattr("beam_k8s.launcher.kube._PATIENCE_SECONDS", 3600)  # of who waits until he is served
    throttles, refused, ask = threading.Event(), threading.Event(), kube._client.call_api

    def call_api(path: str, method: str, **arguments: object) -> object:
        if throttles.is_set() and method == "PATCH" and "/job-00000" in path:
            refused.set()
            raise client.ApiException(status=429, reason="Too Many Requests")
        return ask(path, method, **arguments)

    monkeypatch.setattr(kube._client, "call_api", call_api)
    create(kube, job(0))
    throttles.set()
    service = KubernetesOperatorService(kube, cache=False)
    with running(kube):
        await_that(refused.is_set)
        for number in (1, 2):
            create(kube, job(number))
        await_that(lambda: scaled(service) == 2)
        throttles.clear()
        await_that(lambda: scaled(service) == 3)


def test_a_lease_is_one_holders_until_nothing_is_heard_of_him_for_its_time(kube):
    now = 1000.0
    mine, other = (Lease(kube, NAMESPACE, "lease", who, seconds=60, clock=lambda: now) for who in ("me", "other"))
    assert mine.hold()
    assert not other.hold()
    assert other.holder == "me"
    now += 30
    assert mine.hold()  # renewed, which the other sees
    now += 40
    assert not other.hold()
    now += 59
    assert not other.hold()
    now += 1
    assert other.hold()
    assert not mine.hold()
    assert mine.holder == "other"
    other.release()
    assert mine.hold()
    kube.delete(LEASES, NAMESPACE, "lease")
    now += 30
    assert mine.hold()
    kube.delete(LEASES, NAMESPACE, "lease")
    mine.release()


def test_who_holds_a_lease_is_heard_and_that_nothing_is_heard_of_him_any_more(kube):
    with closing(HeldLeases(kube, NAMESPACE, "")) as held:
        Lease(kube, NAMESPACE, "brief", "me", seconds=2).hold()
        await_that(lambda: held.holder(NAMESPACE, "brief") == "me")
        await_that(lambda: held.holder(NAMESPACE, "brief") == "")
        lasting = Lease(kube, NAMESPACE, "lasting", "me")
        lasting.hold()
        await_that(lambda: held.holder(NAMESPACE, "lasting") == "me")
        lasting.release()
        await_that(lambda: held.holder(NAMESPACE, "lasting") == "")


def test_the_command_ends_when_it_is_told_to_and_gives_up_its_lease(kube):
    where = ["-n", NAMESPACE, *(flag.replace("--k8s_", "--") for flag in kube.flags)]
    process = subprocess.Popen(
        [sys.executable, "-m", "beam_k8s", "autoscale", *where], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "autoscale: this process scales now" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    leases, _ = kube.find(LEASES, NAMESPACE)
    assert [each["spec"]["holderIdentity"] for each in leases] == [""]
    process.stderr.close()


def test_freeze_and_unfreeze_say_what_they_did_and_how_it_is_undone(kube):
    def says(*words: str, code: int = 0) -> str:
        where = ["-n", NAMESPACE, *(flag.replace("--k8s_", "--") for flag in kube.flags)]
        ended = subprocess.run(
            [sys.executable, "-m", "beam_k8s", *words, *where], capture_output=True, text=True, check=False, timeout=60
        )
        assert ended.returncode == code, ended.stderr
        return ended.stdout if words[0] == "describe" else ended.stderr

    create(kube, job(0))
    kube.patch(DEPLOYMENTS, NAMESPACE, "job-00000", {"status": {"jobStatus": None}}, subresource="status")
    undo = f"beam-k8s {{}} job-00000 -n {NAMESPACE}\n"
    assert says("freeze", "job-00000") == f"no autoscaler changes job-00000 until: {undo.format('unfreeze')}"
    assert "Autoscaler:    frozen: policy threshold" in says("describe", "job-00000")
    assert says("scale", "job-00000", "--replicas=2") == "job-00000 is to have 2 workers\n"
    assert says("unfreeze", "job-00000") == "job-00000 is scaled by its autoscaler again\n"
    assert "Autoscaler:    on: policy threshold" in says("describe", "job-00000")
    assert says("scale", "job-00000", "--replicas=3").endswith(f"to keep it: {undo.format('freeze')}")
    assert "no job nobody is in namespace" in says("freeze", "nobody", code=4)


def test_no_more_workers_are_asked_for_than_a_quota_has_room_for(kube):
    create(kube, job(0))
    workers = KubernetesWorkers(
        KubernetesOperatorService(kube, cache=False), NAMESPACE, "job-00000", lambda: None, "me"
    )
    assert workers.look().room is None
    quota = {"metadata": {"name": "pods"}, "spec": {"hard": {"pods": "10"}}}
    kube.create(QUOTAS, NAMESPACE, quota)
    # What a controller does where there is one.
    kube.patch(
        QUOTAS, NAMESPACE, "pods", {"status": {"hard": {"pods": "10"}, "used": {"pods": "7"}}}, subresource="status"
    )
    fresh = KubernetesWorkers(KubernetesOperatorService(kube, cache=False), NAMESPACE, "job-00000", lambda: None, "me")
    assert fresh.look().room == 3
