"""The autoscaler and a job that answers: it settles, it does not flap, and nothing makes it give up."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from beam_k8s.autoscaler.loop import Autoscaler
from beam_k8s.autoscaler.model import Memory, Observation, Rescale
from beam_k8s.autoscaler.settings import POLICIES, AutoscalerSettings
from beam_k8s.errors import FlinkError

TICK = 15
PAUSE = 30
"""Seconds from a change of workers until the job runs again."""
REPLAY = 10
"""Seconds of work done again then."""


class Job:
    """A stream job, its broker and its cluster, second by second."""

    def __init__(self, policy, rate, *, workers=1, most=20, partitions=32):
        self.settings = AutoscalerSettings(policy=policy, max_workers=most)
        self.now, self.rate, self.partitions = 1000, rate, partitions
        self.workers = self.ready = workers
        self.resumes, self.generation = 0, 1
        self.started = 0.0
        self.consumed = self.produced = 0.0
        self.cpu = 0.0
        self.memory = Memory()
        self.changes = []
        self.silent = self.blind = self.pods_late = 0
        self.loop = Autoscaler(self.settings, self, self, self, lambda: self.now)

    def capacity(self):
        return 100 * min(self.ready, self.partitions) ** 0.9

    @property
    def backlog(self):
        return self.produced - self.consumed

    def tick(self):
        done = 0.0
        for _ in range(TICK):
            self.now += 1
            self.produced += self.rate
            if self.now == self.resumes:
                self.restart()
            if self.now > self.resumes:
                step = min(self.backlog, self.capacity())
                done += step
                self.consumed += step
        self.cpu = done / TICK / self.capacity()
        self.silent, self.blind, self.pods_late = (max(0, n - 1) for n in (self.silent, self.blind, self.pods_late))
        if self.ready != self.workers and not self.pods_late:
            self.ready = self.workers
            self.resumes = self.now + PAUSE
        return self.loop.tick()

    def restart(self):
        self.generation += 1
        self.started = float(self.now)
        self.consumed = max(0.0, self.consumed - REPLAY * min(self.rate, self.capacity()))

    # Ports

    def observe(self):
        if self.silent:
            raise FlinkError("Flink does not answer.")
        names = [f"t-{n}" for n in range(self.partitions)]
        attempts = {name: f"{name}-{self.generation}" for name in names}
        return Observation(
            at=float(self.now),
            workers=self.workers,
            ready=self.ready,
            started=None if self.now < self.resumes else self.started,
            running=frozenset(attempts.values()),
            attempts=attempts,
            positions=dict.fromkeys(names, self.consumed / self.partitions),
            ends=dict.fromkeys(names, self.produced / self.partitions),
            cpu=math.nan if self.blind else self.cpu,
            useful=self.partitions,
        )

    def load(self):
        return self.memory

    def hindrance(self):
        return ""

    def rescale(self, change, memory):
        assert change.current == self.workers
        assert not self.silent
        assert not self.blind
        self.memory = memory
        self.workers = change.target
        self.changes.append(change)

    def tell(self, decision, seen, *, acted):
        self.last = decision

    def fits(self):
        """Whether the workers do the load, nearly, or there may be no more of them."""
        most = min(self.settings.max_workers, self.partitions)
        return self.capacity() >= 0.9 * self.rate or self.backlog <= 60 * self.rate or self.ready >= most


def run(job, ticks):
    return [decision for _ in range(ticks) if isinstance(decision := job.tick(), Rescale)]


policies = st.sampled_from(POLICIES)


@settings(max_examples=15, deadline=None)
@given(policies, st.floats(0, 3000), st.integers(1, 30))
def test_a_constant_load_is_met_and_never_flaps(policy, rate, workers):
    job = Job(policy, rate, workers=workers, most=30)
    run(job, 150)
    assert job.fits()
    ups = [change.target > change.current for change in job.changes]
    # Up at once if need be, then down to what is enough: never up again after down.
    assert ups == sorted(ups, reverse=True)
    assert len(ups) <= 6


@pytest.mark.parametrize("policy", POLICIES)
def test_partitions_are_the_most_workers_that_help(policy):
    job = Job(policy, 5000, partitions=6)
    run(job, 100)
    assert job.workers == 6


class AnyLife(RuleBasedStateMachine):
    """Whatever happens to a job, in the end it has the workers that its load needs."""

    @initialize(policy=policies, rate=st.floats(0, 1500))
    def start(self, policy, rate):
        self.job = Job(policy, rate)

    @rule(rate=st.floats(0, 1500))
    def load_changes(self, rate):
        self.job.rate = rate

    @rule(ticks=st.integers(1, 20))
    def time_passes(self, ticks):
        run(self.job, ticks)

    @rule(ticks=st.integers(1, 10))
    def nobody_answers(self, ticks):
        self.job.silent = ticks

    @rule(ticks=st.integers(1, 10))
    def cpu_is_not_known(self, ticks):
        self.job.blind = ticks

    @rule(ticks=st.integers(1, 40))
    def pods_come_late(self, ticks):
        self.job.pods_late = ticks

    @rule()
    def job_restarts(self):
        self.job.restart()

    @rule()
    def a_partition_is_added(self):
        self.job.partitions += 1

    @rule(late=st.booleans())
    def the_launcher_is_started_again(self, late):
        job = self.job
        if late:
            run(job, 2)
        job.loop = Autoscaler(job.settings, job, job, job, lambda: job.now)

    @rule(workers=st.integers(1, 20))
    def somebody_scales_by_hand(self, workers):
        self.job.workers = workers

    @invariant()
    def within_bounds(self):
        if hasattr(self, "job"):
            assert 1 <= self.job.workers <= 20

    def teardown(self):
        if hasattr(self, "job"):
            self.job.silent = self.job.blind = self.job.pods_late = 0
            run(self.job, 100)
            assert self.job.fits(), (self.job.rate, self.job.workers, self.job.last)


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(max_examples=15, stateful_step_count=10, deadline=None)
