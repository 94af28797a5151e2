"""How patiently an API server is asked that throttles."""

import json

import pytest
from kubernetes import client

from beam_k8s.errors import KubernetesError
from beam_k8s.launcher.kube import DEPLOYMENTS, Kube

JOB = {"metadata": {"namespace": "a", "name": "flights", "uid": "1", "resourceVersion": "2"}}


class Server:
    """Throttles some requests, then answers."""

    def __init__(self, throttled, answer):
        self.left, self.answer = throttled, answer
        self.asked = 0

    def call_api(self, path, method, **_):
        self.asked += 1
        if self.left:
            self.left -= 1
            raise client.ApiException(status=429, reason="Too Many Requests")
        return self

    def read(self):
        return json.dumps(self.answer).encode()

    def release_conn(self):
        pass


def test_who_waits_is_served_when_the_server_has_time_again():
    server = Server(2, JOB)
    assert Kube(server, "a").patch(DEPLOYMENTS, "a", "flights", {}) == JOB
    assert server.asked == 3


@pytest.mark.parametrize(
    "ask",
    [
        lambda kube: kube.get(DEPLOYMENTS, "a", "flights"),
        lambda kube: kube.find(DEPLOYMENTS, "a"),
        lambda kube: kube.create(DEPLOYMENTS, "a", JOB),
        lambda kube: kube.patch(DEPLOYMENTS, "a", "flights", {}),
    ],
)
def test_who_is_impatient_asks_once(ask):
    server = Server(1, JOB)
    with pytest.raises(KubernetesError, match="the API server refused to"):
        ask(Kube(server, "a").impatient())
    assert server.asked == 1


def test_what_an_impatient_one_follows_is_waited_for():
    server = Server(2, {"items": [JOB], "metadata": {"resourceVersion": "3"}})
    assert next(Kube(server, "a").impatient().follow(DEPLOYMENTS, "a")) == ("ADDED", JOB)
