"""What a Kafka transform was asked to do, as checked values, and their JSON in the pipeline's proto.

Everything is checked when the user's program builds the pipeline: a wrong option fails there, with its name, its value
and the way out, and not minutes later in a worker. Secrets never enter: the proto lies in an image, so a property that
is a secret must be a reference (``env:NAME``, ``file:PATH``) which only the worker resolves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

from beam_k8s.errors import ConfigError
from beam_k8s.kafka_partitions import Offsets, offsets, triples

if TYPE_CHECKING:
    from collections.abc import Iterable

    from beam_k8s.transforms.frames import Segment

__all__ = [
    "DEFAULT_OUT_OF_ORDERNESS_S",
    "FRAME_BYTES",
    "FRAME_RECORDS",
    "TOPIC_HINT",
    "DeliveryGuarantee",
    "ReadConfig",
    "Start",
    "Stop",
    "TimestampPolicy",
    "WriteConfig",
    "is_topic",
    "read_config",
    "write_config",
]

FRAME_RECORDS = 500
"""Most records a frame. Measured (lab, 113-byte records): 500 is near the best; 2,000 gains nothing and delays."""

FRAME_BYTES = 1 << 20
"""A frame is closed when its payload passes this many bytes, so that large records do not make huge elements."""

DEFAULT_OUT_OF_ORDERNESS_S = 1.0
"""How far [s] the watermark stays behind the newest create time, unless told otherwise.

Beam's own transform has 0. Producers batch: records of two producers in one partition are commonly out of order by
their linger time, and with 0 the older ones are late and windows drop them without a word. One second costs one second
of latency; it applies to create time only, where there can be disorder."""

TimestampPolicy = Literal["processing_time", "create_time", "log_append_time"]
DeliveryGuarantee = Literal["at_least_once", "exactly_once", "none"]
Start = str | dict[str, int]
"""``committed``, ``earliest``, ``latest`` or ``{"timestamp_ms": n}``."""
Stop = str | dict[str, int]
"""``latest`` or ``{"timestamp_ms": n}``."""
EventTimes = Callable[["Segment"], Sequence[int]]
"""A segment with metadata -> the event time of each of its records [ms since the epoch]."""

_POLICIES: dict[str, TimestampPolicy] = {
    "ProcessingTime": "processing_time",
    "CreateTime": "create_time",
    "LogAppendTime": "log_append_time",
}
_GUARANTEES: tuple[DeliveryGuarantee, ...] = ("at_least_once", "exactly_once", "none")

# Kafka's rule: letters, digits, '.', '_' and '-', at most 249 characters.
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
TOPIC_HINT = "Letters, digits, '.', '_' and '-', at most 249 characters."
_REFERENCE = re.compile(r"(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)")
_SECRET_KEY = re.compile(
    r"password|passphrase|secret|credential|token$|\.token\.|keystore\.key$|basic\.auth\.user\.info", re.IGNORECASE
)
_SECRET_IN_JAAS = re.compile(r"(password|passphrase|secret|token)\w*\s*=", re.IGNORECASE)
# With which values Kafka's producer is idempotent, without which it has no transactions; and the same in words.
_OF_IDEMPOTENCE = {
    "acks": ("all|-1", "'all'"),
    "enable.idempotence": ("(?i:true)", "'true'"),
    "max.in.flight.requests.per.connection": ("0*[1-5]", "1 to 5"),
    "retries": ("0*[1-9][0-9]*", "at least 1"),
}
# What a consumer would do on its own, which the read does: by name, why not and what instead.
_NOT_THE_READS = {
    "group.instance.id": (
        "All consumers of the read would have this one id, and Kafka lets only the newest of them commit.",
        "Remove it: the read assigns its partitions itself, so that a restart makes no group rebalance.",
    ),
    "interceptor.classes": (
        "An interceptor may change and drop records before they are counted, and exists on Flink only.",
        "Remove it, and do its work in the step after the read.",
    ),
    "partition.assignment.strategy": (
        "The read assigns its partitions itself, so that each is read once.",
        "Remove it; redistribute=True spreads the records over all workers.",
    ),
    "group.remote.assignor": (
        "The read assigns its partitions itself, so that each is read once.",
        "Remove it; redistribute=True spreads the records over all workers.",
    ),
    "commit.offsets.on.checkpoint": (
        "Whether offsets are committed is one setting on all runners.",
        "Use the argument commit_offset_in_finalize of the transform.",
    ),
}
DISCOVERY_INTERVAL = "partition.discovery.interval.ms"
# The property's names in Java and librdkafka, and what there means murmur2 of the key.
_PARTITIONERS = {
    "partitioner.class": "org.apache.kafka.clients.producer.internals.DefaultPartitioner",
    "partitioner": "murmur2_random",
    "partitioner.ignore.keys": "false",
}


@dataclass(frozen=True, slots=True)
class ReadConfig:
    """One checked ``ReadFromKafka``.

    The fields up to ``frame_records`` are the payload of the URN; the rest concerns the Python form of the read only.
    """

    bootstrap_servers: str
    topics: tuple[str, ...]
    """Empty if there is a pattern."""
    topic_pattern: str | None
    """The whole names of the topics to read match it."""
    group_id: str | None
    properties: Mapping[str, str]
    start: Start
    start_offsets: Offsets
    """Where ``start`` does not hold."""
    stop: Stop | None
    stop_offsets: Offsets
    """Where ``stop`` does not hold."""
    timestamp_policy: TimestampPolicy
    max_out_of_orderness_ms: int
    idle_timeout_ms: int
    """A partition without backlog for this long counts as idle; 0 = never."""
    commit_offsets: bool
    with_metadata: bool
    """Whether frames say of each record its offset, its own time and its headers."""
    frame_records: int = FRAME_RECORDS

    max_records: int | None = None
    max_read_time_ms: int | None = None
    poll_timeout_ms: int = 2000
    event_times: EventTimes | None = None
    """The user's own; None: ``timestamp_policy``, which is else that of the watermark only."""

    @property
    def is_python(self) -> bool:
        """Whether the read is Python on every runner: Flink's source knows no limits and calls no Python."""
        return self.is_limited or self.event_times is not None

    @property
    def is_limited(self) -> bool:
        """Whether the read ends by a count or a time."""
        return self.max_records is not None or self.max_read_time_ms is not None

    @property
    def is_bounded(self) -> bool:
        return self.is_limited or self.stop is not None

    @property
    def discovery_interval_ms(self) -> int:
        """How often a read for ever looks for partitions that have come; 0 = never."""
        return max(0, int(self.properties.get(DISCOVERY_INTERVAL, 60_000)))

    def payload(self) -> bytes:
        """The URN's JSON (UTF-8). ``max_parallelism`` is added by the launcher."""
        return _json(
            {
                "bootstrap_servers": self.bootstrap_servers,
                "topics": list(self.topics),
                "topic_pattern": self.topic_pattern,
                "group_id": self.group_id,
                "properties": dict(self.properties),
                "start": self.start,
                "start_offsets": triples(self.start_offsets),
                "stop": self.stop,
                "stop_offsets": triples(self.stop_offsets),
                "timestamp_policy": self.timestamp_policy,
                "max_out_of_orderness_ms": self.max_out_of_orderness_ms,
                "idle_timeout_ms": self.idle_timeout_ms,
                "commit_offsets": self.commit_offsets,
                "with_metadata": self.with_metadata,
                "frame_records": self.frame_records,
            }
        )

    @classmethod
    def from_payload(cls, payload: bytes) -> ReadConfig:
        """Inverse of ``payload``; the fields that the payload has not are at their defaults."""
        values: dict[str, Any] = json.loads(payload)
        values.pop("max_parallelism", None)
        values["topics"] = tuple(values["topics"])
        for name in ("start_offsets", "stop_offsets"):
            values[name] = offsets(values[name])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class WriteConfig:
    """One checked ``WriteToKafka``: the payload of the URN."""

    bootstrap_servers: str
    topic: str | None
    """None: every record names its own."""
    properties: Mapping[str, str]
    delivery_guarantee: DeliveryGuarantee
    transactional_id_prefix: str | None

    def payload(self) -> bytes:
        """The URN's JSON (UTF-8)."""
        return _json(
            {
                "bootstrap_servers": self.bootstrap_servers,
                "topic": self.topic,
                "properties": dict(self.properties),
                "delivery_guarantee": self.delivery_guarantee,
                "transactional_id_prefix": self.transactional_id_prefix,
            }
        )

    @classmethod
    def from_payload(cls, payload: bytes) -> WriteConfig:
        """Inverse of ``payload``."""
        values: dict[str, Any] = json.loads(payload)
        return cls(**values)


def read_config(
    consumer_config: Mapping[str, object],
    topics: Sequence[str] | None,
    *,
    topic_pattern: str | re.Pattern[str] | None,
    start_read_time: int | None,
    start_offsets: object,
    max_num_records: int | None,
    max_read_time: float | None,
    commit_offset_in_finalize: bool,
    timestamp_policy: object,
    event_times: EventTimes | None,
    consumer_polling_timeout: float | None,
    with_metadata: bool,
    stop_at: str | None,
    stop_read_time: int | None,
    stop_offsets: object,
    max_out_of_orderness: float | None,
    idle_timeout: float | None,
) -> ReadConfig:
    """Check the arguments of ``ReadFromKafka`` (see there for their meaning) and make them one value.

    Raises:
        ConfigError: names all that is wrong at once.
    """
    errors = _Errors()
    properties = _properties("consumer_config", consumer_config, errors)
    servers = _bootstrap_servers("consumer_config", properties, errors)
    group = properties.pop("group.id", None) or None
    _refuse_auto_commit(properties, errors)
    _refuse_serde_properties(properties, ("key.deserializer", "value.deserializer"), "consumer_config", errors)
    for own, (why, hint) in _NOT_THE_READS.items():
        if own in properties:
            errors.add(f"consumer_config[{own!r}] is {properties[own]!r}. {why}", hint)
    reset = properties.get("auto.offset.reset", "latest")
    if reset not in ("earliest", "latest", "none"):
        errors.add(
            f"consumer_config['auto.offset.reset'] is {reset!r}.",
            "Kafka knows 'earliest', 'latest' and 'none'.",
        )
    checked_topics: tuple[str, ...] = ()
    pattern = None
    if topic_pattern is not None:
        pattern = _pattern(topic_pattern, errors)
        if topics is not None:
            errors.add("topics and topic_pattern are both given.", "Name the topics, or give a pattern of their names.")
    elif topics is None:
        errors.add("Neither topics nor topic_pattern is given.", "For example topics=['my-topic'].")
    else:
        checked_topics = _topics(topics, errors)
    policy = _POLICIES.get(str(timestamp_policy)) if event_times is None else "create_time"
    if policy is None:
        errors.add(
            f"timestamp_policy is {timestamp_policy!r}.",
            "It should be one of [ProcessingTime, CreateTime, LogAppendTime], for example "
            "ReadFromKafka.create_time_policy, or a function of a KafkaRecord.",
        )
        policy = "processing_time"
    interval = properties.get(DISCOVERY_INTERVAL, "0")
    if not re.fullmatch(r"-?\d+", interval):
        errors.add(
            f"Kafka property {DISCOVERY_INTERVAL} is {interval!r}.", "It is in ms, for example 60000; 0 = never."
        )
    isolation = properties.get("isolation.level", "read_uncommitted")
    if isolation not in ("read_uncommitted", "read_committed"):
        errors.add(
            f"consumer_config['isolation.level'] is {isolation!r}.",
            "Kafka knows 'read_uncommitted' and 'read_committed'.",
        )
    if commit_offset_in_finalize and group is None:
        errors.add(
            "commit_offset_in_finalize is true, but consumer_config has no 'group.id' to commit for.",
            "Name the group in consumer_config['group.id'].",
        )
    if max_out_of_orderness is None:
        max_out_of_orderness = DEFAULT_OUT_OF_ORDERNESS_S if policy == "create_time" else 0
    _refuse_two("starts", errors, start_read_time=start_read_time, start_offsets=start_offsets)
    _refuse_two("stops", errors, stop_at=stop_at, stop_read_time=stop_read_time, stop_offsets=stop_offsets)
    checked_start_offsets = _offsets("start_offsets", start_offsets, checked_topics, pattern, errors)
    checked_stop_offsets = _offsets("stop_offsets", stop_offsets, checked_topics, pattern, errors)
    for name, offset in checked_stop_offsets.items():
        first = checked_start_offsets.get(name, 0)
        if offset < first:
            errors.add(
                f"stop_offsets has {offset} for partition {name[1]} of {name[0]}, before its start_offsets of {first}.",
                "Stop at the start or after it: the record at the stop is the first that is not read.",
            )
    start: Start = "committed"
    if start_read_time is not None:
        start = {"timestamp_ms": _whole("start_read_time", start_read_time, 0, errors)}
    elif group is None:
        if reset == "none":
            errors.add(
                "consumer_config has neither a 'group.id' nor an 'auto.offset.reset' to start from.",
                "Give a group.id, or set auto.offset.reset to 'earliest' or 'latest'.",
            )
        start = reset
    # What has no stop of its own ends where it ends now: a read that ends in one partition ends in all.
    stop: Stop | None = "latest" if stop_at is not None or checked_stop_offsets else None
    if stop_at not in (None, "latest"):
        errors.add(
            f"stop_at is {stop_at!r}.",
            "Use None (read for ever) or 'latest' (read up to the end found at start).",
        )
    if stop_read_time is not None:
        stop = {"timestamp_ms": _whole("stop_read_time", stop_read_time, 0, errors)}
        if isinstance(start, dict) and stop["timestamp_ms"] < start["timestamp_ms"]:
            errors.add(
                f"stop_read_time is {stop_read_time}, before start_read_time, which is {start_read_time}.",
                "Stop at the start or after it.",
            )
    if consumer_polling_timeout is None:
        consumer_polling_timeout = 2
    config = ReadConfig(
        bootstrap_servers=servers,
        topics=checked_topics,
        topic_pattern=pattern and pattern.pattern,
        group_id=group,
        properties=properties,
        start=start,
        start_offsets=checked_start_offsets,
        stop=stop,
        stop_offsets=checked_stop_offsets,
        timestamp_policy=policy,
        max_out_of_orderness_ms=_milliseconds("max_out_of_orderness", max_out_of_orderness, errors, at_least=0),
        idle_timeout_ms=_milliseconds("idle_timeout", idle_timeout or 0, errors, at_least=0),
        commit_offsets=bool(commit_offset_in_finalize),
        with_metadata=bool(with_metadata),
        max_records=(None if max_num_records is None else _whole("max_num_records", max_num_records, 1, errors)),
        max_read_time_ms=(
            None if max_read_time is None else _milliseconds("max_read_time", max_read_time, errors, at_least=1)
        ),
        poll_timeout_ms=_milliseconds("consumer_polling_timeout", consumer_polling_timeout, errors, at_least=1),
        event_times=event_times,
    )
    errors.raise_any()
    return config


def write_config(
    producer_config: Mapping[str, object],
    topic: str | None,
    *,
    delivery_guarantee: str,
    transactional_id_prefix: str | None,
) -> WriteConfig:
    """Check the arguments of ``WriteToKafka`` (see there for their meaning) and make them one value.

    Raises:
        ConfigError: names all that is wrong at once.
    """
    errors = _Errors()
    properties = _properties("producer_config", producer_config, errors)
    servers = _bootstrap_servers("producer_config", properties, errors)
    _refuse_serde_properties(properties, ("key.serializer", "value.serializer"), "producer_config", errors)
    if topic is not None:
        _topics([topic], errors, option="topic")
    guarantee: DeliveryGuarantee = "at_least_once"
    if delivery_guarantee not in _GUARANTEES:
        errors.add(f"delivery_guarantee is {delivery_guarantee!r}.", f"Use one of {', '.join(_GUARANTEES)}.")
    else:
        guarantee = delivery_guarantee
    if guarantee == "at_least_once" and properties.get("acks", "").strip() == "0":
        errors.add(
            "producer_config['acks'] is '0': a record that the broker never got counts as written, so "
            f"delivery_guarantee={guarantee!r} cannot be kept.",
            "Remove acks, or say delivery_guarantee='none'.",
        )
    _refuse_half_idempotence(properties, guarantee, errors)
    if transactional_id_prefix is not None and guarantee != "exactly_once":
        errors.add(
            f"transactional_id_prefix is {transactional_id_prefix!r}, but "
            f"delivery_guarantee={guarantee!r} uses no transactions.",
            "Add delivery_guarantee='exactly_once', or remove the prefix.",
        )
    if "transactional.id" in properties:
        errors.add(
            f"producer_config['transactional.id'] is {properties['transactional.id']!r}, but each subtask of "
            "the sink needs an id of its own.",
            "Use delivery_guarantee='exactly_once' and transactional_id_prefix=...",
        )
    for name, same in _PARTITIONERS.items():
        value = properties.pop(name, None)
        if value not in (None, same):
            errors.add(
                f"producer_config[{name!r}] is {value!r}. Records with a key go to the partition of Kafka's default, "
                "murmur2, on every runner.",
                "Remove it; to choose partitions yourself, write ProducerRecord(..., partition=n).",
            )
    errors.raise_any()
    return WriteConfig(servers, topic, properties, guarantee, transactional_id_prefix)


def is_topic(name: object) -> TypeGuard[str]:
    """Whether Kafka takes this as the name of a topic."""
    return isinstance(name, str) and bool(_TOPIC.fullmatch(name)) and name not in (".", "..")


class _Errors:
    def __init__(self) -> None:
        self._found: list[ConfigError] = []

    def add(self, message: str, hint: str) -> None:
        self._found.append(ConfigError(message, hint=hint))

    def raise_any(self) -> None:
        if self._found:
            raise ConfigError.of_all(self._found)


def _json(value: Mapping[str, object]) -> bytes:
    # Sorted, so that an unchanged pipeline has unchanged bytes and needs no new image.
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _properties(option: str, config: object, errors: _Errors) -> dict[str, str]:
    if not hasattr(config, "items"):
        errors.add(
            f"{option} is {type(config).__name__}, not a dictionary.",
            f"For example {option}={{'bootstrap.servers': 'kafka:9092'}}.",
        )
        return {}
    properties: dict[str, str] = {}
    for key, value in config.items():
        if not isinstance(key, str) or not key:
            errors.add(f"{option} has the key {key!r}.", "Kafka's property names are strings.")
            continue
        if value is None:
            continue
        if isinstance(value, bool):
            text = "true" if value else "false"
        elif isinstance(value, (str, int, float)):
            text = str(value)
        else:
            errors.add(
                f"{option}[{key!r}] is a {type(value).__name__}.",
                "Kafka's property values are strings, numbers or booleans.",
            )
            continue
        if _is_secret(key, text) and not _REFERENCE.fullmatch(text):
            errors.add(
                f"{option}[{key!r}] holds a secret in plain text. The pipeline is stored in the job's image, "
                "where everyone who may pull it could read it.",
                f"Give a reference that only the worker resolves: {{{key!r}: 'env:MY_VARIABLE'}} or "
                f"{{{key!r}: 'file:/path/of/a/mounted/secret'}}.",
            )
            text = ""
        if key.endswith(".location") and text.startswith("file:"):
            errors.add(
                f"{option}[{key!r}] is {text!r}, and would be replaced by what is in the file.",
                f"A location is a path: {text[5:]!r}.",
            )
        properties[key] = text
    return properties


def _is_secret(key: str, value: str) -> bool:
    if key.endswith("sasl.jaas.config"):
        # Logins without a secret in them, such as Kerberos or a cloud's own, may stand in plain text.
        return bool(_SECRET_IN_JAAS.search(value))
    if key.endswith((".location", ".class", ".url", ".file")):
        return False
    return bool(_SECRET_KEY.search(key))


def _bootstrap_servers(option: str, properties: dict[str, str], errors: _Errors) -> str:
    servers = properties.pop("bootstrap.servers", "").strip()
    if not servers:
        errors.add(
            f"{option} has no 'bootstrap.servers'.",
            f"For example {option}={{'bootstrap.servers': 'kafka-1:9092,kafka-2:9092'}}.",
        )
        return ""
    for server in servers.split(","):
        _, colon, port = server.strip().rpartition(":")
        if not colon or not port.isdigit():
            errors.add(
                f"{option}['bootstrap.servers'] has {server.strip()!r}, which is no host:port.",
                "Separate several by commas: 'kafka-1:9092,kafka-2:9092'.",
            )
    return ",".join(server.strip() for server in servers.split(","))


def _refuse_auto_commit(properties: dict[str, str], errors: _Errors) -> None:
    value = properties.pop("enable.auto.commit", "false")
    properties.pop("auto.commit.interval.ms", None)
    if value.lower() != "false":
        errors.add(
            f"consumer_config['enable.auto.commit'] is {value!r}. Kafka's client would commit what it has "
            "fetched, also what the pipeline has not yet processed: after a failure these records are lost.",
            "Remove it, and set commit_offset_in_finalize=True to commit what is safely processed.",
        )


def _refuse_serde_properties(properties: dict[str, str], names: Iterable[str], option: str, errors: _Errors) -> None:
    for name in names:
        value = properties.pop(name, None)
        if value is not None:
            errors.add(
                f"{option}[{name!r}] is {value!r}, and would be ignored.",
                f"Use the argument {name.replace('.', '_')} of the transform.",
            )


def _refuse_half_idempotence(properties: dict[str, str], guarantee: DeliveryGuarantee, errors: _Errors) -> None:
    """Java's client makes no producer of these, which a job for ever would try again for ever."""
    if guarantee == "exactly_once":
        wanted, way_out = "delivery_guarantee='exactly_once'", "say delivery_guarantee='at_least_once'"
    elif properties.get("enable.idempotence", "").strip().lower() == "true":
        wanted, way_out = "enable.idempotence=true", "remove enable.idempotence"
    else:
        return
    for name, (taken, needed) in _OF_IDEMPOTENCE.items():
        value = properties.get(name)
        if value is not None and not re.fullmatch(taken, value.strip()):
            errors.add(
                f"producer_config[{name!r}] is {value!r}, but {wanted} needs {needed}.",
                f"Remove it, as Kafka's default will do, or {way_out}.",
            )


def _topics(topics: object, errors: _Errors, *, option: str = "topics") -> tuple[str, ...]:
    if isinstance(topics, str) and option == "topics":
        errors.add(f"topics is the string {topics!r}.", f"Give a list: topics=[{topics!r}].")
        return ()
    try:
        found: tuple[object, ...] = tuple(topics)  # type: ignore[arg-type]
    except TypeError:
        errors.add(f"topics is {topics!r}.", "Give a list of topic names.")
        return ()
    if not found:
        errors.add("topics is empty.", "Name at least one topic.")
    names: list[str] = []
    for topic in found:
        if is_topic(topic):
            names.append(topic)
        else:
            errors.add(f"{option} has {topic!r}, which is no name of a Kafka topic.", TOPIC_HINT)
    # The order of first mention; a topic named twice is read once.
    return tuple(dict.fromkeys(names))


def _pattern(given: object, errors: _Errors) -> re.Pattern[str] | None:
    try:
        # Flags would not reach Java, whose regular expressions say them inside: (?i).
        pattern = re.compile(given) if isinstance(given, str) else None
        if isinstance(given, re.Pattern) and given.flags == re.UNICODE:
            pattern = given
    except re.error as error:
        errors.add(f"topic_pattern is {given!r}, which is no regular expression: {error}.", "For example 'orders-.*'.")
        return None
    if pattern is None or not isinstance(pattern.pattern, str) or not pattern.pattern:
        errors.add(f"topic_pattern is {given!r}.", "Give a regular expression without flags, for example 'orders-.*'.")
        return None
    return pattern


def _refuse_two(what: str, errors: _Errors, **options: object) -> None:
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        errors.add(f"{' and '.join(given)} are two {what} of one read.", f"Give one of {', '.join(options)}.")


def _offsets(
    option: str, given: object, topics: tuple[str, ...], pattern: re.Pattern[str] | None, errors: _Errors
) -> Offsets:
    """``{topic: {partition: offset}}`` or ``{(topic, partition): offset}``; empty if not given."""
    if given is None:
        return {}
    example = f"For example {option}={{'my-topic': {{0: 1500, 1: 0}}}}."
    if not isinstance(given, Mapping) or not given:
        errors.add(f"{option} is {given!r}.", example)
        return {}
    flat: dict[tuple[Any, Any], Any] = {}
    for key, value in given.items():
        if isinstance(value, Mapping):
            flat.update({(key, partition): offset for partition, offset in value.items()})
        elif isinstance(key, tuple) and len(key) == 2:
            flat[key[0], key[1]] = value
        else:
            errors.add(f"{option} has {key!r}: {value!r}.", example)
    found: Offsets = {}
    for (topic, partition), offset in sorted(flat.items(), key=repr):
        if topic not in topics and not (pattern and isinstance(topic, str) and pattern.fullmatch(topic)):
            way_out = "Correct topic_pattern" if pattern else "Add it to topics"
            errors.add(f"{option} has the topic {topic!r}, which is not read.", f"{way_out}, or take it out.")
            continue
        number = _whole(f"{option}: a partition of {topic}", partition, 0, errors)
        found[topic, number] = _whole(f"{option}: the offset of partition {partition} of {topic}", offset, 0, errors)
    return found


def _number(option: str, value: object, convert: Callable[[Any], float], errors: _Errors) -> float | None:
    try:
        if isinstance(value, bool):
            raise TypeError  # noqa: TRY301 - one place says what is wrong
        return convert(value)
    except (TypeError, ValueError, OverflowError):
        errors.add(f"{option} is {value!r}.", "Give a number.")
        return None


def _whole(option: str, value: object, at_least: int, errors: _Errors) -> int:
    number = _number(option, value, int, errors)
    if number is None:
        return at_least
    if number != value or number < at_least:
        errors.add(f"{option} is {value!r}.", f"Give a whole number of at least {at_least}.")
    return int(number)


def _milliseconds(option: str, seconds: object, errors: _Errors, *, at_least: int) -> int:
    number = _number(option, seconds, float, errors)
    if number is None:
        return at_least
    # Not a number and infinity fail the comparison too; the bound is what fits into 64 bits of microseconds.
    if not 0 <= number * 1000 < 9e15 or round(number * 1000) < at_least:
        errors.add(
            f"{option} is {seconds!r} seconds.",
            "Give a number of seconds that is not negative." if at_least == 0 else "Give a positive number of seconds.",
        )
        return at_least
    return round(number * 1000)
