"""The scalers that are compared. Each sees what ``Plant.seen`` tells and says how many workers it wants.

Formulas and defaults are the published ones; where a source leaves something open, the docstring says what was taken.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from beam_k8s.autoscaler.loop import Autoscaler
from beam_k8s.autoscaler.model import Memory, Observation
from beam_k8s.autoscaler.settings import AutoscalerSettings
from benchmarks.autoscaler.plant import MOST, PARTITIONS, Nature
from benchmarks.autoscaler.traces import STEP, Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from beam_k8s.autoscaler.model import Decision, Evaluation, Rescale
    from benchmarks.autoscaler.plant import Seen

__all__ = ["Make", "Scaler", "dataflow", "ds2", "hpa", "keda", "operator", "ours", "planned", "static"]


class Scaler(Protocol):
    """The scaler of one job."""

    def wants(self, seen: Seen | None, now: float) -> int | None:
        """Workers; None: no change."""


Make = "Callable[[Trace, Nature], Scaler]"


class Rates(NamedTuple):
    """What most scalers reckon with."""

    workers: int
    throughput: float
    input_rate: float
    backlog: float
    cpu: float
    busy: float
    seconds: float

    @property
    def backlog_time(self) -> float:
        return self.backlog / self.throughput if self.throughput > 0 else (math.inf if self.backlog > 0 else 0.0)

    @property
    def capacity(self) -> float:
        """The operator's and DS2's true processing rate: what it would do if it were busy all the time."""
        return self.throughput / max(self.busy, 1e-3)


class Rated:
    """A window of figures since the last restart."""

    def __init__(self, seconds: float, settle: float = 0.0) -> None:
        self._window, self._settle = seconds, settle
        self._seen: deque[tuple[Seen, float, float]] = deque()

    def rates(self, seen: Seen | None) -> Rates | None:
        """Over the window; None: not known now."""
        if seen is None or seen.started is None or seen.ready != seen.spec or seen.at < seen.started + self._settle:
            return None
        if seen.at <= seen.changed:
            return None
        if self._seen and self._seen[-1][0].generation != seen.generation:
            self._seen.clear()
        if not self._seen or seen.at > self._seen[-1][0].at:
            self._seen.append((seen, float(seen.positions.sum()), float(seen.ends.sum())))
        while len(self._seen) > 2 and self._seen[1][0].at <= seen.at - self._window:
            self._seen.popleft()
        first, last = self._seen[0], self._seen[-1]
        seconds = last[0].at - first[0].at
        if seconds <= 0:
            return None
        n = len(self._seen)
        return Rates(
            workers=seen.ready,
            throughput=(last[1] - first[1]) / seconds,
            input_rate=(last[2] - first[2]) / seconds,
            backlog=max(0.0, last[2] - last[1]),
            cpu=sum(each.cpu for each, _, _ in self._seen) / n,
            busy=sum(each.busy for each, _, _ in self._seen) / n,
            seconds=seconds,
        )


class Static:
    def __init__(self, workers: int) -> None:
        self._workers = workers

    def wants(self, seen: Seen | None, now: float) -> int | None:  # noqa: ARG002
        return self._workers


def static(of: Callable[[np.ndarray], float]) -> Callable[[Trace, Nature], Scaler]:
    """As many workers as a figure of the trace needs, known beforehand: of its rates as means of 5 minutes."""

    def make(trace: Trace, nature: Nature) -> Scaler:
        n = int(300 / STEP)
        means = np.convolve(trace.rate, np.ones(n) / n, "valid")
        return Static(nature.workers_for(of(means)))

    return make


class _Horizontal:
    """What Kubernetes' HorizontalPodAutoscaler makes of a ratio: tolerance, stabilization, limits of speed."""

    def __init__(self, stabilization: float, tolerance: float) -> None:
        self._stabilization, self._tolerance = stabilization, tolerance
        self._recommended: deque[tuple[float, int]] = deque()

    def workers(self, seen: Seen, ratio: float, now: float) -> int:
        wanted = seen.spec if abs(ratio - 1) <= self._tolerance else math.ceil(seen.ready * ratio - 1e-9)
        wanted = min(max(wanted, 1), MOST)
        self._recommended.append((now, wanted))
        while self._recommended[0][0] < now - self._stabilization:
            self._recommended.popleft()
        if wanted > seen.spec:
            return min(wanted, max(2 * seen.spec, seen.spec + 4))
        return min(seen.spec, max(each for _, each in self._recommended))


class Hpa(_Horizontal):
    def __init__(self, target: float, stabilization: float) -> None:
        super().__init__(stabilization, 0.1)
        self._target = target

    def wants(self, seen: Seen | None, now: float) -> int | None:
        return None if seen is None else self.workers(seen, seen.cpu / self._target, now)


def hpa(target: float = 0.8, stabilization: float = 300) -> Callable[[Trace, Nature], Scaler]:
    """Kubernetes' HPA on CPU: ``ceil(n * cpu / target)``, tolerance 10 %, 300 s of the highest wish before fewer."""
    return lambda _trace, _nature: Hpa(target, stabilization)


class Keda(_Horizontal):
    def __init__(self, threshold: float, stabilization: float) -> None:
        super().__init__(stabilization, 0.1)
        self._threshold = threshold

    def wants(self, seen: Seen | None, now: float) -> int | None:
        if seen is None or now % 30 != 0:
            return None
        lag = max(0.0, float(seen.ends.sum() - seen.positions.sum()))
        wanted = min(max(1, math.ceil(lag / self._threshold)), seen.positions.size)
        return self.workers(seen, wanted / seen.ready, now)


def keda(threshold: float = 10, stabilization: float = 300) -> Callable[[Trace, Nature], Scaler]:
    """KEDA on Kafka's lag: ``ceil(lag / threshold)``, at most the partitions, every 30 s, through the HPA."""
    return lambda _trace, _nature: Keda(threshold, stabilization)


class Operator:
    """The formula of the Flink operator's autoscaler for one vertex."""

    def __init__(
        self,
        *,
        window: float,
        stabilization: float,
        down_interval: float,
        restart: float,
        catch_up: float,
        target: float,
        low: float,
        high: float,
        blind: bool,
    ) -> None:
        self._rated = Rated(window)
        self._stabilization, self._down_interval = stabilization, down_interval
        self._restart, self._catch_up = restart, catch_up
        self._target, self._low, self._high = target, low, high
        self._blind = blind
        self._wishes: deque[tuple[float, int]] = deque()

    def wants(self, seen: Seen | None, now: float) -> int | None:
        rates = self._rated.rates(seen)
        if rates is None or seen is None or seen.started is None:
            return None
        if seen.at - seen.started < self._stabilization or rates.seconds < min(self._stabilization, 60):
            return None
        backlog, arrives = rates.backlog, rates.input_rate
        if self._blind:  # without pendingRecords the lag is 0, and the input what was read
            backlog, arrives = 0.0, rates.throughput
        least = arrives / self._high + backlog / self._catch_up
        most = arrives / self._low + backlog / self._catch_up
        behind = backlog > 300 * max(arrives, 1e-9)
        capacity = rates.capacity
        wish = rates.workers
        if capacity < least or (capacity > most and not behind):
            needed = arrives / self._target + backlog / self._catch_up + arrives * self._restart / self._catch_up
            wish = math.ceil(rates.workers * needed / max(capacity, 1e-9) - 1e-9)
        wish = min(max(wish, math.ceil(0.4 * rates.workers), 1), MOST)
        self._wishes.append((now, wish))
        while self._wishes[0][0] < now - self._down_interval:
            self._wishes.popleft()
        if wish < rates.workers:
            if now - self._wishes[0][0] < self._down_interval - 30:
                return None
            wish = min(rates.workers, max(each for _, each in self._wishes))
        if wish != rates.workers:
            self._wishes.clear()
        return wish


def operator(*, blind: bool = False, **changed: float) -> Callable[[Trace, Nature], Scaler]:
    """The Flink operator's formula, told the right lag; ``blind``: lag 0, as it sees portable Beam.

    Args:
        blind: see above.
        changed: what is not as the operator's defaults.
    """
    defaults = {
        "window": 900.0,
        "stabilization": 300.0,
        "down_interval": 3600.0,
        "restart": 300.0,
        "catch_up": 1800.0,
        "target": 0.7,
        "low": 0.4,
        "high": 1.0,
    }
    return lambda _trace, _nature: Operator(blind=blind, **{**defaults, **changed})


class Ds2:
    def __init__(self, interval: float, headroom: float) -> None:
        self._rated, self._interval, self._headroom = Rated(interval), interval, headroom

    def wants(self, seen: Seen | None, now: float) -> int | None:  # noqa: ARG002
        rates = self._rated.rates(seen)
        if rates is None or rates.seconds < self._interval - 15:
            return None
        return math.ceil(rates.workers * rates.input_rate * self._headroom / max(rates.capacity, 1e-9) - 1e-9)


def ds2(interval: float = 60, headroom: float = 1.0) -> Callable[[Trace, Nature], Scaler]:
    """DS2: workers = input rate / true rate of one worker, after each interval (60 s: the paper's for Flink)."""
    return lambda _trace, _nature: Ds2(interval, headroom)


class Dataflow:
    def __init__(self, clear: float, patience: float, up_time: float, down_cpu: float) -> None:
        self._rated = Rated(60)
        self._clear, self._patience, self._up_time, self._down_cpu = clear, patience, up_time, down_cpu
        self._since: dict[str, float] = {}

    def wants(self, seen: Seen | None, now: float) -> int | None:
        rates = self._rated.rates(seen)
        if rates is None:
            return None
        up = rates.backlog_time > self._up_time and rates.cpu > 0.2
        down = rates.backlog_time < 10 and rates.cpu < self._down_cpu
        for name, holds in (("up", up), ("down", down)):
            if not holds:
                self._since.pop(name, None)
            elif now - self._since.setdefault(name, now) >= self._patience:
                self._since.clear()
                if name == "down":
                    return min(rates.workers, math.ceil(rates.workers * rates.cpu / self._down_cpu - 1e-9))
                each = rates.throughput / rates.workers
                needed = (rates.input_rate + rates.backlog / self._clear) / max(each, 1e-9)
                return max(rates.workers, math.ceil(needed - 1e-9))
        return None


def dataflow(
    clear: float = 150, patience: float = 120, up_time: float = 10, down_cpu: float = 0.75
) -> Callable[[Trace, Nature], Scaler]:
    """Dataflow's rules as documented in 2020: after two minutes of backlog and CPU above 20 %, what clears it in 150 s
    at today's rate of a worker; after two minutes of backlog below 10 s and CPU below 75 %, fewer, up to 75 %."""
    return lambda _trace, _nature: Dataflow(clear, patience, up_time, down_cpu)


class Planned:
    """A plan made in hindsight."""

    def __init__(self, plan: dict[int, int]) -> None:
        self._plan = plan

    def wants(self, seen: Seen | None, now: float) -> int | None:  # noqa: ARG002
        return self._plan.get(int(now))


def planned(plans: dict[int, dict[int, int]]) -> Callable[[Trace, Nature], Scaler]:
    """What the oracle found, by seed."""
    return lambda _trace, nature: Planned(plans[nature.seed])


_NAMES = [f"topic-{n}" for n in range(PARTITIONS)]


class Ours:
    """Our own loop; the ports are this object."""

    def __init__(self, settings: AutoscalerSettings) -> None:
        self._loop = Autoscaler(settings, self, self, self, lambda: self._now)
        self._now, self._seen, self._wish = 0.0, None, None
        self._memory = Memory()
        self._attempts: dict[str, str] = {}
        self._generation = -1

    def wants(self, seen: Seen | None, now: float) -> int | None:
        if seen is None:
            return None
        self._now, self._seen, self._wish = now, seen, None
        self._loop.tick()
        return self._wish

    def observe(self) -> Observation:
        seen = self._seen
        assert seen is not None
        if seen.generation != self._generation:
            self._generation = seen.generation
            names = _NAMES[: seen.positions.size]
            self._attempts = {name: f"{n % seen.ready} of {seen.generation}" for n, name in enumerate(names)}
        return Observation(
            at=seen.at,
            workers=seen.workers,
            ready=seen.ready,
            started=seen.started,
            running=frozenset(self._attempts.values()),
            attempts=self._attempts,
            positions=dict(zip(self._attempts, seen.positions.tolist(), strict=True)),
            ends=dict(zip(self._attempts, seen.ends.tolist(), strict=True)),
            cpu=seen.cpu,
            useful=seen.positions.size,
            checkpoint=seen.checkpoint,
        )

    def load(self) -> Memory:
        return self._memory

    def hindrance(self) -> str:
        return ""

    def rescale(self, change: Rescale, memory: Memory) -> None:
        self._memory, self._wish = memory, change.target

    def tell(self, decision: Decision, seen: Evaluation | None, *, acted: bool) -> None:
        self.last = (decision, seen, acted)


def ours(**settings: object) -> Callable[[Trace, Nature], Scaler]:
    """The product's own code with these settings."""
    checked = AutoscalerSettings.of({"max_workers": MOST} | settings)
    return lambda _trace, _nature: Ours(checked)
