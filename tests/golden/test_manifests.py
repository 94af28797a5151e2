"""Whole documents, compared as one file each. Write them anew: BEAM_K8S_GOLDEN=write pytest tests/golden"""

import os
from pathlib import Path

import pytest
import yaml

from beam_k8s.flink_conf import job_conf
from beam_k8s.settings import Settings
from beam_k8s.spec import DeploymentRequest, build_deployment
from beam_k8s.versions import OPERATORS
from tests.cluster.operator import crd_schema, schema_errors

HERE = Path(__file__).parent
IMAGE = "registry.example.com/team-a/flights@sha256:" + "0123456789abcdef" * 4
JOB_ID = "00112233445566778899aabbccddeeff"


def streaming():
    """A tenant's job of three workers that starts from a savepoint; its options hold a secret."""
    settings = Settings(
        job_name="flights",
        streaming=True,
        num_workers=3,
        machine_type="n1-highmem-2",
        storage="s3://bucket/beam/",
        savepoint_path="s3://bucket/beam/team-a/flights/savepoints/savepoint-001122-a1b2c3",
        allow_non_restored_state=True,
        flink_conf={"env.java.opts.all": "-XX:+UseG1GC", "state.backend.type": "rocksdb"},
    )
    return settings, DeploymentRequest(
        namespace="team-a",
        job_id=JOB_ID,
        image=IMAGE,
        flink_conf=job_conf(settings, unbounded=settings.streaming) | settings.flink_conf,
        options='{"job_name": "flights", "password": "planted"}',
        tenant="growth",
        labels={"cost-center": "4711"},
    )


def batch():
    """A small tenant's batch job: half a vCPU, checkpoints and HA metadata on a claim."""
    settings = Settings(job_name="count-words", storage="file:///data")
    return settings, DeploymentRequest(
        namespace="default",
        job_id=JOB_ID,
        image=IMAGE,
        flink_conf=job_conf(settings, unbounded=settings.streaming),
        options="{}",
        service_account="beam",
        storage_claim="flink-data",
        cpu=0.5,
    )


CASES = pytest.mark.parametrize("case", [streaming, batch], ids=lambda case: case.__name__)


@CASES
def test_the_manifests_are_the_committed_ones(case):
    manifests = build_deployment(*case())
    documents = [manifests.deployment.document(), manifests.options]
    text = yaml.dump_all(documents, Dumper=Plain, sort_keys=False, width=1000)
    golden = HERE / f"{case.__name__}.yaml"
    if os.environ.get("BEAM_K8S_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()


class Plain(yaml.SafeDumper):
    """Shared parts are written out, as `kubectl get -o yaml` does."""

    def ignore_aliases(self, data):
        return True


@pytest.mark.parametrize("operator", OPERATORS)
@CASES
def test_the_operators_own_crd_takes_every_field(case, operator):
    document = build_deployment(*case()).deployment.document()
    assert schema_errors(crd_schema(operator), document) == []


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "jobmanager"), {}),  # unknown: would be dropped in silence
        (("spec", "job", "jarUri"), "local:///x.jar"),
        (("spec", "podTemplate", "spec", "containers", 0, "volumeMounts", 0, "mount"), "/x"),
        (("spec", "flinkConfiguration", "rest.port"), 8081),
        (("spec", "taskManager", "replicas"), "2"),
        (("spec", "job", "upgradeMode"), "last_state"),
        (("spec", "flinkVersion"), "1.19"),
    ],
)
def test_the_schema_check_refuses_what_an_api_server_would_refuse_or_drop(operator, path, value):
    document = build_deployment(*streaming()).deployment.document()
    part = document
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    assert schema_errors(crd_schema(operator), document)
