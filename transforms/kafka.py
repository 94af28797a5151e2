"""``ReadFromKafka`` and ``WriteToKafka`` with the arguments of ``apache_beam.io.kafka``, without Java at the desk.

Change the import and nothing else::

    from beam_k8s.transforms import ReadFromKafka, WriteToKafka

Each transform is two halves. One is a composite with a URN of ours, which Flink translates to its own Kafka connector
and every other runner replaces by the composite's content: Python on kafka-python. The other half is a DoFn fused with
the user's: it turns frames (many records as one element, see ``frames``) into records, or records into frames. So the
records, their timestamps and the metrics are the same everywhere.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from itertools import repeat, starmap
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import apache_beam as beam
from apache_beam import coders, typehints
from apache_beam.metrics import Metrics
from apache_beam.runners.direct.direct_runner import SwitchingDirectRunner
from apache_beam.runners.portability.prism_runner import PrismRunner
from apache_beam.transforms.display import DisplayDataItem
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp
from apache_beam.utils.windowed_value import create as windowed_value

from beam_k8s.errors import BeamK8sError, ConfigError, DecodeError
from beam_k8s.transforms import frames, metrics, sdf
from beam_k8s.transforms.clients import KafkaPythonConsumers, KafkaPythonProducers
from beam_k8s.transforms.config import (
    FRAME_BYTES,
    FRAME_RECORDS,
    TOPIC_HINT,
    ReadConfig,
    WriteConfig,
    is_topic,
    read_config,
    write_config,
)
from beam_k8s.transforms.offsets import NO_TIME, are_event_times
from beam_k8s.transforms.serializers import deserializer, serializer

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from beam_k8s.transforms.clients import Producer, ProducerFactory
    from beam_k8s.transforms.serializers import Deserializer, Serializer

__all__ = [
    "READ_URN",
    "WRITE_URN",
    "DeadLetter",
    "KafkaHeader",
    "KafkaRecord",
    "ProducerRecord",
    "ReadFromKafka",
    "ReadOutputs",
    "WriteToKafka",
]

_LOGGER = logging.getLogger(__name__)

READ_URN = "beam_k8s:transform:kafka_read:v1"
WRITE_URN = "beam_k8s:transform:kafka_write:v1"

_GLOBAL = (GlobalWindow(),)
_DEAD_LETTERS = "dead_letters"
_LONGEST_ERROR = 1000
"""Characters of a deserializer's error that are kept."""
_SERIALIZATION = "org.apache.kafka.common.serialization."


class KafkaHeader(NamedTuple):
    """One header of a record. ``value`` may be None."""

    key: str
    value: Optional[bytes]  # noqa: UP045 - Beam 2.62 evaluates these hints and does not know `bytes | None`


class KafkaRecord(NamedTuple):
    """A record with its metadata, by the field names of Beam's ``with_metadata`` rows.

    ``timestamp`` is the record's own, in ms since the epoch, whatever the timestamp policy; ``timestampTypeId`` and
    ``timestampTypeName`` tell which: 0 CreateTime, 1 LogAppendTime, -1 NoTimestampType. ``value`` is None for a
    tombstone; ``headers`` is empty if there are none.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: Optional[bytes]  # noqa: UP045
    value: Optional[bytes]  # noqa: UP045
    headers: list[KafkaHeader]
    timestampTypeId: int  # noqa: N815 - Beam's field name
    timestampTypeName: str  # noqa: N815 - Beam's field name


_TIMESTAMP_TYPES = {
    frames.CREATE_TIME: (0, "CreateTime"),
    frames.LOG_APPEND_TIME: (1, "LogAppendTime"),
    frames.NO_TIMESTAMP_TYPE: (-1, "NoTimestampType"),
}


class DeadLetter(NamedTuple):
    """A record that cannot be given, as the broker has it: ``timestamp`` in ms since the epoch, and bytes.

    ``error`` says which deserializer failed, and how; or that it has no event time. Its own event time is that of the
    record, or where it has none that of the read.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: Optional[bytes]  # noqa: UP045
    value: Optional[bytes]  # noqa: UP045
    headers: list[KafkaHeader]
    error: str


_NULLABLE_BYTES = coders.NullableCoder(coders.BytesCoder())


class _RecordCoder(coders.Coder):
    """A record as bytes; deterministic. Not Beam's row coder: that gives back another class in a fresh worker."""

    _type: type[Any]
    _more: tuple[coders.Coder, ...]
    """Of the fields after those that all records have."""

    def __init__(self) -> None:
        self._fields = coders.TupleCoder(
            [
                coders.StrUtf8Coder(),
                coders.VarIntCoder(),
                coders.VarIntCoder(),
                coders.VarIntCoder(),
                _NULLABLE_BYTES,
                _NULLABLE_BYTES,
                coders.ListCoder(coders.TupleCoder([coders.StrUtf8Coder(), _NULLABLE_BYTES])),
                *self._more,
            ]
        )

    def encode(self, value: Any) -> bytes:
        encoded: bytes = self._fields.encode(tuple(value))
        return encoded

    def decode(self, encoded: bytes) -> Any:
        fields = list(self._fields.decode(encoded))
        fields[6] = [KafkaHeader(*header) for header in fields[6]]
        return self._type(*fields)

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> type[Any]:
        return self._type

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


class KafkaRecordCoder(_RecordCoder):
    """Of KafkaRecord."""

    _type = KafkaRecord
    _more = (coders.VarIntCoder(), coders.StrUtf8Coder())


class DeadLetterCoder(_RecordCoder):
    """Of DeadLetter."""

    _type = DeadLetter
    _more = (coders.StrUtf8Coder(),)


coders.registry.register_coder(KafkaRecord, KafkaRecordCoder)
coders.registry.register_coder(DeadLetter, DeadLetterCoder)


class ReadOutputs(NamedTuple):
    """What ``ReadFromKafka(dead_letters=True)`` gives: two PCollections, of records and of DeadLetter."""

    records: beam.PCollection
    dead_letters: beam.PCollection


class ProducerRecord(NamedTuple):
    """A record to write that says more than ``(key, value)``, by the field names of Kafka's own ProducerRecord.

    ``topic``: None is the topic of WriteToKafka. ``headers``: pairs of a name and bytes or None. ``timestamp`` is in
    ms since the epoch; None is the time of the write. ``partition``: None leaves it to the partitioner.
    """

    key: Any
    value: Any
    topic: Optional[str] = None  # noqa: UP045
    headers: Any = ()
    timestamp: Optional[int] = None  # noqa: UP045
    partition: Optional[int] = None  # noqa: UP045


class ProducerRecordCoder(coders.Coder):
    """ProducerRecord as bytes. It takes wrong fields too: that they are wrong is for WriteToKafka to say."""

    _fields = coders.FastPrimitivesCoder()

    def encode(self, value: ProducerRecord) -> bytes:
        encoded: bytes = self._fields.encode(tuple(value))
        return encoded

    def decode(self, encoded: bytes) -> ProducerRecord:
        return ProducerRecord(*self._fields.decode(encoded))

    def to_type_hint(self) -> type[ProducerRecord]:
        return ProducerRecord

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


coders.registry.register_coder(ProducerRecord, ProducerRecordCoder)


class ReadFromKafka(beam.PTransform):
    """Read Kafka topics: a PCollection of ``(key, value)``, or of KafkaRecord with metadata; or ReadOutputs.

    Null keys and null values (tombstones) are None.

    Args:
        consumer_config: properties by the names of Kafka's Java client. ``bootstrap.servers`` is needed;
            ``group.id`` names the group whose committed offsets are the start; ``auto.offset.reset`` (default
            ``latest``, as Kafka's) is the start where there are none. Secrets are references that only the worker
            resolves: ``env:NAME`` or ``file:PATH``. What would lose or change records, or assign or commit on its own
            (auto commit, interceptors, static membership, assignors), is refused.
        topics: names of topics.
        topic_pattern: instead of ``topics``: a regular expression that the whole name of a topic matches, in what
            Python's and Java's syntax share. At least one topic must match at the start. Topics and partitions that
            come later are found within a minute (``partition.discovery.interval.ms`` in ``consumer_config``, as of
            Flink's connector; 0 = never) and read from their first record. A read with a stop, DirectRunner
            and Prism read what is there at the start.
        key_deserializer: Java class name of a common Kafka deserializer (byte array, string, long, integer, short,
            double, float, boolean, UUID), or a Python callable ``bytes -> object``. Never called for null.
        value_deserializer: the same, for values.
        start_read_time: start at this time [ms since the epoch] instead.
        max_num_records: end after so many records [records]. For tests and demos: one worker reads all.
        max_read_time: end after so long [s]. The same holds.
        commit_offset_in_finalize: commit offsets for the group (``group.id`` is needed then) when their records are
            safely processed, on Flink with each checkpoint. False (default): none are ever committed, so that a job
            that starts anew, without a checkpoint, does not go on where the last one ended.
        timestamp_policy: ``processing_time_policy`` (default), ``create_time_policy``, ``log_append_time``, or a
            function ``KafkaRecord -> event time``, which is what ``TimestampedValue`` takes: seconds since the epoch
            or a Timestamp, of which whole ms are kept. If it fails, the read does. Only Python can call it: on Flink
            too the read is then the Python one of other runners, which is slower. A record without a time (-1, as of
            Kafka 0.9), or with one beyond Beam's range, has no create or log append time: see ``dead_letters``.
        consumer_polling_timeout: longest wait of one poll [s], on other runners than Flink.
        with_metadata: give KafkaRecord; only with the default deserializers.
        expansion_service: ignored with a warning: there is no Java expansion.
        redistribute: shuffle the records after the read, so that more workers than partitions get some.
        redistribute_num_keys: how many keys that shuffle has; 0 = any.
        allow_duplicates: a hint for ``redistribute``; nothing is duplicated here.
        stop_at: ``latest``: read up to the end that each partition has at the start of the job, then finish.
            None (default): read for ever. With ``isolation.level=read_committed`` an end lies before the first record
            of a transaction that is open then.
        start_offsets: ``{topic: {partition: offset}}`` or ``{(topic, partition): offset}``: the first record of these
            partitions. If it was deleted, the oldest left is, and the others are told as lost (see the README).
            One beyond the end is an error. The other partitions start as without it.
        stop_read_time: read what lies before the first record of this time [ms since the epoch] or later, and where
            there is none yet, up to the end; then finish.
        stop_offsets: in the form of ``start_offsets``: read what lies before these, and wait for it if it is not yet
            written; the other partitions up to the end; then finish.
        max_out_of_orderness: how far [s] records of a partition may be out of order before they are late. Default:
            1 with create time and with a function (see ``config.DEFAULT_OUT_OF_ORDERNESS_S``), else 0.
        idle_timeout: a partition without backlog for this long [s] no longer holds back the watermark; None or 0 =
            never. A partition with backlog always does. Default 30.
        dead_letters: True: the read gives ``records, dead_letters`` (see ReadOutputs), and a record that a deserializer
            raises an error on is in the second; an error that comes later, as from a generator that it returns, is the
            next step's. So is a record whose create or log append time is the event time, and is none that Beam can
            hold (see ``timestamp_policy``). False (default): it fails the pipeline. The error's text, which may quote
            the record, is told in both cases. ``redistribute`` is of the records only.

    Raises:
        ConfigError: an argument is wrong; names all that are.
    """

    byte_array_deserializer = _SERIALIZATION + "ByteArrayDeserializer"

    processing_time_policy = "ProcessingTime"
    create_time_policy = "CreateTime"
    log_append_time = "LogAppendTime"

    def __init__(  # noqa: PLR0917 - Beam's own, by position
        self,
        consumer_config: Mapping[str, object],
        topics: Sequence[str] | None = None,
        key_deserializer: str | Deserializer = byte_array_deserializer,
        value_deserializer: str | Deserializer = byte_array_deserializer,
        start_read_time: int | None = None,
        max_num_records: int | None = None,
        max_read_time: float | None = None,
        commit_offset_in_finalize: bool = False,
        timestamp_policy: str | Callable[[KafkaRecord], Timestamp | float] = processing_time_policy,
        consumer_polling_timeout: float | None = 2,
        with_metadata: bool = False,
        expansion_service: object = None,
        redistribute: bool = False,
        redistribute_num_keys: int = 0,
        allow_duplicates: bool = False,
        *,
        topic_pattern: str | re.Pattern[str] | None = None,
        stop_at: str | None = None,
        start_offsets: Mapping[str, Mapping[int, int]] | Mapping[tuple[str, int], int] | None = None,
        stop_read_time: int | None = None,
        stop_offsets: Mapping[str, Mapping[int, int]] | Mapping[tuple[str, int], int] | None = None,
        max_out_of_orderness: float | None = None,
        idle_timeout: float | None = 30,
        dead_letters: bool = False,
    ) -> None:
        super().__init__()
        errors: list[BeamK8sError] = []
        self._key, key_hint = _checked(deserializer, "key_deserializer", key_deserializer, errors)
        self._value, value_hint = _checked(deserializer, "value_deserializer", value_deserializer, errors)
        self._deserializes = self._key is not None or self._value is not None
        try:
            self._config = read_config(
                consumer_config,
                topics,
                topic_pattern=topic_pattern,
                start_read_time=start_read_time,
                start_offsets=start_offsets,
                max_num_records=max_num_records,
                max_read_time=max_read_time,
                commit_offset_in_finalize=commit_offset_in_finalize,
                timestamp_policy=timestamp_policy,
                event_times=_EventTimes(timestamp_policy) if callable(timestamp_policy) else None,
                consumer_polling_timeout=consumer_polling_timeout,
                with_metadata=with_metadata or dead_letters,  # which keep offset and headers; others do not pay for it
                stop_at=stop_at,
                stop_read_time=stop_read_time,
                stop_offsets=stop_offsets,
                max_out_of_orderness=max_out_of_orderness,
                idle_timeout=idle_timeout,
            )
        except ConfigError as error:
            errors.append(error)
        if with_metadata and self._deserializes:
            errors.append(
                ConfigError(
                    "with_metadata is true and a deserializer is set: records with metadata hold bytes.",
                    hint="Leave the deserializers out, and convert key and value in the next step.",
                )
            )
        times = (self.create_time_policy, self.log_append_time)
        if dead_letters and not errors and not self._deserializes and timestamp_policy not in times:
            errors.append(
                ConfigError(
                    "dead_letters is true, no deserializer is set, and timestamp_policy is not the records' own time: "
                    "all records can be read.",
                    hint="Set key_deserializer or value_deserializer, or remove dead_letters.",
                )
            )
        keys = _redistribute_keys(redistribute, redistribute_num_keys, allow_duplicates, errors)
        if errors:
            raise ConfigError.of_all(errors)
        _warn_of_expansion_service(self, expansion_service)
        self._redistribute = bool(redistribute)
        self._redistribute_keys = keys
        self._dead_letters = bool(dead_letters)
        self._with_metadata = bool(with_metadata)
        self._output = KafkaRecord if with_metadata else typehints.Tuple[key_hint, value_hint]

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection | ReadOutputs:
        unpack = (
            UnpackAndDeserialize(self._key, self._value, dead_letters=self._dead_letters)
            if self._deserializes
            else UnpackWithMetadata(dead_letters=self._dead_letters)
            if self._with_metadata
            else Unpack(dead_letters=self._dead_letters)
        )
        if self._config.is_python:
            # It has no URN of ours.
            found = pbegin | "Source" >> _PythonSource(self._config)
        else:
            found = pbegin | "Source" >> Source(self._config)
        step = beam.ParDo(unpack).with_output_types(self._output)
        if self._dead_letters:
            records, dead_letters = found | "Unpack" >> step.with_outputs(_DEAD_LETTERS, main="records")
            dead_letters.element_type = DeadLetter  # Beam types the main output only
        else:
            records = found | "Unpack" >> step
        if self._redistribute:
            records |= "Redistribute" >> beam.Reshuffle(self._redistribute_keys)
        return ReadOutputs(records, dead_letters) if self._dead_letters else records

    def infer_output_type(self, _: object) -> Any:
        return self._output

    def default_label(self) -> str:
        return "ReadFromKafka"

    def display_data(self) -> dict[str, DisplayDataItem]:
        config = self._config
        return {
            "topics": DisplayDataItem(config.topic_pattern or ", ".join(config.topics), label="Topics"),
            "bootstrap_servers": DisplayDataItem(config.bootstrap_servers, label="Brokers"),
            "group_id": DisplayDataItem(config.group_id, label="Consumer group").drop_if_none(),
            "timestamp_policy": DisplayDataItem(config.timestamp_policy, label="Timestamps"),
        }


class WriteToKafka(beam.PTransform):
    """Write ``(key, value)`` pairs, or ProducerRecords, to Kafka. None as key or value is written as null.

    Args:
        producer_config: properties by the names of Kafka's Java client. ``bootstrap.servers`` is needed. Secrets are
            references: ``env:NAME`` or ``file:PATH``. Records with a key go to the partition that Kafka's own
            partitioner gives them (murmur2), on every runner.
        topic: name of the topic of all records that do not name their own. None: every record is a ProducerRecord that
            does.
        key_serializer: Java class name of a common Kafka serializer, or a Python callable ``object -> bytes``.
            Never called for None.
        value_serializer: the same, for values.
        expansion_service: ignored with a warning: there is no Java expansion.
        delivery_guarantee: ``at_least_once`` (default), ``exactly_once`` (Kafka transactions that are committed with
            Flink's checkpoints, whose interval and timeout must fit into ``transaction.timeout.ms``, default 15 min;
            readers need ``isolation.level=read_committed``; ``acks=1`` and what else keeps a producer from having
            transactions is refused) or ``none``. On other runners than Flink ``exactly_once`` is at least once, with a
            warning in the worker.
        transactional_id_prefix: of ``exactly_once``: unique to this write on the broker, the same after a restart.
            None: ``NAMESPACE/JOB/TRANSFORM``, without the namespace where there is none.

    Raises:
        ConfigError: an argument is wrong; names all that are.
    """

    byte_array_serializer = _SERIALIZATION + "ByteArraySerializer"

    def __init__(
        self,
        producer_config: Mapping[str, object],
        topic: str | None = None,
        key_serializer: str | Serializer = byte_array_serializer,
        value_serializer: str | Serializer = byte_array_serializer,
        expansion_service: object = None,
        *,
        delivery_guarantee: str = "at_least_once",
        transactional_id_prefix: str | None = None,
    ) -> None:
        super().__init__()
        errors: list[BeamK8sError] = []
        try:
            self._config = write_config(
                producer_config,
                topic,
                delivery_guarantee=delivery_guarantee,
                transactional_id_prefix=transactional_id_prefix,
            )
        except ConfigError as error:
            errors.append(error)
        self._key, key_hint = _checked(serializer, "key_serializer", key_serializer, errors)
        self._value, value_hint = _checked(serializer, "value_serializer", value_serializer, errors)
        if errors:
            raise ConfigError.of_all(errors)
        _warn_of_expansion_service(self, expansion_service)
        self._input = typehints.Union[typehints.Tuple[key_hint, value_hint], ProducerRecord]

    def expand(self, pcoll: beam.PCollection) -> beam.pvalue.PDone:
        topic = self._config.topic
        plain = self._key is None and self._value is None
        pack = Pack(topic) if plain else SerializeAndPack(topic, self._key, self._value)
        packed = pcoll | "Pack" >> _IntoGlobalWindow(pack).with_input_types(self._input).with_output_types(bytes)
        return packed | "Sink" >> Sink(self._config)

    def default_label(self) -> str:
        return "WriteToKafka"

    def display_data(self) -> dict[str, DisplayDataItem]:
        config = self._config
        return {
            "topic": DisplayDataItem(config.topic, label="Topic").drop_if_none(),
            "bootstrap_servers": DisplayDataItem(config.bootstrap_servers, label="Brokers"),
            "delivery_guarantee": DisplayDataItem(config.delivery_guarantee, label="Delivery"),
        }


class _PythonSource(beam.PTransform):
    """Impulse -> frames, on any runner that knows splittable DoFns."""

    def __init__(self, config: ReadConfig) -> None:
        super().__init__()
        self._config = config

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        config = self._config
        consumers = KafkaPythonConsumers(config.bootstrap_servers, config.group_id, config.properties)
        # DirectRunner gives nothing to the steps after a search, which never ends; Prism 2.62 only what it finds first.
        is_local = isinstance(pbegin.pipeline.runner, (SwitchingDirectRunner, PrismRunner))
        once = config.is_bounded or is_local or not config.discovery_interval_ms
        find = sdf.ListParts if once else sdf.FindParts
        return (
            pbegin
            | "Impulse" >> beam.Impulse()
            | "ListParts" >> beam.ParDo(find(config, consumers))
            | "Spread" >> beam.Reshuffle()
            | "ReadParts" >> beam.ParDo(sdf.make_reader(config, consumers)).with_output_types(bytes)
        )


class Source(_PythonSource):
    """The first half of the read: frames. Flink translates its URN; other runners take its content."""

    def to_runner_api_parameter(self, _: object, **__: object) -> tuple[str, bytes]:
        return READ_URN, self._config.payload()

    @staticmethod
    def from_runner_api_parameter(_: object, payload: bytes, __: object) -> Source:
        return Source(ReadConfig.from_payload(payload))


class Sink(beam.PTransform):
    """The second half of the write: takes frames. Flink translates its URN; other runners take its content."""

    def __init__(self, config: WriteConfig) -> None:
        super().__init__()
        self._config = config

    def expand(self, pcoll: beam.PCollection) -> beam.pvalue.PDone:
        config = self._config
        producers = KafkaPythonProducers(config.bootstrap_servers, config.properties)
        pcoll | "WriteFrames" >> beam.ParDo(WriteFrames(config, producers))
        return beam.pvalue.PDone(pcoll.pipeline)

    def to_runner_api_parameter(self, _: object, **__: object) -> tuple[str, bytes]:
        return WRITE_URN, self._config.payload()

    @staticmethod
    def from_runner_api_parameter(_: object, payload: bytes, __: object) -> Sink:
        return Sink(WriteConfig.from_payload(payload))


beam.PTransform.register_urn(READ_URN, None)(Source)
beam.PTransform.register_urn(WRITE_URN, None)(Sink)


class Unpack(beam.DoFn):
    """Frames -> (key, value) with their timestamps, and the read's metrics. The hot path of every read.

    ``process`` takes no parameters of Beam's and gives a list of ready windowed values: a generator, a Timestamp object
    a record, or one parameter more were each measured to cost as much as all of this.
    """

    def __init__(self, *, dead_letters: bool = False) -> None:
        self._dead_letters = dead_letters
        self._dead = Metrics.counter(metrics.NAMESPACE, metrics.DEAD_LETTERS)
        self._read = Metrics.counter(metrics.NAMESPACE, metrics.RECORDS_READ)
        self._lost = Metrics.counter(metrics.NAMESPACE, metrics.RECORDS_LOST)
        self._backlog = metrics.BacklogGauges()

    def process(self, frame: bytes) -> Iterable[Any]:
        values: list[Any] = []
        for segment in frames.decode_read_frame(frame):
            if segment.lost:
                self._tell_lost(segment)
            if segment.timestamps and not are_event_times(segment.timestamps):
                letters, segment = self._without_event_time(segment)  # noqa: PLW2901 - what is left of it
                values += letters
            values += self._values(segment)
        if values:
            self._read.inc(len(values))
        return values

    def _without_event_time(self, segment: frames.Segment) -> tuple[list[Any], frames.Segment]:
        """(Dead letters of the records that have no event time, the segment without these).

        Raises:
            DecodeError: none were asked for.
        """
        letters: list[Any] = []
        kept: list[int] = []
        for index, time_ms in enumerate(segment.timestamps):
            if are_event_times([time_ms]):
                kept.append(index)
                continue
            what = "no time" if time_ms == NO_TIME else f"the time {time_ms} ms, beyond what Beam can hold"
            if not (self._dead_letters and segment.offsets):
                raise DecodeError(
                    f"A record of partition {segment.partition} of topic {segment.topic} has no event time by "
                    f"timestamp_policy: it has {what}.",
                    hint="ReadFromKafka(..., dead_letters=True) gives such records as a second output, by offset; "
                    "timestamp_policy=ReadFromKafka.processing_time_policy reads them.",
                )
            letters.append(
                self._dead_letter(segment, index, f"timestamp_policy: it has {what}", time.time_ns() // 1000)
            )
        return letters, segment._replace(
            timestamps=[segment.timestamps[n] for n in kept],
            records=[segment.records[n] for n in kept],
            offsets=[segment.offsets[n] for n in kept],
            record_timestamps=[segment.record_timestamps[n] for n in kept],
            headers=[segment.headers[n] for n in kept],
        )

    def _dead_letter(self, segment: frames.Segment, index: int, error: str, micros: int) -> beam.pvalue.TaggedOutput:
        self._dead.inc()
        letter = DeadLetter(
            segment.topic,
            segment.partition,
            segment.offsets[index],
            segment.record_timestamps[index],
            *segment.records[index],
            [KafkaHeader(*header) for header in segment.headers[index]],
            error,
        )
        return beam.pvalue.TaggedOutput(_DEAD_LETTERS, windowed_value(letter, micros, _GLOBAL))

    def _tell_lost(self, segment: frames.Segment) -> None:
        self._lost.inc(segment.lost)
        # A worker's warnings are shown by the launcher, whichever reader found it.
        _LOGGER.warning(
            "%d records of partition %d of topic %s are lost: the broker deleted them (retention, or a request) before "
            "they were read. The read goes on at the oldest one left.",
            segment.lost,
            segment.partition,
            segment.topic,
        )

    def _values(self, segment: frames.Segment) -> list[Any]:
        self._backlog.set(segment)
        return [
            windowed_value(record, time_ms * 1000, _GLOBAL)
            for record, time_ms in zip(self._records(segment), segment.timestamps)  # noqa: B905 - hot
        ]

    def _records(self, segment: frames.Segment) -> Iterable[Any]:
        return segment.records


class UnpackAndDeserialize(Unpack):
    """Unpack with functions for key and value; None as a function leaves bytes, None as a value stays None.

    Where a function fails the read does, or with ``dead_letters``, whose frames have metadata, the record goes there.
    """

    def __init__(self, key: Deserializer | None, value: Deserializer | None, *, dead_letters: bool) -> None:
        super().__init__(dead_letters=dead_letters)
        self._key = key or _same
        self._value = value or _same

    def _values(self, segment: frames.Segment) -> list[Any]:
        self._backlog.set(segment)
        key, value = self._key, self._value
        values: list[Any] = []
        for index, ((k, v), time_ms) in enumerate(zip(segment.records, segment.timestamps)):  # noqa: B905 - hot
            option = "key_deserializer"
            try:
                decoded_key = None if k is None else key(k)
                option = "value_deserializer"
                record = decoded_key, (None if v is None else value(v))
            except Exception as error:
                said = _told(option, error)
                if not (self._dead_letters and segment.offsets):
                    raise DecodeError(
                        f"A record of partition {segment.partition} of topic {segment.topic} cannot be decoded by "
                        f"{said}",
                        hint="ReadFromKafka(..., dead_letters=True) gives such records as a second output, by offset.",
                    ) from error
                values.append(self._dead_letter(segment, index, said, time_ms * 1000))
            else:
                values.append(windowed_value(record, time_ms * 1000, _GLOBAL))
        return values


def _told(option: str, error: Exception) -> str:
    """What went wrong, as a coder takes it: an error of the user's may hold anything, or fail to say."""
    try:
        said = f"{option}: {type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - of the user's code
        said = f"{option}: {type(error).__name__}"
    return said[:_LONGEST_ERROR].encode(errors="backslashreplace").decode()


class UnpackWithMetadata(Unpack):
    """Unpack into KafkaRecord."""

    def _records(self, segment: frames.Segment) -> Iterable[KafkaRecord]:
        return _kafka_records(segment)


class _EventTimes:
    """The user's function of a record, as one of a segment."""

    def __init__(self, function: Callable[[KafkaRecord], Timestamp | float]) -> None:
        self._function = function

    def __call__(self, segment: frames.Segment) -> list[int]:
        return [self._of(record) for record in _kafka_records(segment)]

    def _of(self, record: KafkaRecord) -> int:
        try:
            time_ms = int(Timestamp.of(self._function(record)).micros // 1000)
        except Exception as error:
            raise _no_event_time(record, _told("timestamp_policy", error)) from error
        if not are_event_times([time_ms]):
            raise _no_event_time(record, f"timestamp_policy: {time_ms} ms is beyond what Beam can hold")
        return time_ms


def _no_event_time(record: KafkaRecord, said: str) -> DecodeError:
    return DecodeError(
        f"The record at offset {record.offset} of partition {record.partition} of topic {record.topic} gets no event "
        f"time from {said}",
        hint="Let the function return seconds since the epoch or a Timestamp for every record, for example "
        "record.timestamp / 1000, its create time, for what it cannot read.",
    )


def _kafka_records(segment: frames.Segment) -> Iterator[KafkaRecord]:
    n = len(segment.records)
    kind, kind_name = _TIMESTAMP_TYPES.get(segment.timestamp_type, _TIMESTAMP_TYPES[frames.NO_TIMESTAMP_TYPE])
    fields = zip(
        repeat(segment.topic, n),
        repeat(segment.partition, n),
        segment.offsets,
        segment.record_timestamps,
        [key for key, _ in segment.records],
        [value for _, value in segment.records],
        [list(starmap(KafkaHeader, block)) if block else [] for block in segment.headers],
        repeat(kind, n),
        repeat(kind_name, n),
        strict=True,
    )
    # As KafkaRecord(...) does it, without its call in Python: 0.17 instead of 0.44 us a record.
    return map(tuple.__new__, repeat(KafkaRecord), fields)


class Pack(beam.DoFn):
    """Records -> write frames: one when it is full, and one at the end of the bundle.

    Windows and timestamps of the records are not looked at (a parameter for them would cost 3 to 6 us a record): a
    frame is in the global window at the least timestamp.
    """

    def __init__(self, topic: str | None) -> None:
        self._topic = topic
        self._written = Metrics.counter(metrics.NAMESPACE, metrics.RECORDS_WRITTEN)
        self._records: list[Any] = []
        self._bytes = 0

    def start_bundle(self) -> None:
        # A bundle that failed has left its records here; it is processed again.
        self._records = []
        self._bytes = 0

    def process(self, record: Any) -> Iterable[Any] | None:
        records = self._records
        records.append(record)
        try:
            value = record[1]
            if value is not None:
                self._bytes += len(value)
        except (TypeError, IndexError, KeyError) as error:
            raise _not_writable([record], self._topic) from error
        if len(records) < FRAME_RECORDS and self._bytes < FRAME_BYTES:
            return ()
        return (self._frame(),)

    def finish_bundle(self) -> Iterable[Any] | None:
        return (self._frame(),) if self._records else None

    def _frame(self) -> Any:
        records = self._records
        self._records = []
        self._bytes = 0
        frame = _write_frame(records, self._topic)
        self._written.inc(len(records))
        return windowed_value(frame, MIN_TIMESTAMP.micros, _GLOBAL)


class SerializeAndPack(Pack):
    """Pack with functions for key and value; None as a function means bytes, None as a value stays None."""

    def __init__(self, topic: str | None, key: Serializer | None, value: Serializer | None) -> None:
        super().__init__(topic)
        self._key = key or _same
        self._value = value or _same

    def process(self, record: Any) -> Iterable[Any] | None:
        more: Sequence[Any] = ()
        try:
            if isinstance(record, ProducerRecord):
                key, value, *more = record
            else:
                key, value = record
        except (TypeError, ValueError) as error:
            raise _not_writable([record], self._topic) from error
        if key is not None:
            key = self._key(key)
        if value is not None:
            value = self._value(value)
        return super().process(ProducerRecord(key, value, *more) if more else (key, value))


class _IntoGlobalWindow(beam.ParDo):
    """A ParDo whose output is in the global window, whatever its input is in.

    Beam's own WindowInto does the same override, but is a DoFn of its own with a cost a record.
    """

    def get_windowing(self, _: object) -> beam.transforms.core.Windowing:
        return beam.transforms.core.Windowing(GlobalWindows())


class WriteFrames(beam.DoFn):
    """Write frames -> broker, of every runner but Flink. A bundle ends when the broker has all of it, or fails."""

    def __init__(self, config: WriteConfig, producers: ProducerFactory) -> None:
        self._config = config
        self._producers = producers
        self._producer: Producer | None = None

    def setup(self) -> None:
        if self._config.delivery_guarantee == "exactly_once":
            _LOGGER.warning(
                "delivery_guarantee=exactly_once is at least once on this runner: only Flink ties Kafka's "
                "transactions to checkpoints topic=%s",
                self._config.topic,
            )

    def process(self, frame: bytes) -> Iterable[Any]:
        if self._producer is None:
            self._producer = self._producers.open()
        records, timestamps, headers, topics, partitions = frames.decode_write_frame(frame)
        send, topic = self._producer.send, self._config.topic or ""  # without one, the frame names them
        for index, (key, value) in enumerate(records):
            send(
                topics[index] if topics else topic,
                key,
                value,
                headers[index] if headers else (),
                timestamp_ms=_given(timestamps, index),
                partition=_given(partitions, index),
            )
        return ()

    def finish_bundle(self) -> None:
        if self._producer is not None:
            self._producer.flush()

    def teardown(self) -> None:
        if self._producer is not None:
            self._producer.close()
            self._producer = None


def _same(data: Any) -> Any:
    return data


def _given(numbers: Sequence[int] | None, index: int) -> int | None:
    return None if numbers is None or numbers[index] == frames.NOT_GIVEN else numbers[index]


def _write_frame(records: Sequence[Any], topic: str | None) -> bytes:
    """A frame of pairs and ProducerRecords.

    Raises:
        ConfigError: one of them cannot be written; says what is wrong with it.
    """
    if topic is not None:
        # Nearly always there are only pairs of bytes. If not, this fails soon: finding out before costs as much.
        with suppress(TypeError, ValueError, frames.FrameError):
            return frames.encode_write_frame(frames.WriteBatch(records))
    if any(_fault(record, topic) for record in records):
        raise _not_writable(records, topic)
    full = [ProducerRecord(*record) for record in records]
    named = topic is None or any(record.topic is not None for record in full)
    return frames.encode_write_frame(
        frames.WriteBatch(
            [record[:2] for record in full],
            timestamps=_column([record.timestamp for record in full]),
            headers=[record.headers for record in full] if any(record.headers for record in full) else None,
            topics=[record.topic or topic or "" for record in full] if named else None,
            partitions=_column([record.partition for record in full]),
        )
    )


def _column(numbers: Sequence[int | None]) -> Sequence[int] | None:
    if all(number is None for number in numbers):
        return None
    return [frames.NOT_GIVEN if number is None else number for number in numbers]


def _not_writable(records: Sequence[Any], topic: str | None) -> BeamK8sError:
    for record in records:
        fault = _fault(record, topic)
        if fault:
            message, hint = fault
            return ConfigError(f"WriteToKafka got {message}", hint=hint)
    return ConfigError("WriteToKafka got records that do not fit into a frame.")


def _fault(record: Any, topic: str | None) -> tuple[str, str] | None:
    """What is wrong with a record, and the way out; None if it can be written."""
    if isinstance(record, ProducerRecord):
        key, value, own, headers, timestamp, partition = record
        for field, number, largest in (("timestamp", timestamp, 2**63 - 1), ("partition", partition, 2**31 - 1)):
            if number is not None and not _is_number(number, largest):
                return (
                    f"a ProducerRecord whose {field} is {number!r}.",
                    f"Give a whole number from 0 to {largest}, or None to leave it to Kafka's producer.",
                )
        if own is not None and not is_topic(own):
            return f"a ProducerRecord whose topic is {own!r}, which is no name of a Kafka topic.", TOPIC_HINT
        if headers != () and not _are_headers(headers):
            return (
                "a ProducerRecord whose headers are no list of (str, bytes or None).",
                "For example headers=[('trace', b'1')]; encode text as bytes.",
            )
    else:
        try:
            key, value = record
        except (TypeError, ValueError):
            return (
                f"a {type(record).__name__} that is neither a pair nor a ProducerRecord.",
                "Give (key, value), or ProducerRecord(key, value, ...); None is the key of records without one.",
            )
        own = None
    if own is None and topic is None:
        return (
            "a record without a topic, and has none itself.",
            "Give ProducerRecord(key, value, topic=...), or WriteToKafka a topic for the records that name none.",
        )
    for name, part in (("key", key), ("value", value)):
        if part is not None and not _is_bytes(part):
            example = f"'{_SERIALIZATION}StringSerializer'"
            return (
                f"a {name} of type {type(part).__name__}, but {name}_serializer makes no bytes of it.",
                f"Encode it in the step before, or set {name}_serializer, for example to {example}.",
            )
    return None


def _is_bytes(part: Any) -> bool:
    if isinstance(part, memoryview):  # which may be of an array of numbers, or of every second byte
        return part.itemsize == part.ndim == 1 and part.c_contiguous
    return isinstance(part, (bytes, bytearray))


def _is_number(number: Any, largest: int) -> bool:
    # By __index__, as struct takes it: numpy's and pandas' numbers too, but no float.
    return hasattr(number, "__index__") and not isinstance(number, bool) and 0 <= number <= largest


def _are_headers(headers: Any) -> bool:
    return isinstance(headers, (list, tuple)) and all(
        isinstance(header, tuple)
        and len(header) == 2
        and isinstance(header[0], str)
        and (header[1] is None or isinstance(header[1], bytes))
        for header in headers
    )


def _checked(check: Any, option: str, given: object, errors: list[BeamK8sError]) -> tuple[Any, Any]:
    try:
        found: tuple[Any, Any] = check(option, given)
    except ConfigError as error:
        errors.append(error)
        return None, None
    return found


def _redistribute_keys(
    redistribute: bool, keys: object, allow_duplicates: bool, errors: list[BeamK8sError]
) -> int | None:
    try:
        number = int(keys or 0)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        errors.append(ConfigError(f"redistribute_num_keys is {keys!r}.", hint="Give a whole number; 0 means any."))
    for option, given in (
        ("redistribute_num_keys", number > 0),
        ("allow_duplicates", allow_duplicates),
    ):
        if given and not redistribute:
            errors.append(
                ConfigError(
                    f"{option} is set, but redistribute is not.",
                    hint=f"Add redistribute=True, or remove {option}.",
                )
            )
    return number if number > 0 else None


def _warn_of_expansion_service(transform: object, given: object) -> None:
    if given is not None:
        _LOGGER.warning(
            "expansion_service is ignored: this transform needs no Java transform=%s",
            type(transform).__name__,
        )
