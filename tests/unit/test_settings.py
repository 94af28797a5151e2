"""What flags, environment and file come to, and what is refused."""

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


def test_kubernetes_is_not_offered_before_it_works():
    with pytest.raises(ConfigError, match="--k8s_target=kubernetes is not available"):
        resolve({"job_name": "flights", "k8s_storage": "s3://bucket/beam"}, {}, {})


def test_a_worker_has_at_least_one_vcpu():
    with pytest.raises(ConfigError, match="--machine_type=n1-standard-0"):
        resolve(LOCAL | {"machine_type": "n1-standard-0"}, {}, {})
