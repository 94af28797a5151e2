"""Where the CPU of a record goes, on its way from Kafka through a Python DoFn on Flink.

One job of ours with one subtask is profiled in the middle of its run: the TaskManager by JFR, its Python harness by
py-spy (of the extra ``benchmarks``; it must be allowed to trace processes, as root is). CPU is the kernel's by thread,
and the samples share it out: to the innermost frame that a component of the tables below claims. The profilers take
some themselves. The job runs twice, so that the JVM's compilers are done, or nearly.

    python -m benchmarks.kafka.profile [--work NAME] [--size BYTES] [--seconds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil

from benchmarks.kafka.measure import Figures, Marks, measure, thread_name
from benchmarks.kafka.peers import Case, Ours
from benchmarks.kafka.topics import RECORDS, broker, fill, sink
from benchmarks.kafka.work import WORKS
from benchmarks.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Stack = Sequence[str]
    """Names of frames, innermost first."""

_HERTZ = 100
"""Of py-spy, which stops the process meanwhile."""
_START_SECONDS = 60
_SYMBOLS_SECONDS = 5
"""In which py-spy has read the symbols of all libraries; until then it stops the process for long."""
_FRAMES = 12
"""How many are shown of each process."""
_NOBODYS = "other"
JVM = {
    "Kafka client": ("org.apache.kafka.", "org.apache.flink.connector.kafka."),
    "ours": ("org.beamk8s.",),
    "Fn API: gRPC, netty, protobuf": ("org.apache.beam.vendor.grpc.", "org.apache.beam.sdk.fn."),
    "Beam: coders, windowed values": ("org.apache.beam.sdk.", "org.apache.beam.model."),
    "Beam: runner": ("org.apache.beam.runners.",),
    "Flink": ("org.apache.flink.",),
}
"""Component -> how the names of its classes begin."""
JVM_THREADS = {
    "compilers": ("C1 CompilerThre", "C2 CompilerThre", "Sweeper thread"),
    "garbage collector": ("GC Thread", "G1 "),
}
"""Component -> how the names of threads begin that run no Java."""
PYTHON = {
    "garbage collector": ("gc_collect", "gc_list", "visit_decref", "visit_reachable"),
    "user's function": ("benchmarks/kafka/", "json/"),
    "ours: windows": ("beam_k8s/transforms/windows",),
    "ours: frames": ("beam_k8s/transforms/",),
    "Beam: combiners": ("apache_beam/transforms/combiners", "apache_beam/transforms/cy_comb", "cy_combiners.c"),
    "Beam: windows, timestamps": (
        *("apache_beam/transforms/window.py", "apache_beam/transforms/trigger.py", "apache_beam/utils/timestamp.py"),
        *("windowed_value.c", "apache_beam/utils/windowed_value"),
    ),
    "Beam: coders": ("coder_impl", "stream.c", "apache_beam/coders/"),
    "Beam: DoFn invoker": ("common.c", "apache_beam/runners/common", "apache_beam/transforms/core.py", "internal/util"),
    "Beam: operations, counters": (
        *("operations.c", "opcounters", "statesampler", "counters.c", "cells.c", "execution.c", "stats.c"),
        *("apache_beam/metrics/", "apache_beam/runners/worker/operations"),
    ),
    "Fn API: gRPC, protobuf": ("grpc", "google/", "data_plane", "_message", "upb"),
    "Fn API: bundles": ("apache_beam/runners/worker/",),
    "Beam: other": ("apache_beam/",),
}
"""Component -> what is in the names of its frames, which are ``function (file)``; the first that fits has it."""


class Recording:
    """JFR of a JVM and py-spy of the busiest Python below it, while it is entered.

    Args:
        folder: for the recordings.
        owner: process id of the JVM.
    """

    def __init__(self, folder: Path, owner: int) -> None:
        self._owner = owner
        self._jfr = folder / "jvm.jfr"
        self._raw = folder / "python.raw"
        self.ticks: Counter[str] = Counter()
        """CPU of the Python's threads, by their numbers."""

    def __enter__(self) -> Self:
        below = psutil.Process(self._owner).children(recursive=True)
        harness = max(
            (each for each in below if each.name().startswith("python")), key=lambda each: sum(each.cpu_times()[:2])
        )
        self._tasks = Path(f"/proc/{harness.pid}/task")
        jcmd(self._owner, "JFR.start", "name=profile", "settings=profile", f"filename={self._jfr}")
        self._spy = subprocess.Popen(
            [
                *(_py_spy(), "record", "--pid", str(harness.pid), "--output", str(self._raw), "--format", "raw"),
                # Only the thread that holds the lock: to look into all of them takes longer than the job's own work.
                *("--gil", "--native", "--threads", "--function", "--rate", str(_HERTZ), "--duration", "3600"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(_SYMBOLS_SECONDS)
        self.ticks = _ticks(self._tasks)
        return self

    def __exit__(self, *_: object) -> None:
        self.ticks = _ticks(self._tasks) - self.ticks
        self._spy.send_signal(signal.SIGINT)
        _, said = self._spy.communicate(timeout=_START_SECONDS)
        jcmd(self._owner, "JFR.stop", "name=profile")
        if not self._raw.exists():
            raise RuntimeError(f"py-spy wrote nothing: {said}")

    def jvm(self) -> Iterator[tuple[str, Stack, int]]:
        """(thread, stack, weight) of each sample."""
        events = "jdk.ExecutionSample,jdk.NativeMethodSample"
        command = ["jfr", "print", "--json", "--stack-depth", "64", "--events", events, str(self._jfr)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return jvm_samples(json.loads(text)["recording"]["events"])

    def python(self) -> Iterator[tuple[str, Stack, int]]:
        """(number of the thread, stack, weight) of what was sampled alike."""
        return python_samples(self._raw.read_text().splitlines())


def jcmd(jvm: int, *command: str) -> None:
    """Tell a JVM by its process id."""
    subprocess.run(["jcmd", str(jvm), *command], check=True, capture_output=True, timeout=_START_SECONDS)


def _py_spy() -> str:
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if not found:
        raise SystemExit("py-spy is missing: pip install -e '.[benchmarks]'")
    return found


def _ticks(tasks: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for task in tasks.iterdir():
        with suppress(OSError):
            user, system = (task / "stat").read_text().rpartition(") ")[2].split()[11:13]
            found[task.name] = int(user) + int(system)
    return found


def jvm_samples(events: Iterable[dict[str, Any]]) -> Iterator[tuple[str, Stack, int]]:
    """(thread, stack, weight) of JFR's events, but of threads that wait."""
    waits = ("EPoll.wait", "Net.accept", "Net.poll", "Native.epollWait", "Native.epollWait0")
    for event in events:
        values = event["values"]
        thread, trace = values["sampledThread"], values["stackTrace"]
        if not thread or not trace or not trace["frames"]:
            continue
        methods = [frame["method"] for frame in trace["frames"]]
        stack = [f"{each['type']['name'].replace('/', '.')}.{each['name']}" for each in methods]
        if not stack[0].endswith(waits):
            # With these settings a thread in native code is looked at half as often as one in Java.
            yield thread_name(thread["osName"]), stack, 2 if event["type"] == "jdk.NativeMethodSample" else 1


def python_samples(lines: Iterable[str]) -> Iterator[tuple[str, Stack, int]]:
    """(thread's number, stack, weight) of py-spy's lines: ``thread (NUMBER): name;outermost;...;innermost COUNT``."""
    for line in lines:
        frames, _, count = line.rpartition(" ")
        thread, *stack = frames.split(";")
        yield thread.partition("(")[2].partition(")")[0], stack[::-1], int(count)


def jvm_component(stack: Stack) -> str:
    """Whose the innermost frame is that is not the JDK's."""
    for frame in stack:
        for name, begins in JVM.items():
            if frame.startswith(begins):
                return name
    return _NOBODYS


def python_component(stack: Stack) -> str:
    """Whose the innermost frame is that is not Python's own."""
    for frame in stack:
        for name, parts in PYTHON.items():
            if any(part in frame for part in parts):
                return name
    return _NOBODYS


def shared_out(figures: Figures, recording: Recording) -> tuple[Counter[tuple[str, ...]], Counter[tuple[str, ...]]]:
    """CPU [us a record] by (process, thread, component), and by (process, frame)."""
    parts: Counter[tuple[str, ...]] = Counter()
    frames: Counter[tuple[str, ...]] = Counter()

    def share(
        process: str, thread: str, used: float, found: list[tuple[Stack, int]], component: Callable[[Stack], str]
    ) -> None:
        total = sum(weight for _, weight in found)
        for stack, weight in found:
            parts[process, thread, component(stack)] += used * weight / total
            frames[process, stack[0]] += used * weight / total

    jvm, python = _by_thread(recording.jvm()), _by_thread(recording.python())
    for thread, used in figures.threads.items():
        of_no_java = [name for name, begins in JVM_THREADS.items() if thread.startswith(begins)]
        if of_no_java or thread not in jvm:
            parts["JVM", thread, of_no_java[0] if of_no_java else _NOBODYS] += used
        else:
            share("JVM", thread, used, jvm[thread], jvm_component)
    whole = recording.ticks.total()
    for thread, ticks in recording.ticks.items():
        used = figures.python * ticks / whole
        if thread in python:
            share("Python", thread, used, python[thread], python_component)
        else:
            parts["Python", thread, "no Python: gRPC's threads, Beam's sampler"] += used
    return parts, frames


def _by_thread(samples: Iterable[tuple[str, Stack, int]]) -> dict[str, list[tuple[Stack, int]]]:
    found: dict[str, list[tuple[Stack, int]]] = {}
    for thread, stack, weight in samples:
        if stack:
            found.setdefault(thread, []).append((stack, weight))
    return found


def main() -> None:
    """Profile and report."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--work", default="length", choices=WORKS)
    flags.add_argument("--size", type=int, default=100, help="bytes of a record: 100, 1000, 10000")
    flags.add_argument("--seconds", type=float, default=10, help="how long to look")
    flags.add_argument("--json", type=Path, help="write the figures to this file")
    options = flags.parse_args()
    _py_spy()
    marks = Marks(warm_seconds=4, seconds=options.seconds, total=RECORDS[options.size], compile_seconds=60)
    recordings: list[Recording] = []

    def warm(folder: Path, roots: list[int], marks: Marks) -> Figures:
        # The first recording lets the JVM change its classes, and compile all again: it is none of those looked at.
        jcmd(roots[0], "JFR.start", "name=first", "settings=profile", "maxsize=1m")
        return measure(folder, roots, marks)

    def profiled(scratch: Path, folder: Path, roots: list[int], marks: Marks) -> Figures:
        recordings.append(Recording(scratch, roots[0]))
        return measure(folder, roots, marks, recordings[0])

    with broker() as kafka, tempfile.TemporaryDirectory(prefix="beam-k8s-bench-") as scratch, sink(kafka) as target:
        peer = Ours()
        try:
            topic = fill(kafka, options.size)
            case = Case(kafka.bootstrap_servers, topic, 1, marks, options.work, target)
            peer.run(case, warm)
            figures = peer.run(case, partial(profiled, Path(scratch)))
            parts, frames = shared_out(figures, recordings[0])
        finally:
            peer.close()
    whole = figures.cpu
    least = 0.01 * whole
    components: Counter[tuple[str, ...]] = Counter()
    threads: Counter[tuple[str, ...]] = Counter()
    for (process, thread, component), used in parts.items():
        components[process, component] += used
        threads[process, thread] += used
    load = os.getloadavg()[0]
    print(f"{options.work}, {options.size} B: {figures.rate:,.0f} records/s, load average {load:.1f}")
    report = Report(
        "kafka.profile",
        {
            "work": options.work,
            "bytes": options.size,
            "records_per_second": figures.rate,
            "microseconds": {
                "components": {" ".join(key): used for key, used in components.most_common()},
                "jvm_threads": {key[1]: used for key, used in threads.most_common() if key[0] == "JVM"},
                "frames": {" ".join(key): used for key, used in frames.most_common(2 * _FRAMES)},
            },
            "load_average": load,
        },
    )
    for head, rows in (("component", components), ("thread", {k: v for k, v in threads.items() if k[0] == "JVM"})):
        report.table(
            ("process", head, "us a record", "share"),
            [
                (*key, f"{used:.2f}", f"{used / whole:.0%}")
                for key, used in sorted(rows.items(), key=lambda row: (row[0][0], -row[1]))
                if used >= least
            ],
        )
        print()
    for process in ("JVM", "Python"):
        own = Counter({key: used for key, used in frames.items() if key[0] == process})
        report.table(
            ("process", "frame, itself", "us a record", "share"),
            [(*key, f"{used:.2f}", f"{used / whole:.0%}") for key, used in own.most_common(_FRAMES)],
        )
        print()
    report.write(options.json)


if __name__ == "__main__":
    main()
