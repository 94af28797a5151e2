"""What the autoscaler decides, and when it decides nothing."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_k8s.autoscaler.decide import decide
from beam_k8s.autoscaler.learning import learn_capacity, learn_gain, learn_pause, learn_replay, rescaled
from beam_k8s.autoscaler.loop import Autoscaler
from beam_k8s.autoscaler.model import Evaluation, Futile, Hold, Limits, Memory, Observation, Reason, Rescale, Rise
from beam_k8s.autoscaler.policies import capacity_of
from beam_k8s.autoscaler.settings import POLICIES, AutoscalerSettings
from beam_k8s.autoscaler.window import Window
from beam_k8s.errors import ConfigError, Conflict, FlinkError
from beam_k8s.launcher.autoscale import TellPeople

SETTINGS = AutoscalerSettings(policy="threshold")
LIMITS = Limits.of(1, 100)


def evaluation(**given):
    fields = {
        "at": 1000.0,
        "workers": 4,
        "throughput": 1000.0,
        "backlog": 0.0,
        "growth": 0.0,
        "cpu": 0.6,
        "least_backlog_time": 0.0,
        "shares": (),
        "best": 0.0,
    }
    fields |= given
    return Evaluation(**{"ready": fields["workers"]} | fields)


def target_of(decision, seen):
    return decision.target if isinstance(decision, Rescale) else seen.workers


# The original's rules, by hand


@pytest.mark.parametrize(
    ("seen", "target"),
    [
        # The input needs 4 * 1500 / 1000 = 6 workers, 30 s of backlog in 60 s another 4 * 30 / 60 = 2.
        (evaluation(cpu=0.9, backlog=30_000, growth=500), 8),
        (evaluation(cpu=0.9, backlog=30_000, growth=0), 6),  # the input needs the 4 there are
        (evaluation(cpu=0.9, backlog=30_000, growth=-1), 4),  # drains already
        (evaluation(cpu=0.75, backlog=30_000, growth=500), 4),  # not CPU: another sort of trouble
        (evaluation(cpu=0.9, backlog=10_000, growth=500), 4),  # 10 s are healthy
        (evaluation(cpu=0.9, backlog=1000, growth=1000, throughput=0), 100),  # nothing is read at all
        (evaluation(cpu=0.3, backlog=5000, growth=-1), 2),  # 4 * 0.3 / 0.75 = 1.6
        (evaluation(cpu=0.375, backlog=5000, growth=-1), 2),  # exactly 75 % on 2
        (evaluation(cpu=0.0, backlog=0, growth=-1), 1),
        (evaluation(cpu=0.3, backlog=5000, growth=0), 4),
        (evaluation(cpu=0.3, backlog=10_000, growth=-1), 4),
        (evaluation(cpu=0.75, backlog=0, growth=-1), 4),
    ],
)
def test_threshold_is_the_originals(seen, target):
    assert target_of(decide(seen, LIMITS, Memory(), SETTINGS), seen) == target


def test_threshold_takes_the_authors_articles_numbers():
    article = AutoscalerSettings(policy="threshold", up_backlog_time=120, up_cpu=0.9, up_if="either", down_cpu=0.7)
    seen = evaluation(cpu=0.2, backlog=130_000, growth=0)
    assert decide(seen, LIMITS, Memory(), article).target == 4 + 9
    seen = evaluation(cpu=0.5, backlog=0, growth=-1)
    assert decide(seen, LIMITS, Memory(), article).target == 3


# Properties of every policy

few = settings(max_examples=40, deadline=None)

rates = st.floats(0, 1e9)
evaluations = st.builds(
    evaluation,
    workers=st.integers(1, 200),
    throughput=rates,
    backlog=rates,
    growth=st.floats(-1e9, 1e9),
    cpu=st.floats(0, 1.2),
    least_backlog_time=st.floats(0, 100),
    shares=st.lists(st.integers(1, 9), max_size=40).map(lambda them: tuple(n / sum(them) for n in them)),
    best=rates,
    inputs=st.lists(rates, max_size=12).map(
        lambda them: tuple((1000.0 - 150 * n, x) for n, x in enumerate(them))[::-1]
    ),
)
policies = st.sampled_from([AutoscalerSettings(policy=name) for name in POLICIES])
caps = st.none() | st.integers(1, 300)
memories = st.builds(
    Memory,
    capacity=st.dictionaries(st.integers(1, 60), st.floats(1, 1e8), max_size=4),
    pause=st.none() | st.floats(5, 300),
    futile=st.none() | st.builds(Futile, st.integers(1, 60), st.floats(0, 3000)),
)
limits = st.builds(
    lambda least, more, *caps: Limits.of(least, least + more, *caps),
    st.integers(1, 50),
    st.integers(0, 200),
    caps,
    caps,
)


@few
@given(evaluations, limits, policies, memories)
def test_bounds_always_hold(seen, limits, policy, memory):
    decision = decide(seen, limits, memory, policy)
    target = target_of(decision, seen)
    assert limits.least <= target <= limits.most
    assert decision.text
    if isinstance(decision, Rescale):
        assert decision.target != decision.current == seen.workers


@few
@given(evaluations, limits, policies, memories)
def test_nothing_is_added_that_partitions_or_quota_cannot_use(seen, limits, policy, memory):
    decision = decide(seen, limits, memory, policy)
    if isinstance(decision, Rescale) and decision.target > max(decision.current, limits.least):
        assert decision.target <= limits.useful


@few
@given(evaluations, limits, policies, memories, rates)
def test_more_backlog_never_gives_fewer_workers(seen, limits, policy, memory, more):
    worse = replace(seen, backlog=seen.backlog + more)
    fewer, many = (target_of(decide(each, limits, memory, policy), each) for each in (seen, worse))
    assert fewer <= many


@few
@given(evaluations, limits, policies)
def test_what_was_decided_is_not_decided_again(seen, limits, policy):
    decision = decide(seen, limits, Memory(), policy)
    if isinstance(decision, Rescale):
        memory = Memory(rescaled_at=seen.at, target=decision.target)
        for workers in (seen.workers, decision.target):
            again = decide(replace(seen, workers=workers), limits, memory, policy)
            assert isinstance(again, Hold)
            assert again.reason is Reason.RESCALING


@few
@given(evaluations, policies, st.sampled_from(["throughput", "backlog", "growth", "cpu"]))
def test_a_figure_that_is_no_number_decides_nothing(seen, policy, name):
    for value in (math.nan, math.inf):
        assert isinstance(decide(replace(seen, **{name: value}), LIMITS, Memory(), policy), Hold)


def test_workers_that_never_came_are_not_counted_nor_asked_for_again():
    seen = evaluation(workers=8, ready=4, cpu=0.9, backlog=30_000, growth=500)
    decision = decide(seen, LIMITS, Memory(), SETTINGS)
    assert isinstance(decision, Hold)
    assert "4 workers have not joined" in decision.text
    idle = evaluation(workers=8, ready=4, cpu=0.3, growth=-1)
    assert decide(idle, LIMITS, Memory(), SETTINGS) == Rescale(8, 2, decide(idle, LIMITS, Memory(), SETTINGS).text)


# The window

NAMES = ("flights-0", "flights-1")


def observation(at, consumed=0.0, backlog=0.0, **given):
    fields = {
        "at": float(at),
        "workers": 2,
        "ready": 2,
        "started": 0.0,
        "running": frozenset("ab"),
        "cpu": 0.5,
        "attempts": {"flights-0": "a", "flights-1": "b"},
        "positions": dict.fromkeys(NAMES, consumed / 2),
        "ends": dict.fromkeys(NAMES, (consumed + backlog) / 2),
    }
    return Observation(**fields | given)


def filled(window, until=160, rate=100.0):
    for at in range(100, until + 1, 15):
        assert window.add(observation(at, rate * at, 50.0 * (at - 100))) is None
    return at


def test_rates_come_from_offsets():
    window = Window(SETTINGS)
    now = filled(window)
    found = window.evaluate(now)
    assert (found.throughput, found.growth, found.input_rate) == pytest.approx((100, 50, 150))
    assert found.backlog == 50 * (now - 100)
    assert found.backlog_time == found.backlog / 100
    assert found.shares == (0.5, 0.5)
    assert found.best == pytest.approx(100)
    assert found.inputs[-1] == pytest.approx((now, 150))


def test_a_busy_partition_is_seen():
    window = Window(SETTINGS)
    for at in range(100, 161, 15):
        ends = {"flights-0": 90.0 * at, "flights-1": 30.0 * at}
        positions = {"flights-0": 50.0 * at, "flights-1": 30.0 * at}
        window.add(observation(at, ends=ends, positions=positions))
    found = window.evaluate(160)
    assert found.shares == pytest.approx((0.75, 0.25))
    # Its subtask alone is behind, 4/3 of the mean, and reads 50/s where it should three quarters of all.
    assert found.farthest == pytest.approx(1 / 0.75)
    assert found.sustained == pytest.approx(50 / 0.75)


@pytest.mark.parametrize(
    ("given", "reason", "text"),
    [
        ({"started": None}, Reason.NOT_RUNNING, "not running"),
        ({"ready": 0, "workers": 0}, Reason.NOT_RUNNING, "no worker"),
        ({"ready": 1}, Reason.RESCALING, "1 of 2 workers"),
        ({"cpu": math.nan}, Reason.MISSING, "CPU"),
        ({"ends": {}, "positions": {}}, Reason.MISSING, "no partition"),
        ({"ends": {"flights-0": 9.0}}, Reason.MISSING, "broker does not know partition flights-1"),
        ({"positions": {"flights-0": 9.0}}, Reason.MISSING, "position of partition flights-1"),
        ({"positions": {"flights-0": math.nan, "flights-1": 1.0}}, Reason.MISSING, "no number"),
        ({"positions": {"flights-0": -3.0, "flights-1": 1.0}}, Reason.MISSING, "no number"),
        ({"running": frozenset("ac")}, Reason.STALE, "flights-1 is of a subtask that is gone"),
        ({"attempts": {}}, Reason.STALE, "flights-0 and 1 other"),
        ({"started": 170.0}, Reason.STALE, "just started"),
    ],
)
def test_what_is_missing_or_old_decides_nothing_and_is_named(given, reason, text):
    window = Window(SETTINGS)
    filled(window)
    hold = window.add(observation(175, 17_500, **given))
    assert hold.reason is reason
    assert text in hold.text


def test_what_flink_told_before_a_restart_is_no_figure_of_now():
    """It serves what it has cached as if the tasks that run now said so."""
    window = Window(SETTINGS)
    filled(window)
    again = {"started": 170.0, "running": frozenset("cd"), "attempts": {"flights-0": "c", "flights-1": "d"}}
    frozen = dict.fromkeys(NAMES, 8000.0)
    for at in range(190, 341, 15):  # the broker's ends go on
        hold = window.add(observation(at, 100.0 * at, positions=frozen, **again))
        assert hold.reason is Reason.STALE
        assert window.evaluate(at).reason is Reason.WARMING_UP
    half = {"flights-0": 9000.0, "flights-1": 8000.0}
    hold = window.add(observation(346, 34_600, positions=half, **again))
    assert "no other position of partition flights-1" in hold.text
    assert window.add(observation(350, 35_000, positions=half, **again)) is None  # it stands still, after all
    window = Window(SETTINGS)
    filled(window)
    assert window.add(observation(190, 19_000, positions=frozen, **again)).reason is Reason.STALE
    assert window.add(observation(205, 20_500, positions=dict.fromkeys(NAMES, 7000.0), **again)) is None


def test_old_figures_are_stale():
    window = Window(SETTINGS)
    now = filled(window)
    assert isinstance(window.evaluate(now + 180), Evaluation)
    assert window.evaluate(now + 181).reason is Reason.STALE


@pytest.mark.parametrize(
    "given",
    [
        {"started": 120.0, "running": frozenset("cd"), "attempts": {"flights-0": "c", "flights-1": "d"}},
        {"workers": 3, "ready": 3},
        {"positions": dict.fromkeys(NAMES, 1.0)},
        {"ends": dict.fromkeys(NAMES, 1.0)},
    ],
)
def test_a_restart_a_rescale_and_a_counter_that_goes_back_start_over(given):
    window = Window(SETTINGS)
    filled(window)
    assert window.add(observation(175, 17_500, **given)) is None
    assert window.evaluate(175).reason is Reason.WARMING_UP


def test_a_missing_figure_now_and_then_costs_one_tick():
    window = Window(SETTINGS)
    filled(window)
    assert window.add(observation(175, 17_500, cpu=math.nan)).reason is Reason.MISSING
    assert window.add(observation(190, 19_000)) is None
    assert isinstance(window.evaluate(190), Evaluation)


# What a job's history teaches


def test_workers_that_are_never_short_of_work_show_what_they_can_do():
    busy = evaluation(workers=4, throughput=3000, cpu=0.9, least_backlog_time=5)
    assert learn_capacity(Memory(), busy, SETTINGS).capacity == {4: 3000}
    # All but the 0.03 that a worker takes which reads nothing, of 0.9 - 0.03.
    light = evaluation(workers=4, throughput=1000, cpu=0.32, best=1100)
    assert learn_capacity(Memory(), light, SETTINGS).capacity == {4: pytest.approx(3000)}


def test_a_throughput_that_changes_and_cpu_of_nearly_nothing_teach_nothing_of_workers_not_known():
    known = Memory(capacity={8: 6000})
    falling = evaluation(workers=4, throughput=1000, cpu=0.6, best=1200)
    assert learn_capacity(known, falling, SETTINGS) == known
    idle = evaluation(workers=4, throughput=1000, cpu=0.2, best=1000)
    assert learn_capacity(known, idle, SETTINGS) == known
    steady = evaluation(workers=4, throughput=1000, cpu=0.465, best=1000)
    assert learn_capacity(known, steady, SETTINGS).capacity == {8: 6000, 4: pytest.approx(2000)}


def test_the_slowest_worker_sets_what_all_can_do():
    slow = evaluation(workers=4, throughput=1000, cpu=0.5, best=1000, sustained=900, shares=(0.25,) * 4)
    assert learn_capacity(Memory(), slow, SETTINGS).capacity == {4: 900}


def test_a_worker_that_stands_still_does_not_make_all_incapable():
    stuck = evaluation(workers=4, throughput=1000, cpu=0.5, best=1000, sustained=0.0, shares=(0.25,) * 4)
    assert learn_capacity(Memory(capacity={2: 2000}), stuck, SETTINGS).capacity == {2: 2000}


def test_between_two_numbers_of_workers_that_are_known_the_rest_is_a_power():
    shown = {1: 1000.0, 4: 3000.0}
    assert capacity_of(2, shown) == pytest.approx(1000 * math.sqrt(3))
    assert capacity_of(4, shown) == 3000
    assert capacity_of(8, shown) == pytest.approx(3000 * 2**0.9)
    assert capacity_of(1, {2: 1000.0}) == 500


def test_workers_that_wait_for_something_else_show_nothing():
    waiting = evaluation(workers=4, throughput=300, cpu=0.1, least_backlog_time=5)
    assert learn_capacity(Memory(capacity={4: 3000}), waiting, SETTINGS).capacity == {4: 3000}


def test_workers_that_wait_each_for_itself_can_do_what_they_do():
    """More of them helped."""
    waiting = evaluation(workers=6, at=2000.0, throughput=450, best=450, cpu=0.1, least_backlog_time=5)
    memory = Memory(rescaled_at=1000.0, target=6, rise=Rise(4, 300), capacity={4: 3000})
    assert learn_gain(memory, waiting, SETTINGS).capacity == {4: 300, 6: 450}


def test_cpu_of_nearly_nothing_does_not_belittle_workers():
    idle = evaluation(workers=4, throughput=1, cpu=0.03, best=1)
    assert learn_capacity(Memory(capacity={4: 3000}), idle, SETTINGS).capacity == {4: 3000}


def test_the_pause_of_a_change_is_learned_and_that_of_a_failure_is_not():
    changed = Memory(rescaled_at=110, target=3)
    before, after = observation(115), observation(175, started=160.0)
    assert learn_pause(changed, before, after, 15).pause == 160 - 122.5
    assert learn_pause(changed, before, before, 15) == changed
    assert learn_pause(Memory(rescaled_at=-50), before, after, 15).pause is None


def replayed(interval, seconds=3600):
    """What is learned of a job whose checkpoints take a second."""
    memory = Memory()
    for at in range(30, seconds, 17):
        last = (at - 1) // interval * interval
        memory = learn_replay(memory, observation(at, checkpoint=float(last) if last else None))
    return memory.replay


@pytest.mark.parametrize("interval", [10, 60])
def test_what_a_change_makes_a_job_do_again_is_learned_from_its_checkpoints(interval):
    assert replayed(interval) == pytest.approx(1 + interval / 2, rel=0.3)


def test_what_was_done_before_a_restart_is_not_done_again_by_another():
    just = observation(1000, started=990.0, checkpoint=500.0)
    assert learn_replay(Memory(replay=10.0), just).replay == 10.0
    for unknown in (replace(just, checkpoint=None), replace(just, started=None)):
        assert learn_replay(Memory(replay=30.0), unknown).replay == 30.0


def test_checkpoints_that_fail_do_not_make_a_change_look_endless():
    assert replayed(interval=1_000_000, seconds=100_000) == 10.0  # none has ever been completed
    memory = Memory()
    for at in range(100, 100_000, 15):
        memory = learn_replay(memory, observation(at, checkpoint=90.0))
    assert memory.replay == pytest.approx(300)


def overloaded(**given):
    """Under a backlog that more workers than four would be wanted for."""
    return evaluation(**{"cpu": 0.95, "backlog": 1e6, "growth": 500, "least_backlog_time": 60, "best": 1000} | given)


def test_more_workers_that_did_not_help_are_not_tried_again_for_a_while():
    memory = rescaled(Memory(), Rescale(4, 8, "more"), overloaded(), 1000.0)
    assert memory == Memory(rescaled_at=1000.0, target=8, rise=Rise(4, 1000))
    # They promised 1,000/s more; a tenth of that is the least that helps.
    eight = overloaded(workers=8, at=1100.0, best=1099)
    assert learn_gain(memory, eight, SETTINGS) == memory  # not two windows yet
    memory = learn_gain(memory, replace(eight, at=1140.0), SETTINGS)
    assert memory.futile == Futile(4, 1140.0 + 1800)
    held = decide(replace(eight, at=1200.0), LIMITS, memory, SETTINGS)
    assert held.reason is Reason.FUTILE
    assert "more than 4 did not help, they are tried again in 29 min" in held.text
    fewer = overloaded(workers=2, at=1400.0)  # as somebody else has changed it
    assert decide(fewer, LIMITS, memory, SETTINGS).target == 4
    assert decide(fewer, Limits.of(6, 100), memory, SETTINGS).target == 6
    assert decide(replace(eight, at=2940.0), LIMITS, memory, SETTINGS).target > 8
    assert Memory.from_json(json.loads(json.dumps(memory.as_json()))) == memory


@pytest.mark.parametrize("helped", [{"best": 1100}, {"least_backlog_time": 0}])
def test_more_workers_that_helped_may_be_followed_by_others(helped):
    memory = Memory(rescaled_at=1000.0, target=8, rise=Rise(4, 1000))
    after = learn_gain(memory, overloaded(workers=8, at=2000.0, **helped), SETTINGS)
    assert (after.rise, after.futile) == (None, None)
    assert decide(overloaded(workers=8, at=2000.0), LIMITS, after, SETTINGS).target > 8


def test_what_was_not_asked_for_under_a_backlog_is_not_judged():
    calm = overloaded(least_backlog_time=0)
    assert rescaled(Memory(), Rescale(4, 8, "more"), calm, 1000.0).rise is None
    assert rescaled(Memory(), Rescale(4, 2, "fewer"), overloaded(), 1000.0).rise is None


def test_markers_of_transactions_are_no_backlog():
    """Of an idle topic that was written by transactions each partition has one offset that is no record."""
    window = Window(SETTINGS)
    for at in range(100, 161, 15):
        window.add(observation(at, 1000.0, 2.0))
    seen = window.evaluate(160)
    assert (seen.backlog, seen.backlog_time, seen.least_backlog_time) == (0, 0, 0)
    either = AutoscalerSettings(policy="threshold", up_if="either")
    assert isinstance(decide(seen, LIMITS, Memory(), either), Hold)


# The policy of our own


def shown(**given):
    """A job at 1,000 s, 4 of whose workers can do 4,000/s, and whose rescales take 20 s."""
    memory = Memory(capacity={4: 4000.0}, pause=20.0)
    seen = evaluation(**{"throughput": 2500.0, "inputs": tuple((at, 2500.0) for at in range(200, 1001, 15))} | given)
    return decide(seen, LIMITS, memory, AutoscalerSettings())


def test_balanced_adds_workers_before_there_is_a_backlog():
    rising = tuple((at, 2000.0 + max(0, at - 700) * 7) for at in range(200, 1001, 15))
    decision = shown(inputs=rising, throughput=4000, cpu=0.9)
    assert decision.target > 4
    assert "would stay above 60 s" in decision.text


def test_balanced_tries_more_workers_where_they_wait_for_something_and_goes_back_if_that_did_not_help():
    waits = evaluation(backlog=1e6, throughput=500, growth=2000, cpu=0.1, least_backlog_time=60, best=500)
    change = decide(waits, LIMITS, Memory(pause=20.0), AutoscalerSettings())
    assert change.target == 6
    assert "they wait for something" in change.text
    memory = rescaled(Memory(pause=20.0), change, waits, 1000.0)
    for best, target in ((510, 4), (700, 9)):
        later = replace(waits, at=2000.0, workers=6, ready=6, throughput=best, best=best)
        after = decide(later, LIMITS, learn_gain(memory, later, SETTINGS), AutoscalerSettings())
        assert after.target == target
    back = replace(waits, at=2030.0, throughput=505)
    memory = Memory(rescaled_at=2000.0, target=4, pause=20.0, futile=Futile(4, 3000.0))
    assert decide(back, LIMITS, memory, AutoscalerSettings()).reason is Reason.FUTILE


def test_balanced_adds_nothing_beyond_what_partitions_keep_busy():
    skewed = shown(backlog=1e6, growth=500, cpu=0.8, least_backlog_time=60, shares=(0.5, *(1 / 14,) * 7))
    assert skewed.target == 8  # no number of workers keeps up with the first partition


def test_balanced_knows_that_partitions_are_dealt_out_to_subtasks():
    """Two workers of four slots read 12 partitions: four subtasks have two each, and can do 3/4 of what all could."""
    inputs = tuple((at, 3400.0) for at in range(200, 1001, 15))
    memory = Memory(capacity={2: 4000.0}, pause=20.0)
    two = evaluation(workers=2, throughput=3000, cpu=0.7, inputs=inputs, backlog=9000, shares=(1 / 12,) * 12, slots=4)
    assert decide(two, LIMITS, memory, AutoscalerSettings()).target == 3
    one = replace(two, slots=1)
    assert isinstance(decide(one, LIMITS, memory, AutoscalerSettings()), Hold)


def test_balanced_counts_the_workers_that_partitions_keep_busy():
    even = shown(inputs=((985, 5000.0), (1000, 5000.0)), throughput=4000, cpu=0.9)
    assert even.target == 6
    six = shown(inputs=((985, 5000.0), (1000, 5000.0)), throughput=4000, cpu=0.9, shares=(1 / 8,) * 8)
    assert six.target == 8  # on 6 or 7 workers, some would read two partitions and others one


def test_balanced_sees_the_one_worker_that_does_not_keep_up():
    four = {"throughput": 3900.0, "cpu": 0.9, "inputs": tuple((at, 3900.0) for at in range(200, 1001, 15))}
    assert isinstance(shown(**four, backlog=20_000), Hold)
    assert shown(**four, backlog=120_000, farthest=4.0).target > 4


def test_balanced_keeps_no_workers_that_add_nothing():
    """Of 24 partitions, 13 to 23 workers do what 12 do."""
    inputs = tuple((at, 10_500.0) for at in range(200, 1001, 15))
    memory = Memory(capacity={23: 23_000.0}, pause=20.0)
    seen = evaluation(workers=23, throughput=10_500, inputs=inputs, shares=(1 / 24,) * 24)
    assert decide(seen, LIMITS, memory, AutoscalerSettings()).target == 12


@pytest.mark.parametrize(("pause", "replay", "target"), [(20.0, 10.0, 7), (120.0, 10.0, 9), (20.0, 110.0, 10)])
def test_balanced_keeps_workers_that_make_up_for_what_the_change_costs(pause, replay, target):
    inputs = tuple((at, 6000.0) for at in range(200, 1001, 15))
    seen = evaluation(workers=12, throughput=6000, inputs=inputs)
    memory = Memory(capacity={12: 12_000.0}, pause=pause, replay=replay)
    assert decide(seen, LIMITS, memory, AutoscalerSettings()).target == target


def test_balanced_does_not_take_away_what_was_needed_a_moment_ago():
    spike = tuple((at, 3900.0 if 900 < at < 950 else 900.0) for at in range(200, 1001, 15))
    assert isinstance(shown(inputs=spike, throughput=900), Hold)
    calm = tuple((at, 900.0) for at in range(200, 1001, 15))
    assert shown(inputs=calm, throughput=900).target == 2


def test_balanced_does_not_run_after_spikes_that_are_over_before_a_rescale_is():
    """Spikes of 60 s; a change takes 70 s and a pause of 20 s until it shows."""
    again = tuple((at, 9000.0 if at % 600 in range(300, 361) else 900.0) for at in range(200, 941, 15))
    held = shown(at=940.0, inputs=again, backlog=5000)
    assert isinstance(held, Hold)
    assert "came for 60 s before" in held.text
    stays = (*again, *((at, 9000.0) for at in range(945, 1001, 15)))
    assert shown(inputs=stays, backlog=50_000).target > 4


def test_balanced_does_not_wait_for_the_end_of_a_spike_that_is_over():
    """What it left behind would take 40 minutes; another one, an hour ago, was as short."""
    inputs = tuple((at, 9000.0 if at < 215 else 3900.0) for at in range(200, 1001, 15))
    assert shown(inputs=inputs, throughput=3950, cpu=0.8, backlog=480_000).target > 4


@pytest.mark.parametrize(("backlog", "waits"), [(255_000, True), (280_000, False)])
def test_balanced_waits_for_a_backlog_that_is_gone_before_two_rescales_were(backlog, waits):
    """500/s are to spare: 210,000 are the goal's 60 s, and what is above it takes 90 s or 140 s; a pause takes 20 s."""
    inputs = tuple((at, 3500.0) for at in range(200, 1001, 15))
    decision = shown(throughput=4000, cpu=0.9, inputs=inputs, backlog=backlog, least_backlog_time=60, best=4000)
    assert isinstance(decision, Hold) == waits


def test_balanced_adds_none_while_a_new_jvm_compiles():
    """Its CPU is full, and it does all there is."""
    inputs = ((955, 50.0), (970, 53.0), (985, 52.0), (1000, 56.0))
    busy = evaluation(workers=1, throughput=52, cpu=0.99, best=56, inputs=inputs)
    memory = learn_capacity(Memory(), busy, AutoscalerSettings())
    assert isinstance(decide(busy, LIMITS, memory, AutoscalerSettings()), Hold)


# The loop


class World:
    """Figures, realizer and journal in one; the job is what a test says."""

    def __init__(self):
        self.now, self.seen, self.memory, self.changes, self.told = 0.0, None, Memory(), [], []
        self.error = None

    def observe(self):
        if self.error:
            raise self.error
        return self.seen

    def load(self):
        return self.memory

    def hindrance(self):
        return ""

    def rescale(self, change, memory):
        if self.error:
            raise self.error
        self.memory = memory
        self.changes.append((change.current, change.target))

    def tell(self, decision, seen, *, acted):
        self.told.append((decision, seen, acted))


def overload(world, loop, *, until, start=85, **given):
    for at in range(start, until + 1, 15):
        world.now = at
        world.seen = observation(at, 100.0 * at, 100.0 * at, cpu=0.9, **given)
        decision = loop.tick()
    return decision


def test_a_decision_is_carried_out_once_and_remembered():
    world = World()
    loop = Autoscaler(SETTINGS, world, world, world, lambda: world.now)
    assert overload(world, loop, until=190).reason is Reason.RESCALING
    # At 130: the input needs 2 * 200 / 100 workers, 130 s of backlog 2 * 130 / 60.
    assert world.changes == [(2, 9)]
    assert world.memory == Memory(rescaled_at=130, target=9, capacity={2: 100}, rise=Rise(2, 100))
    assert [acted for _, _, acted in world.told] == [False, False, False, True, False, False, False, False]


def test_recommend_tells_and_changes_nothing():
    world = World()
    loop = Autoscaler(SETTINGS, world, world, world, lambda: world.now, act=False)
    assert overload(world, loop, until=130) == Rescale(2, 9, world.told[-1][0].text)
    assert not world.changes
    assert world.told[-1][2] is False


def test_who_does_not_answer_is_asked_again_and_nothing_is_half_done():
    world = World()
    loop = Autoscaler(SETTINGS, world, world, world, lambda: world.now)
    overload(world, loop, until=115)
    world.error = FlinkError("Flink does not answer.")
    assert loop.tick() == Hold(Reason.UNREACHABLE, "Flink does not answer.")
    refused, world.rescale = world.rescale, lambda *_: (_ for _ in ()).throw(FlinkError("conflict"))
    world.error = None
    assert overload(world, loop, start=130, until=130).text == "conflict"
    assert world.memory == Memory()
    world.rescale = refused
    assert overload(world, loop, start=145, until=145).target == 9


@pytest.mark.parametrize(
    ("caps", "text"),
    [
        ({"quota": 2}, "the namespace's quotas have room for 2"),
        ({"quota": 2, "useful": 7}, "the namespace's quotas have room for 2"),
        ({"quota": 7, "useful": 2}, "2 is the most that is allowed or has partitions"),
        ({"useful": 2}, "2 is the most that is allowed or has partitions"),
    ],
)
def test_what_keeps_more_workers_away_is_named(caps, text):
    world = World()
    loop = Autoscaler(SETTINGS, world, world, world, lambda: world.now)
    held = overload(world, loop, until=130, **caps)
    assert held.reason is Reason.AT_LIMIT
    assert held.text.endswith(f"; {text}")
    assert not world.changes


def test_who_else_changes_the_workers_is_told_once_and_the_others_change_stays(capfd):
    world = World()
    loop = Autoscaler(SETTINGS, world, world, TellPeople("flights"), lambda: world.now)
    change, others = world.rescale, Conflict("somebody else has changed the workers of flights, to 3.")
    world.rescale = lambda *_: (_ for _ in ()).throw(others)
    decision = overload(world, loop, until=175)
    assert decision == Hold(Reason.NOT_OURS, others.message)
    said = "flights: autoscaler leaves the workers as they are: somebody else has changed the workers of flights, to 3."
    assert capfd.readouterr().err.count(said) == 1
    others.message = "another process scales it"
    overload(world, loop, start=190, until=205)
    assert capfd.readouterr().err.count("as they are: another process scales it") == 1
    world.rescale = change
    overload(world, loop, start=220, until=220)
    assert "scales from 2 to" in capfd.readouterr().err


@pytest.mark.parametrize("made", [True, False])
def test_a_change_that_nobody_answers_for_is_looked_up_before_another_is_made(made):
    world = World()
    loop = Autoscaler(SETTINGS, world, world, world, lambda: world.now)
    answered = world.rescale

    def unanswered(change, memory):
        if made:
            answered(change, memory)
        raise FlinkError("time is up")

    world.rescale = unanswered
    assert overload(world, loop, until=130).text == "time is up"
    world.rescale = answered
    decision = overload(world, loop, start=145, until=145)
    assert world.changes == [(2, 9)]
    assert (decision.reason is Reason.RESCALING) if made else (decision.target == 9)
    assert world.memory.rescaled_at == (130 if made else 145)


def test_a_new_launcher_goes_on_where_the_last_one_stopped():
    world = World()
    world.memory = Memory(rescaled_at=150, target=9)
    loop = Autoscaler(SETTINGS, world, world, world, lambda: world.now)
    assert overload(world, loop, until=145).reason is Reason.RESCALING
    assert not world.changes


# Settings


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"min_workers": 5, "max_workers": 4}, ["min_workers=5", "4", "Raise --max_num_workers"]),
        ({"up_cpu": 0}, ["up_cpu=0"]),
        ({"time_to_reduce": 0}, ["time_to_reduce=0"]),
        ({"interval": -1}, ["interval=-1"]),
        ({"interval": "nan"}, ["interval=nan"]),
        ({"window": 20}, ["window=20", "interval=15"]),
        ({"policy": "magic"}, ["policy=magic", "threshold"]),
        ({"speed": 1}, ["speed: no such setting", "up_cpu"]),
        ({"interval": 0, "down_cpu": 75}, ["interval=0", "down_cpu=75"]),
    ],
)
def test_a_bad_setting_is_one_clear_error(given, parts):
    with pytest.raises(ConfigError) as error:
        AutoscalerSettings.of(given)
    for part in parts:
        assert part in str(error.value)


def test_more_workers_than_partitions_are_one_warning():
    settings = AutoscalerSettings(max_workers=9)
    for partitions, slots in ((None, 2), (18, 2), (17, 2), (9, 1)):
        assert not settings.warnings(partitions, slots)
    (warning,) = settings.warnings(8, 2)
    assert "9, but 8 partitions keep no more than 4 busy" in warning


def test_a_loop_that_may_not_act_holds_forgets_and_begins_anew_when_it_may():
    world = World()
    loop = Autoscaler(SETTINGS, world, world, world, lambda: world.now)
    overload(world, loop, until=115)
    world.hindrance = lambda: "another launcher scales it"
    assert overload(world, loop, start=130, until=130) == Hold(Reason.NOT_OURS, "another launcher scales it")
    world.hindrance = lambda: ""
    world.memory = Memory(rescaled_at=140, target=3)  # what the other one did
    assert overload(world, loop, start=145, until=145).reason is Reason.STALE
    assert not world.changes
