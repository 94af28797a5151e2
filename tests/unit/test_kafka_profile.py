"""How benchmarks.kafka.profile shares out CPU to components."""

from collections import Counter
from types import SimpleNamespace

import pytest

from benchmarks.kafka import profile
from benchmarks.kafka.measure import Figures


def event(kind, thread, *methods):
    frames = [
        {"method": {"type": {"name": name.rpartition(".")[0]}, "name": name.rpartition(".")[2]}} for name in methods
    ]
    return {"type": kind, "values": {"sampledThread": {"osName": thread}, "stackTrace": {"frames": frames}}}


def test_all_cpu_is_shared_out_by_thread_and_innermost_component_and_waiting_threads_get_none():
    jvm = profile.jvm_samples(
        [
            event("jdk.ExecutionSample", "Source Data Fetcher for Read#0", "java.util.A.get", "org.apache.kafka.B.c"),
            event(
                "jdk.ExecutionSample",
                "Source Data Fetcher for Read#0",
                "org.beamk8s.runner.D.e",
                "org.apache.kafka.F.g",
            ),
            event(
                "jdk.NativeMethodSample",
                "Source Data Fetcher for Read#0",
                "sun.nio.ch.Socket.read0",
                "org.apache.kafka.F.g",
            ),
            event("jdk.NativeMethodSample", "Source Data Fetcher for Read#0", "sun.nio.ch.EPoll.wait"),
        ]
    )
    python = profile.python_samples(
        [
            "thread (7): main;<module> (boot.py);DoOperation (operations.c);process (benchmarks/kafka/beam_jobs.py) 3",
            "thread (7): main;process (benchmarks/kafka/beam_jobs.py);gc_collect_main (libpython3.11.so.1.0) 1",
        ]
    )
    recording = SimpleNamespace(jvm=lambda: jvm, python=lambda: python, ticks=Counter({"7": 60, "8": 20}))
    figures = Figures(1.0, 10.0, 4.0, 1, 1.0, {"Source Data Fet": 8.0, "GC Thread": 1.5, "flink-metrics": 0.5})

    parts, frames = profile.shared_out(figures, recording)

    assert parts == {
        ("JVM", "Source Data Fet", "Kafka client"): pytest.approx(6.0),
        ("JVM", "Source Data Fet", "ours"): pytest.approx(2.0),
        ("JVM", "GC Thread", "garbage collector"): 1.5,
        ("JVM", "flink-metrics", "other"): 0.5,
        ("Python", "7", "user's function"): pytest.approx(2.25),
        ("Python", "7", "garbage collector"): pytest.approx(0.75),
        ("Python", "8", "no Python: gRPC's threads, Beam's sampler"): pytest.approx(1.0),
    }
    assert parts.total() == pytest.approx(figures.cpu)
    assert frames["JVM", "sun.nio.ch.Socket.read0"] == pytest.approx(4.0)
