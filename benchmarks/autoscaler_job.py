"""A real job on the local target, its producer following a trace, scaled by ours and by the HPA's formula.

Both see the same figures of the same kind of job and change it in the same way; each gets a job, topics and records of
its own, one after the other. A worker is held to a quarter of a CPU by its step, which sleeps three times as long as it
works, so that a machine of two cores has room for all of them. Neither looks at a JVM that has just started: it
compiles. Each run ends with every record counted exactly once, or the benchmark fails.

    python -m benchmarks.autoscaler_job [--quick] [--json FILE] [--plot FILE.svg]

``--quick`` runs a tenth of the trace: it shows that all works, and is too short for a verdict; even so it takes two
minutes, for each job starts a Flink. ``--plot`` needs matplotlib (``pip install 'beam-k8s[benchmarks]'``).
"""

from __future__ import annotations

import itertools
import math
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from beam_k8s.autoscaler.loop import Autoscaler
from beam_k8s.autoscaler.model import Hold, Memory, Reason, Rescale
from beam_k8s.autoscaler.settings import AutoscalerSettings
from beam_k8s.errors import BeamK8sError
from beam_k8s.graph import KafkaSource
from beam_k8s.launcher.autoscale import JobFigures
from beam_k8s.launcher.progress import report
from benchmarks.autoscaler.scalers import hpa
from benchmarks.report import Goal, Report, parser
from tests.cluster.exact import PARTITIONS, ExactJob, Producer, SlowCount
from tests.cluster.kafka import KafkaBroker

if TYPE_CHECKING:
    from collections.abc import Callable

    from beam_k8s.autoscaler.model import Decision, Evaluation, Observation
    from beam_k8s.launcher.target import Workers

TRACE = [(90, 50), (150, 240), (150, 50)]
"""Seconds and records a second."""
WORK_SECONDS, WAIT_SECONDS = 0.002, 0.006
"""Of CPU and of sleep for a record: a worker does about 120 records a second with its quarter of a CPU."""
WORKER_CPU = WORK_SECONDS / (WORK_SECONDS + WAIT_SECONDS)
MOST = PARTITIONS
SLO = 20.0
"""Seconds of backlog time that should not be passed."""
INTERVAL = 5.0
SETTLE = 20.0
"""Seconds after a start in which figures do not count; for the HPA too (its ``cpu-initialization-period``)."""
CONF = {"interval": INTERVAL, "window": 20, "settle": SETTLE, "backlog_slo": SLO, "recover": 60}
GOAL = 1.0
"""Ours must need no more than the HPA's formula, of worker minutes and of minutes over the SLO."""


@dataclass
class Run:
    """What was seen of one scaler's run; seconds count from the first tick that the job ran."""

    name: str
    begin: float
    ticks: list[tuple[float, int, float]] = field(default_factory=list)
    """Second, workers that the job was told to have, backlog time [s]."""
    decisions: list[tuple[float, str]] = field(default_factory=list)

    def note(self, seen: Observation, rate: float) -> None:
        """Take a tick in which figures of all partitions are there."""
        if seen.ends and seen.ends.keys() == seen.positions.keys():
            backlog = max(0.0, sum(seen.ends.values()) - sum(seen.positions.values()))
            self.ticks.append((seen.at - self.begin, seen.workers, backlog / rate))

    def tell(self, decision: Decision, seen: Evaluation | None, *, acted: bool) -> None:  # noqa: ARG002 - the port's
        """See ``ports.Journal``."""
        if isinstance(decision, Rescale):
            text = f"{decision.current} -> {decision.target}: {decision.text}"
            self.decisions.append((time.time() - self.begin, text))
            report(f"{self.name} {text}")

    @property
    def worker_minutes(self) -> float:
        return self._over(lambda workers, _: workers)

    @property
    def minutes_over(self) -> float:
        return self._over(lambda _, backlog: backlog > SLO)

    def _over(self, value: Callable[[int, float], float]) -> float:
        pairs = itertools.pairwise(self.ticks)
        return sum((later - at) * value(workers, backlog) for (at, workers, backlog), (later, *_) in pairs) / 60


class Hpa:
    """The HPA's formula in our loop's place."""

    def __init__(self, figures: JobFigures, workers: Workers, run: Run) -> None:
        self._figures, self._workers, self._run = figures, workers, run
        self._scaler = hpa(stabilization=60)(None, None)

    def tick(self) -> None:
        """Look, and do what the formula says."""
        try:
            seen = self._figures.observe()
            if seen.started is None or seen.at < seen.started + SETTLE or not math.isfinite(seen.cpu):
                return
            figures = SimpleNamespace(cpu=seen.cpu, ready=seen.ready, spec=seen.workers)
            wanted = min(self._scaler.wants(figures, seen.at), MOST)
            if wanted != seen.workers:
                change = Rescale(seen.workers, wanted, f"CPU {seen.cpu:.0%}")
                self._workers.rescale(change, Memory())
                self._run.tell(change, None, acted=True)
        except BeamK8sError as error:
            self._run.tell(Hold(Reason.UNREACHABLE, error.message), None, acted=False)


class Noted(JobFigures):
    """Figures that are noted as they are asked for."""

    run: Run
    producer: Producer

    def observe(self) -> Observation:
        seen = super().observe()
        self.run.note(seen, max(1.0, self.producer.rate))
        return seen


def run(name: str, broker: KafkaBroker, folder: Path, trace: list[tuple[float, float]]) -> Run:
    """One scaler's run.

    Raises:
        AssertionError: not every record counted exactly once.
    """
    source, sink = f"source-{name}", f"sink-{name}"
    broker.create_topics({source: PARTITIONS, sink: 2})
    producer = Producer(broker, source, rate=0)
    flags = [
        "--k8s_task_slots=1",
        f"--k8s_worker_cpu={WORKER_CPU}",
        f"--max_num_workers={MOST}",
        f"--k8s_run_dir={folder}/{name}",
    ]
    job = ExactJob(
        broker,
        source,
        sink,
        folder / f"storage-{name}",
        *flags,
        step=SlowCount(WORK_SECONDS, WAIT_SECONDS),
    )
    seen = Run(name, time.time())
    workers = job.job.workers()
    kafka = KafkaSource("", "ReadFromKafka/Source", broker.bootstrap_servers, (source,), {})
    figures = Noted(job.job, workers, [kafka], 1)
    figures.run, figures.producer = seen, producer
    settings = AutoscalerSettings.of({**CONF, "max_workers": MOST})
    loop = Autoscaler(settings, figures, workers, seen, time.time) if name == "ours" else Hpa(figures, workers, seen)
    try:
        job.await_parallelism(1)
        seen.begin = time.time()
        ticker = threading.Event()

        def tick() -> None:
            while not ticker.wait(INTERVAL):
                loop.tick()

        thread = threading.Thread(target=tick)
        thread.start()
        for seconds, rate in trace:
            producer.rate = rate
            time.sleep(seconds)
        ticker.set()
        thread.join()
        produced = producer.stop()
        job.await_output(produced)
        assert not job.verdict(produced), job.verdict(produced)
    finally:
        producer.stop()
        figures.close()
        job.result.cancel()
    return seen


def plot(runs: list[Run], file: Path) -> None:
    """Workers and backlog over time, a panel each scaler."""
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(len(runs), 1, figsize=(9, 4 * len(runs)), sharex=True, squeeze=False)
    for each, (panel,) in zip(runs, panels, strict=True):
        seconds, workers, backlog = zip(*each.ticks, strict=True)
        panel.step(seconds, workers, where="post", color="tab:blue")
        panel.set(title=each.name, ylabel="workers", ylim=(0, MOST + 0.5))
        for at, _ in each.decisions:
            panel.axvline(at, color="grey", linewidth=0.5)
        other = panel.twinx()
        other.plot(seconds, backlog, color="tab:red")
        other.axhline(SLO, color="tab:red", linestyle=":")
        other.set(ylabel="backlog [s of input]")
    panels[-1][0].set(xlabel="seconds")
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    """See the module."""
    options = parser(__doc__ or "")
    options.add_argument("--plot", type=Path, help="write workers and backlog over time to this file")
    given = options.parse_args()
    trace = [(seconds / 10, rate) for seconds, rate in TRACE] if given.quick else TRACE
    with tempfile.TemporaryDirectory(prefix="beam-k8s-") as name:
        folder = Path(name)
        with KafkaBroker(folder / "broker") as broker:
            runs = [run(each, broker, folder, trace) for each in ("ours", "hpa")]
    figures = {
        each.name: {
            "worker_minutes": each.worker_minutes,
            f"minutes_over_{SLO:g}_s": each.minutes_over,
            "rescales": len(each.decisions),
            "decisions": each.decisions,
            "ticks": each.ticks,
        }
        for each in runs
    }
    outcome = Report("autoscaler_job", figures)
    rows = [(r.name, f"{r.worker_minutes:.1f}", f"{r.minutes_over:.2f}", len(r.decisions)) for r in runs]
    outcome.table(["scaler", "worker minutes", f"minutes over {SLO:g} s", "rescales"], rows)
    ours, theirs = runs
    ratios = [
        ("worker_minutes_to_hpa", ours.worker_minutes, theirs.worker_minutes),
        ("minutes_over_to_hpa", ours.minutes_over, theirs.minutes_over),
    ]
    goals = [Goal(metric, _ratio(mine, other), GOAL, True) for metric, mine, other in ratios]
    outcome.finish_all(given.json, goals)
    if given.plot:
        plot(runs, given.plot)


def _ratio(ours: float, theirs: float) -> float:
    if theirs:
        return ours / theirs
    return math.inf if ours else 1.0


if __name__ == "__main__":
    main()
