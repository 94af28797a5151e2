"""What keeps an autoscaler from scaling a job on Kubernetes, as its FlinkDeployment says it."""

import pytest

from beam_k8s.launcher.kubernetes_workers import KubernetesWorkers
from beam_k8s.names import FROZEN_ANNOTATION
from beam_k8s.status import job_status


class Nobody:
    """Holds no Lease."""

    def holder(self, namespace, name):
        return ""


class Service:
    """Knows one job."""

    def __init__(self, notes, conf):
        metadata = {"namespace": "a", "name": "flights", "uid": "1", "resourceVersion": "2", "annotations": notes}
        self.job = job_status({"metadata": metadata, "spec": {"flinkConfiguration": conf}})

    def get_status_of_job_by_name(self, namespace, name):
        return self.job

    def horizontal_autoscaler(self, namespace, name):
        return ""


NEW, OLD = "job.autoscaler.enabled", "kubernetes.operator.job.autoscaler.enabled"


@pytest.mark.parametrize(
    ("notes", "conf", "parts"),
    [
        ({}, {}, []),
        ({FROZEN_ANNOTATION: "true"}, {}, ["frozen", "beam-k8s unfreeze flights -n a"]),
        ({}, {NEW: "true"}, [f"({NEW}: true)", "set it to false: kubectl edit flinkdeployment flights -n a"]),
        ({}, {OLD: "TRUE"}, [f"({OLD}: true)", "kubectl edit flinkdeployment flights -n a"]),
        ({}, {NEW: "false", OLD: "true"}, []),  # of which the operator reads the first
        ({}, {"taskmanager.numberOfTaskSlots": "two"}, ["taskmanager.numberOfTaskSlots: two", "kubectl edit"]),
    ],
)
def test_what_keeps_a_job_from_being_scaled_is_named_with_the_way_out(notes, conf, parts):
    workers = KubernetesWorkers(Service(notes, conf), "a", "flights", lambda: None, "me", held=Nobody())
    why = workers.hindrance()
    assert bool(why) == bool(parts)
    assert all(part in why for part in parts)
