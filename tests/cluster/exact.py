"""A stateful Kafka-to-Kafka job under a steady producer, and the oracle that says whether each record counted once."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.userstate import CombiningValueStateSpec
from kafka import KafkaProducer

from beam_k8s import ReadFromKafka, WriteToKafka
from beam_k8s.launcher import flink_rest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.cluster.kafka import KafkaBroker

KEYS = 40
UNCLOSED = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
"""Of tests that read topics again and again while a job runs: a busy machine makes kafka-python's metadata refresh end
late, and it drops that connection unclosed."""
PARTITIONS = 3


class Count(beam.DoFn):
    """Numbers the records of each key: (key, id) -> (key, "id,number"). State that is lost or doubled shows."""

    SEEN = CombiningValueStateSpec("seen", sum)

    SEEN_PARAM = beam.DoFn.StateParam(SEEN)

    def process(self, element: tuple[bytes, bytes], seen: Any = SEEN_PARAM) -> Any:
        key, value = element
        seen.add(1)
        yield key, value + b",%d" % seen.read()


class SlowCount(Count):
    """Counts, and takes its time.

    Args:
        work: seconds of CPU for a record.
        wait: seconds of nothing for a record.
    """

    def __init__(self, work: float, wait: float = 0.0) -> None:
        self._work, self._wait = work, wait

    def process(self, element: tuple[bytes, bytes], seen: Any = Count.SEEN_PARAM) -> Any:
        until = time.thread_time() + self._work
        while time.thread_time() < until:
            pass
        time.sleep(self._wait)
        yield from super().process(element, seen)


class Producer:
    """Writes records 0, 1, 2, ... to a topic until it is stopped; ``rate`` [records/s] may be changed meanwhile."""

    def __init__(self, broker: KafkaBroker, topic: str, rate: int) -> None:
        self.produced = 0
        self._stop = threading.Event()
        self._broker, self._topic, self.rate = broker, topic, rate
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        producer = KafkaProducer(bootstrap_servers=self._broker.bootstrap_servers, linger_ms=5, enable_idempotence=True)
        due, before = 0.0, time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            due, before = due + (now - before) * self.rate, now
            for number in range(self.produced, int(due)):
                producer.send(**self.record(number))
                self.produced = number + 1
            self._stop.wait(0.05)
        producer.flush()
        producer.close()

    def record(self, number: int) -> dict[str, Any]:
        """What is sent as record ``number``, each once and in order: the arguments of ``KafkaProducer.send``."""
        key = number % KEYS
        return {"topic": self._topic, "key": b"key-%d" % key, "value": b"%d" % number, "partition": key % PARTITIONS}

    def stop(self) -> int:
        """Stop; the number of records written."""
        self._stop.set()
        self._thread.join(60)
        return self.produced


class ExactJob:
    """The job on the local target.

    Args:
        broker: where both topics are.
        source: topic to read, of PARTITIONS partitions.
        sink: topic to write.
        storage: folder of checkpoints.
        flags: more of the user's flags.
        consumer: more of the consumer's properties.
        step: what is between read and write instead of ``Count``.
    """

    def __init__(
        self,
        broker: KafkaBroker,
        source: str,
        sink: str,
        storage: Path,
        *flags: str,
        consumer: Mapping[str, str] | None = None,
        step: beam.DoFn | None = None,
    ) -> None:
        self.broker, self.sink = broker, sink
        options = PipelineOptions(
            [
                "--runner=FlinkK8s",
                "--k8s_target=local",
                f"--job_name={source}",
                f"--k8s_storage=file://{storage}",
                "--k8s_task_slots=2",
                "--checkpointing_interval=1000",
                *flags,
            ]
        )
        pipeline = beam.Pipeline(options=options)
        servers = {"bootstrap.servers": broker.bootstrap_servers}
        (
            pipeline
            | ReadFromKafka(servers | {"auto.offset.reset": "earliest"} | dict(consumer or {}), [source])
            | beam.ParDo(step or Count()).with_output_types(tuple[bytes, bytes])
            | WriteToKafka(servers, sink, delivery_guarantee="exactly_once")
        )
        self.result = pipeline.run()
        self.job = self.result.job

    def await_that(self, what: Callable[[], object], seconds: float = 180) -> None:
        """Wait until something holds; fails when the job ends or time runs out."""
        deadline = time.monotonic() + seconds
        while not what():
            assert self.result.state not in {"FAILED", "DONE", "CANCELLED"}
            assert time.monotonic() < deadline, what
            time.sleep(0.2)

    def checkpoints(self) -> int:
        """Completed checkpoints so far."""
        flink = self.job.flink()
        try:
            return int(flink.get(f"/jobs/{self.job.job_id}/checkpoints")["counts"]["completed"])
        except flink_rest.FlinkError:
            return 0

    def await_checkpoints(self, more: int = 2) -> None:
        """Wait for checkpoints that began after now: the first to complete may have begun before."""
        seen = self.checkpoints()
        self.await_that(lambda: self.checkpoints() >= seen + more)

    def await_parallelism(self, parallelism: int) -> None:
        """Wait until all subtasks run, and the widest vertex has so many."""

        def runs() -> bool:
            try:
                vertices = flink_rest.vertices(self.job.flink(), self.job.job_id)
            except flink_rest.FlinkError:
                return False
            widest = max((v.parallelism for v in vertices), default=0)  # Flink shows none of a job that initializes
            return widest == parallelism and {v.status for v in vertices} == {"RUNNING"}

        self.await_that(runs)

    def await_output(self, records: int, seconds: float = 180) -> None:
        """Wait until so many records are committed in the sink topic, or no more come."""
        self.await_that(lambda: len(self.broker.read_topic(self.sink)) >= records, seconds)

    def verdict(self, produced: int) -> str:
        """See the function of that name."""
        return verdict(self.broker, self.sink, produced)


def verdict(broker: KafkaBroker, sink: str, produced: int) -> str:
    """What is wrong with the output for so many records produced; empty if each counts exactly once."""
    ids: list[int] = []
    numbers = defaultdict(list)
    for record in broker.read_topic(sink):
        identity, _, number = record.value.partition(b",")
        ids.append(int(identity))
        numbers[record.key].append(int(number))
    missing = set(range(produced)) - set(ids)
    wrong = [key for key, found in numbers.items() if sorted(found) != list(range(1, len(found) + 1))]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing, e.g. {sorted(missing)[:5]}")
    if len(ids) != len(set(ids)):
        problems.append(f"{len(ids) - len(set(ids))} twice")
    if wrong:
        problems.append(f"state wrong for {len(wrong)} keys, e.g. {wrong[0]!r}: {sorted(numbers[wrong[0]])[:20]}")
    return "; ".join(problems)
