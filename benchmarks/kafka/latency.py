"""From the producer's call to the DoFn, far from what either can do: ours against Beam's own ReadFromKafka.

Each gets the same records a second, which hold the time of the call; the DoFn counts them by the milliseconds that have
passed. What comes in the first seconds, while the JVM compiles, is left out, and nothing has to be caught up with:
until the first record is read there is one a second. Two Flinks start, so ``--quick`` takes two minutes.

    python -m benchmarks.kafka.latency [--quick] [--json FILE] [--rate RECORDS]

``--rate``: records a second; at most half of what ``benchmarks.kafka`` says of stock on this machine.
"""

from __future__ import annotations

import itertools
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from confluent_kafka import Producer

from benchmarks.kafka.__main__ import PEERS
from benchmarks.kafka.beam_jobs import MOST_MS
from benchmarks.kafka.measure import Marks, TooSlowError
from benchmarks.kafka.peers import Case
from benchmarks.kafka.topics import PARTITIONS, broker, sink
from benchmarks.kafka.work import LATENCY, cells
from benchmarks.report import Goal, Report, parser

if TYPE_CHECKING:
    from pathlib import Path

RATE = 10_000
SHARES = {"p50": 0.5, "p99": 0.99}
COMPARED = ("ours", "stock-read")


def feed(brokers: str, topic: str, rate: int, reads: threading.Event, stopped: threading.Event) -> None:
    """Write records that hold the time, so many a second, until stopped; one a second until somebody ``reads``."""
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 5})
    while not (reads.wait(1) or stopped.is_set()):
        producer.produce(topic, value=b'{"at": %.4f}' % time.time(), partition=0)
        producer.poll(0)
    written, since = 0, time.time()
    while not stopped.wait(0.005):
        due = int((time.time() - since) * rate)
        for number in range(written, due):
            value = b'{"id": %d, "at": %.4f, "text": "%s"}' % (number, time.time(), b"x" * 50)
            producer.produce(topic, value=value, partition=number % PARTITIONS)
        written = due
        producer.poll(0)
    producer.flush()


def counts(folder: Path) -> list[int]:
    """Records by milliseconds."""
    meters = cells(folder)
    return [sum(each) for each in zip(*meters, strict=True)] if meters else [0] * (MOST_MS + 1)


def latencies(reads: threading.Event, folder: Path, _: list[int], marks: Marks) -> dict[str, int]:
    """The shares [ms] of what comes between the marks; ``reads`` is set when the first record has come."""
    deadline = time.monotonic() + marks.patience
    while not any(counts(folder)):
        if time.monotonic() > deadline:
            raise TooSlowError(f"no record within {marks.patience:g} s")
        time.sleep(0.2)
    reads.set()
    time.sleep(marks.warm_seconds)
    before = counts(folder)
    time.sleep(marks.seconds)
    found = [now - then for now, then in zip(counts(folder), before, strict=True)]
    total, sums = sum(found), list(itertools.accumulate(found))
    shares = {name: next(ms for ms, upto in enumerate(sums) if upto >= share * total) for name, share in SHARES.items()}
    return shares | {"records a second": round(total / marks.seconds)}


def main() -> None:
    """Measure and report."""
    flags = parser(__doc__ or "")
    flags.add_argument("--rate", type=int, default=RATE, help="records a second")
    options = flags.parse_args()
    marks = Marks(*((15, 6, 0) if options.quick else (30, 30, 0)))
    found: dict[str, dict[str, int]] = {}
    with broker() as kafka:
        for name in COMPARED:
            peer, reads, stopped = PEERS[name](), threading.Event(), threading.Event()
            try:
                with sink(kafka) as topic:
                    arguments = (kafka.bootstrap_servers, topic, options.rate, reads, stopped)
                    producer = threading.Thread(target=feed, args=arguments)
                    producer.start()
                    try:
                        found[name] = peer.run(
                            Case(kafka.bootstrap_servers, topic, 1, marks, LATENCY, sink=topic),
                            partial(latencies, reads),
                        )
                    finally:
                        stopped.set()
                        producer.join()
            finally:
                peer.close()
    report = Report("kafka.latency", {"offered records a second": options.rate} | found)
    report.table(["peer", *SHARES, "records a second"], [[name, *each.values()] for name, each in found.items()])
    report.finish_all(
        options.json,
        [
            Goal(f"{share}_to_stock", found["ours"][share] / max(1, found["stock-read"][share]), 1.0, True)
            for share in SHARES
        ],
    )


if __name__ == "__main__":
    main()
