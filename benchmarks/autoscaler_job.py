"""The flights example, its producer following a trace, scaled by ours and by the HPA's formula.

Both see the same figures of the same kind of job and change it in the same way; each gets a job, topics and records of
its own, one after the other. The records are those of examples/01-flights, flights and weather merged by event time. A
worker is held to a fraction of a CPU by the example's ``flight``, which sleeps longer than it works, so that a machine
of two cores has room for all of them; what the step, Flink and Python use together then is what a worker is said to
have. Neither scaler looks at a JVM that has just started: it compiles. Each run ends with every airport's hour exactly
once and right for the records that were sent, through all rescales, or the benchmark fails.

    python -m benchmarks.autoscaler_job [--on local|kubernetes] [--quick] [--json FILE] [--plot FILE.svg]

On Kubernetes it is the test cluster (tests/cluster) with Flink's operator; workers are pods. ``--quick`` runs a twelfth
of the trace: it shows that all works, and is too short for a verdict; even so it takes two minutes here and four there,
for each job starts a Flink. ``--plot`` needs matplotlib (``pip install 'beam-k8s[benchmarks]'``).
"""

from __future__ import annotations

import functools
import heapq
import itertools
import json
import math
import tempfile
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import cloudpickle
import numpy as np
import pandas as pd
from apache_beam.options.pipeline_options import PipelineOptions
from kafka import KafkaProducer

from beam_k8s.autoscaler.loop import Autoscaler
from beam_k8s.autoscaler.model import Hold, Memory, Reason, Rescale
from beam_k8s.autoscaler.settings import AutoscalerSettings
from beam_k8s.errors import BeamK8sError
from beam_k8s.graph import kafka_sources
from beam_k8s.launcher.autoscale import JobFigures
from beam_k8s.launcher.progress import report
from beam_k8s.states import TERMINAL
from benchmarks.autoscaler.scalers import hpa
from benchmarks.cluster import cluster_user
from benchmarks.report import Goal, Report, parser
from tests.cluster.demo import example_module
from tests.cluster.exact import Producer
from tests.cluster.kafka import KafkaBroker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from beam_k8s.autoscaler.model import Decision, Evaluation, Observation
    from beam_k8s.launcher.target import Workers

data, flights = example_module("data"), example_module("pipeline")

TRACE = [(0, 50), (30, 50), (75, 260), (150, 260), (180, 60), (300, 60)]
"""Second, records a second; a straight line between two. A day with its rush hour, in minutes."""
WORK_SECONDS, WAIT_SECONDS = 0.001, 0.007
"""Of CPU and of sleep for a flight: a worker does about 120 a second."""
WORKER_CPU = 0.2
"""The step's and what Flink and Python use beside it. Six workers must fit on a node of two cores."""
MOST = data.TOPICS["flights"]
SLO = 20.0
"""Seconds of backlog time that should not be passed."""
INTERVAL = 5.0
SETTLE = 20.0
"""Seconds after a start in which figures do not count; for the HPA too (its ``cpu-initialization-period``)."""
CONF = {
    "interval": INTERVAL,
    "window": 20,
    "settle": SETTLE,
    "provision_timeout": 100,
    "backlog_slo": SLO,
    "recover": 160,
}
"""A third of the defaults, as a day is minutes here; but how long figures of before may be told does not change."""
TRICKLE = 10
"""Records a second as long as the job starts: a partition that is idle by then is not waited for, and its first records
may be late."""
HOUR_MS = 60 * 60 * 1000
_RESCALE = "rescale"
_ARGUMENTS = ("flights_topic", "weather_topic", "output_topic")
"""Of the example, in the order of ``data.TOPICS``."""


@dataclass
class Run:
    """What was seen of one scaler's run; seconds count from when its job had caught up."""

    name: str
    begin: float
    ticks: list[tuple[float, int, float, float]] = field(default_factory=list)
    """Second, workers that the job was told to have, backlog time [s], CPU (NaN: not known)."""
    told: list[tuple[float, str, str]] = field(default_factory=list)
    """Each rescale and each new reason not to: second, "rescale" or the reason, text."""
    _read: float = math.nan
    _written: list[tuple[float, float]] = field(default_factory=list)

    def note(self, seen: Observation) -> float:
        """Take a tick; the backlog time, NaN as long as none was known.

        It is how long ago the oldest record was written that is not read yet, as in ``benchmarks.autoscaler``. A job
        that restarts reads no further.
        """
        if seen.ends and seen.ends.keys() == seen.positions.keys():
            self._read = sum(seen.positions.values())
        self._written.append((seen.at, sum(seen.ends.values())))
        if math.isnan(self._read):
            return math.nan
        times, ends = zip(*self._written, strict=True)
        behind = 0.0 if self._read >= ends[-1] else seen.at - float(np.interp(self._read, ends, times))
        self.ticks.append((seen.at - self.begin, seen.workers, behind, seen.cpu))
        return behind

    def tell(self, decision: Decision, seen: Evaluation | None, *, acted: bool) -> None:  # noqa: ARG002 - the port's
        """See ``ports.Journal``."""
        second = time.time() - self.begin
        if isinstance(decision, Rescale):
            text = f"{decision.current} -> {decision.target}: {decision.text}"
            self.told.append((second, _RESCALE, text))
            report(f"{self.name} {text}")
        elif not self.told or self.told[-1][1] != decision.reason:
            self.told.append((second, decision.reason, decision.text))

    @property
    def rescales(self) -> list[tuple[float, str]]:
        """Second and text of each."""
        return [(second, text) for second, what, text in self.told if what == _RESCALE]

    @property
    def worker_minutes(self) -> float:
        return self._over(lambda workers, _: workers)

    @property
    def minutes_over(self) -> float:
        return self._over(lambda _, backlog: backlog > SLO)

    def _over(self, value: Callable[[int, float], float]) -> float:
        pairs = itertools.pairwise(self.ticks)
        return sum((later - at) * value(workers, backlog) for (at, workers, backlog, _), (later, *_) in pairs) / 60


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
    behind = math.nan
    """Backlog time."""

    def observe(self) -> Observation:
        seen = super().observe()
        self.behind = self.run.note(seen)
        return seen


class Flights(Producer):
    """Sends the example's records in the order of event time.

    Args:
        broker: has the topics.
        tables: of the example.
        names: of the topics, by the example's names.
    """

    def __init__(self, broker: KafkaBroker, tables: Any, names: dict[str, str]) -> None:
        self._names = names
        self._sent: list[tuple[str, Any]] = []
        records = [
            zip(itertools.repeat("weather"), data.weather_records(tables.weather)),
            zip(itertools.repeat("flights"), data.flight_records(tables.flights)),
        ]
        self._records = heapq.merge(*records, key=lambda pair: pair[1].timestamp_ms)
        super().__init__(broker, "", rate=TRICKLE)

    def record(self, number: int) -> dict[str, Any]:  # noqa: ARG002 - the next one always
        """See Producer."""
        topic, record = next(self._records)
        self._sent.append((topic, record))
        key = record.key.encode()
        return {"topic": self._names[topic], "key": key, "value": record.value, "timestamp_ms": record.timestamp_ms}

    def end(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Stop; the right answer for what was sent. A record in each partition tells the job that all hours are over;
        its own hour never is."""
        self.stop()
        _, last = self._sent[-1]
        with closing(KafkaProducer(bootstrap_servers=self._broker.bootstrap_servers)) as producer:
            for topic in ("flights", "weather"):
                value = next(record.value for name, record in reversed(self._sent) if name == topic)
                for partition in range(data.TOPICS[topic]):
                    time_ms = last.timestamp_ms + 2 * HOUR_MS
                    producer.send(self._names[topic], value, partition=partition, timestamp_ms=time_ms)
            producer.flush()
        tables = {
            name: pd.DataFrame([json.loads(record.value) for topic, record in self._sent if topic == name])
            for name in ("flights", "weather")
        }
        return data.expected(data.Tables(**tables))


def slowed(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same function, which takes its time."""

    @functools.wraps(function)
    def slow(record: Any) -> Any:
        until = time.thread_time() + WORK_SECONDS
        while time.thread_time() < until:
            pass
        time.sleep(WAIT_SECONDS)
        return function(record)

    return slow


Place = tuple[KafkaBroker, "Callable[[str], list[str]]"]
"""A broker, and by a job's name the flags that say where it runs."""


@contextmanager
def local(folder: Path) -> Iterator[Place]:
    """This machine."""
    with KafkaBroker(folder / "broker") as broker:
        yield (
            broker,
            lambda name: [
                *("--runner=FlinkK8s", "--k8s_target=local", f"--job_name={name}", "--k8s_task_slots=1"),
                *(f"--k8s_storage=file://{folder}/storage-{name}", f"--k8s_run_dir={folder}/{name}"),
            ],
        )


@contextmanager
def kubernetes(folder: Path) -> Iterator[Place]:
    """The test cluster."""
    with cluster_user(folder) as (user, broker):
        access = [
            f"--k8s_kubeconfig={user.environment['KUBECONFIG']}",
            f"--k8s_impersonate={user.environment['BEAM_K8S_IMPERSONATE']}",
            "--k8s_flink_conf=metrics.fetcher.update-interval=1000",  # as on this machine: a look is every 5 s
        ]
        yield broker, lambda name: [*user.flags(name), *access]


PLACES = {"local": local, "kubernetes": kubernetes}


def run(name: str, place: Place, tables: Any, trace: list[tuple[float, float]]) -> Run:
    """One scaler's run.

    Raises:
        AssertionError: what the job wrote is not right.
    """
    broker, flags = place
    names = {topic: f"{topic}-{name}" for topic in data.TOPICS}
    broker.create_topics({names[topic]: count for topic, count in data.TOPICS.items()}, config=data.TOPIC_CONFIG)
    own = [f"--k8s_worker_cpu={WORKER_CPU}", "--pickle_library=cloudpickle"]
    pipeline = beam.Pipeline(options=PipelineOptions(["--streaming", *flags(f"flights-{name}"), *own]))
    servers = {"bootstrap.servers": broker.bootstrap_servers}
    topics = dict(zip(_ARGUMENTS, names.values(), strict=True))
    cloudpickle.register_pickle_by_value(flights)  # no worker could import it: its folder is no package
    flights.build(pipeline, servers | {"auto.offset.reset": "earliest"}, servers, **topics)
    producer = Flights(broker, tables, names)
    result = None
    try:
        result = pipeline.run()
        workers = result.job.workers()
        with closing(Noted(result.job, workers, kafka_sources(pipeline.to_runner_api()), 1)) as figures:
            figures.run = Run(name, time.time())
            await_calm(result, figures)
            seen = figures.run = Run(name, time.time())
            settings = AutoscalerSettings.of({**CONF, "max_workers": MOST})
            ours = name == "ours"
            loop = Autoscaler(settings, figures, workers, seen, time.time) if ours else Hpa(figures, workers, seen)
            follow(trace, producer, loop.tick)
            workers.release()
        right = producer.end()
        found = await_output(result, broker, names["flights-by-hour"], len(right))
        wrong = data.differences(found, right)
        assert not wrong, f"{len(wrong)} of {len(right)} are wrong, for example {wrong[:3]}"
        report(f"{name}: all {len(right)} airports' hours are right, of {producer.produced} records")
    finally:
        producer.stop()
        if result is not None:
            result.cancel()
    return seen


def await_calm(result: Any, figures: Noted, seconds: float = 300) -> None:
    """Wait until the job has caught up with what came as it started; of one that starts, nobody answers."""
    deadline = time.monotonic() + seconds
    while not figures.behind < SLO / 2:
        assert result.state not in TERMINAL, result.state
        assert time.monotonic() < deadline, (result.state, figures.behind)
        time.sleep(0.5)
        with suppress(BeamK8sError):
            figures.observe()


def follow(trace: list[tuple[float, float]], producer: Producer, tick: Callable[[], object]) -> None:
    """Send at the trace's rate, and tick, until it ends."""
    ended = threading.Event()

    def ticks() -> None:
        while not ended.wait(INTERVAL):
            tick()

    thread = threading.Thread(target=ticks)
    thread.start()
    begin = time.monotonic()
    try:
        while (second := time.monotonic() - begin) < trace[-1][0]:
            producer.rate = rate_at(trace, second)
            time.sleep(0.5)
    finally:
        ended.set()
        thread.join()


def rate_at(trace: list[tuple[float, float]], second: float) -> float:
    """Records a second."""
    for (since, low), (until, high) in itertools.pairwise(trace):
        if second < until:
            return low + (high - low) * (second - since) / (until - since)
    return trace[-1][1]


def await_output(result: Any, broker: KafkaBroker, topic: str, count: int, seconds: float = 180) -> list[Any]:
    """What is committed in the topic, once it is so much, or nothing has come for a while."""
    most, deadline = -1, 0.0
    while True:
        assert result.state not in TERMINAL, result.state
        found = broker.read_topic(topic)
        if len(found) > most:
            most, deadline = len(found), time.monotonic() + seconds
        if most >= count or time.monotonic() > deadline:
            return [json.loads(record.value) for record in found]
        time.sleep(2)


def plot(runs: list[Run], trace: list[tuple[float, float]], title: str, file: Path) -> None:
    """Input, workers and backlog over time, a column each scaler; a line at each decision."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.fonttype"] = "none"  # text stays text: a tenth of the size
    figure, panels = plt.subplots(3, len(runs), figsize=(5.5 * len(runs), 6.5), sharex=True, sharey="row")
    for each, (rate, workers, backlog) in zip(runs, panels.T, strict=True):
        rate.plot(*zip(*trace, strict=True), color="black")
        rate.set(title=f"{each.name}, {title}")
        seconds, counts, behind, _ = zip(*each.ticks, strict=True)
        workers.step(seconds, counts, where="post")
        workers.set(ylim=(0, MOST + 0.5))
        backlog.plot(seconds, behind, color="tab:red")
        backlog.axhline(SLO, color="grey", linestyle=":")
        backlog.set(xlabel="seconds")
        for at, text in each.rescales:
            for panel in (workers, backlog):
                panel.axvline(at, color="grey", linewidth=0.5)
            workers.annotate(text.partition(":")[0].replace("->", "\u2192"), (at, 0.2), rotation=90, fontsize=8)
    for panel, label in zip(panels[:, 0], ("input [records/s]", "workers", "backlog time [s]"), strict=True):
        panel.set(ylabel=label)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """See the module."""
    options = parser(__doc__ or "")
    options.add_argument("--on", choices=PLACES, default="local", help="where the jobs run; default: this machine")
    options.add_argument("--plot", type=Path, help="write workers and backlog over time to this file")
    given = options.parse_args()
    trace = [(second / 12 if given.quick else second, rate) for second, rate in TRACE]
    tables = data.load()
    flights.flight = slowed(flights.flight)
    with tempfile.TemporaryDirectory(prefix="beam-k8s-") as name, PLACES[given.on](Path(name)) as place:
        runs = [run(each, place, tables, trace) for each in ("ours", "hpa")]
    figures = {
        each.name: {
            "worker_minutes": round(each.worker_minutes, 2),
            f"minutes_over_{SLO:g}_s": round(each.minutes_over, 2),
            "rescales": len(each.rescales),
            "decisions": [(round(second, 1), what, text) for second, what, text in each.told],
            "ticks": [[round(v, 2) if math.isfinite(v) else None for v in tick] for tick in each.ticks],
        }
        for each in runs
    }
    outcome = Report("autoscaler_job" if given.on == "local" else f"autoscaler_job-{given.on}", figures)
    rows = [(r.name, f"{r.worker_minutes:.1f}", f"{r.minutes_over:.2f}", len(r.rescales)) for r in runs]
    outcome.table(["scaler", "worker minutes", f"minutes over {SLO:g} s", "rescales"], rows)
    ours, theirs = runs
    goals = [
        Goal("worker_minutes", ours.worker_minutes, theirs.worker_minutes, True),
        Goal(f"minutes_over_{SLO:g}_s", ours.minutes_over, theirs.minutes_over, True),
    ]
    outcome.finish_all(given.json, goals)
    if given.plot:
        plot(runs, trace, given.on, given.plot)


if __name__ == "__main__":
    main()
