"""What keeps an autoscaler from scaling a job on Kubernetes, as its FlinkDeployment says it."""

import math
from dataclasses import replace

import pytest

from beam_k8s.launcher import flink_rest
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

    def room_for_workers(self, namespace, name):
        return None


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


def test_cpu_is_that_between_two_readings_of_flinks_whenever_they_are_looked_at(monkeypatch):
    """Flink reads every 10 s, we look every 5 s: one worker of 0.5 CPUs uses all, then all of half the time."""
    service = Service({}, {})
    service.job = replace(service.job, flink_state="RUNNING", worker_cpu=0.5)
    readings = [{"a": (100.0, 7.0)}] * 2 + [{"a": (110.0, 12.0)}] * 2 + [{"a": (120.0, 14.5), "b": (3.0, 1.0)}]
    monkeypatch.setattr(flink_rest, "container_cpu", lambda *_: readings.pop(0))
    workers = KubernetesWorkers(service, "a", "flights", lambda: "Flink", "me", held=Nobody())
    seen = [workers.look().cpu for _ in range(5)]
    assert seen == pytest.approx([math.nan, math.nan, 1.0, 1.0, 0.5], nan_ok=True)
