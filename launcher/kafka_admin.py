"""Facts read from Kafka: before a job starts, whether its topics exist and may be read, and how many partitions they
have; while it runs, where they end.
"""

from __future__ import annotations

import logging
import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from kafka import IsolationLevel, KafkaAdminClient, OffsetSpec, TopicPartition
from kafka.errors import KafkaError as VendorError
from kafka.errors import (
    SaslAuthenticationFailedError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
    for_code,
)

from beam_k8s.errors import BeamK8sError, ConfigError, KafkaError, NotHere
from beam_k8s.kafka_partitions import misplaced
from beam_k8s.kafka_properties import client_settings, resolve_references

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from beam_k8s.graph import KafkaSink, KafkaSource

__all__ = ["EndOffsets", "check_references", "partition_counts"]

TIMEOUT_MS = 10_000
"""How long a broker may take to answer before it is called unreachable, in milliseconds."""

RETRY_MS = 1000
"""First wait before a connection is tried again, in milliseconds; it doubles. Many wrong logins lock some accounts."""

_REFUSALS = (SaslAuthenticationFailedError, UnsupportedSaslMechanismError)


def partition_counts(source: KafkaSource) -> dict[str, int]:
    """Partitions of each topic of a source.

    Raises:
        NoPythonForm: only Java's client can connect with the source's properties; nothing is known.
        ConfigError: a topic is missing, or may not be read, or lacks an offset to start or stop at, or a reference does
            not resolve; all of them are named at once. Or the broker refuses the login, or the TLS handshake fails.
        KafkaError: no broker answers.
    """
    check_references(source)
    settings = _client_settings(source)
    with _Heard() as heard:
        try:
            with closing(KafkaAdminClient(**settings)) as admin:
                answers = admin.describe_topics(list(source.topics))
                named = {*source.start_offsets, *source.stop_offsets}
                ends = _ends(admin, source, named & _partitions(answers))
        except (VendorError, OSError) as cause:
            raise _not_connected(source, heard, cause) from cause
    errors: list[BeamK8sError] = []
    counts = {}
    for answer in answers:
        code = answer["error_code"]
        error = for_code(code)
        if code == 0:
            counts[answer["name"]] = len(answer["partitions"])
        elif error is UnknownTopicOrPartitionError:
            errors.append(
                ConfigError(
                    f"{source.name}: topic {answer['name']} does not exist at {source.bootstrap_servers}.",
                    hint="Create it, or correct topics=; the job would wait for it in silence.",
                )
            )
        elif error is TopicAuthorizationFailedError:
            errors.append(
                ConfigError(
                    f"{source.name}: no permission to read topic {answer['name']}.",
                    hint="Ask for the ACLs READ and DESCRIBE on the topic (and READ on the consumer group).",
                )
            )
        else:
            errors.append(KafkaError(f"{source.name}: topic {answer['name']} cannot be described: {error.__name__}."))
    # Of topics that are there: the others were named.
    start, stop = (
        {name: offset for name, offset in offsets.items() if name[0] in counts}
        for offsets in (source.start_offsets, source.stop_offsets)
    )
    errors += (
        ConfigError(f"{source.name}: {error.message}", hint=error.hint) for error in misplaced(start, stop, ends)
    )
    if errors:
        raise ConfigError.of_all(errors)
    return counts


def _partitions(topics: Iterable[Mapping[str, Any]]) -> set[tuple[str, int]]:
    return {(topic["name"], partition["partition_index"]) for topic in topics for partition in topic["partitions"]}


def _ends(
    admin: KafkaAdminClient, source: KafkaSource, partitions: Iterable[tuple[str, int]]
) -> dict[tuple[str, int], int]:
    """End offsets of partitions that there are, as the source may read them."""
    isolation = source.properties.get("isolation.level", "read_uncommitted")
    found = admin.list_partition_offsets(
        {TopicPartition(*name): OffsetSpec.LATEST for name in partitions}, IsolationLevel.build_from(isolation)
    )
    return {(name.topic, name.partition): at.offset for name, at in found.items()}


class EndOffsets:
    """Where the partitions of a source end, asked for again and again over one connection. For one thread.

    Args:
        source: whose topics.
    """

    def __init__(self, source: KafkaSource) -> None:
        self._source = source
        self._admin: KafkaAdminClient | None = None

    def now(self) -> dict[tuple[str, int], int]:
        """(topic, partition) -> offset of the next record that can be read; a topic that is gone has none.

        Raises:
            NoPythonForm: only Java's client can connect with the source's properties.
            ConfigError: the broker refuses the login, or the TLS handshake fails, or a reference does not resolve.
            KafkaError: no broker answers.
        """
        with _Heard() as heard:
            try:
                if self._admin is None:
                    self._admin = KafkaAdminClient(**_client_settings(self._source))
                topics = self._admin.describe_topics(list(self._source.topics))
                return _ends(self._admin, self._source, _partitions(topics))
            except (VendorError, OSError) as cause:
                self.close()  # the next call connects anew
                raise _not_connected(self._source, heard, cause) from cause

    def close(self) -> None:
        """Hang up. Idempotent."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None


def check_references(step: KafkaSource | KafkaSink) -> None:
    """Make sure that the secrets of a step are there, which else only its clients in the job would miss.

    Raises:
        NotHere: names every property whose environment variable or file is missing.
    """
    try:
        resolve_references(step.properties)
    except NotHere as error:
        raise NotHere(f"{step.name}: {error.message}", hint=error.hint) from error


def _client_settings(source: KafkaSource) -> dict[str, Any]:
    """How to connect, in kafka-python's words; how to fetch is nothing to an admin client."""
    how = {name: value for name, value in source.properties.items() if name.startswith(("security.", "sasl.", "ssl."))}
    settings = client_settings(how, KafkaAdminClient.DEFAULT_CONFIG)
    for name in ("ssl.truststore.location", "ssl.keystore.location"):
        if name in how and not Path(resolve_references(how)[name]).is_file():
            raise NotHere(
                f"{source.name}: {name} is {how[name]}, and no such file is here.",
                hint="Mount the file where the pipeline is started and in its workers.",
            )
    return settings | {
        "bootstrap_servers": source.bootstrap_servers.split(","),
        "request_timeout_ms": TIMEOUT_MS,
        "bootstrap_timeout_ms": TIMEOUT_MS,
        "reconnect_backoff_ms": RETRY_MS,
    }


def _not_connected(source: KafkaSource, heard: _Heard, cause: BaseException) -> BeamK8sError:
    """Why, as far as the client tells: after most failures it tries again, and in the end only says that time is up."""
    servers = source.bootstrap_servers
    protocol = source.properties.get("security.protocol", "PLAINTEXT").upper()
    errors = [*heard.errors, cause]
    refusal = next((str(each) for each in errors if isinstance(each, _REFUSALS)), None)
    # A broker that refuses a login says why and hangs up; kafka-python 3.0 drops what comes together with the hang-up.
    if refusal or (protocol.startswith("SASL") and heard.answer and not heard.login):
        return ConfigError(
            f"{source.name}: authentication failed, the broker at bootstrap.servers={servers} answers, but refuses the "
            f"login with sasl.mechanism={source.properties.get('sasl.mechanism')} ({refusal or 'it hangs up'}).",
            hint="Check that the broker offers this mechanism, and user and password in sasl.jaas.config.",
        )
    reasons = "; ".join(dict.fromkeys(map(str, errors)))
    if protocol.endswith("SSL") and re.search(r"Handshake failed|\[SSL", reasons):
        return ConfigError(
            f"{source.name}: the TLS handshake with bootstrap.servers={servers} failed ({reasons}).",
            hint="Check that this listener speaks TLS, whom we trust (ssl.truststore.location), who we are "
            "(ssl.keystore.location), and the broker's host name (ssl.endpoint.identification.algorithm).",
        )
    return KafkaError(
        f"{source.name}: no Kafka broker at bootstrap.servers={servers} answers over {protocol} ({reasons}).",
        hint="Check the address, that the broker runs, and that its listener and security settings are meant "
        "for this network.",
    )


class _Heard(logging.Handler):
    """What kafka-python only writes to its log while it tries again; meanwhile nothing of it is on the terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []
        self.answer = False
        """Whether a broker has said its version, which it does before a login."""
        self.login = False
        """Whether one has let us in."""
        self._logger = logging.getLogger("kafka.net")

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple):
            self.errors += [each for each in record.args if isinstance(each, Exception)]
        self.answer |= "Broker version identified" in str(record.msg)
        self.login |= str(record.msg).endswith(": Connected")

    def __enter__(self) -> Self:
        self._before = self._logger.level, self._logger.propagate
        self._logger.addHandler(self)
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)
