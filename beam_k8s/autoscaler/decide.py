"""From what a policy wants to what is done: within all limits, and never twice for one cause."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from beam_k8s.autoscaler.model import Decision, Hold, Reason, Rescale
from beam_k8s.autoscaler.policies import balanced, threshold

if TYPE_CHECKING:
    from beam_k8s.autoscaler.model import Evaluation, Limits, Memory
    from beam_k8s.autoscaler.settings import AutoscalerSettings

__all__ = ["decide"]

_POLICIES = {"balanced": balanced, "threshold": threshold}


def decide(seen: Evaluation, limits: Limits, memory: Memory, settings: AutoscalerSettings) -> Decision:
    """What to do.

    Args:
        seen: the job; figures from before the last change, or that do not show it yet, are not judged.
        limits: of the job now. A job outside ``least`` and ``most`` is brought back whatever the policy wants.
        memory: what was done before.
        settings: the policy and its thresholds.
    """
    unseen = seen.workers != memory.target and seen.at < memory.rescaled_at + settings.provision_timeout
    if seen.at <= memory.rescaled_at or unseen:
        return Hold(Reason.RESCALING, f"the change to {memory.target} workers shows no effect yet")
    if not all(map(math.isfinite, (seen.throughput, seen.backlog, seen.growth, seen.cpu))):
        return Hold(Reason.MISSING, "a rate is no number")
    within = min(max(seen.workers, limits.least), limits.most)
    if within != seen.workers:
        text = f"{seen.workers} workers are outside the limits of {limits.least} to {limits.most}"
        return Rescale(seen.workers, within, text)
    wish = _POLICIES[settings.policy](seen, memory, settings)
    if wish.target < seen.ready:
        target = max(wish.target, limits.least)
        if target < seen.workers:
            return Rescale(seen.workers, target, wish.text)
        return Hold(Reason.AT_LIMIT, f"{wish.text}; {limits.least} is the least")
    if wish.target > seen.ready:
        most, futile = limits.useful, memory.futile
        if futile is not None and seen.at < futile.until and wish.target > futile.workers:
            most = min(most, max(futile.workers, limits.least))
        target = min(wish.target, most)
        if target > seen.workers:
            return Rescale(seen.workers, target, wish.text)
        if seen.ready < min(target, seen.workers):
            return Hold(Reason.RESCALING, f"{wish.text}; {seen.workers - seen.ready} workers have not joined yet")
        if futile is not None and most < limits.useful:
            minutes = math.ceil((futile.until - seen.at) / 60)
            return Hold(
                Reason.FUTILE,
                f"{wish.text}; more than {futile.workers} did not help, they are tried again in {minutes} min",
            )
        if limits.quota is not None and limits.quota <= limits.useful < limits.most:
            return Hold(Reason.AT_LIMIT, f"{wish.text}; the namespace's quotas have room for {limits.quota}")
        return Hold(Reason.AT_LIMIT, f"{wish.text}; {limits.useful} is the most that is allowed or has partitions")
    return Hold(Reason.FINE, wish.text)
