"""A job of PyFlink, submitted to a session cluster. Runs in PyFlink's own virtual environment.

python -m benchmarks.kafka.pyflink_job ADDRESS BROKERS TOPIC PARALLELISM WORK FOLDER SINK
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import cloudpickle
from pyflink.common import Configuration, Duration, SimpleStringSchema, Types, WatermarkStrategy
from pyflink.datastream import FlatMapFunction, StreamExecutionEnvironment
from pyflink.datastream.connectors.kafka import KafkaOffsetsInitializer, KafkaSource
from pyflink.datastream.functions import SinkFunction
from pyflink.java_gateway import get_gateway
from pyflink.table import DataTypes, StreamTableEnvironment
from pyflink.table.udf import ScalarFunction, udf

from benchmarks.kafka import work

if TYPE_CHECKING:
    from collections.abc import Iterable

cloudpickle.register_pickle_by_value(work)
_DISCARD = "org.apache.flink.streaming.api.functions.sink.DiscardingSink"
_CONF = {
    # The best of those tried: few and large bundles.
    "python.fn-execution.bundle.size": "100000",
    "python.fn-execution.bundle.time": "1000",
    "python.execution-mode": "process",
    "pipeline.object-reuse": "true",
    "execution.checkpointing.interval": "10000",
}


class Use(FlatMapFunction):
    """The function on each value; nothing goes on."""

    def __init__(self, folder: str, name: str) -> None:
        self._folder = folder
        self._function = work.FUNCTIONS[name]

    def open(self, _: Any) -> None:
        self._cells = work.Meter(self._folder).cells

    def flat_map(self, value: str) -> Iterable[Any]:
        self._function(value)
        self._cells[0] += 1
        return ()


class Key(ScalarFunction):
    """The key of a value."""

    def __init__(self, folder: str, keys: int) -> None:
        self._folder = folder
        self._keys = keys

    def open(self, _: Any) -> None:
        self._cells = work.Meter(self._folder).cells

    def eval(self, value: str) -> str:
        self._cells[0] += 1
        return str(work.parse(value)["id"] % self._keys)


def main() -> None:
    """Submit and leave."""
    address, brokers, topic, parallelism, name, folder, sink = sys.argv[1:]
    host, port = address.split(":")
    conf = Configuration()
    for key, value in (_CONF | {"python.executable": sys.executable, "pipeline.name": name}).items():
        conf.set_string(key, value)
    gateway = get_gateway()
    java = gateway.jvm.org.apache.flink.streaming.api.environment.StreamExecutionEnvironment
    # get_execution_environment() would start a cluster of its own.
    made = conf._j_configuration  # noqa: SLF001 - the one way to it
    none = gateway.new_array(gateway.jvm.String, 0)
    env = StreamExecutionEnvironment(java.createRemoteEnvironment(host, int(port), made, none))
    env.configure(conf)
    env.set_parallelism(int(parallelism))
    if name in work.FUNCTIONS:
        source = (
            KafkaSource.builder()
            .set_bootstrap_servers(brokers)
            .set_topics(topic)
            .set_group_id("pyflink")
            .set_starting_offsets(KafkaOffsetsInitializer.earliest())
            .set_value_only_deserializer(SimpleStringSchema())
            .build()
        )
        watermarks = WatermarkStrategy.for_bounded_out_of_orderness(Duration.of_seconds(1))
        read = env.from_source(source, watermarks, "Read")
        read.flat_map(Use(folder, name), output_type=Types.STRING()).add_sink(SinkFunction(_DISCARD))
        env.execute_async(name)
        return
    table = StreamTableEnvironment.create(env)
    table.create_temporary_function("key_of", udf(Key(folder, work.KEYS[name]), result_type=DataTypes.STRING()))
    kafka = f"'connector' = 'kafka', 'properties.bootstrap.servers' = '{brokers}'"
    table.execute_sql(
        "CREATE TABLE records (v STRING, ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp', "
        "WATERMARK FOR ts AS ts - INTERVAL '1' SECOND) "
        f"WITH ({kafka}, 'topic' = '{topic}', 'properties.group.id' = 'pyflink', "
        "'scan.startup.mode' = 'earliest-offset', 'format' = 'raw')"
    )
    table.execute_sql(
        f"CREATE TABLE counts (k STRING, n BIGINT) WITH ({kafka}, 'topic' = '{sink}', 'format' = 'csv', "
        f"'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = '{sink}', "
        "'properties.transaction.timeout.ms' = '900000')"
    )
    table.execute_sql("CREATE TEMPORARY VIEW keyed AS SELECT key_of(v) AS k, ts FROM records")
    table.execute_sql(
        "INSERT INTO counts SELECT k, COUNT(*) FROM TABLE(TUMBLE(TABLE keyed, DESCRIPTOR(ts), "
        f"INTERVAL '{work.WINDOW_SECONDS}' SECOND)) GROUP BY k, window_start, window_end"
    )


if __name__ == "__main__":
    main()
