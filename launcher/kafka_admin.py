"""Facts read from Kafka before a job starts: do its topics exist, may we read them, how many partitions have they."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError as VendorError
from kafka.errors import TopicAuthorizationFailedError, UnknownTopicOrPartitionError, for_code

from beam_k8s.errors import BeamK8sError, ConfigError, KafkaError

if TYPE_CHECKING:
    from beam_k8s.graph import KafkaSource

__all__ = ["partition_counts"]

TIMEOUT_MS = 10_000
"""How long a broker may take to answer before it is called unreachable, in milliseconds."""


def partition_counts(source: KafkaSource) -> dict[str, int]:
    """Partitions of each topic of a source.

    Raises:
        ConfigError: a topic is missing, or may not be read; all of them are named at once.
        KafkaError: no broker answers.
    """
    try:
        with closing(KafkaAdminClient(**_client_config(source))) as admin:
            answers = admin.describe_topics(list(source.topics))
    except (VendorError, OSError) as cause:
        raise KafkaError(
            f"{source.name}: no Kafka broker at bootstrap.servers={source.bootstrap_servers} answers "
            f"({type(cause).__name__}).",
            hint="Check the address, that the broker runs, and that its listener and security settings are meant "
            "for this network.",
        ) from cause
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
    if errors:
        raise ConfigError.of_all(errors)
    return counts


def _client_config(source: KafkaSource) -> dict[str, Any]:
    """The consumer's own connection settings, in kafka-python's names; what it does not know, it need not."""
    known = KafkaAdminClient.DEFAULT_CONFIG
    config: dict[str, Any] = {}
    for key, value in source.properties.items():
        name = key.replace(".", "_")
        if name in known and (name.startswith(("sasl_", "ssl_")) or name == "security_protocol"):
            config[name] = _resolve(value)
    return config | {
        "bootstrap_servers": source.bootstrap_servers.split(","),
        "request_timeout_ms": TIMEOUT_MS,
        "bootstrap_timeout_ms": TIMEOUT_MS,
    }


def _resolve(value: str) -> str:
    """A reference to a secret, read where we are: the launcher needs it to look at the topics."""
    if value.startswith("env:"):
        return os.environ.get(value.removeprefix("env:"), "")
    if value.startswith("file:"):
        return Path(value.removeprefix("file:")).read_text().strip()
    return value
