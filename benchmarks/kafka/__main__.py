"""From Kafka into a Python DoFn on Flink: ours against Beam's own ReadFromKafka and plain loops.

All read the same topics of the same broker and do the same ``work`` with each record: ``json.loads``; ``len``, which
leaves the way to it; ``len`` in a DoFn that also asks for time, window or metadata; write it to another topic; or count
by key and window, and write the counts. Each peer on Flink has a fresh cluster of one TaskManager, configured alike.
Rates are those between two marks in the middle of a run, when the JVM's compilers are done; CPU is that of the
TaskManager (JVM) and of the Python processes in the same time, the broker's is not counted.

    python -m benchmarks.kafka [--quick] [--json FILE] [--peers NAME,...] [--works NAME,...] [--sizes BYTES,...]
                               [--parallelism N,...] [--rounds N]
"""

from __future__ import annotations

import itertools
import os
import statistics
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.kafka.measure import Figures, Marks, TooSlowError
from benchmarks.kafka.peers import Case, Loop, Ours, PyFlink, Stock
from benchmarks.kafka.topics import RECORDS, broker, fill, sink
from benchmarks.kafka.work import KEYS, WORKS
from benchmarks.report import Goal, Report, parser

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GOAL_STOCK = 5.0
"""Ours to stock's best, records a second."""
GOAL_KEYED = 3.0
"""The same with keys and windows, exactly once."""
GOAL_EXACTLY_ONCE = 0.85
"""Ours that writes exactly once to ours that writes at least once, records a second."""
GOAL_PYFLINK = {"json": 1.3, "length": 1.3} | dict.fromkeys(KEYS, 1.0)
"""Ours to PyFlink, records a second."""
GOAL_CPU = 1.3
"""Ours to the plain confluent-kafka loop, CPU of a record."""
_BUNDLES = "--max_bundle_size=20000"
_STOCK = ("--object_reuse=true", "--faster_copy", "--finish_bundle_before_checkpointing")
PEERS: dict[str, Callable[[], Ours | Stock | PyFlink | Loop]] = {
    "ours": Ours,
    "ours-at-least-once": lambda: Ours("at_least_once"),
    "stock-sdf": lambda: Stock(deprecated_read=False, flags=[*_STOCK, _BUNDLES]),
    "stock-read": lambda: Stock(deprecated_read=True, flags=[*_STOCK, _BUNDLES]),
    "pyflink": PyFlink,
    "loop-confluent": lambda: Loop("confluent"),
    "loop-kafka-python": lambda: Loop("kafka-python"),
}
_QUICK = ("ours", "stock-read", "loop-confluent")


class Setting(NamedTuple):
    """What all peers are measured at."""

    work: str
    size: int
    """Bytes of a record."""
    parallelism: int


def _median(runs: list[Figures]) -> Figures:
    return sorted(runs, key=lambda figures: figures.rate)[(len(runs) - 1) // 2]


def _goals(medians: dict[Setting, dict[str, Figures]]) -> list[Goal]:
    """Of each work, the worst of all sizes and parallelisms."""
    goals = []
    for work in WORKS:
        found: dict[str, list[float]] = {}
        for setting, peers in medians.items():
            if setting.work != work or not (ours := peers.get("ours")):
                continue
            if rates := [figures.rate for name, figures in peers.items() if name.startswith("stock")]:
                found.setdefault("rate_to_stock", []).append(ours.rate / max(rates))
            if pyflink := peers.get("pyflink"):
                found.setdefault("rate_to_pyflink", []).append(ours.rate / pyflink.rate)
            if other := peers.get("ours-at-least-once"):
                found.setdefault("rate_to_at_least_once", []).append(ours.rate / other.rate)
            if loop := peers.get("loop-confluent"):
                found.setdefault("cpu_to_confluent_loop", []).append(ours.cpu / loop.cpu)
        aims = {
            "rate_to_stock": GOAL_KEYED if work in KEYS else GOAL_STOCK,
            "rate_to_pyflink": GOAL_PYFLINK.get(work, 1.0),
            "rate_to_at_least_once": GOAL_EXACTLY_ONCE,
            "cpu_to_confluent_loop": GOAL_CPU,
        }
        for metric, ratios in found.items():
            lower = metric.startswith("cpu")
            worst = max(ratios) if lower else min(ratios)
            goals.append(Goal(f"{metric}[{work}]", worst, aims[metric], lower_is_better=lower))
    return goals


def _numbers(given: str, default: Sequence[int]) -> Sequence[int]:
    return [int(each) for each in given.split(",")] if given else default


def main() -> None:
    """Measure and report."""
    flags = parser(__doc__ or "")
    flags.add_argument("--peers", default="", help=f"of {', '.join(PEERS)}")
    flags.add_argument("--works", default="", help=f"of {', '.join(WORKS)}")
    flags.add_argument("--sizes", default="", help="bytes of a record: 100, 1000, 10000")
    flags.add_argument("--parallelism", default="", help="subtasks")
    flags.add_argument("--rounds", type=int, default=0, help="runs of each")
    options = flags.parse_args()
    quick = options.quick
    peers = options.peers.split(",") if options.peers else _QUICK if quick else tuple(PEERS)
    sizes = _numbers(options.sizes, [100] if quick else list(RECORDS))
    widths = _numbers(options.parallelism, [1] if quick else [1, 2])
    works = options.works.split(",") if options.works else ["json"] if quick else list(WORKS)
    settings = [Setting(*each) for each in itertools.product(works, sizes, widths)]
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
                for setting in [setting for setting in settings if setting.work in peer.works] * rounds:
                    total = RECORDS[setting.size]
                    # Ten seconds hold a checkpoint, which commits what is written exactly once.
                    marks = Marks(*((4, 4, total, 12) if quick else (4, 10, total, 60)))
                    try:
                        with sink(kafka) as target:
                            case = Case(
                                kafka.bootstrap_servers,
                                topics[setting.size],
                                setting.parallelism,
                                marks,
                                setting.work,
                                target,
                            )
                            found = peer.run(case)
                        runs[setting].setdefault(name, []).append(found)
                        print(name, setting, f"{found.rate:,.0f} records/s", flush=True)
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
            "peers": [
                {
                    "peer": name,
                    "work": setting.work,
                    "bytes": setting.size,
                    "parallelism": setting.parallelism,
                    "records_per_second": figures.rate,
                    "cpu_seconds_per_million_jvm": figures.jvm,
                    "cpu_seconds_per_million_python": figures.python,
                    "cpu_seconds_per_million_jvm_threads": dict(list(figures.threads.items())[:8]),
                    "runs": [round(each.rate) for each in runs[setting][name]],
                }
                for name, setting, figures in rows
            ],
            "failed": failed,
            "load_average": {"median": statistics.median(loads), "max": max(loads)},
        },
    )
    report.table(
        ("peer", "work", "bytes", "parallelism", "records/s", "CPU s/M: JVM", "Python", "runs"),
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
