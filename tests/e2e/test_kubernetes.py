"""Pipelines on Kubernetes, as their users run them: real API server, operator, registry, Kafka."""

from __future__ import annotations

import pytest

from tests.cluster.demo import EXAMPLE, example_module
from tests.cluster.submit import Submitter
from tests.e2e.test_flights import OPTIONS, assert_right, tables, written

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

data = example_module("data")


@pytest.fixture
def submitter(kube_cluster, tenant, runtime_image, tmp_path):
    running = Submitter(kube_cluster, tenant, runtime_image, tmp_path)
    yield running
    running.close()


def test_the_whole_year_of_flights_is_right(submitter, pod_broker, unique):
    names = {}
    flights, weather = tables()
    for name, partitions in data.TOPICS.items():
        names[name] = f"{name}-{unique}"
        pod_broker.create_topics({names[name]: partitions}, config=data.TOPIC_CONFIG)
    for name, records in (("flights", data.flight_records(flights)), ("weather", data.weather_records(weather))):
        data.produce(pod_broker.bootstrap_servers, names[name], records, lambda _: None)
    launch = submitter.launch(
        EXAMPLE / "pipeline.py",
        unique,
        f"--bootstrap_servers={pod_broker.bootstrap_servers}",
        *(f"--{option}_topic={names[name]}" for option, name in OPTIONS.items()),
        *("--until_now", "--streaming"),
    )
    assert launch.wait(600) == 0, launch.output
    print(launch.output)
    assert_right(written(pod_broker, names["flights-by-hour"]))
    assert submitter.status(unique).state == "DONE"
