"""What the policies want, before any limit. Each is a function of an evaluation, so that it can be judged by itself."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from beam_k8s.autoscaler.model import Evaluation, Memory
    from beam_k8s.autoscaler.settings import AutoscalerSettings

__all__ = ["Wish", "balanced", "capacity_of", "evenness", "threshold", "waits"]

_MANY = 1_000_000
"""Workers; more than any limit."""


class Wish(NamedTuple):
    """What a policy wants."""

    target: int
    """Workers, at least 1; as many as there are: no change."""
    text: str
    """Why, one sentence."""


def threshold(seen: Evaluation, _: Memory, settings: AutoscalerSettings) -> Wish:
    """The original system's rules, exactly.

    Up if CPU and backlog time are high and the backlog does not shrink by itself: by what the input needs plus what
    clears the backlog in ``time_to_reduce``. Down if CPU and backlog time are low and the backlog shrinks: to the
    fewest workers that keep CPU below ``down_cpu``.
    """
    now = seen.ready
    slow, busy = seen.backlog_time > settings.up_backlog_time, seen.cpu > settings.up_cpu
    state = f"backlog time {seen.backlog_time:.0f} s, CPU {seen.cpu:.0%}"
    if (slow and busy) if settings.up_if == "both" else (slow or busy):
        if seen.growth < 0:
            return Wish(now, f"{state}: the backlog shrinks already")
        require = now * seen.input_rate / seen.throughput if seen.throughput > 0 else math.inf
        extra = now * seen.backlog_time / settings.time_to_reduce
        target = _workers(require + extra)
        return Wish(max(now, target), f"{state}: the input needs {require:.1f} workers, the backlog {extra:.1f} more")
    if seen.cpu < settings.down_cpu and seen.growth < 0 and seen.backlog_time < settings.down_backlog_time:
        target = min(now, _workers(seen.cpu * now / settings.down_cpu))
        return Wish(target, f"{state}, the backlog shrinks: {target} workers keep CPU below {settings.down_cpu:.0%}")
    return Wish(now, state)


def balanced(seen: Evaluation, memory: Memory, settings: AutoscalerSettings) -> Wish:
    """As few workers as keep the backlog time below its goal, knowing what a rescale costs.

    Up when staying would miss the goal for longer than two rescales and the time to see them take: to the fewest
    workers that do the input to be expected and work the backlog off in ``recover``. Where they wait for something, a
    web service or a slow sink, half as many more are tried. Down when even the highest input of some time (``calm``
    pauses) needs fewer, or when those beyond its need add next to nothing. Capacity is what workers have shown, a
    change costs what it did; the backlog is as if all subtasks were as far behind as the one that is farthest.
    """
    now, pause = seen.ready, _PAUSE if memory.pause is None else memory.pause
    rates = [rate for _, rate in seen.inputs[-2:]] or [seen.input_rate]
    rate = sum(rates) / len(rates)
    lead = settings.settle + settings.window / 2 + pause
    patience = 2 * pause + lead
    expected = rate + lead * _trend(seen.inputs, lead)
    behind = seen.backlog * seen.farthest
    if not memory.capacity and not seen.saturated:
        return Wish(now, "what the workers can do is not known yet")
    known = memory.capacity or {now: max(seen.throughput, 1.0)}
    can = capacity_of(now, known) * evenness(now * seen.slots, seen.shares)
    state = f"backlog {_time(behind / can)}, input {rate:.0f}/s of {can:.0f}/s that {now} workers can do"

    def abilities() -> list[float]:
        most = -(-len(seen.shares) // seen.slots) or 10 * now + 10
        return [capacity_of(n, known) * evenness(n * seen.slots, seen.shares) for n in range(1, most + 1)]

    def needed(rate: float) -> float:
        excess = behind + rate * (pause + memory.replay - settings.backlog_slo / 2)
        return rate * (1 + settings.headroom) + max(0.0, excess) / settings.recover

    goal = settings.backlog_slo * max(expected, can / 10)
    if expected < can:
        misses = max(0.0, behind - goal) / (can - expected) > patience
    else:
        misses = behind + (expected - can) * _FORESIGHT > goal
    if misses:
        if waits(seen, settings):
            state += f", CPU {seen.cpu:.0%}: they wait for something"
            futile = memory.futile
            if futile is not None and seen.at < futile.until and now > futile.workers:
                return Wish(futile.workers, f"{state}, and more than {futile.workers} did not help")
            if memory.rise is not None:
                return Wish(now, f"{state}, whether more help is not known yet")
            return Wish(now + -(-now // 2), f"{state}, more may help")
        if rates[-1] > _STEEP * rates[0] and behind <= goal:
            return Wish(now, f"{state}: it rises steeply, to where is not known yet")
        lasts, lasted = _excursions(seen.inputs, can)
        again = lasted > 0 and lasts <= 1.25 * lasted < lead + pause and (lasts > 0 or expected >= can)
        if again and behind <= 3 * goal:
            return Wish(
                now, f"{state}: so much came for {_time(lasted)} before, a change would take {_time(lead + pause)}"
            )
        target = max(now, _fewest(abilities(), needed(expected)))
        return Wish(target, f"{state}: would stay above {settings.backlog_slo:.0f} s; {target} workers work it off")
    calm = min(max(settings.calm * pause, 2 * settings.window), _LONGEST_CALM)
    if not seen.inputs or seen.inputs[0][0] > seen.at - calm or behind > goal / 2:
        return Wish(now, state)
    recent = [rate for at, rate in seen.inputs if at >= seen.at - calm]
    peak = max([expected, *((a + b) / 2 for a, b in pairwise(recent))])
    # After the change; else there would be another at once.
    late = max(0.0, pause + memory.replay - settings.backlog_slo)
    does = abilities()
    bare = _fewest(does, peak * max(_BARE, 1 + late / patience))
    target = min(now, _rewarding(does, bare, min(now, _fewest(does, needed(peak)))))
    if target > _WORTH * now:
        return Wish(now, state)
    return Wish(target, f"{state}: {target} do the highest input of the last {_time(calm)}, {peak:.0f}/s")


_PAUSE = 60.0
"""Seconds; what a rescale is taken to cost before one was seen."""
_LONGEST_CALM = 1500.0
"""Seconds; the workers are not kept longer for what may come."""
_FORESIGHT = 600.0
"""Seconds for which too few workers are looked ahead: a backlog that comes later can still be met later."""
_STEEP = 1.15
"""From one look to the next."""
_NEARLY = 0.97
_BARE = 1.03
"""Times the input: what is needed, with nothing to spare."""
_YIELD = 0.8
"""Share of what the others do on average that workers beyond the bare need must add to be kept."""
_WORTH = 0.9
"""A tenth of the workers is not worth a rescale."""


def _fewest(does: Sequence[float], rate: float) -> int:
    """The fewest workers that do so many records a second, of ``does`` by 1, 2, ... workers; at most what any do."""
    enough = min(rate, _NEARLY * max(does))  # the busiest partition may be too much for any number of workers
    return next(n for n, each in enumerate(does, 1) if each >= enough)


def _rewarding(does: Sequence[float], bare: int, wanted: int) -> int:
    """The most workers from ``bare`` to ``wanted`` of which those beyond ``bare`` are worth having.

    Where partitions are uneven, a dozen more may add next to nothing.

    Args:
        does: records a second of 1, 2, ... workers.
        bare: workers that are needed.
        wanted: workers that would leave room; if they are fewer, ``bare`` it is.
    """
    least = _YIELD * does[bare - 1] / bare
    return max(n for n in range(bare, max(bare, wanted) + 1) if does[n - 1] - does[bare - 1] >= (n - bare) * least)


def waits(seen: Evaluation, settings: AutoscalerSettings) -> bool:
    """Whether workers with a backlog wait for something else, which their partitions do not explain."""
    half = settings.full_cpu / 2 * evenness(seen.ready * seen.slots, seen.shares)
    return seen.saturated and seen.cpu < half


def evenness(subtasks: int, shares: tuple[float, ...]) -> float:
    """Share of the workers' capacity that is of use, as their partitions are: a partition has one reader.

    Flink deals partitions out to subtasks in turn; the one with the most to read sets the pace.

    Args:
        subtasks: of all workers, one a slot; at least 1.
        shares: of the input, by partition; empty: even.
    """
    if not shares:
        return 1.0
    return 1 / (subtasks * max(sum(shares[first::subtasks]) for first in range(min(subtasks, len(shares)))))


def capacity_of(workers: int, shown: Mapping[int, float]) -> float:
    """Records a second of so many workers under an even load, from what some have shown.

    Between two numbers that have shown theirs it is a power of the number. More workers than any are taken to lose a
    tenth of what they add for each doubling or so (``n ** 0.9``), fewer to keep what each had.
    """
    below, above = [n for n in shown if n <= workers], [n for n in shown if n > workers]
    if not below:
        near = min(above)
        return shown[near] * workers / near
    low = max(below)
    power = 0.9
    if above:
        high = min(above)
        power = math.log(shown[high] / shown[low]) / math.log(high / low)
    return shown[low] * math.pow(workers / low, power)


def _trend(inputs: tuple[tuple[float, float], ...], seconds: float) -> float:
    """Records a second more each second, if the input has been rising all through the last so many seconds, else 0."""
    recent = [each for each in inputs if each[0] >= inputs[-1][0] - 2 * seconds]
    if len(recent) < 5:
        return 0.0
    (a, low), (b, middle), (c, high) = recent[0], recent[len(recent) // 2], recent[-1]
    return max(0.0, min((middle - low) / (b - a), (high - middle) / (c - b)))


def _excursions(inputs: tuple[tuple[float, float], ...], above: float) -> tuple[float, float]:
    """For how long the input has been above a rate now, and for how long the longest time before; 0: not at all."""
    lasted, begun, last = 0.0, None, 0.0
    for at, rate in inputs:
        if rate > above and begun is None:
            begun = at
        elif rate <= above and begun is not None:
            lasted, begun = max(lasted, at - begun), None
        last = at
    return (0.0 if begun is None else last - begun), lasted


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _workers(wanted: float) -> int:
    """Whole workers; what is over by an error of rounding is not another one."""
    return max(1, math.ceil(min(wanted, _MANY) - 1e-9))
