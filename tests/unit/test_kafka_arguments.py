"""Arguments of the Kafka transforms: Beam's keep their meaning, wrong ones are named with the way out."""

from __future__ import annotations

import inspect
import json
import logging
import struct
import uuid

import apache_beam as beam
import pytest
from apache_beam import coders, typehints
from apache_beam.io import kafka as beams

from beam_k8s.errors import BeamK8sError, ConfigError
from beam_k8s.transforms import KafkaRecord, ReadFromKafka, WriteToKafka, kafka
from beam_k8s.transforms.config import ReadConfig, WriteConfig
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
    assert [p.default for p in positional] == [p.default for p in theirs.values()]


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
        "group_id": "g",
        "properties": {"auto.offset.reset": "earliest", "max.poll.records": "5000"},
        "start": "committed",
        "stop": None,
        "timestamp_policy": "processing_time",
        "max_out_of_orderness_ms": 0,
        "idle_timeout_ms": 30_000,
        "commit_offsets": False,
        "with_metadata": False,
        "frame_records": 500,
    }


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
        (SERVERS, None, {}, "list of topic names"),
        (SERVERS, ["a"], {"timestamp_policy": "Arrival"}, r"one of \[ProcessingTime"),
        (SERVERS | {"enable.auto.commit": True}, ["a"], {}, "lost"),
        (SERVERS | {"enable.auto.commit": "true"}, ["a"], {}, "commit_offset_in_finalize=True"),
        (SERVERS | {"auto.offset.reset": "smallest"}, ["a"], {}, "'earliest', 'latest'"),
        (SERVERS | {"auto.offset.reset": "none"}, ["a"], {}, "group.id"),
        (SERVERS | {"key.deserializer": "x"}, ["a"], {}, "argument key_deserializer"),
        (SERVERS, ["a"], {"commit_offset_in_finalize": True}, "group.id"),
        (SERVERS, ["a"], {"stop_at": "now"}, "'latest'"),
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
        (SERVERS, "a", {"transactional_id_prefix": "x"}, "delivery_guarantee='exactly_once'"),
        (SERVERS | {"value.serializer": "x"}, "a", {}, "argument value_serializer"),
        (SERVERS, "a", {"key_serializer": "Nope"}, "Nope"),
    ],
)
def test_a_wrong_write_is_refused(config: object, topic: str, options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        WriteToKafka(config, topic, **options)


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


@pytest.mark.parametrize(
    ("record", "says"), [((b"k", 5), "value of type int"), (("k", b"v"), "key of type str"), (7, "no pair")]
)  # fmt: skip
def test_what_cannot_be_written_is_named(record: object, says: str) -> None:
    pack = kafka.Pack()
    pack.start_bundle()

    def write() -> None:
        pack.process(record)
        pack.finish_bundle()

    with pytest.raises(BeamK8sError, match=says):
        write()


def test_a_strange_timestamp_does_not_stop_the_job() -> None:
    from beam_k8s.transforms import frames

    times = [-(2**63), -1, 0, 2**63 - 1]
    frame = frames.encode_read_frame([frames.Segment("t", 0, 0, 0, times, [(b"", b"")] * 4)], metadata=False)
    values = list(kafka.Unpack().process(frame))
    assert [value.timestamp.micros for value in values[1:3]] == [-1000, 0]


def test_the_package_refuses_to_be_imported_under_another_name() -> None:
    import runpy
    from pathlib import Path

    import beam_k8s.transforms

    with pytest.raises(ImportError, match=r"from beam_k8s\.transforms import"):
        runpy.run_path(str(Path(beam_k8s.transforms.__file__)), run_name="transforms")


def test_a_bundle_that_failed_leaves_no_records_for_the_next() -> None:
    pack = kafka.Pack()
    pack.start_bundle()
    pack.process((b"k", b"v"))
    pack.start_bundle()
    assert not pack.finish_bundle()


def test_frames_are_bounded_in_records_and_bytes_and_hold_all() -> None:
    from beam_k8s.transforms import frames

    pack = kafka.Pack()
    pack.start_bundle()
    records = [(b"k%d" % n, b"v") for n in range(1_001)] + [(b"large", b"x" * (1 << 19))] * 4
    emitted = [each for record in records for each in pack.process(record)]
    emitted += pack.finish_bundle() or ()
    batches = [frames.decode_write_frame(each.value).records for each in emitted]
    assert [record for batch in batches for record in batch] == records
    assert [len(batch) for batch in batches] == [500, 500, 3, 2]
    assert all(each.windows == (beam.window.GlobalWindow(),) for each in emitted)
