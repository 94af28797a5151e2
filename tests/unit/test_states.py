"""What the operator and Flink say, as Beam's states."""

import itertools

import pytest
from apache_beam.runners.runner import PipelineState

from beam_k8s.states import TERMINAL, deployment_state, pipeline_state

LIFECYCLE = [
    *("CREATED", "SUSPENDED", "UPGRADING", "DEPLOYED", "STABLE", "ROLLING_BACK", "ROLLED_BACK", "FAILED"),
    *("DELETING", "DELETED"),
]
JOB = [
    *("INITIALIZING", "CREATED", "RECONCILING", "RUNNING", "RESTARTING", "FAILING", "SUSPENDED", "CANCELLING"),
    *("CANCELED", "FINISHED", "FAILED"),
]
JOB_MANAGER = ["READY", "DEPLOYED_NOT_READY", "DEPLOYING", "MISSING", "ERROR"]


@pytest.mark.parametrize(
    ("lifecycle", "job", "job_manager", "state"),
    [
        (None, None, None, "STARTING"),
        ("CREATED", None, "MISSING", "STARTING"),
        ("DEPLOYED", "RECONCILING", "DEPLOYING", "STARTING"),
        ("DEPLOYED", "CREATED", "READY", "STARTING"),
        ("STABLE", "RUNNING", "READY", "RUNNING"),
        ("STABLE", "RESTARTING", "READY", "RUNNING"),
        ("STABLE", "RECONCILING", "DEPLOYED_NOT_READY", "RUNNING"),
        ("STABLE", "RECONCILING", "ERROR", "STARTING"),
        ("STABLE", "FINISHED", "READY", "DONE"),
        ("STABLE", "FINISHED", "MISSING", "DONE"),  # the operator has removed an ended job's JobManager
        ("STABLE", "CANCELED", "READY", "CANCELLED"),
        ("FAILED", "FAILED", "READY", "FAILED"),
        ("FAILED", None, "MISSING", "FAILED"),
        ("SUSPENDED", "FINISHED", "MISSING", "STOPPED"),
        ("UPGRADING", "RUNNING", "READY", "RUNNING"),
        ("UPGRADING", "FINISHED", "MISSING", "STARTING"),
        ("UPGRADING", "FAILED", "MISSING", "STARTING"),
        ("ROLLED_BACK", "RUNNING", "READY", "RUNNING"),
    ],
)
def test_a_deployments_state_is_what_its_user_should_see(lifecycle, job, job_manager, state):
    assert deployment_state(lifecycle, job, job_manager)[0] == state


@pytest.mark.parametrize("lifecycle", [None, *LIFECYCLE, "SOMETHING_NEW"])
def test_every_deployment_has_one_of_beams_states(lifecycle):
    for job, job_manager in itertools.product([None, *JOB], [None, *JOB_MANAGER]):
        state, reason = deployment_state(lifecycle, job, job_manager)
        assert getattr(PipelineState, state) == state
        assert state != "UNRECOGNIZED"
        assert reason or lifecycle in {"DEPLOYED", "STABLE", "SOMETHING_NEW"}


@pytest.mark.parametrize("lifecycle", ["CREATED", "SUSPENDED", "UPGRADING", "ROLLING_BACK", "DELETING"])
def test_a_job_that_the_operator_is_busy_with_has_not_ended(lifecycle):
    for job, job_manager in itertools.product([None, *JOB], JOB_MANAGER):
        assert deployment_state(lifecycle, job, job_manager)[0] not in TERMINAL


def test_a_state_that_this_release_does_not_know_is_said_to_be_so():
    assert pipeline_state("DREAMING") == "UNRECOGNIZED"
    assert deployment_state("STABLE", "DREAMING", "READY") == ("UNRECOGNIZED", "")
