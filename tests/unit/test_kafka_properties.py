"""Kafka's properties are read alike by the launcher and by workers: references to secrets, and their Python form."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from kafka.errors import KafkaError

from beam_k8s.errors import ConfigError, NoPythonForm
from beam_k8s.kafka_properties import client_settings, resolve_reference, resolve_references
from tests.cluster.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "hunter2-not-in-any-log"
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required "
PEM = {"ssl.truststore.type": "PEM", "ssl.keystore.type": "PEM"}
LOGIN = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "PLAIN",
    "sasl.jaas.config": f'{PLAIN} username="u" password="{SECRET}";',
}


def test_references_are_resolved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAFKA_SECRET", SECRET)
    assert resolve_reference("p", "env:KAFKA_SECRET") == SECRET
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    assert resolve_reference("p", f"file:{path}") == SECRET
    assert resolve_reference("p", "plain") == "plain"
    monkeypatch.delenv("KAFKA_SECRET")
    with pytest.raises(ConfigError, match="env:KAFKA_SECRET"):
        resolve_reference("p", "env:KAFKA_SECRET")
    with pytest.raises(ConfigError, match="No such file"):
        resolve_reference("p", f"file:{path}.missing")


def test_a_file_without_its_last_line_break_is_the_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for line_break in (b"", b"\n", b"\r\n", b"\n\n"):
        path.write_bytes(b"first\r\nlast \t" + line_break)
        assert resolve_reference("p", f"file:{path}") == "first\r\nlast \t"


def test_blanks_around_a_value_are_dropped_as_javas_client_drops_them(tmp_path: Path) -> None:
    from kafka import KafkaAdminClient

    (tmp_path / "secret").write_text(f" {SECRET}\u2003 \t\n")
    for value in (f"file:{tmp_path}/secret", f" {SECRET}\u2003 "):
        settings = client_settings({"client.id": value}, KafkaAdminClient.DEFAULT_CONFIG)
        assert settings == {"client_id": f"{SECRET}\u2003"}


def test_java_properties_become_kafka_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    from kafka import KafkaConsumer, KafkaProducer

    monkeypatch.setenv("JAAS", f'a.B required username="u\\"x" password="{SECRET};=1";')
    settings = client_settings(
        {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.jaas.config": "env:JAAS",
            "fetch.max.wait.ms": "250",
            "check.crcs": "false",
            "unknown.of.java": "x",
        },
        KafkaConsumer.DEFAULT_CONFIG,
    )
    assert settings.pop("ssl_context").check_hostname
    assert settings == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": 'u"x',
        "sasl_plain_password": f"{SECRET};=1",
        "fetch_max_wait_ms": 250,
        "check_crcs": False,
    }
    assert client_settings(
        {"acks": "all", "compression.type": "none", "linger.ms": "7", "retries": "3"},
        KafkaProducer.DEFAULT_CONFIG,
    ) == {"acks": "all", "compression_type": None, "linger_ms": 7, "retries": 3}


@pytest.mark.parametrize(
    ("properties", "says"),
    [
        ({"fetch.max.wait.ms": "soon"}, "whole number"),
        ({"check.crcs": "maybe"}, "true or false"),
        ({"ssl.truststore.location": "/ca.jks"}, "ssl.truststore.type is JKS; Kafka's Python client takes PEM only"),
        ({"ssl.truststore.certificates": "x"}, "set ssl.truststore.type=PEM"),
        (PEM | {"ssl.truststore.location": "/no/ca.pem"}, "truststore.location is /no/ca.pem, and no such file"),
        (PEM | {"ssl.truststore.certificates": "x"}, "ssl.truststore.certificates cannot be used"),
        (PEM | {"ssl.truststore.password": SECRET}, "refuses beside ssl.truststore.type=PEM"),
        (
            PEM | {"ssl.keystore.key": SECRET, "ssl.keystore.certificate.chain": "x"},
            "keystore.key and .* cannot be used",
        ),
        (PEM | {"ssl.keystore.key": "-----BEGIN RSA PRIVATE KEY-----"}, "openssl pkcs8 -topk8"),
        ({"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"}, "sasl.jaas.config"),
        (LOGIN | {"sasl.jaas.config": f'{PLAIN} user="u" password="{SECRET}";'}, "no username and password"),
        ({"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"}, "OAUTHBEARER"),
    ],
)
def test_properties_that_kafka_python_cannot_take_are_named(properties: dict, says: str) -> None:
    from kafka import KafkaConsumer

    with pytest.raises(ConfigError, match=says) as error:
        client_settings({"security.protocol": "SSL"} | properties, KafkaConsumer.DEFAULT_CONFIG)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "properties",
    [
        {"security.protocol": "SASL_SSL"},  # Kerberos is Kafka's default
        LOGIN | {"sasl.mechanism": "OAUTHBEARER"},
        LOGIN | {"sasl.mechanism": "AWS_MSK_IAM"},
        LOGIN | {"sasl.jaas.config": "com.example.VaultLoginModule required;"},
        LOGIN | {"sasl.jaas.config": f"{PLAIN};", "sasl.client.callback.handler.class": "com.example.Vault"},
        LOGIN | {"sasl.jaas.config": 'x.ScramLoginModule required username="u" password="p" tokenauth="true";'},
        {"security.protocol": "SSL", "ssl.truststore.location": "/ca.jks"},
        {"security.protocol": "SSL", "ssl.keystore.location": "/me.p12", "ssl.keystore.type": "PKCS12"},
        {"security.protocol": "SSL", "ssl.engine.factory.class": "com.example.Engine"},
    ],
)
def test_what_only_javas_client_can_use_is_told_from_what_is_wrong(properties: dict) -> None:
    from kafka import KafkaAdminClient

    with pytest.raises(NoPythonForm):
        client_settings(properties, KafkaAdminClient.DEFAULT_CONFIG)


@pytest.mark.parametrize("password", ["", SECRET])
def test_a_private_authority_and_a_certificate_of_ones_own_have_a_python_form(tmp_path: Path, password: str) -> None:
    from kafka import KafkaAdminClient

    authority = Authority(tmp_path)
    mine = authority.issue("me", password=password)
    (tmp_path / "password").write_text(password)
    settings = client_settings(
        PEM
        | {
            "security.protocol": "ssl",
            "ssl.truststore.location": str(authority.certificate),
            "ssl.keystore.location": str(mine),
            "ssl.key.password": f"file:{tmp_path}/password",
            "ssl.endpoint.identification.algorithm": "",
            "ssl.cipher.suites": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        },
        KafkaAdminClient.DEFAULT_CONFIG,
    )
    context = settings.pop("ssl_context")
    assert settings == {"security_protocol": "SSL"}
    assert not context.check_hostname
    assert [each["subject"] for each in context.get_ca_certs()] == [((("commonName", "authority"),),)]


def test_a_wrong_password_of_a_key_is_told_and_nobody_is_asked_for_one(tmp_path: Path) -> None:
    from kafka import KafkaAdminClient

    mine = Authority(tmp_path).issue("me", password=SECRET)
    properties = PEM | {"security.protocol": "SSL", "ssl.keystore.location": str(mine)}
    for word in ({}, {"ssl.key.password": "wrong"}):
        with pytest.raises(ConfigError, match=r"ssl\.keystore\.location cannot be used.*(?s:.*)ssl\.key\.password"):
            client_settings(properties | word, KafkaAdminClient.DEFAULT_CONFIG)


def test_all_missing_references_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    properties = {"a": "env:NO_SUCH_A", "b": "file:/no/such", "c": f"file:{tmp_path}/binary", "d": "x"}
    with pytest.raises(ConfigError) as error:
        resolve_references(properties)
    for part in (
        "Set it where the pipeline is started",
        "a refers to env:NO_SUCH_A",
        "b refers to file:/no/such",
        "c refers to file:",
        "is no text",
    ):
        assert part in str(error.value)
    assert resolve_references({"d": "x"}) == {"d": "x"}


def test_a_wrong_value_behind_a_reference_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    from kafka import KafkaConsumer

    monkeypatch.setenv("MAYBE_A_SECRET", SECRET)
    with pytest.raises(ConfigError, match="env:MAYBE_A_SECRET") as error:
        client_settings({"fetch.max.wait.ms": "env:MAYBE_A_SECRET"}, KafkaConsumer.DEFAULT_CONFIG)
    assert SECRET not in str(error.value)


def test_no_level_of_logging_shows_a_password(caplog: pytest.LogCaptureFixture) -> None:
    from kafka import KafkaAdminClient

    caplog.set_level(logging.NOTSET, "kafka")
    with caplog.at_level(logging.DEBUG):
        settings = client_settings(LOGIN, KafkaAdminClient.DEFAULT_CONFIG)
        with pytest.raises(KafkaError):
            KafkaAdminClient(**settings, bootstrap_servers="127.0.0.1:1", bootstrap_timeout_ms=1)
    assert settings["sasl_plain_password"] == SECRET
    assert "Bootstrap failed" in caplog.text
    assert SECRET not in caplog.text
