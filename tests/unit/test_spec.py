"""From settings and facts to Kubernetes objects."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_k8s import names
from beam_k8s.errors import ConfigError
from beam_k8s.flink_conf import TaskManagerMemory, job_conf
from beam_k8s.settings import Settings
from beam_k8s.spec import DeploymentRequest, build_deployment, worker_size

HEX = "0123456789abcdef"


def settings_of(**given):
    return Settings(**{"job_name": "flights", "storage": "s3://bucket/beam", "streaming": True} | given)


def request_of(settings, **given):
    facts = {
        "namespace": "team-a",
        "job_id": HEX * 2,
        "image": f"registry.example.com/flights@sha256:{HEX * 4}",
        "flink_conf": job_conf(settings, unbounded=settings.streaming) | settings.flink_conf,
        "options": "{}",
    }
    return DeploymentRequest(**facts | given)


def build(settings=None, **given):
    settings = settings or settings_of()
    return build_deployment(settings, request_of(settings, **given))


LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
SETTINGS = st.builds(
    settings_of,
    job_name=st.from_regex(r"[a-z]([-a-z0-9]{0,43}[a-z0-9])?", fullmatch=True),
    streaming=st.booleans(),
    num_workers=st.integers(1, 9),
    machine_type=st.sampled_from(["n1-standard-1", "n1-highcpu-2", "n1-highmem-4"]),
    checkpointing_interval=st.sampled_from([-1, 10_000]),
    flink_conf=st.dictionaries(st.from_regex(r"x\.[a-z]{1,8}", fullmatch=True), st.text(), max_size=3),
)


@st.composite
def built(draw, **given):
    settings = draw(SETTINGS)
    facts = {
        "namespace": draw(LABEL),
        "tenant": draw(LABEL),
        "labels": draw(st.dictionaries(LABEL, LABEL, max_size=2)),
        "cpu": draw(st.none() | st.floats(0.1, 8)),
    }
    return settings, build(settings, **facts | given)


@given(built())
def test_every_flink_setting_is_a_string(case):
    _, manifests = case
    configuration = manifests.deployment.document()["spec"]["flinkConfiguration"]
    assert all(isinstance(value, str) for value in configuration.values())


@given(st.dictionaries(st.from_regex(r"mine_[a-z]{1,8}", fullmatch=True), st.text().map("planted-{}".format)))
def test_option_values_are_in_the_secret_and_never_in_the_deployment(options):
    text = json.dumps(options)
    manifests = build(options=text)
    assert base64.b64decode(manifests.options["data"]["options.json"]).decode() == text
    for shown in (json.dumps(manifests.deployment.document()), repr(manifests), repr(request_of(settings_of()))):
        assert "planted-" not in shown


@given(built())
def test_all_names_are_names_that_kubernetes_takes(case):
    _, manifests = case
    document = manifests.deployment.document()
    pod = document["spec"]["podTemplate"]["spec"]
    # The operator names Deployments after the job; their pods' names are cut by Kubernetes.
    assert names.is_dns_label(f"{document['metadata']['name']}-taskmanager")
    assert names.is_dns_label(document["metadata"]["namespace"])
    assert names.is_subdomain(manifests.options["metadata"]["name"])
    assert all(names.is_dns_label(volume["name"]) for volume in pod["volumes"])
    for labels in (
        document["metadata"]["labels"],
        manifests.options["metadata"]["labels"],
        document["spec"]["podTemplate"]["metadata"]["labels"],
    ):
        assert all(names.is_label_value(value) for value in labels.values())
        assert labels[names.JOB_ID_LABEL] == HEX * 2
        assert labels.items() >= names.JOB_SELECTOR.items()


@given(built())
def test_every_mount_has_its_volume_and_the_options_are_read_only(case):
    pod = case[1].deployment.spec.pod_template["spec"]
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert mounts["options"]["readOnly"]
    arguments = case[1].deployment.spec.job.args
    assert f"{mounts['options']['mountPath']}/options.json" == arguments[arguments.index("--options-reference") + 1]


def test_pods_pass_the_restricted_pod_security_standard():
    pod = build().deployment.spec.pod_template["spec"]
    assert all(set(volume) - {"name"} <= {"emptyDir", "persistentVolumeClaim", "secret"} for volume in pod["volumes"])
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_two_jobs_of_one_name_in_two_namespaces_share_no_folder():
    folders = [
        {value for value in build(namespace=namespace).deployment.spec.flink_configuration.values() if "://" in value}
        for namespace in ("team-a", "team-b")
    ]
    assert [len(each) for each in folders] == [3, 3]
    assert not folders[0] & folders[1]


@pytest.mark.parametrize(("mode", "operators"), [("off", None), ("recommend", "false"), ("on", "false")])
def test_a_job_that_is_scaled_is_not_by_the_operator_whatever_its_defaults(mode, operators):
    conf = build(settings_of(autoscaler_mode=mode)).deployment.spec.flink_configuration
    assert conf.get("job.autoscaler.enabled") == operators


def test_a_stream_keeps_its_state_over_upgrades_and_a_batch_job_starts_again():
    stream, batch = build().deployment.spec, build(settings_of(streaming=False)).deployment.spec
    assert (stream.job.upgrade_mode, batch.job.upgrade_mode) == ("savepoint", "stateless")
    assert stream.flink_configuration["scheduler-mode"] == "reactive"
    assert "scheduler-mode" not in batch.flink_configuration


def test_the_users_flink_settings_win_and_his_java_options_come_last():
    settings = settings_of(flink_conf={"heartbeat.timeout": "60000", "env.java.opts.all": "-Dmine=1"})
    configuration = build(settings).deployment.spec.flink_configuration
    assert configuration["heartbeat.timeout"] == "60000"
    assert configuration["env.java.opts.all"].endswith("java.base/sun.nio.ch=ALL-UNNAMED -Dmine=1")


@pytest.mark.parametrize(
    ("machine_type", "cpu", "size"),
    [
        ("n1-standard-1", None, (1, 4096)),
        ("n1-standard-4", None, (4, 16384)),
        ("n1-highmem-2", None, (2, 13312)),
        ("n1-highcpu-4", None, (4, 4096)),
        ("n1-highcpu-1", None, (1, 2048)),  # less does not hold a JVM and Python
        ("n1-standard-1", 0.5, (0.5, 2048)),
        ("n1-standard-1", 0.25, (0.25, 2048)),
        ("n1-standard-4", 1.5, (1.5, 6144)),
    ],
)
def test_a_worker_is_as_large_as_its_type_says(machine_type, cpu, size):
    assert worker_size(machine_type, cpu) == size


@given(st.integers(2048, 1 << 20))
def test_a_pods_memory_is_divided_without_rest_half_of_it_to_python(total):
    memory = TaskManagerMemory.of_pod(total)
    assert memory.total == total
    assert memory.python == total // 2
    assert memory.task_heap >= 128


def test_all_that_is_wrong_is_said_at_once():
    settings = settings_of(
        storage="file:///data",
        task_slots=16,
        flink_conf={"s3.secret-key": "planted", "kubernetes.cluster-id": "x", "kubernetes.secrets": "s3:/s3"},
    )
    with pytest.raises(ConfigError) as error:
        build(
            settings,
            namespace="Team_A",
            job_id="1",
            image="registry.example.com/flights:latest",
            service_account="no name",
            tenant="-",
            labels={"beam-k8s.dev/job-id": "2", "a/b/c": "d", "e": "f g"},
        )
    text = str(error.value)
    for part in (
        "namespace=Team_A",
        "job id 1 ",
        "flights:latest is not pinned",
        "service account no name",
        "tenant -",
        "label beam-k8s.dev/job-id=2",
        "label a/b/c=d",
        "label e=f g",
        "--k8s_storage=file:///data needs a PersistentVolumeClaim",
        "16 Python workers have 2048 MiB",
        "--k8s_flink_conf=s3.secret-key is refused",
        "--k8s_flink_conf=kubernetes.cluster-id is refused",
    ):
        assert part in text
    assert "planted" not in text
    assert "kubernetes.secrets" not in text


@pytest.mark.parametrize(
    ("storage", "claim"),
    [
        (None, None),
        ("bucket/beam", None),
        ("s3://bucket", "data"),
        ("file:///", "data"),
        ("file://data", "data"),
        ("file:///data", "No Claim"),
    ],
)
def test_storage_that_pods_would_not_share_is_refused(storage, claim):
    with pytest.raises(ConfigError, match=r"storage|claim"):
        build(settings_of(storage=storage), storage_claim=claim)
