"""What the benchmark of the autoscaler makes of its inputs and scores, and that its plan in hindsight is worth one."""

import math
from dataclasses import replace

import numpy as np
import pytest

from beam_k8s.autoscaler.model import Observation
from benchmarks import autoscaler_job
from benchmarks.autoscaler import traces
from benchmarks.autoscaler.__main__ import _ORACLE, dominating, over_oracle
from benchmarks.autoscaler.contenders import PRODUCT
from benchmarks.autoscaler.oracle import _VIOLATION
from benchmarks.autoscaler.plant import MOST, PARTITIONS, Nature, Plant
from benchmarks.autoscaler.scalers import static
from benchmarks.autoscaler.score import GOAL, Score, oracle, run


def test_traces_are_read_from_csv_and_a_rate_holds_until_the_next(tmp_path):
    (tmp_path / "b.csv").write_text("seconds,records_per_second\n100,100\n130,400\n137.5,0.5\n160,0\n")
    (tmp_path / "a.csv").write_text("records_per_second,seconds\n7,0\n7,15\n")
    (tmp_path / "notes.txt").write_text("no trace")
    flat, steps = traces.of_folder(tmp_path)
    assert (flat.name, flat.family, flat.rate.tolist()) == ("a", "a", [7, 7, 7])
    assert steps.rate.tolist() == [100] * 4 + [400] + [0.5] * 3 + [0]
    assert (steps.sink > steps.rate).all()


def score(pod_hours, slo_60, trace="step/up", seed=0):
    rest = dict.fromkeys(("slo_10", "slo_300", "p50", "p99", "longest", "rescales", "flips", "paused"), 0)
    return Score(trace, trace.partition("/")[0], seed, pod_hours=pod_hours, slo_60=slo_60, **rest)


@pytest.mark.parametrize(
    ("pod_hours", "late", "better"),
    [
        (9, 4, True),
        (9, 5, True),
        (10, 4, True),
        (9, 6, False),  # each is better in one
        (11, 4, False),
        (9.95, 4.95, False),  # less than a hundredth and than a tenth of a minute is no difference
        (10, 5, False),
    ],
)
def test_who_is_better_in_one_and_no_worse_in_the_other_dominates(pod_hours, late, better):
    ours = [score(8, 4), score(12, 6)]  # 10 and 5 on the average
    scores = {PRODUCT.name: ours, _ORACLE: [score(1, 0)], "other": [score(pod_hours, late)], "worse": [score(20, 50)]}
    assert dominating(scores) == (["other"] if better else [])


def test_who_dominates_in_a_family_need_not_over_all():
    scores = {
        PRODUCT.name: [score(10, 5, "step/up"), score(10, 5, "spikes/short")],
        "other": [score(5, 1, "step/up"), score(30, 5, "spikes/short")],
    }
    assert [dominating(scores, family) for family in ("step", "spikes", None)] == [["other"], [], []]


def test_the_distance_from_the_oracle_is_by_trace_and_by_job_where_it_keeps_the_goal():
    ours = {("step/up", 0): 10, ("step/up", 1): 10, ("step/up", 2): 90, ("spikes/short", 0): 14}
    best = {("step/up", 0): (4, 0), ("step/up", 1): (12, 0), ("step/up", 2): (1, 3), ("spikes/short", 0): (10, 0)}
    scores = {
        PRODUCT.name: [score(hours, 0, *where) for where, hours in ours.items()],
        _ORACLE: [score(*figures, *where) for where, figures in best.items()],
    }
    assert over_oracle(scores) == ((14 / 10, "spikes/short"), (10 / 4, "step/up, seed 0"))


def test_the_plan_in_hindsight_is_better_than_the_peaks_workers_at_its_own_price():
    """Of a job whose rescale alone takes longer than the goal, it takes some minutes above it for many pod hours."""
    step, natures = traces.tuning()[0], [Nature.of(0)]
    assert natures[0].pause > GOAL
    planned, peak = (
        60 * (60 * each.pod_hours + _VIOLATION * each.slo_60)
        for each in (*oracle(step, natures), *run(step, natures, static(np.max)))
    )
    assert planned < peak


def test_of_five_jobs_one_has_half_the_partitions_and_no_use_for_more_workers():
    natures = [Nature.of(seed) for seed in range(5)]
    (few,) = [each for each in natures if each.partitions < PARTITIONS]
    assert few.partitions == PARTITIONS // 2
    assert few.capacity(MOST) <= few.capacity(few.partitions)
    assert few.workers_for(1e9) == few.partitions
    plant = Plant(traces.tuning()[0], [replace(few, dropped=0.0, delay=0)], np.array([MOST]))
    plant.look()
    assert plant.seen(0, 0).ends.size == few.partitions


def test_of_five_jobs_one_waits_and_its_cpu_is_low_though_it_is_busy():
    step, natures = traces.tuning()[0], [replace(Nature.of(seed), dropped=0.0, delay=0) for seed in range(5)]
    plant = Plant(step, natures, np.ones(5, int))
    for k in range(20):
        plant.step(k)
    plant.look()
    seen = [plant.seen(i, 150) for i in range(5)]
    assert all(each.busy > 0.95 for each in seen)
    assert [each.cpu < 0.3 for each in seen] == [False, False, True, False, False]


def test_the_backlog_time_of_a_real_job_is_the_age_of_the_oldest_record_that_is_not_read():
    run = autoscaler_job.Run("ours", begin=1000)

    def look(second, end, position=None):
        positions = {} if position is None else {"t-0": position}
        return run.note(Observation(1000 + second, 2, 2, 0.0, frozenset(), {}, positions, {"t-0": end}, cpu=0.5))

    assert math.isnan(look(0, 0))
    assert look(10, 100, 100) == 0
    assert look(20, 200, 150) == 5
    assert look(30, 300) == 15  # it restarts
    assert look(50, 500) == 35
    assert look(60, 500, 500) == 0
    assert run.minutes_over * 60 == pytest.approx(10)
    assert run.worker_minutes * 60 == pytest.approx(2 * 50)
    trace = [(0, 50), (10, 50), (20, 250)]
    assert [autoscaler_job.rate_at(trace, second) for second in (0, 15, 20, 30)] == [50, 150, 250, 250]
