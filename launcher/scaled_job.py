"""What an autoscaler must know of a job that it did not start: an annotation of the FlinkDeployment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from beam_k8s.autoscaler.settings import AutoscalerSettings
from beam_k8s.errors import BeamK8sError, KubernetesError
from beam_k8s.graph import KafkaSource
from beam_k8s.kafka_properties import CONNECTION
from beam_k8s.names import SCALED_ANNOTATION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from beam_k8s.settings import Settings

__all__ = ["ScaledJob"]

_ASKED_WITH = (*CONNECTION, "isolation.level")
"""Begin the properties that matter to who asks a broker where a topic ends."""


@dataclass(frozen=True, slots=True)
class ScaledJob:
    """How one job is to be scaled. Secrets are references in it, as in the pipeline."""

    mode: Literal["recommend", "on"]
    settings: AutoscalerSettings
    sources: tuple[KafkaSource, ...]

    @classmethod
    def of(cls, settings: Settings, sources: Sequence[KafkaSource]) -> Self | None:
        """That of a submission; None if nobody is to scale it."""
        if settings.autoscaler is None or settings.autoscaler_mode == "off":
            return None
        return cls(settings.autoscaler_mode, settings.autoscaler, tuple(sources))

    def text(self) -> str:
        """As JSON; the same job has the same text."""
        sources = [
            {
                "name": source.name,
                "bootstrap_servers": source.bootstrap_servers,
                "topics": source.topics,
                "pattern": source.pattern,
                "properties": {key: value for key, value in source.properties.items() if key.startswith(_ASKED_WITH)},
            }
            for source in self.sources
        ]
        conf = self.settings.model_dump(exclude_defaults=True)
        return json.dumps({"mode": self.mode, "conf": conf, "sources": sources}, sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Inverse of ``text``, but for what is not in it.

        Raises:
            KubernetesError: it is not such a text.
        """
        try:
            found = json.loads(text)
            sources = tuple(
                KafkaSource(transform_id="", **(each | {"topics": tuple(each["topics"])})) for each in found["sources"]
            )
            if found["mode"] not in {"recommend", "on"} or not sources:
                raise ValueError("mode or sources")  # noqa: TRY301 - one place says what is wrong
            return cls(found["mode"], AutoscalerSettings.of(found["conf"]), sources)
        except (ValueError, KeyError, TypeError, AttributeError, BeamK8sError) as cause:
            raise KubernetesError(
                f"annotation {SCALED_ANNOTATION} cannot be read: {cause}.", hint="Submit the job again."
            ) from cause
