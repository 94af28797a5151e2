"""What all benchmarks share: flags, a table, JSON with machine and versions, and the closing line."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from beam_k8s import versions

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Goal", "Report", "arguments", "parser"]


def arguments(description: str) -> argparse.Namespace:
    """``--quick`` and ``--json FILE``."""
    return parser(description).parse_args()


def parser(description: str) -> argparse.ArgumentParser:
    """The parser of these flags, for a benchmark that has more."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same comparison, smaller")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser


class Goal(NamedTuple):
    """A figure and what it should be."""

    metric: str
    value: float
    goal: float
    lower_is_better: bool

    @property
    def met(self) -> bool:
        return self.value <= self.goal if self.lower_is_better else self.value >= self.goal


class Report:
    """The figures of one run of a benchmark."""

    def __init__(self, name: str, figures: dict[str, Any]) -> None:
        self._name = name
        self._figures = figures

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print rows under a head, as Markdown."""
        print("| " + " | ".join(head) + " |")
        print("|" + "---|" * len(head))
        for row in rows:
            print("| " + " | ".join(str(cell) for cell in row) + " |")

    def finish(self, file: Path | None, *, metric: str, value: float, goal: float, lower_is_better: bool) -> None:
        """Write the JSON if asked, and print the closing line."""
        only = Goal(metric, value, goal, lower_is_better)
        self.write(file, metric=metric, value=value, goal=goal, met=only.met)
        self._close(only)

    def finish_all(self, file: Path | None, goals: Sequence[Goal]) -> None:
        """The same with several goals: a closing line each."""
        self.write(file, goals=[each._asdict() | {"met": each.met} for each in goals])
        for each in goals:
            self._close(each)

    def _close(self, goal: Goal) -> None:
        print(f"{self._name}: {goal.metric}={goal.value:.3g} goal={goal.goal:g} {'ok' if goal.met else 'short'}")

    def write(self, file: Path | None, **outcome: Any) -> None:
        """Write the JSON if asked, with what else there is to say."""
        if file is None:
            return
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        content = {
            "benchmark": self._name,
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "commit": commit.stdout.strip(),
            "machine": {
                "cores": os.cpu_count(),
                "memory_gib": round(psutil.virtual_memory().total / 2**30),
                "system": platform.platform(),
            },
            "versions": {"python": platform.python_version(), "beam": versions.BEAM, "flink": versions.FLINK},
            "figures": self._figures,
        } | outcome
        file.write_text(json.dumps(content, indent=1) + "\n")
