"""Which pipeline options may enter the Flink job, and with it its checkpoints.

Beam's coders carry the translator's options into every serializer snapshot, and Flink writes these snapshots into the
metadata of every checkpoint. So the translator gets the few options that its operators read, and nothing of the user;
the Python harness gets all options another way (through JobInfo and the provision service).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from beam_k8s.settings import Settings

__all__ = ["translator_options"]

NEVER = 2**63 - 1
"""Java's Long.MAX_VALUE, in milliseconds: Beam's word for "keep the source alive"."""


def translator_options(settings: Settings, *, unbounded: bool) -> dict[str, str | bool]:
    """The options object of Beam's Java translator, by its Python names. Holds nothing that a user made up.

    What Flink itself knows (checkpoint interval, restart strategy, ...) is in Flink's configuration instead. Sources
    that have nothing more to say end at once where the pipeline is bounded, so that the job does too; with an
    unbounded one they stay, so that the job keeps taking checkpoints the usual way.
    """
    options: dict[str, str | bool] = {
        "job_name": settings.job_name,
        "streaming": settings.streaming,
        "object_reuse": settings.object_reuse,
        "faster_copy": settings.faster_copy,
        "parallelism": str(settings.parallelism or settings.workers * settings.slots),
        "max_parallelism": str(settings.max_parallelism),
    }
    if settings.streaming:
        options |= {
            "max_bundle_size": str(settings.max_bundle_size),
            "max_bundle_time_mills": str(settings.max_bundle_time_mills),
            "finish_bundle_before_checkpointing": settings.finish_bundle_before_checkpointing,
            "shutdown_sources_after_idle_ms": str(NEVER if unbounded else 0),
            # Flink's configuration has it too; operators with @RequiresStableInput look for it here.
            "checkpointing_interval": str(settings.checkpointing_interval),
        }
    return options
