"""From Kafka into a Python DoFn on Flink: ours against Beam's own ReadFromKafka and plain loops.

All read the same topics of the same broker and give each record's value to the same function, ``work.parse``. Each peer
on Flink has a fresh cluster of one TaskManager, configured alike. Rates are those between two marks in the middle of a
run; CPU is that of the TaskManager (JVM) and of the Python processes in the same time, the broker's is not counted.

    python -m benchmarks.kafka [--quick] [--json FILE] [--peers NAME,...] [--sizes BYTES,...] [--parallelism N,...]
"""

from __future__ import annotations

import os
import statistics
from typing import TYPE_CHECKING

from benchmarks.kafka.measure import Figures, Marks, TooSlowError
from benchmarks.kafka.peers import Case, Loop, Ours, Stock
from benchmarks.kafka.topics import RECORDS, broker, fill
from benchmarks.report import Goal, Report, parser

if TYPE_CHECKING:
    from collections.abc import Callable

GOAL_STOCK = 5.0
"""Ours to stock's best, records a second."""
GOAL_CPU = 1.3
"""Ours to the plain confluent-kafka loop, CPU of a record."""
_BUNDLES = "--max_bundle_size=20000"
_STOCK = ("--object_reuse=true", "--faster_copy", "--finish_bundle_before_checkpointing")
PEERS: dict[str, Callable[[], Ours | Stock | Loop]] = {
    "ours": Ours,
    "stock-sdf": lambda: Stock(deprecated_read=False, flags=[*_STOCK, _BUNDLES]),
    "stock-read": lambda: Stock(deprecated_read=True, flags=[*_STOCK, _BUNDLES]),
    "loop-confluent": lambda: Loop("confluent"),
    "loop-kafka-python": lambda: Loop("kafka-python"),
}
_QUICK = ("ours", "stock-read", "loop-confluent")

Runs = dict[tuple[str, int, int], list[Figures]]
"""(peer, bytes of a record, parallelism) -> its runs."""


def _best(medians: dict[tuple[str, int, int], Figures], peer: str, size: int, parallelism: int) -> float | None:
    rates = [
        figures.rate for key, figures in medians.items() if key[0].startswith(peer) and key[1:] == (size, parallelism)
    ]
    return max(rates, default=None)


def _median(runs: list[Figures]) -> Figures:
    return sorted(runs, key=lambda figures: figures.rate)[(len(runs) - 1) // 2]


def _goals(medians: dict[tuple[str, int, int], Figures]) -> list[Goal]:
    """The worst of all sizes and parallelisms."""
    stock, cpu = [], []
    for (peer, size, parallelism), figures in medians.items():
        if peer == "ours":
            if best := _best(medians, "stock", size, parallelism):
                stock.append(figures.rate / best)
            if loop := medians.get(("loop-confluent", size, parallelism)):
                cpu.append(figures.cpu / loop.cpu)
    goals = []
    if stock:
        goals.append(Goal("rate_to_stock", min(stock), GOAL_STOCK, lower_is_better=False))
    if cpu:
        goals.append(Goal("cpu_to_confluent_loop", max(cpu), GOAL_CPU, lower_is_better=True))
    return goals


def main() -> None:
    """Measure and report."""
    flags = parser(__doc__ or "")
    flags.add_argument("--peers", default="", help=f"of {', '.join(PEERS)}")
    flags.add_argument("--sizes", default="", help="bytes of a record: 100, 1000, 10000")
    flags.add_argument("--parallelism", default="", help="subtasks")
    flags.add_argument("--rounds", type=int, default=0, help="runs of each, the first one to warm up apart")
    options = flags.parse_args()
    quick = options.quick
    peers = options.peers.split(",") if options.peers else _QUICK if quick else tuple(PEERS)
    sizes = [int(each) for each in options.sizes.split(",")] if options.sizes else [100] if quick else list(RECORDS)
    widths = [int(each) for each in options.parallelism.split(",")] if options.parallelism else [1] if quick else [1, 2]
    rounds = options.rounds or (1 if quick else 2)
    runs: Runs = {}
    failed: dict[str, str] = {}
    loads = [os.getloadavg()[0]]
    with broker() as kafka:
        topics = {size: fill(kafka, size) for size in sizes}
        for name in peers:
            peer = PEERS[name]()
            try:
                for parallelism in widths:
                    for turn in range(rounds * len(sizes) + (not quick)):
                        size = sizes[turn % len(sizes)]
                        # The first run warms up, and is not counted; a quick one warms up on its way.
                        marks = Marks(6 if quick else 4, 5 if quick else 8, RECORDS[size])
                        key = (name, size, parallelism)
                        try:
                            figures = peer.run(Case(kafka.bootstrap_servers, topics[size], parallelism, marks))
                        except TooSlowError as why:
                            failed[f"{name} {size} B x{parallelism}"] = str(why)
                            print("failed:", key, why, flush=True)
                            continue
                        if quick or turn:
                            runs.setdefault(key, []).append(figures)
                        loads.append(os.getloadavg()[0])
            finally:
                peer.close()
    medians = {key: _median(found) for key, found in runs.items()}
    report = Report(
        "kafka",
        {
            "read": [
                {
                    "peer": peer,
                    "bytes": size,
                    "parallelism": parallelism,
                    "records_per_second": figures.rate,
                    "cpu_seconds_per_million_jvm": figures.jvm,
                    "cpu_seconds_per_million_python": figures.python,
                    "runs": [round(each.rate) for each in runs[peer, size, parallelism]],
                }
                for (peer, size, parallelism), figures in medians.items()
            ],
            "failed": failed,
            "load_average": {"median": statistics.median(loads), "max": max(loads)},
        },
    )
    report.table(
        ("read -> DoFn", "bytes", "parallelism", "records/s", "CPU s/M: JVM", "Python", "runs"),
        [
            (
                peer,
                size,
                parallelism,
                f"{figures.rate:,.0f}",
                f"{figures.jvm:.1f}",
                f"{figures.python:.1f}",
                len(runs[peer, size, parallelism]),
            )
            for (peer, size, parallelism), figures in sorted(medians.items(), key=lambda item: item[0][1:])
        ],
    )
    report.finish_all(options.json, _goals(medians))


if __name__ == "__main__":
    main()
