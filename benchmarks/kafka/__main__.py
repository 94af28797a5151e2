"""From Kafka into a Python DoFn on Flink: ours against Beam's own ReadFromKafka and plain loops.

All read the same topics of the same broker and give each record's value to the same function: ``json.loads``, or
``len``, which leaves the way to it. Each peer on Flink has a fresh cluster of one TaskManager, configured alike. Rates
are those between two marks in the middle of a run, when the JVM's compilers are done; CPU is that of the TaskManager
(JVM) and of the Python processes in the same time, the broker's is not counted.

    python -m benchmarks.kafka [--quick] [--json FILE] [--peers NAME,...] [--functions NAME,...] [--sizes BYTES,...]
                               [--parallelism N,...] [--rounds N]
"""

from __future__ import annotations

import itertools
import os
import statistics
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.kafka.measure import Figures, Marks, TooSlowError
from benchmarks.kafka.peers import Case, Loop, Ours, Stock
from benchmarks.kafka.topics import RECORDS, broker, fill
from benchmarks.kafka.work import FUNCTIONS
from benchmarks.report import Goal, Report, parser

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


class Setting(NamedTuple):
    """What all peers are measured at."""

    function: str
    size: int
    """Bytes of a record."""
    parallelism: int


def _median(runs: list[Figures]) -> Figures:
    return sorted(runs, key=lambda figures: figures.rate)[(len(runs) - 1) // 2]


def _goals(medians: dict[Setting, dict[str, Figures]]) -> list[Goal]:
    """Of each function, the worst of all sizes and parallelisms."""
    goals = []
    for function in FUNCTIONS:
        stock, cpu = [], []
        for setting, peers in medians.items():
            if setting.function == function and (ours := peers.get("ours")):
                rates = [figures.rate for name, figures in peers.items() if name.startswith("stock")]
                if rates:
                    stock.append(ours.rate / max(rates))
                if loop := peers.get("loop-confluent"):
                    cpu.append(ours.cpu / loop.cpu)
        if stock:
            goals.append(Goal(f"rate_to_stock[{function}]", min(stock), GOAL_STOCK, lower_is_better=False))
        if cpu:
            goals.append(Goal(f"cpu_to_confluent_loop[{function}]", max(cpu), GOAL_CPU, lower_is_better=True))
    return goals


def _numbers(given: str, default: Sequence[int]) -> Sequence[int]:
    return [int(each) for each in given.split(",")] if given else default


def main() -> None:
    """Measure and report."""
    flags = parser(__doc__ or "")
    flags.add_argument("--peers", default="", help=f"of {', '.join(PEERS)}")
    flags.add_argument("--functions", default="", help=f"of {', '.join(FUNCTIONS)}")
    flags.add_argument("--sizes", default="", help="bytes of a record: 100, 1000, 10000")
    flags.add_argument("--parallelism", default="", help="subtasks")
    flags.add_argument("--rounds", type=int, default=0, help="runs of each, the first one to warm up apart")
    options = flags.parse_args()
    quick = options.quick
    peers = options.peers.split(",") if options.peers else _QUICK if quick else tuple(PEERS)
    sizes = _numbers(options.sizes, [100] if quick else list(RECORDS))
    widths = _numbers(options.parallelism, [1] if quick else [1, 2])
    functions = options.functions.split(",") if options.functions else ["json"] if quick else list(FUNCTIONS)
    settings = [Setting(*each) for each in itertools.product(functions, sizes, widths)]
    settings.sort(key=lambda setting: setting.parallelism)  # each has its cluster
    rounds = options.rounds or (1 if quick else 2)
    runs: dict[Setting, dict[str, list[Figures]]] = {setting: {} for setting in settings}
    failed: dict[str, str] = {}
    loads = [os.getloadavg()[0]]
    with broker() as kafka:
        topics = {size: fill(kafka, size) for size in sizes}
        for name in peers:
            peer = PEERS[name]()
            try:
                for setting in settings * rounds:
                    total = RECORDS[setting.size]
                    marks = Marks(*((4, 4, total, 12) if quick else (4, 8, total, 30)))
                    case = Case(
                        kafka.bootstrap_servers, topics[setting.size], setting.parallelism, marks, setting.function
                    )
                    try:
                        runs[setting].setdefault(name, []).append(peer.run(case))
                    except TooSlowError as why:
                        failed[f"{name} {setting}"] = str(why)
                        print("failed:", name, setting, why, flush=True)
                    loads.append(os.getloadavg()[0])
            finally:
                peer.close()
    medians = {
        setting: {name: _median(found) for name, found in peers.items()} for setting, peers in runs.items() if peers
    }
    rows = [(name, setting, figures) for setting, peers in medians.items() for name, figures in peers.items()]
    report = Report(
        "kafka",
        {
            "read": [
                {
                    "peer": name,
                    "function": setting.function,
                    "bytes": setting.size,
                    "parallelism": setting.parallelism,
                    "records_per_second": figures.rate,
                    "cpu_seconds_per_million_jvm": figures.jvm,
                    "cpu_seconds_per_million_python": figures.python,
                    "cpu_seconds_per_million_jvm_threads": figures.threads,
                    "runs": [round(each.rate) for each in runs[setting][name]],
                }
                for name, setting, figures in rows
            ],
            "failed": failed,
            "load_average": {"median": statistics.median(loads), "max": max(loads)},
        },
    )
    report.table(
        ("read -> DoFn", "function", "bytes", "parallelism", "records/s", "CPU s/M: JVM", "Python", "runs"),
        [
            (
                name,
                *setting,
                f"{figures.rate:,.0f}",
                f"{figures.jvm:.1f}",
                f"{figures.python:.1f}",
                len(runs[setting][name]),
            )
            for name, setting, figures in rows
        ],
    )
    report.finish_all(options.json, _goals(medians))


if __name__ == "__main__":
    main()
