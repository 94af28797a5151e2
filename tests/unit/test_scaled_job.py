"""What stands in a FlinkDeployment about how a job is to be scaled."""

import json

import pytest

from beam_k8s.autoscaler.settings import AutoscalerSettings
from beam_k8s.errors import KubernetesError
from beam_k8s.graph import KafkaSource
from beam_k8s.launcher.scaled_job import ScaledJob

JOB = ScaledJob(
    "on",
    AutoscalerSettings(policy="threshold", max_workers=7),
    (
        KafkaSource("", "Read", "kafka:9092", ("flights", "storms"), {"sasl.jaas.config": "env:KAFKA_LOGIN"}),
        KafkaSource("", "Read2", "kafka:9092", (), {"isolation.level": "read_committed"}, pattern="a.*"),
    ),
)


def test_it_is_read_as_it_was_written():
    assert ScaledJob.parse(JOB.text()) == JOB


def test_only_what_steers_is_in_it():
    source = KafkaSource("r", "Read", "kafka:9092", ("t",), {"fetch.min.bytes": "1"}, start_offsets={("t", 0): 5})
    found = json.loads(ScaledJob("recommend", AutoscalerSettings(), (source,)).text())
    assert found["conf"] == {}
    assert found["sources"][0]["properties"] == {}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", JOB.text().replace('"on"', '"off"'), JOB.text().replace("threshold", "mine")]
)
def test_what_cannot_be_read_is_named(text):
    with pytest.raises(KubernetesError, match="annotation beam-k8s/autoscaler-job cannot be read"):
        ScaledJob.parse(text)
