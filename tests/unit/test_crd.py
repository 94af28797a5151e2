"""FlinkDeployment documents in and out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from beam_k8s.crd import (
    FlinkDeployment,
    FlinkDeploymentSpec,
    JobManagerSpec,
    JobSpec,
    ObjectMeta,
    Resource,
    TaskManagerSpec,
)

# What a newer operator may add: names that no model has, any JSON but null, which Kubernetes does not keep either.
NAMES = st.from_regex(r"x[A-Z][a-zA-Z]{0,8}", fullmatch=True)
JSON = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
UNKNOWN = st.dictionaries(NAMES, JSON, max_size=3)

DOCUMENT = {
    "apiVersion": "flink.apache.org/v1beta1",
    "kind": "FlinkDeployment",
    "metadata": {"name": "flights", "namespace": "team-a", "uid": "1-2-3", "managedFields": [{"manager": "beam-k8s"}]},
    "spec": {
        "mode": "standalone",
        "flinkConfiguration": {"rest.port": "8081"},
        "jobManager": {"replicas": 1, "resource": {"cpu": 0.5, "memory": "2048m"}},
        "taskManager": {"replicas": 2},
        "podTemplate": {"spec": {"containers": [{"name": "flink-main-container", "env": []}]}},
        "job": {"jarURI": "local:///x.jar", "upgradeMode": "last-state", "savepointTriggerNonce": 3},
        "ingress": {"template": "{{name}}.example.com", "tls": [{"hosts": ["a"]}]},
    },
    "status": {
        "lifecycleState": "STABLE",
        "jobManagerDeploymentStatus": "READY",
        "jobStatus": {
            "jobId": "0" * 32,
            "state": "RUNNING",
            "startTime": "1700000000000",
            "savepointInfo": {"lastSavepoint": {"location": "s3://b/s", "timeStamp": 1}, "triggerId": ""},
        },
        "reconciliationStatus": {"state": "DEPLOYED", "lastReconciledSpec": "{}"},
        "taskManager": {"replicas": 2, "labelSelector": "component=taskmanager"},
        "clusterInfo": {"flink-version": "1.19.3"},
    },
}


@given(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
def test_a_document_comes_back_whole_with_fields_that_no_model_knows(top, metadata, spec, job, status):
    document = {
        **DOCUMENT,
        **top,
        "metadata": DOCUMENT["metadata"] | metadata,
        "spec": DOCUMENT["spec"] | spec | {"job": DOCUMENT["spec"]["job"] | job},
        "status": DOCUMENT["status"] | status,
    }
    read = FlinkDeployment.model_validate(document)
    assert read.document() == document
    assert FlinkDeployment.model_validate(read.document()) == read


def test_a_status_is_read_by_name():
    status = FlinkDeployment.model_validate(DOCUMENT).status
    assert (status.lifecycle_state, status.job_status.state, status.task_manager.replicas) == ("STABLE", "RUNNING", 2)
    assert status.job_status.savepoint_info.last_savepoint.location == "s3://b/s"


def test_a_setting_of_flink_that_is_not_a_string_is_refused():
    with pytest.raises(ValidationError, match=r"rest\.port"):
        FlinkDeploymentSpec(flink_configuration={"rest.port": 8081})


def test_what_is_not_said_is_not_in_the_document():
    assert FlinkDeployment(metadata=ObjectMeta(name="x")).document() == {
        "apiVersion": "flink.apache.org/v1beta1",
        "kind": "FlinkDeployment",
        "metadata": {"name": "x"},
        "spec": {},
    }


def test_the_original_systems_manifest_can_be_said_field_by_field():
    built = FlinkDeployment(
        metadata=ObjectMeta(name="beam-job", namespace="default"),
        spec=FlinkDeploymentSpec(
            image="registry.example.com/beam-job:1",
            flink_version="v1_16",
            flink_configuration={
                "scheduler-mode": "REACTIVE",
                "taskmanager.numberOfTaskSlots": "2",
                "state.savepoints.dir": "file:///flink-data/savepoints",
                "state.checkpoints.dir": "file:///flink-data/checkpoints",
                "high-availability": "org.apache.flink.kubernetes.highavailability.KubernetesHaServicesFactory",
                "high-availability.storageDir": "file:///flink-data/ha",
            },
            service_account="flink",
            job_manager=JobManagerSpec(resource=Resource(memory="2048m", cpu=1)),
            task_manager=TaskManagerSpec(resource=Resource(memory="2048m", cpu=1)),
            pod_template={
                "spec": {
                    "containers": [
                        {
                            "name": "flink-main-container",
                            "volumeMounts": [{"mountPath": "/flink-data", "name": "flink-volume"}],
                        }
                    ],
                    "volumes": [{"name": "flink-volume", "hostPath": {"path": "/tmp/flink", "type": "Directory"}}],
                }
            },
            job=JobSpec(jar_uri="local:///opt/flink/usrlib/beam-job.jar", parallelism=2),
        ),
    )
    assert built.document() == {
        "apiVersion": "flink.apache.org/v1beta1",
        "kind": "FlinkDeployment",
        "metadata": {"name": "beam-job", "namespace": "default"},
        "spec": {
            "image": "registry.example.com/beam-job:1",
            "flinkVersion": "v1_16",
            "flinkConfiguration": {
                "scheduler-mode": "REACTIVE",
                "taskmanager.numberOfTaskSlots": "2",
                "state.savepoints.dir": "file:///flink-data/savepoints",
                "state.checkpoints.dir": "file:///flink-data/checkpoints",
                "high-availability": "org.apache.flink.kubernetes.highavailability.KubernetesHaServicesFactory",
                "high-availability.storageDir": "file:///flink-data/ha",
            },
            "serviceAccount": "flink",
            "jobManager": {"resource": {"memory": "2048m", "cpu": 1}},
            "taskManager": {"resource": {"memory": "2048m", "cpu": 1}},
            "podTemplate": {
                "spec": {
                    "containers": [
                        {
                            "name": "flink-main-container",
                            "volumeMounts": [{"mountPath": "/flink-data", "name": "flink-volume"}],
                        }
                    ],
                    "volumes": [{"name": "flink-volume", "hostPath": {"path": "/tmp/flink", "type": "Directory"}}],
                }
            },
            "job": {"jarURI": "local:///opt/flink/usrlib/beam-job.jar", "parallelism": 2},
        },
    }
    assert set(built.spec.model_extra) == set(built.spec.job.model_extra) == set()
