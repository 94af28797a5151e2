"""What the loop needs of the world around it. The adapters are in the launcher; tests and benchmarks have their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from beam_k8s.autoscaler.model import Decision, Evaluation, Memory, Observation, Rescale

__all__ = ["Figures", "Journal", "Realizer"]


class Figures(Protocol):
    """Tells how the job is."""

    def observe(self) -> Observation:
        """The newest figures.

        Raises:
            BeamK8sError: somebody who is asked does not answer.
        """


class Realizer(Protocol):
    """Carries decisions out, and keeps the memory where the next launcher finds it."""

    def load(self) -> Memory:
        """What was kept last; an empty one if nothing was.

        Raises:
            BeamK8sError: it cannot be read now.
        """

    def hindrance(self) -> str:
        """Why this loop may not scale the job now, for people; empty if it may.

        Raises:
            BeamK8sError: nobody knows.
        """

    def rescale(self, change: Rescale, memory: Memory) -> None:
        """Change the number of workers and keep the memory, both or neither; returns before the workers are there.

        Raises:
            Conflict: somebody else changed the job meanwhile, or is to scale it; nothing is changed.
            BeamK8sError: it was refused, or nobody answers for it.
        """


class Journal(Protocol):
    """Tells people and dashboards."""

    def tell(self, decision: Decision, seen: Evaluation | None, *, acted: bool) -> None:
        """One tick's outcome.

        Args:
            decision: what was decided.
            seen: on what; None: there was nothing to decide on.
            acted: whether it was carried out.
        """
