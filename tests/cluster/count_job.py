"""A Flink job on the test cluster that needs no Beam image: CountJob.java, in pods of the restricted standard."""

from __future__ import annotations

from typing import Any

from tests.cluster import parts

__all__ = ["COUNT", "FLINK", "RESTRICTED", "is_running"]

FLINK = "flink.apache.org/v1beta1"
RESTRICTED = {
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": parts.FLINK_UID,
        "fsGroup": parts.FLINK_UID,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "containers": [
        {
            "name": "flink-main-container",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": "data", "mountPath": "/flink-data"}, {"name": "tmp", "mountPath": "/tmp"}],
        }
    ],
    "volumes": [
        {"name": "data", "persistentVolumeClaim": {"claimName": "flink-data"}},
        {"name": "tmp", "emptyDir": {}},
    ],
}
COUNT = {
    "apiVersion": FLINK,
    "kind": "FlinkDeployment",
    "spec": {
        "mode": "standalone",
        "flinkVersion": "v1_19",
        "image": parts.FLINK_IMAGE,
        "imagePullPolicy": "Never",
        "serviceAccount": "flink",
        "flinkConfiguration": {
            "scheduler-mode": "reactive",
            "taskmanager.numberOfTaskSlots": "1",
            "high-availability.type": "kubernetes",
            "high-availability.storageDir": "file:///flink-data/ha",
            "state.checkpoints.dir": "file:///flink-data/checkpoints",
            "execution.checkpointing.interval": "2s",
            "jobmanager.adaptive-scheduler.resource-stabilization-timeout": "1s",
            # Small requests, for two cores hold everything; starting takes more.
            "kubernetes.jobmanager.cpu.limit-factor": "10",
            "kubernetes.taskmanager.cpu.limit-factor": "10",
        },
        "podTemplate": {"spec": RESTRICTED},
        "jobManager": {"replicas": 1, "resource": {"cpu": 0.1, "memory": "1024m"}},
        "taskManager": {"replicas": 1, "resource": {"cpu": 0.1, "memory": "1024m"}},
        "job": {
            "jarURI": "local:///opt/flink/jobs/count.jar",
            "entryClass": "CountJob",
            "upgradeMode": "last-state",
            "state": "running",
        },
    },
}


def is_running(deployment: dict[str, Any]) -> bool:
    status = deployment.get("status", {})
    return (status.get("lifecycleState"), status.get("jobStatus", {}).get("state")) == ("STABLE", "RUNNING")
