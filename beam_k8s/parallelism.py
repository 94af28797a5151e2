"""How many subtasks each source gets, and which slots then have no source to run."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SourcePlan", "plan_source"]


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """One source of the job as it will run."""

    name: str
    topics: str
    """For people."""
    partitions: int | None
    """Summed over the topics; the source's max parallelism: a subtask beyond it would never get a partition. None: not
    known, and then no limit."""
    parallelism: int
    """Source subtasks at the start."""
    idle_slots: int
    """Slots at the start in which no subtask of this source runs. The steps after it still use them."""

    def sentence(self) -> str:
        """The plan of this source, for people."""
        count = "an unknown number of" if self.partitions is None else self.partitions
        text = f"{self.name}: {self.parallelism} source subtasks for {count} partitions of {self.topics}"
        if self.idle_slots:
            text += f"; {self.idle_slots} of {self.parallelism + self.idle_slots} slots have no partition of it to read"
        return text


def plan_source(name: str, topics: str, partitions: int | None, slots: int) -> SourcePlan:
    """Give a source as many subtasks as it has partitions, but at most one a slot.

    Args:
        name: label of the step.
        topics: what it reads, for people.
        partitions: of all its topics, at least 1; None if not known: then it gets one a slot.
        slots: of the whole job at the start, at least 1.
    """
    parallelism = slots if partitions is None else min(partitions, slots)
    return SourcePlan(name, topics, partitions, parallelism, slots - parallelism)
