"""``make demo``: a real broker, real data, the first example on Flink as a user runs it, and its whole result checked.

All that it makes lies in one temporary folder, also what a run would keep in the user's home; processes are ended by
their id. So nothing is left, however it ends: done, failed (exit code 1) or interrupted (130).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.cluster.kafka import KafkaBroker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

__all__ = ["EXAMPLE", "example_module", "main"]

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "01-flights"
END_SECONDS = 30
"""How long Flink's processes may take [s] to end by themselves when their launcher is gone; then they are killed."""


def example_module(name: str) -> ModuleType:
    """A module of the example, whose folder is no package."""
    spec = importlib.util.spec_from_file_location(f"flights_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    if spec.name in sys.modules:  # a second one would make pickles of the first's functions hold copies of them
        return sys.modules[spec.name]
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """Run the demo; the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="beam-k8s-demo-") as folder:
            return _demo(Path(folder))
    except KeyboardInterrupt:
        print("interrupted; everything that was started has ended", file=sys.stderr)
        return 130


def _interrupt(*_: object) -> None:
    _no_more_interrupts()
    raise KeyboardInterrupt


def _no_more_interrupts() -> None:
    """From here on all is about to end: a second Ctrl-C would leave processes behind."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _demo(folder: Path) -> int:
    data = example_module("data")
    took: dict[str, float] = {}
    broker = KafkaBroker(folder / "kafka")
    try:
        with _stage("start a Kafka broker", took):
            broker.start()
            broker.create_topics(data.TOPICS, config=data.TOPIC_CONFIG)
        with _stage("load the data into Kafka", took):
            tables = data.load()
            for topic, records, total in (
                ("weather", data.weather_records(tables.weather), len(tables.weather)),
                ("flights", data.flight_records(tables.flights), len(tables.flights)),
            ):
                progress = _Progress(topic, total)
                data.produce(broker.bootstrap_servers, topic, records, progress)
        with _stage("run the pipeline on Flink", took):
            _run_pipeline(broker.bootstrap_servers, folder)
        with _stage("read the result", took):
            found = [json.loads(record.value) for record in broker.read_topic("flights-by-hour")]
        with _stage("compute the same with pandas and compare", took):
            wrong = data.differences(found, data.expected(tables))
    finally:
        _no_more_interrupts()
        broker.stop()
    print(f"\nTopic flights-by-hour has {len(found):,} records. The first:\n")
    _print_table(sorted(found, key=lambda row: (row["hour"], row["origin"]))[:8])
    print("\nSeconds:", ", ".join(f"{name} {seconds:.1f}" for name, seconds in took.items()))
    if wrong:
        print(f"\nWRONG: {len(wrong):,} differences from what pandas computes:", *wrong[:10], sep="\n  ")
        return 1
    print(f"\nRIGHT: all {len(found):,} records are what pandas computes from the tables, each (origin, hour) once.")
    return 0


def _run_pipeline(bootstrap_servers: str, folder: Path) -> None:
    script = str((EXAMPLE / "pipeline.py").relative_to(ROOT))
    flags = [
        f"--bootstrap_servers={bootstrap_servers}",
        "--until_now",
        "--streaming",
        "--runner=FlinkK8s",
        "--k8s_target=local",
        "--num_workers=1",
        "--k8s_task_slots=2",
    ]
    print("$", shlex.join(["python", script, *flags]), flush=True)
    process = subprocess.Popen(
        [sys.executable, script, *flags],
        cwd=ROOT,
        env={**os.environ, "XDG_STATE_HOME": str(folder / "state")},
        # Ctrl-C is ours to handle: at a terminal of its own the launcher would let the job go on.
        start_new_session=True,
    )
    try:
        code = process.wait()
    finally:
        _end(process)
    if code:
        raise SystemExit(f"error: the pipeline ended with exit code {code}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a launcher and all that it started: without it, its Flink processes end by themselves."""
    with suppress(psutil.NoSuchProcess):
        launcher = psutil.Process(process.pid)
        launcher.suspend()  # so that it starts nothing while we look
        started = launcher.children(recursive=True)
        launcher.kill()
        _, alive = psutil.wait_procs(started, timeout=END_SECONDS)
        for one in alive:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(alive, timeout=END_SECONDS)
    process.wait()


@contextmanager
def _stage(name: str, took: dict[str, float]) -> Iterator[None]:
    print(f"\n{len(took) + 1}. {name[0].upper()}{name[1:]}", flush=True)
    start = time.monotonic()
    yield
    took[name] = time.monotonic() - start
    print(f"   {took[name]:.1f} s", flush=True)


class _Progress:
    """Tells of every third or so, and of the end."""

    def __init__(self, topic: str, total: int) -> None:
        self._topic, self._total, self._told = topic, total, 0

    def __call__(self, count: int) -> None:
        if count - self._told >= self._total // 3 or self._told < count == self._total:
            print(f"   {self._topic}: {count:,} of {self._total:,} records", flush=True)
            self._told = count


def _print_table(rows: list[dict[str, Any]]) -> None:
    cells = [list(rows[0])] if rows else []
    cells += [[_text(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ", *(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _text(value: object) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
