"""Who is compared: each baseline as published, and with the settings that did best on the tuning traces."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.autoscaler.scalers import dataflow, ds2, hpa, keda, operator, ours, static

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["BASELINES", "GRIDS", "PRODUCT", "Contender", "grid"]


class Contender(NamedTuple):
    """A scaler and its settings."""

    name: str
    kind: Callable[..., Any]
    settings: dict[str, Any]

    def make(self) -> Any:
        return self.kind(**self.settings)


BASELINES = [
    Contender("static peak", static, {"of": np.max}),
    Contender("static mean", static, {"of": np.mean}),
    Contender("HPA on CPU", hpa, {}),
    Contender("HPA on CPU, tuned", hpa, {"target": 0.6, "stabilization": 300}),
    Contender("KEDA on lag", keda, {}),
    Contender("KEDA on lag, tuned", keda, {"threshold": 300_000, "stabilization": 1800}),
    Contender("operator", operator, {}),
    Contender(
        "operator, tuned",
        operator,
        {
            "window": 300,
            "stabilization": 60,
            "restart": 120,
            "low": 0.4,
            "high": 0.8,
            "down_interval": 0,
            "catch_up": 900,
            "target": 0.6,
        },
    ),
    Contender("operator, lag 0", operator, {"blind": True}),
    Contender(
        "operator, lag 0, tuned",
        operator,
        {
            "window": 300,
            "stabilization": 60,
            "restart": 120,
            "low": 0.4,
            "high": 0.8,
            "down_interval": 0,
            "catch_up": 300,
            "target": 0.6,
            "blind": True,
        },
    ),
    Contender("DS2", ds2, {}),
    Contender("DS2, tuned", ds2, {"interval": 300, "headroom": 1.5}),
    Contender("Dataflow 2020", dataflow, {}),
    Contender("Dataflow 2020, tuned", dataflow, {"clear": 150, "patience": 120, "down_cpu": 0.75}),
    Contender("threshold", ours, {"policy": "threshold", "remember": 0}),
    Contender(
        "threshold, article",
        ours,
        {
            "policy": "threshold",
            "remember": 0,
            "up_backlog_time": 120,
            "up_cpu": 0.9,
            "up_if": "either",
            "down_cpu": 0.7,
        },
    ),
    Contender(
        "threshold, tuned",
        ours,
        {"policy": "threshold", "remember": 0, "up_backlog_time": 60, "time_to_reduce": 60, "down_cpu": 0.75},
    ),
]
PRODUCT = Contender("balanced", ours, {"policy": "balanced"})

_QUICK: dict[str, list[Any]] = {"window": [300], "stabilization": [60], "restart": [120], "low": [0.4], "high": [0.8]}
GRIDS: dict[str, tuple[Callable[..., Any], dict[str, list[Any]]]] = {
    "HPA on CPU, tuned": (hpa, {"target": [0.4, 0.5, 0.6], "stabilization": [300, 1800]}),
    "KEDA on lag, tuned": (keda, {"threshold": [3_000, 30_000, 300_000], "stabilization": [300, 1800]}),
    # What is not varied is that of the profile which the operator's documentation calls quick.
    **{
        f"operator{lag}, tuned": (
            operator,
            _QUICK | {"down_interval": [0, 900], "catch_up": [300, 900], "target": [0.5, 0.6], "blind": [blind]},
        )
        for lag, blind in (("", False), (", lag 0", True))
    },
    "DS2, tuned": (ds2, {"interval": [60, 300], "headroom": [1.2, 1.5, 1.8]}),
    "Dataflow 2020, tuned": (dataflow, {"clear": [150, 600], "patience": [120, 600], "down_cpu": [0.5, 0.75]}),
    "threshold, tuned": (
        ours,
        {
            "policy": ["threshold"],
            "remember": [0],
            "up_backlog_time": [10, 60],
            "time_to_reduce": [60, 300],
            "down_cpu": [0.6, 0.75],
        },
    ),
    "balanced": (ours, {"policy": ["balanced"], "headroom": [0.1, 0.15, 0.2], "recover": [240, 480], "calm": [5, 10]}),
}


def grid(name: str) -> Iterator[Contender]:
    """All settings that are tried for a contender."""
    kind, values = GRIDS[name]
    for chosen in itertools.product(*values.values()):
        yield Contender(name, kind, dict(zip(values, chosen, strict=True)))
