"""One tick after the other. The clock and the world are given; whoever calls ``tick`` chooses thread and interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from beam_k8s.autoscaler.decide import decide
from beam_k8s.autoscaler.learning import learn_capacity, learn_gain, learn_pause, learn_replay, rescaled
from beam_k8s.autoscaler.model import Decision, Evaluation, Hold, Limits, Memory, Reason, Rescale
from beam_k8s.autoscaler.window import Window
from beam_k8s.errors import BeamK8sError, Conflict

if TYPE_CHECKING:
    from collections.abc import Callable

    from beam_k8s.autoscaler.model import Observation
    from beam_k8s.autoscaler.ports import Figures, Journal, Realizer
    from beam_k8s.autoscaler.settings import AutoscalerSettings

__all__ = ["Autoscaler"]


class Autoscaler:
    """The loop of one job.

    Args:
        settings: policy, limits, thresholds.
        figures: how the job is.
        realizer: changes it.
        journal: is told of each tick.
        clock: seconds since 1970.
        act: carry decisions out; False only tells them.
    """

    def __init__(
        self,
        settings: AutoscalerSettings,
        figures: Figures,
        realizer: Realizer,
        journal: Journal,
        clock: Callable[[], float],
        *,
        act: bool = True,
    ) -> None:
        self._settings = settings
        self._figures = figures
        self._realizer = realizer
        self._journal = journal
        self._clock = clock
        self._act = act
        self._window = Window(settings)
        self._memory: Memory | None = None
        self._unsure: Memory | None = None
        """What goes with a change of which nobody has said whether it was made."""
        self._ran: Observation | None = None

    def tick(self) -> Decision:
        """Look at the job once, decide, act. Never raises for what the world does: that is a Hold."""
        seen: Evaluation | None = None
        decision: Decision
        try:
            if self._act and (why := self._realizer.hindrance()):
                # What others do meanwhile is not in the figures seen so far, nor in the memory.
                self._memory, self._unsure, self._ran, self._window = None, None, None, Window(self._settings)
                return self._tell(Hold(Reason.NOT_OURS, why), None, acted=False)
            if self._memory is None:
                self._memory, self._unsure = self._realizer.load(), None
            elif self._unsure is not None:
                # Of one that was made and not answered for, its memory is there with it.
                if self._realizer.load() == self._unsure:
                    self._memory = self._unsure
                self._unsure = None
            decision, seen = self._decide(self._memory)
            if acted := self._act and isinstance(decision, Rescale):
                assert isinstance(decision, Rescale)  # noqa: S101 - for the type checker
                assert seen is not None  # noqa: S101 - for the type checker
                self._unsure = rescaled(self._memory, decision, seen, self._clock())
                self._realizer.rescale(decision, self._unsure)
                self._memory, self._unsure = self._unsure, None
        except BeamK8sError as error:
            reason = Reason.NOT_OURS if isinstance(error, Conflict) else Reason.UNREACHABLE
            decision, acted = Hold(reason, error.message), False
        return self._tell(decision, seen, acted=acted)

    def _tell(self, decision: Decision, seen: Evaluation | None, *, acted: bool) -> Decision:
        self._journal.tell(decision, seen, acted=acted)
        return decision

    def _decide(self, memory: Memory) -> tuple[Decision, Evaluation | None]:
        observation = self._figures.observe()
        found = self._window.add(observation) or self._window.evaluate(self._clock())
        self._learn(observation, found)
        if isinstance(found, Hold):
            return found, None
        limits = Limits.of(
            self._settings.min_workers, self._settings.max_workers, observation.useful, observation.quota
        )
        return decide(found, limits, self._memory or memory, self._settings), found

    def _learn(self, observation: Observation, found: Evaluation | Hold) -> None:
        assert self._memory is not None  # noqa: S101 - for the type checker
        learned = learn_pause(self._memory, self._ran, observation, self._settings.interval)
        self._memory = learn_replay(learned, observation)
        if observation.started is not None:
            self._ran = observation
        if isinstance(found, Evaluation):
            self._memory = learn_gain(learn_capacity(self._memory, found, self._settings), found, self._settings)
