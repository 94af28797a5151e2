"""What flags, environment and file come to, and what is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_k8s.errors import ConfigError
from beam_k8s.names import MAX_JOB_NAME, check_job_name
from beam_k8s.settings import resolve

LOCAL = {"job_name": "flights", "k8s_target": "local"}


def test_flag_beats_environment_beats_file_beats_default():
    environment = {"BEAM_K8S_TASK_SLOTS": "3", "BEAM_K8S_NUM_WORKERS": "4"}
    file = {"task_slots": 5, "num_workers": 6, "checkpointing_interval": 7000}
    settings = resolve(LOCAL | {"k8s_task_slots": "2"}, environment, file)
    assert (settings.slots, settings.workers, settings.checkpointing_interval) == (2, 4, 7000)
    assert settings.max_bundle_size == 20_000


def test_every_wrong_setting_is_named_with_its_value_at_once():
    flags = {
        "job_name": "No_Name",
        "k8s_target": "mars",
        "num_workers": 0,
        "machine_type": "huge",
        "flink_version": "1.17",
        "k8s_flink_conf": ["nonsense", "pipeline.jars=x.jar"],
        "checkpointing_interval": "soon",
    }
    with pytest.raises(ConfigError) as error:
        resolve(flags, {"BEAM_K8S_TASK_SLOTS": "many"}, {"no_such": 1})
    text = str(error.value)
    for part in (
        "--job_name=No_Name",
        "--k8s_target=mars",
        "--num_workers=0",
        "--machine_type=huge",
        "--flink_version=1.17",
        "--k8s_flink_conf=nonsense",
        "pipeline.jars=x.jar",
        "--checkpointing_interval=soon",
        "BEAM_K8S_TASK_SLOTS=many",
        "beam_k8s.toml: no_such",
    ):
        assert part in text


def test_bundles_must_be_finished_before_checkpoints_in_streaming():
    flags = LOCAL | {"finish_bundle_before_checkpointing": "false"}
    assert resolve(flags, {}, {}).finish_bundle_before_checkpointing is False
    with pytest.raises(ConfigError, match="--finish_bundle_before_checkpointing=false is refused"):
        resolve(flags, {}, {}, must_stream=True)


def test_parallelism_becomes_whole_workers():
    assert resolve(LOCAL | {"parallelism": 5, "k8s_task_slots": 2}, {}, {}).workers == 3
    assert resolve(LOCAL | {"parallelism": 5, "num_workers": 1}, {}, {}).workers == 1


def test_more_slots_than_key_groups_are_refused():
    with pytest.raises(ConfigError, match="--max_parallelism=4"):
        resolve(LOCAL | {"num_workers": 5, "max_parallelism": 4}, {}, {})


@given(st.text(max_size=80))
def test_a_name_is_a_dns_label_or_is_refused_with_one_that_is(name):
    try:
        assert check_job_name(name) == name
    except ConfigError as error:
        name = error.hint.rpartition("=")[2]
        assert check_job_name(name) == name
    assert len(name) <= MAX_JOB_NAME
    assert name[0].isascii()
    assert name[0].isalpha()
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert not name.endswith("-")


KUBERNETES = {
    "job_name": "flights",
    "k8s_storage": "s3://bucket/flights",
    "k8s_image_repository": "registry.example/jobs",
    "k8s_runtime_image": "registry.example/beam-k8s:1",
}


def test_kubernetes_needs_a_storage_and_a_place_for_images_and_all_that_is_missing_is_said_at_once():
    assert resolve(KUBERNETES, {}, {}).target == "kubernetes"
    with pytest.raises(ConfigError) as error:
        resolve({"job_name": "flights"}, {}, {})
    for flag in ("--k8s_storage", "--k8s_image_repository", "--k8s_runtime_image"):
        assert f"{flag} is missing" in str(error.value)
    ready = {"job_name": "flights", "k8s_storage": "s3://b/c", "k8s_image": "registry.example/jobs:1"}
    assert resolve(ready, {}, {}).image == "registry.example/jobs:1"


def test_the_flag_of_dataflow_for_an_image_names_the_base_of_the_jobs_image():
    flags = {key: value for key, value in KUBERNETES.items() if key != "k8s_runtime_image"}
    assert resolve(flags | {"sdk_container_image": "a.b/base"}, {}, {}).runtime_image == "a.b/base"
    both = KUBERNETES | {"sdk_container_image": "a.b/base"}
    assert resolve(both, {}, {}).runtime_image == KUBERNETES["k8s_runtime_image"]


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("update", True, "beam-k8s cancel flights"),
        ("environment_type", "LOOPBACK", "--environment_type=LOOPBACK"),
        ("flink_master", "127.0.0.1:8081", "--flink_master=127.0.0.1:8081"),
        ("k8s_run_dir", "/tmp/run", "--k8s_run_dir=/tmp/run"),
        ("k8s_namespace", "No_Name", "--k8s_namespace=No_Name"),
        ("k8s_job_id", "7", "--k8s_job_id=7"),
        ("k8s_worker_cpu", "-1", "--k8s_worker_cpu=-1"),
        ("labels", ["team"], "--labels=team is not KEY=VALUE"),
    ],
)
def test_what_kubernetes_cannot_do_is_refused_with_the_way_out(flag, value, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        resolve(KUBERNETES | {flag: value}, {}, {})


def test_labels_and_switches_are_read_as_the_command_line_gives_them():
    settings = resolve(KUBERNETES | {"labels": ["team=search", "cost=4711"], "k8s_detach": "true"}, {}, {})
    assert settings.labels == {"team": "search", "cost": "4711"}
    assert settings.detach is True


def test_a_local_job_has_no_kubernetes_objects_to_print():
    with pytest.raises(ConfigError, match="--k8s_output=yaml"):
        resolve(LOCAL | {"k8s_dry_run": "client", "k8s_output": "yaml"}, {}, {})


AUTOSCALED = LOCAL | {"k8s_autoscaler_mode": "on"}


def test_an_autoscaled_job_starts_with_its_least_workers_and_grows_to_what_flink_allows():
    assert resolve(LOCAL, {}, {}).autoscaler is None
    settings = resolve(AUTOSCALED | {"k8s_autoscaler_conf": ["min_workers=3", "policy=threshold"]}, {}, {})
    assert (settings.workers, settings.autoscaler.max_workers, settings.autoscaler.policy) == (3, 100, "threshold")
    assert resolve(AUTOSCALED | {"k8s_task_slots": 4}, {}, {}).autoscaler.max_workers == 128 // 4
    assert resolve(AUTOSCALED | {"max_num_workers": 7, "num_workers": 2}, {}, {}).autoscaler.max_workers == 7


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"k8s_autoscaler_mode": "yes"}, "--k8s_autoscaler_mode=yes is refused"),
        ({"k8s_autoscaler_conf": ["polcy=threshold"]}, "--k8s_autoscaler_conf=polcy: no such setting"),
        ({"k8s_autoscaler_conf": ["policy=mine"]}, "--k8s_autoscaler_conf=policy=mine is refused"),
        ({"k8s_autoscaler_conf": ["interval=-1"]}, "--k8s_autoscaler_conf=interval=-1 is refused"),
        ({"k8s_autoscaler_conf": ["interval"]}, "--k8s_autoscaler_conf=interval is not KEY=VALUE"),
        (
            {"k8s_autoscaler_conf": ["min_workers=5"], "max_num_workers": 4},
            "min_workers=5 is above the most workers, 4",
        ),
        ({"max_num_workers": 0}, "--max_num_workers=0 is refused"),
        ({"max_num_workers": 4, "num_workers": 5}, "--num_workers=5 is outside the autoscaler's limits, 1 to 4"),
        ({"max_num_workers": 65, "k8s_task_slots": 2}, "--max_num_workers=65 with 2 slots each are more than"),
        ({"flink_master": "127.0.0.1:8081"}, "workers of --flink_master=127.0.0.1:8081 are not ours"),
        ({"k8s_detach": "true"}, "--k8s_autoscaler_mode=on: the autoscaler ends with the launcher"),
    ],
)
def test_what_an_autoscaler_cannot_do_is_refused(flags, message):
    with pytest.raises(ConfigError) as error:
        resolve(AUTOSCALED | flags, {}, {})
    assert message in str(error.value)
