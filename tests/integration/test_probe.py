"""What the pod of ``beam-k8s doctor`` says of brokers; all else of it is seen in test_doctor.py."""

import socket

from beam_k8s.transforms import probe


def test_a_broker_that_answers_is_fine(broker):
    assert probe._broker(broker.bootstrap_servers) == ""


def test_a_broker_that_is_not_there_is_told_with_the_reason():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert probe._broker(f"127.0.0.1:{port}") == "Connection refused"
    assert "Name or service not known" in probe._broker("no-such-host.invalid:9092")


def test_a_broker_that_names_others_which_are_not_reached_is_of_no_use(broker, monkeypatch):
    reached = iter(("", "No route to host"))
    monkeypatch.setattr(probe, "_connection", lambda _host, _port: next(reached))
    error = probe._broker(broker.bootstrap_servers)
    assert error == f"it answers, and names a broker {broker.bootstrap_servers} that does not: No route to host"
