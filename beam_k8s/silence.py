"""Sources that read nothing although there is a backlog, or may be one: since when, and the likely cause. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SILENT_AFTER_SECONDS", "Silence", "SourceLook", "Spent"]

SILENT_AFTER_SECONDS = 45.0
"""With the age of Flink's figures, up to 10 s by default, a silence is told within a minute."""


@dataclass(frozen=True, slots=True)
class Spent:
    """How the subtasks of a vertex have spent their time since they began, in milliseconds, summed."""

    name: str
    busy: float
    backpressured: float
    """Waiting for the next vertex to take records."""
    idle: float
    """Waiting for records."""


@dataclass(frozen=True, slots=True)
class SourceLook:
    """What is seen of a source at one time."""

    name: str
    read: int | None
    """Records read since it began; None: not known now."""
    backlog: int | None
    """Records not read yet; None: not known now."""
    spent: Spent
    """Of its vertex, with the steps that are chained to it."""
    downstream: tuple[Spent, ...] = ()
    """Of the vertices that its records come to."""
    stalled: int | None = None
    """Seconds that the tasks that run now have read nothing of a partition that has a backlog or may have one, the
    longest of all; None: not known now."""


class Silence:
    """Tells once of each time that a source has read nothing for long.

    Args:
        after: seconds without progress before it is told.
    """

    def __init__(self, *, after: float) -> None:
        self._after = after
        self._since: dict[str, tuple[float, SourceLook]] = {}
        self._told: set[str] = set()

    def lines(self, at: float, looks: Iterable[SourceLook]) -> list[str]:
        """What to tell now.

        Args:
            at: the time, in seconds of any clock that does not go back.
            looks: one a source that runs. What is not known now neither ends a silence nor starts one. Where it is the
                backlog, as for a while after a restart, the tasks that run now must have waited as long.
        """
        found = []
        for look in looks:
            if look.read is None:
                continue
            since, first = self._since.get(look.name, (at, look))
            if look.read != first.read or look.backlog == 0:
                since, first = at, look
                self._told.discard(look.name)
            self._since[look.name] = since, first
            if look.backlog is not None:
                waiting, waits = at - since, f"although {look.backlog:,} records wait"
            else:
                waiting, waits = min(at - since, look.stalled or 0), "and no broker says whether records wait"
            if waiting >= self._after and look.name not in self._told:
                self._told.add(look.name)
                found.append(
                    f"warning: {look.name} has read nothing for {waiting:.0f} s {waits}: {_cause(first, look)}"
                )
        return found


def _cause(first: SourceLook, last: SourceLook) -> str:
    """What the time of the silence was spent on; counters that began anew count from zero."""
    spent = _between(first.spent, last.spent)
    if spent.backpressured > max(spent.busy, spent.idle):
        before = {each.name: each for each in first.downstream}
        steps = [_between(before.get(each.name, Spent(each.name, 0, 0, 0)), each) for each in last.downstream]
        busiest = max(steps, key=lambda each: each.busy, default=None)
        if busiest is not None and busiest.busy > 0:
            return f"{busiest.name} takes no more records. It is slow, or a function of it does not come back."
        return "the steps after it take no more records."
    if spent.busy > spent.idle:
        return "a step that is chained to it is slow, or a function of it does not come back."
    return (
        "the brokers give it none. They are not reachable from the workers (by bootstrap.servers, or by a broker's own "
        "advertised.listeners), a partition has no leader, or they refuse the credentials; the workers' logs say which."
    )


def _between(first: Spent, last: Spent) -> Spent:
    began_anew = last.busy + last.backpressured + last.idle < first.busy + first.backpressured + first.idle
    if began_anew:
        return last
    return Spent(last.name, last.busy - first.busy, last.backpressured - first.backpressured, last.idle - first.idle)
