"""Arguments of the Kafka transforms: Beam's keep their meaning, wrong ones are named with the way out."""

from __future__ import annotations

import inspect
import json
import logging
import re
import struct
import uuid
from array import array
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam import coders, typehints
from apache_beam.io import kafka as beams
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP

from beam_k8s.errors import ConfigError, DecodeError
from beam_k8s.transforms import DeadLetter, KafkaRecord, ProducerRecord, ReadFromKafka, WriteToKafka, frames, kafka
from beam_k8s.transforms.clients import TopicPartition
from beam_k8s.transforms.config import ReadConfig, WriteConfig
from beam_k8s.transforms.offsets import NO_TIME
from beam_k8s.transforms.serializers import NullableBytes, deserializer, serializer

SERVERS = {"bootstrap.servers": "localhost:9092"}
JAVA = "org.apache.kafka.common.serialization."


def payload_of(transform: beam.PTransform) -> dict:
    """The JSON of the URN in the proto of a pipeline with this transform."""
    pipeline = beam.Pipeline()
    if isinstance(transform, WriteToKafka):
        pipeline | beam.Create([(b"k", b"v")]) | transform
    else:
        pipeline | transform
    (payload,) = (
        each.spec.payload
        for each in pipeline.to_runner_api().components.transforms.values()
        if each.spec.urn.startswith("beam_k8s:")
    )
    return json.loads(payload)


@pytest.mark.parametrize("name", ["ReadFromKafka", "WriteToKafka"])
def test_beams_arguments_are_ours_by_name_order_and_default(name: str) -> None:
    ours = inspect.signature(getattr(kafka, name)).parameters
    theirs = inspect.signature(getattr(beams, name)).parameters
    positional = [p for p in ours.values() if p.kind is not p.KEYWORD_ONLY]
    assert [p.name for p in positional] == list(theirs)
    # Ours may do without: the records to write name their topic, those to read come from all that match a pattern.
    without = {"topic", "topics"}
    assert [p.default for p in positional if p.name not in without] == [
        p.default for p in theirs.values() if p.name not in without
    ]


@pytest.mark.parametrize(
    "constant",
    ["byte_array_deserializer", "processing_time_policy", "create_time_policy", "log_append_time"],
)
def test_beams_constants_are_ours(constant: str) -> None:
    assert getattr(ReadFromKafka, constant) == getattr(beams.ReadFromKafka, constant)


def test_the_payload_of_a_plain_read() -> None:
    read = ReadFromKafka(
        {**SERVERS, "group.id": "g", "auto.offset.reset": "earliest", "max.poll.records": 5000},
        ["a", "b", "a"],
    )
    assert payload_of(read) == {
        "bootstrap_servers": "localhost:9092",
        "topics": ["a", "b"],
        "topic_pattern": None,
        "group_id": "g",
        "properties": {"auto.offset.reset": "earliest", "max.poll.records": "5000"},
        "start": "committed",
        "start_offsets": [],
        "stop": None,
        "stop_offsets": [],
        "timestamp_policy": "processing_time",
        "max_out_of_orderness_ms": 0,
        "idle_timeout_ms": 30_000,
        "commit_offsets": False,
        "with_metadata": False,
        "frame_records": 500,
    }


@pytest.mark.parametrize("pattern", ["orders-.*", re.compile("orders-.*")])
def test_the_payload_of_a_read_by_pattern(pattern: str | re.Pattern[str]) -> None:
    payload = payload_of(ReadFromKafka(SERVERS, topic_pattern=pattern, start_offsets={"orders-eu": {0: 5}}))
    assert (payload["topics"], payload["topic_pattern"]) == ([], "orders-.*")
    assert payload["start_offsets"] == [["orders-eu", 0, 5]]


def test_the_payload_says_what_was_asked_for() -> None:
    payload = payload_of(
        ReadFromKafka(
            SERVERS | {"group.id": "g"},
            ["a"],
            start_read_time=123,
            commit_offset_in_finalize=True,
            timestamp_policy=ReadFromKafka.create_time_policy,
            with_metadata=True,
            stop_at="latest",
            idle_timeout=None,
        )
    )
    assert payload["start"] == {"timestamp_ms": 123}
    assert payload["stop"] == "latest"
    assert payload["timestamp_policy"] == "create_time"
    assert payload["max_out_of_orderness_ms"] == 1000
    assert payload["idle_timeout_ms"] == 0
    assert payload["commit_offsets"] is True
    assert payload["with_metadata"] is True


@pytest.mark.parametrize("key", [lambda topic, partition: (topic, partition), TopicPartition])
def test_offsets_are_given_by_topic_or_by_partition(key: Any) -> None:
    nested = ReadFromKafka(
        SERVERS, ["a", "b"], start_offsets={"a": {1: 5, 0: 2}, "b": {0: 0}}, stop_offsets={"a": {0: 2}}
    )
    flat = {key("b", 0): 0, key("a", 0): 2, key("a", 1): 5}
    payload = payload_of(ReadFromKafka(SERVERS, ["a", "b"], start_offsets=flat, stop_offsets={key("a", 0): 2}))
    assert payload == payload_of(nested)
    assert payload["start_offsets"] == [["a", 0, 2], ["a", 1, 5], ["b", 0, 0]]
    assert (payload["stop"], payload["stop_offsets"]) == ("latest", [["a", 0, 2]])


@pytest.mark.parametrize(("reset", "start"), [(None, "latest"), ("earliest", "earliest"), ("latest", "latest")])
def test_without_a_group_the_reset_is_the_start(reset: str | None, start: str) -> None:
    config = SERVERS | ({} if reset is None else {"auto.offset.reset": reset})
    assert payload_of(ReadFromKafka(config, ["a"]))["start"] == start


def test_the_payload_of_a_write() -> None:
    write = WriteToKafka(
        SERVERS | {"linger.ms": 5},
        "out",
        delivery_guarantee="exactly_once",
        transactional_id_prefix="p",
    )
    assert payload_of(write) == {
        "bootstrap_servers": "localhost:9092",
        "topic": "out",
        "properties": {"linger.ms": "5"},
        "delivery_guarantee": "exactly_once",
        "transactional_id_prefix": "p",
    }


def test_payloads_are_read_back() -> None:
    read = ReadFromKafka(SERVERS, ["a"], start_read_time=5)._config
    assert ReadConfig.from_payload(read.payload()) == read
    write = WriteToKafka(SERVERS, "a")._config
    assert WriteConfig.from_payload(write.payload()) == write


def test_a_proto_with_our_urns_is_read_back() -> None:
    pipeline = beam.Pipeline()
    pipeline | ReadFromKafka(SERVERS, ["a"]) | WriteToKafka(SERVERS, "b")
    proto = pipeline.to_runner_api()
    again = beam.Pipeline.from_runner_api(proto, None, None).to_runner_api()
    urns = sorted(t.spec.urn for t in again.components.transforms.values())
    assert kafka.READ_URN in urns
    assert kafka.WRITE_URN in urns


@pytest.mark.parametrize("limit", [{"max_num_records": 1}, {"max_read_time": 1}])
def test_a_limited_read_has_no_urn_of_ours_and_is_bounded(limit: dict) -> None:
    pipeline = beam.Pipeline()
    records = pipeline | ReadFromKafka(SERVERS, ["a"], **limit)
    assert records.is_bounded
    urns = {t.spec.urn for t in pipeline.to_runner_api().components.transforms.values()}
    assert not any(urn.startswith("beam_k8s:") for urn in urns)


def test_a_read_is_bounded_only_if_it_stops() -> None:
    pipeline = beam.Pipeline()
    assert not (pipeline | "a" >> ReadFromKafka(SERVERS, ["a"])).is_bounded
    assert (pipeline | "b" >> ReadFromKafka(SERVERS, ["a"], stop_at="latest")).is_bounded


@pytest.mark.parametrize(
    ("config", "topics", "options", "says"),
    [
        ({}, ["a"], {}, "bootstrap.servers"),
        (None, ["a"], {}, "consumer_config"),
        ({"bootstrap.servers": "localhost"}, ["a"], {}, "host:port"),
        (SERVERS, [], {}, "topics is empty"),
        (SERVERS, "a", {}, r"topics=\['a'\]"),
        (SERVERS, ["a b"], {}, "'a b'"),
        (SERVERS, 7, {}, "list of topic names"),
        (SERVERS, None, {}, "Neither topics nor topic_pattern"),
        (SERVERS, ["a"], {"topic_pattern": "a.*"}, "both given"),
        (SERVERS, None, {"topic_pattern": "a("}, r"'a\(', which is no regular expression"),
        (SERVERS, None, {"topic_pattern": re.compile("a", re.IGNORECASE)}, "without flags"),
        (SERVERS, None, {"topic_pattern": ""}, "topic_pattern is ''"),
        (SERVERS, None, {"topic_pattern": "a.", "start_offsets": {"abc": {0: 1}}}, "'abc', which is not read"),
        (SERVERS, ["a"], {"timestamp_policy": "Arrival"}, r"one of \[ProcessingTime"),
        (SERVERS, ["a"], {"timestamp_policy": 5}, r"(?s)timestamp_policy is 5.*a function of a KafkaRecord"),
        (SERVERS | {"enable.auto.commit": True}, ["a"], {}, "lost"),
        (SERVERS | {"enable.auto.commit": "true"}, ["a"], {}, "commit_offset_in_finalize=True"),
        (SERVERS | {"interceptor.classes": "acme.Count"}, ["a"], {}, r"'interceptor.classes'\] is 'acme.Count'"),
        (SERVERS | {"group.instance.id": "a"}, ["a"], {}, "only the newest"),
        (SERVERS | {"partition.assignment.strategy": "x"}, ["a"], {}, "redistribute=True"),
        (SERVERS | {"group.remote.assignor": "range"}, ["a"], {}, "group.remote.assignor"),
        (SERVERS | {"commit.offsets.on.checkpoint": True}, ["a"], {}, "argument commit_offset_in_finalize"),
        (SERVERS | {"auto.offset.reset": "smallest"}, ["a"], {}, "'earliest', 'latest'"),
        (SERVERS | {"auto.offset.reset": "none"}, ["a"], {}, "group.id"),
        (SERVERS | {"key.deserializer": "x"}, ["a"], {}, "argument key_deserializer"),
        (SERVERS, ["a"], {"commit_offset_in_finalize": True}, "group.id"),
        (SERVERS, ["a"], {"stop_at": "now"}, "'latest'"),
        (SERVERS, ["a"], {"start_read_time": 5, "start_offsets": {"a": {0: 1}}}, "two starts"),
        (SERVERS, ["a"], {"stop_at": "latest", "stop_read_time": 5}, "stop_at and stop_read_time are two stops"),
        (SERVERS, ["a"], {"stop_at": "latest", "stop_offsets": {"a": {0: 1}}}, "two stops"),
        (SERVERS, ["a"], {"start_read_time": 6, "stop_read_time": 5}, "before start_read_time"),
        (SERVERS, ["a"], {"start_offsets": {"a": {0: 6}}, "stop_offsets": {("a", 0): 5}}, "before its start_offsets"),
        (SERVERS, ["a"], {"start_offsets": {"a": {0: -1}}}, "offset of partition 0 of a is -1"),
        (SERVERS, ["a"], {"start_offsets": {"a": {"x": 1}}}, "partition of a is 'x'"),
        (SERVERS, ["a"], {"stop_offsets": {"b": {0: 1}}}, "topic 'b', which is not read"),
        (SERVERS, ["a"], {"stop_offsets": {"a": 5}}, "For example stop_offsets="),
        (SERVERS, ["a"], {"stop_offsets": {}}, "For example stop_offsets="),
        (SERVERS | {"isolation.level": "committed"}, ["a"], {}, "'read_uncommitted' and 'read_committed'"),
        (SERVERS | {"ssl.truststore.location": "file:/ca.pem"}, ["a"], {}, "A location is a path: '/ca.pem'"),
        (SERVERS | {"partition.discovery.interval.ms": "often"}, ["a"], {}, "interval.ms is 'often'"),
        (SERVERS, ["a"], {"max_num_records": 0}, "max_num_records is 0"),
        (SERVERS, ["a"], {"max_num_records": 1.5}, "whole number"),
        (SERVERS, ["a"], {"max_read_time": -1}, "max_read_time is -1"),
        (SERVERS, ["a"], {"start_read_time": "yesterday"}, "start_read_time is 'yesterday'"),
        (SERVERS, ["a"], {"consumer_polling_timeout": 0}, "consumer_polling_timeout is 0"),
        (SERVERS, ["a"], {"max_out_of_orderness": float("nan")}, "max_out_of_orderness is nan"),
        (SERVERS, ["a"], {"idle_timeout": float("inf")}, "idle_timeout is inf"),
        (SERVERS, ["a"], {"redistribute_num_keys": 3}, "redistribute=True"),
        (SERVERS, ["a"], {"allow_duplicates": True}, "redistribute=True"),
        (SERVERS, ["a"], {"redistribute": True, "redistribute_num_keys": -1}, "whole number"),
        (SERVERS, ["a"], {"key_deserializer": "com.example.Avro"}, "com.example.Avro"),
        (SERVERS, ["a"], {"value_deserializer": 7}, "value_deserializer is 7"),
        (SERVERS, ["a"], {"value_deserializer": (byte for byte in b"").__next__}, "sent to the workers"),
        (
            SERVERS,
            ["a"],
            {"with_metadata": True, "key_deserializer": JAVA + "LongDeserializer"},
            "with_metadata",
        ),
        (SERVERS, ["a"], {"dead_letters": True}, "no deserializer is set"),
    ],
)
def test_a_wrong_read_is_refused(config: object, topics: object, options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ReadFromKafka(config, topics, **options)


@pytest.mark.parametrize(
    ("config", "topic", "options", "says"),
    [
        ({}, "a", {}, "bootstrap.servers"),
        (SERVERS, "", {}, "topic has ''"),
        (SERVERS, ["a"], {}, "no name of a Kafka topic"),
        (SERVERS, "a", {"delivery_guarantee": "twice"}, "at_least_once, exactly_once, none"),
        (SERVERS | {"acks": 0}, "a", {}, "delivery_guarantee='none'"),
        (SERVERS | {"transactional.id": "x"}, "a", {}, "transactional_id_prefix"),
        (SERVERS | {"partitioner.class": "org.me.Mine"}, "a", {}, "partition=n"),
        (SERVERS | {"partitioner": "consistent"}, "a", {}, "partition=n"),
        (SERVERS, "a", {"transactional_id_prefix": "x"}, "delivery_guarantee='exactly_once'"),
        (SERVERS | {"value.serializer": "x"}, "a", {}, "argument value_serializer"),
        (SERVERS, "a", {"key_serializer": "Nope"}, "Nope"),
    ],
)
def test_a_wrong_write_is_refused(config: object, topic: str, options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        WriteToKafka(config, topic, **options)


@pytest.mark.parametrize(
    ("name", "refused", "taken"),
    [
        ("acks", ["0", 1, " 1", "ALL"], ["all", -1]),
        ("enable.idempotence", [False, "False"], [True, "TRUE"]),
        ("max.in.flight.requests.per.connection", [0, 6, 50, "1e0"], [1, 5]),
        ("retries", [0, -1], [1, 2**31 - 1]),
    ],
)
def test_what_javas_producer_refuses_with_transactions_is_refused(name: str, refused: list, taken: list) -> None:
    for value in refused:
        with pytest.raises(ConfigError, match=re.escape(name)) as caught:
            WriteToKafka(SERVERS | {name: value}, "a", delivery_guarantee="exactly_once")
        assert "delivery_guarantee='exactly_once' needs" in str(caught.value)
        assert "Remove it" in str(caught.value)
    for value in taken:
        WriteToKafka(SERVERS | {name: value}, "a", delivery_guarantee="exactly_once")


def test_without_transactions_only_a_wish_for_idempotence_binds_the_producer() -> None:
    for more in ({"acks": 1}, {"retries": 0, "enable.idempotence": False}):
        WriteToKafka(SERVERS | more, "a")
    for guarantee in ("at_least_once", "none"):
        with pytest.raises(ConfigError, match=r"enable\.idempotence=true needs 'all'"):
            WriteToKafka(SERVERS | {"acks": 1, "enable.idempotence": True}, "a", delivery_guarantee=guarantee)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ReadFromKafka({}, [], timestamp_policy="x", key_deserializer="y")
    for part in ("bootstrap.servers", "topics is empty", "timestamp_policy", "key_deserializer"):
        assert part in str(caught.value)


def test_beams_error_type_is_kept() -> None:
    with pytest.raises(ValueError, match="timestamp_policy"):
        ReadFromKafka(SERVERS, ["a"], timestamp_policy="x")


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sasl.jaas.config", f'X required username="u" password="{SECRET}";'),
        ("sasl.password", SECRET),
        ("ssl.key.password", SECRET),
        ("ssl.keystore.password", SECRET),
        ("ssl.truststore.password", SECRET),
        ("ssl.keystore.key", SECRET),
        ("sasl.oauthbearer.client.credentials.client.secret", SECRET),
        ("sasl.oauthbearer.assertion.private.key.passphrase", SECRET),
    ],
)
def test_a_secret_in_plain_text_is_refused_and_not_repeated(name: str, value: str) -> None:
    for make in (lambda c: ReadFromKafka(c, ["a"]), lambda c: WriteToKafka(c, "a")):
        with pytest.raises(ConfigError, match="env:") as caught:
            make(SERVERS | {name: value})
        assert SECRET not in str(caught.value)
    for reference in ("env:KAFKA_SECRET", "file:/etc/kafka/secret"):
        payload = payload_of(ReadFromKafka(SERVERS | {name: reference}, ["a"]))
        assert payload["properties"][name] == reference


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sasl.jaas.config", "com.sun.security.auth.module.Krb5LoginModule required;"),
        ("ssl.truststore.location", "/etc/kafka/ca.pem"),
        ("sasl.oauthbearer.token.endpoint.url", "https://example.com"),
    ],
)
def test_what_is_no_secret_may_stand_in_plain_text(name: str, value: str) -> None:
    assert payload_of(ReadFromKafka(SERVERS | {name: value}, ["a"]))["properties"][name] == value


def test_an_expansion_service_is_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ReadFromKafka(SERVERS, ["a"], expansion_service="localhost:8097")
    assert "expansion_service is ignored" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "data"),
    [
        ("ByteArray", b"\x00a", b"\x00a"),
        ("String", "é", "é".encode()),
        ("Long", -5, struct.pack(">q", -5)),
        ("Integer", 7, struct.pack(">i", 7)),
        ("Short", 7, struct.pack(">h", 7)),
        ("Double", 1.5, struct.pack(">d", 1.5)),
        ("Float", 1.5, struct.pack(">f", 1.5)),
        ("Boolean", True, b"\x01"),
        ("UUID", uuid.UUID(int=5), b"00000000-0000-0000-0000-000000000005"),
    ],
)
def test_java_names_have_a_python_form(name: str, value: object, data: bytes) -> None:
    read, _ = deserializer("key_deserializer", f"{JAVA}{name}Deserializer")
    write, _ = serializer("key_serializer", f"{JAVA}{name}Serializer")
    assert (read(data) if read else data) == value
    assert (write(value) if write else value) == data


def test_a_number_of_the_wrong_length_says_so() -> None:
    read, _ = deserializer("key_deserializer", JAVA + "LongDeserializer")
    assert read is not None
    with pytest.raises(ValueError, match="8 bytes"):
        read(b"123")


def test_the_type_of_records_is_accepted_where_beams_is() -> None:
    pipeline = beam.Pipeline()
    records = pipeline | ReadFromKafka(SERVERS, ["a"])
    pair = typehints.Tuple[bytes, bytes]
    assert typehints.typehints.is_consistent_with(records.element_type, pair)
    records | "declared" >> beam.Map(lambda kv: kv).with_input_types(pair)
    records | WriteToKafka(SERVERS, "b")
    typed = pipeline | "typed" >> ReadFromKafka(
        SERVERS,
        ["a"],
        key_deserializer=JAVA + "StringDeserializer",
        value_deserializer=JAVA + "LongDeserializer",
    )
    assert typehints.typehints.is_consistent_with(typed.element_type, typehints.Tuple[str, int])
    metadata = pipeline | "metadata" >> ReadFromKafka(SERVERS, ["a"], with_metadata=True)
    assert metadata.element_type is KafkaRecord


def test_null_keys_and_tombstones_have_a_coder_that_the_jvm_knows() -> None:
    coder = coders.registry.get_coder(typehints.Tuple[NullableBytes, NullableBytes])
    for record in ((None, b"v"), (b"k", None), (b"", b"")):
        assert coder.decode(coder.encode(record)) == record
    assert coder.is_deterministic()
    urns = {each.spec.urn for each in _coder_protos(coder)}
    assert urns == {"beam:coder:kv:v1", "beam:coder:nullable:v1", "beam:coder:bytes:v1"}


def _coder_protos(coder: coders.Coder) -> list:
    from apache_beam.runners.pipeline_context import PipelineContext

    context = PipelineContext()
    context.coders.get_id(coder)
    return list(context.to_runner_api().coders.values())


def test_records_with_metadata_survive_their_coder() -> None:
    coder = coders.registry.get_coder(KafkaRecord)
    record = KafkaRecord("t", 1, 2**40, -1, None, b"v", [kafka.KafkaHeader("h", None)], -1, "NoTimestampType")
    again = coder.decode(coder.encode(record))
    assert again == record
    assert type(again) is KafkaRecord
    assert type(again.headers[0]) is kafka.KafkaHeader


@pytest.mark.parametrize("value", [(b"k", b"v"), (None, b"v"), (b"k", None)], ids=["both", "no key", "tombstone"])
def test_plain_tuples_are_accepted(value: tuple) -> None:
    beam.Pipeline() | beam.Create([value]) | WriteToKafka(SERVERS, "a")


def test_text_without_a_serializer_is_refused_when_the_pipeline_is_built() -> None:
    with pytest.raises(beam.typehints.TypeCheckError):
        beam.Pipeline() | beam.Create([("k", "v")]) | WriteToKafka(SERVERS, "a")


def packed(records: list, topic: str | None = "out", *serializers: object) -> list[frames.WriteBatch]:
    """What Pack makes of a bundle."""
    pack = kafka.SerializeAndPack(topic, *serializers) if serializers else kafka.Pack(topic)
    pack.start_bundle()
    found = [each for record in records for each in pack.process(record)] + list(pack.finish_bundle() or ())
    assert all(each.windows == (beam.window.GlobalWindow(),) for each in found)
    return [frames.decode_write_frame(each.value) for each in found]


def with_field(**field: object) -> ProducerRecord:
    return ProducerRecord(b"k", b"v")._replace(**field)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ((b"k", 5), "value of type int"),
        (("k", b"v"), "key of type str"),
        ((b"k", array("i", [1, 2])), "value of type array"),
        ((np.array([1.5]), b"v"), "key of type ndarray"),
        ((None, memoryview(array("i", [1, 2]))), "value of type memoryview"),
        (with_field(value=memoryview(array("i", [1, 2]))), "value of type memoryview"),
        ((b"k", memoryview(b"value")[::2]), "value of type memoryview"),
        (7, "neither a pair nor a ProducerRecord"),
        ((b"k", b"v", "topic"), "a tuple that is neither a pair"),
        (with_field(key="k"), "key of type str"),
        (with_field(value=5), "value of type int"),
        (with_field(topic="a/b"), "topic is 'a/b'"),
        (with_field(topic=b"a"), "topic is b'a'"),
        (with_field(partition=-1), "partition is -1"),
        (with_field(partition="1"), "partition is '1'"),
        (with_field(partition=2**31), "partition is 2147483648"),
        (with_field(timestamp=1.5), "timestamp is 1.5"),
        (with_field(timestamp=True), "timestamp is True"),
        (with_field(timestamp=-1), "timestamp is -1"),
        (with_field(headers={"a": b"1"}), "headers are no list"),
        (with_field(headers=[("a", "text")]), "headers are no list"),
        (with_field(headers=[(b"a", b"1")]), "headers are no list"),
        (with_field(headers=None), "headers are no list"),
    ],
)
def test_what_cannot_be_written_is_named(record: object, says: str) -> None:
    for serializers in ((), (None, None)):
        with pytest.raises(ConfigError, match=says):
            packed([(b"k", b"v"), record], "out", *serializers)


def test_other_kinds_of_bytes_are_written_as_bytes() -> None:
    (batch,) = packed([(bytearray(b"k"), memoryview(b"value")[1:]), (None, memoryview(b"v"))])
    assert batch.records == [(b"k", b"alue"), (None, b"v")]


def test_a_record_without_a_topic_is_refused_if_the_write_has_none() -> None:
    for record in ((b"k", b"v"), ProducerRecord(b"k", b"v")):
        with pytest.raises(ConfigError, match="without a topic"):
            packed([ProducerRecord(b"k", b"v", "a"), record], None)


def test_plain_pairs_cost_no_field_more() -> None:
    (batch,) = packed([(b"k", b"v"), (None, b"v")])
    assert batch == ([(b"k", b"v"), (None, b"v")], None, None, None, None)


def test_only_the_fields_that_a_frame_uses_are_in_it() -> None:
    (batch,) = packed([ProducerRecord(b"k", b"v"), with_field(partition=3)])
    assert batch == ([(b"k", b"v")] * 2, None, None, None, (frames.NOT_GIVEN, 3))


def test_pairs_and_records_are_written_side_by_side() -> None:
    records = [
        (b"1", b"v"),
        ProducerRecord(b"2", None, "other", [("a", b"1"), ("a", None)], 5, 0),
        ProducerRecord(b"3", b"v", timestamp=np.int64(6)),
    ]
    (batch,) = packed(records)
    assert batch.records == [(b"1", b"v"), (b"2", None), (b"3", b"v")]
    assert batch.topics == ["out", "other", "out"]
    assert batch.headers == [[], [("a", b"1"), ("a", None)], []]
    assert batch.timestamps == (frames.NOT_GIVEN, 5, 6)
    assert batch.partitions == (frames.NOT_GIVEN, 0, frames.NOT_GIVEN)


def test_serializers_apply_to_records_too_and_leave_their_other_fields() -> None:
    (batch,) = packed([ProducerRecord("é", None, "a", partition=1), ("k", "v")], "out", str.encode, str.encode)
    assert batch.records == [("é".encode(), None), (b"k", b"v")]
    assert batch.topics == ["a", "out"]
    assert batch.partitions == (1, frames.NOT_GIVEN)


@pytest.mark.parametrize("record", [with_field(topic="a"), with_field(headers={"wrong": 1}, key=5, partition=None)])
def test_records_to_write_survive_their_coder(record: ProducerRecord) -> None:
    coder = coders.registry.get_coder(ProducerRecord)
    again = coder.decode(coder.encode(record))
    assert again == record
    assert type(again) is ProducerRecord


def test_a_step_that_makes_records_to_write_is_accepted() -> None:
    pipeline = beam.Pipeline()
    records = pipeline | beam.Create([ProducerRecord(b"k", b"v", "a")])
    assert records.element_type is ProducerRecord
    records | WriteToKafka(SERVERS)
    mixed = pipeline | "mixed" >> beam.Create([ProducerRecord(b"k", b"v"), (b"k", b"v")])
    mixed | "topic" >> WriteToKafka(SERVERS, "a")


ONE_BAD = frames.encode_read_frame(
    [
        frames.Segment(
            "t", 3, frames.Backlog(), frames.CREATE_TIME, [10, 11], [(b"\xff", None), (None, b"v")],
            offsets=[5, 8], record_timestamps=[20, 21], headers=[[("h", None)], []],
        )
    ],
    metadata=True,
)  # fmt: skip


def test_a_record_that_cannot_be_decoded_fails_the_read_and_is_named() -> None:
    unpack = kafka.UnpackAndDeserialize(bytes.decode, None, dead_letters=False)
    with pytest.raises(
        DecodeError, match=r"partition 3 of topic t cannot be decoded by key_deserializer: UnicodeDecodeError: .* 0xff"
    ):
        unpack.process(ONE_BAD)


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise TypeError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (SpeechlessError(), "key_deserializer: SpeechlessError"),
        (ValueError("\udcff"), "key_deserializer: ValueError: \\udcff"),
        (ValueError("x" * 10**6), "key_deserializer: ValueError: " + "x" * (1000 - 30)),
    ],
)
def test_an_error_that_cannot_be_told_is_a_dead_letter_too(error: Exception, told: str) -> None:
    def fail(_: bytes) -> None:
        raise error

    unpack = kafka.UnpackAndDeserialize(fail, None, dead_letters=True)
    letter = next(iter(unpack.process(ONE_BAD))).value.value
    assert letter.error == told
    coder = coders.registry.get_coder(DeadLetter)
    assert coder.decode(coder.encode(letter)) == letter


def test_a_dead_letter_is_the_record_as_it_is_with_the_error() -> None:
    unpack = kafka.UnpackAndDeserialize(bytes.decode, lambda _: 1 / 0, dead_letters=True)
    found = list(unpack.process(ONE_BAD))
    assert {each.tag for each in found} == {"dead_letters"}
    letters = [each.value.value for each in found]
    assert [each.value.timestamp.micros for each in found] == [10_000, 11_000]
    assert letters[0][:7] == ("t", 3, 5, 20, b"\xff", None, [("h", None)])
    assert letters[1] == ("t", 3, 8, 21, None, b"v", [], "value_deserializer: ZeroDivisionError: division by zero")
    coder = coders.registry.get_coder(DeadLetter)
    assert [coder.decode(coder.encode(letter)) for letter in letters] == letters


@pytest.mark.parametrize(
    ("time_ms", "told"), [(NO_TIME, "it has no time"), (2**62, f"the time {2**62} ms, beyond what Beam can hold")]
)
@pytest.mark.parametrize("unpack", [kafka.Unpack, kafka.UnpackWithMetadata])
def test_a_record_without_an_event_time_fails_the_read_or_is_dead(unpack: Any, time_ms: int, told: str) -> None:
    segment = frames.Segment(
        "t", 3, frames.Backlog(), frames.CREATE_TIME, [5, time_ms, 7], [(b"a", None), (b"b", b"v"), (b"c", None)],
        offsets=[1, 2, 3], record_timestamps=[5, time_ms, 7], headers=[[], [("h", None)], []],
    )  # fmt: skip
    frame = frames.encode_read_frame([segment], metadata=True)
    with pytest.raises(DecodeError, match=f"partition 3 of topic t has no event time by timestamp_policy: .*{told}"):
        unpack().process(frame)
    with pytest.raises(DecodeError, match=told):
        unpack(dead_letters=True).process(frames.encode_read_frame([segment], metadata=False))
    letter, *rest = unpack(dead_letters=True).process(frame)
    assert letter.tag == "dead_letters"
    assert letter.value.value[:7] == ("t", 3, 2, time_ms, b"b", b"v", [("h", None)])
    assert letter.value.value.error.startswith("timestamp_policy: it has ")
    assert MIN_TIMESTAMP < letter.value.timestamp < MAX_TIMESTAMP
    assert [each.timestamp.micros for each in rest] == [5_000, 7_000]
    keys = [each.value[0] if unpack is kafka.Unpack else each.value.key for each in rest]
    assert keys == [b"a", b"c"]


def test_dead_letters_are_a_second_output_of_their_type() -> None:
    text = JAVA + "StringDeserializer"
    for redistribute in (False, True):
        read = ReadFromKafka(SERVERS, ["a"], text, text, redistribute=redistribute, dead_letters=True)
        found = beam.Pipeline() | read
        assert typehints.typehints.is_consistent_with(found.records.element_type, typehints.Tuple[str, str])
        assert found.dead_letters.element_type is DeadLetter
        assert not found.dead_letters.is_bounded


def test_the_package_refuses_to_be_imported_under_another_name() -> None:
    import runpy
    from pathlib import Path

    import beam_k8s.transforms

    with pytest.raises(ImportError, match=r"from beam_k8s\.transforms import"):
        runpy.run_path(str(Path(beam_k8s.transforms.__file__)), run_name="transforms")


def test_a_bundle_that_failed_leaves_no_records_for_the_next() -> None:
    pack = kafka.Pack("a")
    pack.start_bundle()
    pack.process((b"k", b"v"))
    pack.start_bundle()
    assert not pack.finish_bundle()


def test_frames_are_bounded_in_records_and_bytes_and_hold_all() -> None:
    records = [(b"k%d" % n, b"v") for n in range(1_001)] + [(b"large", b"x" * (1 << 19))] * 4
    batches = [batch.records for batch in packed(records)]
    assert [record for batch in batches for record in batch] == records
    assert [len(batch) for batch in batches] == [500, 500, 3, 2]
