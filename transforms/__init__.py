"""Kafka in a Beam pipeline: ``ReadFromKafka`` and ``WriteToKafka``, drop-in for those of ``apache_beam.io.kafka``.

This package runs in the user's pipeline and in the worker. On Flink its two transforms become Flink's own Kafka
connectors; on every other runner they run as Python. Names are loaded on first use, so that importing the package
costs nothing.
"""

from __future__ import annotations

if __name__ != "beam_k8s.transforms":
    raise ImportError(
        f"This package is beam_k8s.transforms, but was imported as {__name__!r}. "
        "Write `from beam_k8s.transforms import ReadFromKafka`; in a checkout, run from its root "
        "(or `pip install -e .`) so that the folder beam_k8s is found."
    )

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from beam_k8s.transforms.kafka import DeadLetter, KafkaRecord, ProducerRecord, ReadFromKafka, WriteToKafka

__all__ = ["DeadLetter", "KafkaRecord", "ProducerRecord", "ReadFromKafka", "WriteToKafka"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module("beam_k8s.transforms.kafka"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
