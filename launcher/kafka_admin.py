"""Facts read from Kafka: before a job starts, whether its topics exist and may be read or written, how many partitions
they have, and how long a transaction may be; while it runs, where they end.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from kafka import IsolationLevel, KafkaAdminClient, OffsetSpec, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    BrokerResponseError,
    SaslAuthenticationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
    for_code,
)
from kafka.errors import KafkaError as VendorError

from beam_k8s.errors import BeamK8sError, ConfigError, KafkaError, NotHere
from beam_k8s.kafka_partitions import matching, misplaced
from beam_k8s.kafka_properties import CONNECTION, client_settings, resolve_references

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from beam_k8s.graph import KafkaSink, KafkaSource

__all__ = ["Brokers", "Connections", "EndOffsets"]

TIMEOUT_MS = 10_000
"""How long a broker may take to answer before it is called unreachable, in milliseconds."""

RETRY_MS = 1000
"""First wait before a connection is tried again, in milliseconds; it doubles. Many wrong logins lock some accounts."""

_REFUSALS = (SaslAuthenticationFailedError, UnsupportedSaslMechanismError)


class _Connection:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.admin: KafkaAdminClient | None = None
        self.error: BeamK8sError | None = None
        self.until = 0.0
        """When it may be tried again after that."""

    def close(self) -> None:
        if self.admin is not None:
            self.admin.close()
            self.admin = None


class Connections:
    """Connections to Kafka clusters, one each whoever asks. Safe to use from several threads.

    Args:
        patience: for so long [s] a cluster that did not answer is not asked again: all get the same error.
    """

    def __init__(self, patience: float = 10.0) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._known: dict[object, _Connection] = {}

    @contextmanager
    def to(self, step: KafkaSource | KafkaSink) -> Iterator[KafkaAdminClient]:
        """The connection that a step's properties ask for, for some questions.

        Raises:
            NoPythonForm: only Java's client can connect so.
            ConfigError: the broker refuses the login, or the TLS handshake fails, or a reference does not resolve.
            KafkaError: no broker answers.
        """
        key = step.bootstrap_servers, tuple(sorted(_security(step).items()))
        with self._lock:
            found = self._known.setdefault(key, _Connection())
        with found.lock, _Heard() as heard:
            if found.error is not None and time.monotonic() < found.until:
                raise found.error
            new = found.admin is None
            try:
                if found.admin is None:
                    found.admin = KafkaAdminClient(**_client_settings(step))
                yield found.admin
            except (VendorError, OSError) as cause:
                why = _not_connected(step, heard, cause)
                if new or not isinstance(cause, BrokerResponseError):  # else it was about this question
                    found.close()
                    found.error, found.until = why, time.monotonic() + self._patience
                raise why from cause

    def close(self) -> None:
        """Hang up."""
        for connection in self._known.values():
            connection.close()


class Brokers:
    """What a submission asks Kafka: each cluster over one connection, and one that does not answer is asked once."""

    def __init__(self) -> None:
        self._connections = Connections(math.inf)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connections.close()

    def partition_counts(self, source: KafkaSource) -> dict[str, int]:
        """Partitions of each topic of a source.

        Raises:
            NoPythonForm: only Java's client can connect with the source's properties; nothing is known.
            ConfigError: a topic is missing, or may not be read, or lacks an offset to start or stop at, or a reference
                does not resolve; all of them are named at once. Or the broker refuses the login, or the TLS handshake
                fails.
            KafkaError: no broker answers.
        """
        with self._asked(source) as admin:
            answers = _topics(admin, source)
            named = {*source.start_offsets, *source.stop_offsets}
            ends = _ends(admin, source, named & _partitions(answers))
        errors: list[BeamK8sError] = []
        if not answers:
            errors.append(
                ConfigError(
                    f"{source.name}: no topic at {source.bootstrap_servers} matches topic_pattern={source.pattern!r}.",
                    hint="Create one, or correct the pattern, which must match the whole name; or ask for DESCRIBE.",
                )
            )
        counts = {}
        for answer in answers:
            if (error := _topic_error(source, answer, "READ")) is not None:
                errors.append(error)
            else:
                counts[answer["name"]] = len(answer["partitions"])
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

    def check_sink(self, sink: KafkaSink, transactional_id: str | None) -> None:
        """Whether a write can do what it is to do, as far as the broker tells.

        Args:
            sink: the write.
            transactional_id: what its transactional ids begin with; None: not known.

        Raises:
            NoPythonForm: only Java's client can connect with the sink's properties; nothing is known.
            ConfigError: the topic is missing and the broker makes none, or may not be written; its transactions are
                longer than the broker allows, or their ids are not allowed; a reference does not resolve. Or the broker
                refuses the login, or the TLS handshake fails.
            KafkaError: no broker answers.
        """
        with self._asked(sink) as admin:
            answers = admin.describe_topics([sink.topic]) if sink.topic is not None else []
            broker = _broker_settings(admin)
            barred = transactional_id is not None and _is_barred(admin, transactional_id)
        errors: list[BeamK8sError] = [
            error
            for answer in answers
            if (error := _topic_error(sink, answer, "WRITE")) is not None
            and (answer["error_code"] != UnknownTopicOrPartitionError.errno or not broker.makes_topics)
        ]
        limit, timeout = broker.transaction_max_timeout, sink.transaction_timeout
        if sink.exactly_once and limit is not None and timeout.isdecimal() and int(timeout) > limit:
            errors.append(
                ConfigError(
                    f"{sink.name}: its transactions may take transaction.timeout.ms={timeout}, and the broker at "
                    f"{sink.bootstrap_servers} allows no more than transaction.max.timeout.ms={limit}.",
                    hint=f"Set producer_config['transaction.timeout.ms'] to {limit} or less, but longer than "
                    "--checkpointing_interval and --checkpoint_timeout_millis together; or raise the broker's limit.",
                )
            )
        if barred:
            errors.append(
                ConfigError(
                    f"{sink.name}: no permission for transactional ids that begin with {transactional_id}.",
                    hint="Ask for the ACL WRITE on TransactionalId with that as prefix (kafka-acls "
                    "--resource-pattern-type prefixed), or set transactional_id_prefix to one that is allowed.",
                )
            )
        if errors:
            raise ConfigError.of_all(errors)

    @contextmanager
    def _asked(self, step: KafkaSource | KafkaSink) -> Iterator[KafkaAdminClient]:
        """A connection for some questions, after a look whether all secrets of the step are there."""
        try:
            resolve_references(step.properties)
        except NotHere as error:
            raise NotHere(f"{step.name}: {error.message}", hint=error.hint) from error
        with self._connections.to(step) as admin:
            yield admin


def _is_barred(admin: KafkaAdminClient, prefix: str) -> bool:
    """Whether the broker says that transactional ids of this prefix are not ours.

    DESCRIBE is what it looks for, which comes with WRITE. Most answer that there is no such transaction yet; one before
    3.0 cannot be asked.
    """
    try:
        admin.describe_transactions([f"{prefix}-0-1"])
    except TransactionalIdAuthorizationFailedError:
        return True
    except BrokerResponseError:
        pass
    return False


class _BrokerSettings(NamedTuple):
    makes_topics: bool
    """Whether a write to a topic that is not there may make it; True if the broker does not tell."""
    transaction_max_timeout: int | None
    """[ms]; None if the broker does not tell."""


def _broker_settings(admin: KafkaAdminClient) -> _BrokerSettings:
    """Of one broker, which are those of all in a cluster that is not being changed."""
    name = str(admin.describe_cluster()["brokers"][0]["broker_id"])
    asked = ConfigResource(ConfigResourceType.BROKER, name)
    found = admin.describe_configs([asked], config_filter="all")  # none without the ACL DESCRIBE_CONFIGS
    told = {key: config["value"] for key, config in found.get("broker", {}).get(name, {}).items()}
    limit = told.get("transaction.max.timeout.ms")
    return _BrokerSettings(told.get("auto.create.topics.enable") != "false", None if limit is None else int(limit))


def _topic_error(step: KafkaSource | KafkaSink, answer: Mapping[str, Any], right: str) -> BeamK8sError | None:
    """Why a step cannot have a topic, from what the broker says of it; None if it can."""
    error, topic = for_code(answer["error_code"]), answer["name"]
    if error is UnknownTopicOrPartitionError:
        return ConfigError(
            f"{step.name}: topic {topic} does not exist at {step.bootstrap_servers}.",
            hint="Create it, or correct its name; the job would wait for it in silence.",
        )
    allowed = answer["authorized_operations"]  # None: the broker does not tell
    if error is TopicAuthorizationFailedError or (allowed is not None and right not in allowed):
        return ConfigError(
            f"{step.name}: no permission to {right.lower()} topic {topic}.",
            hint=f"Ask for the ACLs {right} and DESCRIBE on the topic"
            + (" (and READ on the consumer group)." if right == "READ" else "."),
        )
    if answer["error_code"]:
        return KafkaError(f"{step.name}: topic {topic} cannot be described: {error.__name__}.")
    return None


def _topics(admin: KafkaAdminClient, source: KafkaSource) -> list[dict[str, Any]]:
    """What the broker says of each topic of the source."""
    if source.pattern is None:
        named: list[dict[str, Any]] = admin.describe_topics(list(source.topics))
        return named
    found = {topic["name"]: topic for topic in admin.describe_topics() if not topic["is_internal"]}
    return [found[name] for name in matching(source.pattern, found)]


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
    """Where the partitions of a source end, asked for again and again.

    Args:
        source: whose topics.
        connections: over which.
    """

    def __init__(self, source: KafkaSource, connections: Connections) -> None:
        self._source, self._connections = source, connections

    def now(self) -> dict[tuple[str, int], int]:
        """(topic, partition) -> offset of the next record that can be read; a topic that is gone has none.

        Raises:
            BeamK8sError: see ``Connections.to``.
        """
        with self._connections.to(self._source) as admin:
            return _ends(admin, self._source, _partitions(_topics(admin, self._source)))


def _security(step: KafkaSource | KafkaSink) -> dict[str, str]:
    return {name: value for name, value in step.properties.items() if name.startswith(CONNECTION)}


def _client_settings(step: KafkaSource | KafkaSink) -> dict[str, Any]:
    """How to connect, in kafka-python's words; how to fetch or write is nothing to an admin client."""
    try:
        settings = client_settings(_security(step), KafkaAdminClient.DEFAULT_CONFIG)
    except NotHere as error:
        raise NotHere(f"{step.name}: {error.message}", hint=error.hint) from error
    return settings | {
        "bootstrap_servers": step.bootstrap_servers.split(","),
        "request_timeout_ms": TIMEOUT_MS,
        "bootstrap_timeout_ms": TIMEOUT_MS,
        "reconnect_backoff_ms": RETRY_MS,
    }


def _not_connected(step: KafkaSource | KafkaSink, heard: _Heard, cause: BaseException) -> BeamK8sError:
    """Why, as far as the client tells: after most failures it tries again, and in the end only says that time is up."""
    servers = step.bootstrap_servers
    protocol = step.properties.get("security.protocol", "PLAINTEXT").upper()
    errors = [*heard.errors, cause]
    refusal = next((str(each) for each in errors if isinstance(each, _REFUSALS)), None)
    # A broker that refuses a login says why and hangs up; kafka-python 3.0 drops what comes together with the hang-up.
    if refusal or (protocol.startswith("SASL") and heard.answer and not heard.login):
        return ConfigError(
            f"{step.name}: authentication failed, the broker at bootstrap.servers={servers} answers, but refuses the "
            f"login with sasl.mechanism={step.properties.get('sasl.mechanism')} ({refusal or 'it hangs up'}).",
            hint="Check that the broker offers this mechanism, and user and password in sasl.jaas.config.",
        )
    reasons = "; ".join(dict.fromkeys(map(str, errors)))
    if protocol.endswith("SSL") and re.search(r"Handshake failed|\[SSL", reasons):
        return ConfigError(
            f"{step.name}: the TLS handshake with bootstrap.servers={servers} failed ({reasons}).",
            hint="Check that this listener speaks TLS, whom we trust (ssl.truststore.location), who we are "
            "(ssl.keystore.location), and the broker's host name (ssl.endpoint.identification.algorithm).",
        )
    return KafkaError(
        f"{step.name}: no Kafka broker at bootstrap.servers={servers} answers over {protocol} ({reasons}).",
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
