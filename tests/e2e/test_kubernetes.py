"""Pipelines on Kubernetes, as their users run them: real API server, operator, registry, Kafka."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import textwrap
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from kafka import KafkaAdminClient

from beam_k8s.errors import FlinkError, KubernetesError
from beam_k8s.launcher.kube import DEPLOYMENTS, EVENTS, LEASES, PODS, Kind
from tests.cluster.checkpoints import occurrences
from tests.cluster.demo import EXAMPLE, example_module
from tests.cluster.exact import PARTITIONS, Producer, verdict
from tests.cluster.kafka import KafkaBroker
from tests.cluster.kube import HOST
from tests.cluster.launch import ROOT
from tests.cluster.submit import Submitter
from tests.e2e.test_flights import OPTIONS, assert_right, tables, written

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.launch import Launch

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

data = example_module("data")


@pytest.fixture
def submitter(kube_cluster, tenant, runtime_image, tmp_path):
    running = Submitter(kube_cluster, tenant, runtime_image, tmp_path)
    yield running
    running.close()


@pytest.fixture
def script(tmp_path):
    """Writes a program of the user's; gives its path."""

    def write(text: str) -> Path:
        path = tmp_path / "my_pipeline.py"
        path.write_text(textwrap.dedent(text))
        return path

    return write


def test_the_whole_year_of_flights_is_right(submitter, pod_broker, unique):
    names = {}
    flights, weather = tables()
    for name, partitions in data.TOPICS.items():
        names[name] = f"{name}-{unique}"
        pod_broker.create_topics({names[name]: partitions}, config=data.TOPIC_CONFIG)
    for name, records in (("flights", data.flight_records(flights)), ("weather", data.weather_records(weather))):
        data.produce(pod_broker.bootstrap_servers, names[name], records, lambda _: None)
    launch = submitter.launch(
        EXAMPLE / "pipeline.py",
        unique,
        f"--bootstrap_servers={pod_broker.bootstrap_servers}",
        *(f"--{option}_topic={names[name]}" for option, name in OPTIONS.items()),
        *("--until_now", "--streaming"),
    )
    assert launch.wait(600) == 0, launch.output
    assert re.search(
        r"runs \d+\.\d s after the command \(plan .* image .* operator .* JobManager .* job ", launch.output
    )
    assert_right(written(pod_broker, names["flights-by-hour"]))
    assert submitter.status(unique).state == "DONE"


EXACT = """
    import argparse
    import apache_beam as beam
    import beam_k8s
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.transforms.userstate import CombiningValueStateSpec
    from beam_k8s import ReadFromKafka, WriteToKafka

    class Count(beam.DoFn):
        SEEN = CombiningValueStateSpec("seen", sum)

        def process(self, element, seen=beam.DoFn.StateParam(SEEN)):
            key, value = element
            seen.add(1)
            number = seen.read()
            if number == 1:
                print("first of", key.decode())
            yield key, value + b",%d" % number

    if __name__ == "__main__":
        parser = argparse.ArgumentParser()
        for name in ("servers", "source", "sink"):
            parser.add_argument(f"--{name}")
        parser.add_argument("--guarantee", default="exactly_once")
        own, rest = parser.parse_known_args()
        kafka = {"bootstrap.servers": own.servers}
        with beam.Pipeline(options=PipelineOptions(rest, save_main_session=True)) as p:
            (
                p
                | ReadFromKafka(kafka | {"auto.offset.reset": "earliest"}, [own.source])
                | beam.ParDo(Count()).with_output_types(tuple[bytes, bytes])
                | WriteToKafka(kafka, own.sink, delivery_guarantee=own.guarantee)
            )
"""


class Exact:
    """A stateful streaming job under a steady producer."""

    def __init__(self, submitter: Submitter, broker: KafkaBroker, path: Path, name: str) -> None:
        self.submitter, self.broker, self.path, self.name = submitter, broker, path, name
        self.source, self.sink = f"source-{name}", f"sink-{name}"
        broker.create_topics({self.source: PARTITIONS, self.sink: 2})
        self.producer = Producer(broker, self.source, rate=200)
        self.flink = submitter.kube.flink(submitter.tenant.name, name)

    def launch(self, *flags: str) -> Launch:
        ours = [f"--servers={self.broker.bootstrap_servers}", f"--source={self.source}", f"--sink={self.sink}"]
        return self.submitter.launch(self.path, self.name, *ours, "--checkpointing_interval=2000", *flags)

    def start(self, *flags: str) -> Launch:
        launch = self.launch(*flags)
        launch.await_output(r" is RUNNING", timeout=300)
        return launch

    def await_that(self, what: Any, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, (what, self.submitter.status(self.name), self.submitter.troubles())
            time.sleep(0.5)

    def checkpoints(self) -> int:
        status = self.submitter.status(self.name)
        try:
            return self.flink.get(f"/jobs/{status.flink_job_id}/checkpoints")["counts"]["completed"]
        except (FlinkError, KubernetesError):
            return -1

    def await_progress(self) -> None:
        """Wait for two checkpoints: the first to complete may have begun before."""
        seen = [self.checkpoints()]

        def more() -> bool:
            now = self.checkpoints()
            if 0 <= now < seen[0]:
                seen[0] = now  # a new JobManager counts anew
            return 0 <= seen[0] <= now - 2 or (seen[0] < 0 and bool(seen.insert(0, now)))

        self.await_that(more)

    def await_output(self, produced: int) -> None:
        self.await_that(lambda: len(self.broker.read_topic(self.sink)) >= produced)


@pytest.fixture
def exact(submitter, pod_broker, script, unique):
    job = Exact(submitter, pod_broker, script(EXACT), unique)
    yield job
    job.producer.stop()
    job.flink.close()


def command(submitter: Submitter, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``beam-k8s`` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "beam_k8s", *arguments, f"--namespace={submitter.tenant.name}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=submitter.environment,
    )


def forked(name: str) -> list[psutil.Process]:
    """Python harnesses of a job's pods that came from their TaskManager's warm process; pods run on this machine."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if "--warm=1" in command and process.environ().get("HOSTNAME", "").startswith(f"{name}-"):
                parent = process.parent()
                found += [process] if parent is not None and parent.cmdline() == command else []
    return found


AUTOSCALED = [
    "--k8s_autoscaler_mode=on",
    "--max_num_workers=1",
    *(f"--k8s_autoscaler_conf={each}" for each in ("interval=5", "window=10", "settle=30", "provision_timeout=60")),
]


@pytest.mark.parametrize("count", [3, pytest.param(7, marks=pytest.mark.slow)])
def test_rescales_and_kills_lose_nothing_and_double_nothing(exact, submitter, kube_cluster, count):
    launch = exact.start(*AUTOSCALED)
    name, kube, namespace = exact.name, submitter.kube, submitter.tenant.name
    exact.await_progress()
    job_id = submitter.status(name).flink_job_id

    def uid(component):
        return {pod["metadata"]["uid"] for pod in submitter.pods(name, component)}

    def scale(workers):
        before = uid("jobmanager")
        assert submitter.service.update_replica(namespace, name, workers).workers == workers
        await_workers(workers)
        assert uid("jobmanager") == before

    def await_workers(workers):
        exact.await_that(lambda: len(uid("taskmanager")) == workers)
        submitter.await_status(name, lambda it: it.ready_workers == workers and it.flink_state == "RUNNING")

    def three_that_are_too_many(and_then=lambda: None):
        """The autoscaler takes two of them away; what happens as it does so makes it neither stop nor do more."""
        said = "autoscaler scales from 3 to 1 workers: 3 workers are outside the limits of 1 to 1"
        before, decisions = generation(), launch.output.count("autoscaler scales")
        scale(3)
        exact.await_that(lambda: launch.output.count("autoscaler scales") > decisions, 240)
        and_then()
        await_workers(1)
        exact.await_progress()
        assert launch.output.count("autoscaler scales") == launch.output.count(said) == decisions + 1
        assert generation() == before + 2

    def generation():
        return kube.get(DEPLOYMENTS, namespace, name)["metadata"]["generation"]

    def kill(where, labels):
        pods, _ = kube.find(PODS, where, labels=labels)
        pod = random.choice([each for each in pods if "deletionTimestamp" not in each["metadata"]])
        kube._json(
            *("DELETE", PODS.path(where, pod["metadata"]["name"]), "delete", PODS, where),
            body={"gracePeriodSeconds": 0},
        )

    def restart_api_server():
        if "BEAM_K8S_TEST_CLUSTER" in os.environ:
            print("... the cluster is not ours: left alone")
        else:
            kube_cluster.restart("kube-apiserver")

    def restart_broker():
        exact.broker.kill()
        exact.broker.start()

    steps = {
        "three workers, then one": three_that_are_too_many,
        "the JobManager dies as workers go": lambda: three_that_are_too_many(
            lambda: kill(namespace, f"app={name},component=jobmanager")
        ),
        "the broker dies as workers go": lambda: three_that_are_too_many(restart_broker),
        "a TaskManager dies": lambda: kill(namespace, f"app={name},component=taskmanager"),
        "the JobManager dies": lambda: kill(namespace, f"app={name},component=jobmanager"),
        "the operator dies": lambda: kill("flink-operator", ""),
        "the API server restarts": restart_api_server,
    }
    assert "BEAM_K8S_TEST_CLUSTER" in os.environ or forked(name)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    for step in random.Random(seed).sample(sorted(steps), count):
        print(step)
        steps[step]()
        exact.await_progress()
        assert submitter.status(name).flink_job_id == job_id
    produced = exact.producer.stop()
    exact.await_output(produced)
    assert not verdict(exact.broker, exact.sink, produced)
    # A job of this name in another namespace does not fence this one's transactions.
    with closing(KafkaAdminClient(bootstrap_servers=exact.broker.bootstrap_servers)) as admin:
        ids = [each.transactional_id for listed in admin.list_transactions().values() for each in listed]
    assert any(each.startswith(f"{namespace}/{name}/") for each in ids), ids
    assert launch.process.poll() is None, launch.output
    assert launch.output.count("[worker ") >= 40  # a line for each key, as its first record came

    done = command(submitter, "delete", name, "--no-savepoint")
    assert done.returncode == 0, done.stderr
    assert launch.wait() != 0
    assert f"job {name} ended in state CANCELLED" in launch.output
    submitter.await_nothing()


def test_a_job_goes_on_without_its_launcher_and_from_where_it_was_cancelled(exact, submitter):
    launch = exact.start()
    launch.interrupt()
    assert launch.wait() != 0
    assert f"goes on without this terminal. Stop it with: beam-k8s cancel {exact.name}" in launch.output
    exact.await_progress()

    places = ("--source=a", "--sink=b", "--servers=x:1")
    again = submitter.launch(exact.path, exact.name, *places)
    assert again.wait() != 0
    assert "a job of that name is RUNNING.\n  Use another name, or stop it, with a savepoint: beam-k8s cancel" in (
        again.output
    )
    refused = submitter.launch(exact.path, exact.name, "--update", *places)
    assert refused.wait() != 0
    assert "--update: a running job cannot be replaced in place yet" in refused.output

    logs = command(submitter, "logs", exact.name)
    assert "first of key-0" in logs.stdout
    cancelled = command(submitter, "cancel", exact.name)
    assert cancelled.returncode == 0, cancelled.stderr
    submitter.await_nothing()
    savepoint = cancelled.stdout.strip()
    folder = submitter.tenant.volume / savepoint.removeprefix("file:").lstrip("/").removeprefix("flink-data/")
    assert (folder / "_metadata").is_file()

    detached = exact.launch(f"--savepoint_path={savepoint}", "--k8s_detach")
    assert detached.wait() == 0, detached.output
    produced = exact.producer.stop()
    exact.await_output(produced)
    assert not verdict(exact.broker, exact.sink, produced)


@pytest.mark.slow
def test_pods_of_images_deploy_scale_a_job_that_no_launcher_waits_for(exact, submitter, kube_cluster, runtime_image):
    name, kube, namespace = exact.name, submitter.kube, submitter.tenant.name
    detached = exact.launch("--k8s_detach", *AUTOSCALED)
    assert detached.wait() == 0, detached.output
    text = (ROOT / "images/deploy/autoscaler/autoscaler.yaml").read_text().replace("beam-jobs", namespace)
    kube_cluster.create(text.replace("image: beam-k8s-runtime", f"image: {runtime_image}"))
    exact.await_progress()

    def leader():
        leases, _ = kube.find(LEASES, namespace)
        (lease,) = (each for each in leases if each["metadata"]["name"].startswith("beam-k8s-autoscaler-"))
        return lease["spec"]["holderIdentity"]

    def too_many_are_taken_away():
        submitter.service.update_replica(namespace, name, 3)
        submitter.await_status(name, lambda it: it.workers == 1 and it.ready_workers == 1, timeout=300)

    too_many_are_taken_away()
    first = leader()
    pods, _ = kube.find(PODS, namespace, labels="app.kubernetes.io/name=beam-k8s-autoscaler")
    (pod,) = (each["metadata"]["name"] for each in pods if each["metadata"]["name"] in first)
    kube.delete(PODS, namespace, pod)
    exact.await_that(lambda: leader() not in {"", first})
    too_many_are_taken_away()
    produced = exact.producer.stop()
    exact.await_output(produced)
    assert not verdict(exact.broker, exact.sink, produced)


SECRET = "ZZZPLANTED"
SECURED = """
    import sys
    import apache_beam as beam
    import beam_k8s
    from apache_beam.options.pipeline_options import PipelineOptions
    from beam_k8s import ReadFromKafka, WriteToKafka

    class Check(beam.DoFn):
        def process(self, element):
            from apache_beam.options.value_provider import RuntimeValueProvider

            if not any(str(value).startswith("ZZZ") for value in RuntimeValueProvider.runtime_options.values()):
                raise ValueError("the option is not there")
            yield element

    if __name__ == "__main__":
        kafka = {
            "bootstrap.servers": sys.argv[1],
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.jaas.config": "file:/etc/secrets/kafka-login/jaas",
        }
        source, sink = sys.argv[2:4]
        with beam.Pipeline(options=PipelineOptions(sys.argv[4:], save_main_session=True)) as p:
            (
                p
                | ReadFromKafka(kafka | {"auto.offset.reset": "earliest"}, [source])
                | beam.ParDo(Check()).with_output_types(tuple[bytes, bytes])
                | WriteToKafka(kafka, sink, delivery_guarantee="exactly_once")
            )
"""


def test_secrets_are_in_no_layer_object_log_or_checkpoint(submitter, script, unique, tmp_path, pod_registry):
    password = f"{SECRET}KAFKA"
    with KafkaBroker(tmp_path / "kafka", users={"beam": password}, address=HOST) as broker:
        broker.create_topics({"in": PARTITIONS, "out": 1})
        producer = Producer(broker, "in", rate=50)
        kube, namespace = submitter.kube, submitter.tenant.name
        jaas = (
            f'org.apache.kafka.common.security.plain.PlainLoginModule required username="beam" password="{password}";'
        )
        kube.create(
            Kind("", "v1", "secrets"),
            namespace,
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "kafka-login", "namespace": namespace},
                "stringData": {"jaas": jaas},
            },
        )
        path = script(SECURED)
        text = path.read_text().replace("sys.argv[1]", repr(broker.servers("SASL_PLAINTEXT")))
        path.write_text(text.replace("sys.argv[2:4]", "('in', 'out')").replace("sys.argv[4:]", "sys.argv[1:]"))
        launch = submitter.launch(
            path,
            unique,
            *(f"--planted_{number}={SECRET}_{number}" for number in range(20)),
            *("--k8s_secrets=kafka-login", "--checkpointing_interval=2000"),
        )
        launch.await_output(r" is RUNNING", timeout=300)
        deadline = time.monotonic() + 180
        while len(broker.read_topic("out")) < 100:  # it has both secrets, or nothing would come; some checkpoints too
            assert time.monotonic() < deadline, launch.output
            time.sleep(1)
        producer.stop()
        savepoint = command(submitter, "savepoint", unique)
        assert savepoint.returncode == 0, savepoint.stderr

        found = {}
        registry = (pod_registry.folder / "data").rglob("data")
        found["image"] = [str(blob) for blob in registry if SECRET.encode() in blob.read_bytes()]
        objects = []
        for kind in (DEPLOYMENTS, PODS, EVENTS, Kind("", "v1", "configmaps"), Kind("apps", "v1", "deployments")):
            objects += kube.find(kind, namespace)[0]
        assert len(objects) > 5
        found["objects"] = [each["metadata"]["name"] for each in objects if SECRET in json.dumps(each)]
        pods, _ = kube.find(PODS, namespace)
        operator, _ = kube.find(PODS, "flink-operator")
        found["logs"] = [
            pod["metadata"]["name"]
            for pod in (*pods, *operator)
            if any(SECRET in line for line in kube.log(pod["metadata"]["namespace"], pod["metadata"]["name"]))
        ]
        assert next(submitter.tenant.volume.rglob("_metadata"))
        found["checkpoints"] = [count for count in occurrences(submitter.tenant.volume, SECRET) if count]
        found["launcher"] = [line for line in launch.lines if SECRET in line]
        assert found == {"image": [], "objects": [], "logs": [], "checkpoints": [], "launcher": []}


SMALL = """
    import sys
    import apache_beam as beam
    import beam_k8s
    from apache_beam.options.pipeline_options import PipelineOptions

    def work(number):
        if "--eat" in sys.argv or EAT:
            hoard = []
            while True:
                hoard.append(bytearray(b"x" * (64 << 20)))
        return number

    EAT = "--eat" in sys.argv

    if __name__ == "__main__":
        arguments = [each for each in sys.argv[1:] if each != "--eat"]
        with beam.Pipeline(options=PipelineOptions(arguments, save_main_session=True)) as p:
            p | beam.Create([1, 2, 3]) | beam.Map(work)
"""


COUNTED = """
    import sys
    import apache_beam as beam
    import beam_k8s
    from apache_beam.metrics import Metrics
    from apache_beam.options.pipeline_options import PipelineOptions

    class Odd(beam.DoFn):
        def process(self, number):
            Metrics.counter("numbers", "odd").inc(number % 2)
            yield number

    if __name__ == "__main__":
        pipeline = beam.Pipeline(options=PipelineOptions(sys.argv[1:], save_main_session=True))
        pipeline | beam.Create(range(101)) | beam.Reshuffle() | beam.ParDo(Odd())
        result = pipeline.run()
        result.wait_until_finish()
        for odd in result.metrics().query(beam.metrics.MetricsFilter().with_name("odd"))["counters"]:
            print("odd numbers:", odd.committed)
"""


def test_a_batch_job_is_done_tells_its_metrics_and_leaves_its_name_to_the_next(submitter, script, unique):
    path = script(COUNTED)
    launch = submitter.launch(path, unique, "--num_workers=2")
    assert launch.wait(600) == 0, launch.output
    assert "odd numbers: 50" in launch.output
    first = submitter.status(unique)
    with submitter.service as service:
        status = service.submit_job(submitter.tenant.name, [str(path), *submitter.flags(unique), "--num_workers=2"])
        assert (status.name, status.ours) == (unique, True)
        assert status.job_id != first.job_id
        service.wait(submitter.tenant.name, unique, lambda it: it.state == "DONE", timeout=240)


def quota(submitter):
    hard = {"spec": {"hard": {"requests.memory": "3Gi", "limits.memory": "3Gi"}}}
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, **hard}
    submitter.kube.create(Kind("", "v1", "resourcequotas"), submitter.tenant.name, body)
    # The quota's controller has to have counted once.
    deadline = time.monotonic() + 60
    while not submitter.kube.find(Kind("", "v1", "resourcequotas"), submitter.tenant.name)[0][0]["status"].get("hard"):
        assert time.monotonic() < deadline
        time.sleep(0.2)


NO_IMAGE = "--k8s_image={registry}/jobs@sha256:" + 64 * "1"


@pytest.mark.parametrize(
    ("flags", "says", "way_out"),
    [
        ([], "quota", "--machine_type"),
        (["--k8s_service_account=nobody"], "nobody", "service"),
        (["--k8s_storage_claim=none"], "none", "claim"),
        (["--k8s_runtime_image={registry}/none:1"], "{registry}/none:1", ""),
        (["--k8s_worker_cpu=64", "--k8s_start_timeout=30"], "Insufficient", "--k8s_worker_cpu"),
        ([NO_IMAGE], "cannot pull image", "registry"),
    ],
    ids=["quota", "account", "claim", "base", "no node", "no image"],
)
def test_what_cannot_run_ends_in_one_clear_error_and_leaves_nothing(submitter, script, flags, says, way_out):
    unique = submitter.tenant.name
    if says == "quota":
        quota(submitter)
    here = {"registry": submitter.registry}
    launch = submitter.launch(script(SMALL), unique, *(flag.format(**here) for flag in flags))
    assert launch.wait() != 0
    last = launch.output.rpartition("beam_k8s.errors.")[2]
    assert says.format(**here) in last, launch.output
    assert way_out in last
    submitter.await_nothing()


def test_a_foreign_flinkdeployment_of_that_name_stays_as_it_is(submitter, script, unique):
    foreign = {
        "apiVersion": "flink.apache.org/v1beta1",
        "kind": "FlinkDeployment",
        "metadata": {"name": unique, "namespace": submitter.tenant.name},
        # The operator refuses it and makes nothing.
        "spec": {"image": "none", "flinkVersion": "v1_19", "job": {"state": "suspended", "jarURI": "local:///x.jar"}},
    }
    submitter.kube.create(DEPLOYMENTS, submitter.tenant.name, foreign)
    launch = submitter.launch(script(SMALL), unique)
    assert launch.wait() != 0
    assert "which beam_k8s has not made" in launch.output
    now = submitter.kube.get(DEPLOYMENTS, submitter.tenant.name, unique)
    assert (now["spec"]["image"], now["metadata"].get("labels")) == ("none", None)


def test_python_that_is_killed_for_its_memory_is_told_so(submitter, script, unique):
    launch = submitter.launch(script(SMALL), unique, "--eat")
    assert launch.wait(600) != 0
    assert "was killed: out of memory" in launch.output.rpartition("JobFailed")[2], launch.output
    assert "larger --machine_type" in launch.output


def test_a_dry_run_says_what_would_be_and_creates_nothing(submitter, script, unique):
    server = submitter.launch(script(SMALL), unique, "--k8s_dry_run=server")
    assert server.wait() == 0, server.output
    assert f"job {unique} on kubernetes" in server.output
    refused = submitter.launch(script(SMALL), unique, "--k8s_dry_run=server", "--labels=team=a b")
    assert refused.wait() != 0
    assert "label team=a b" in refused.output
    assert submitter.left() == []
