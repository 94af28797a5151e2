"""What all benchmarks share: flags, a table, JSON with machine and versions, and the closing line."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from beam_k8s import versions

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Report", "arguments"]


def arguments(description: str) -> argparse.Namespace:
    """``--quick`` and ``--json FILE``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same comparison, smaller")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


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
        met = value <= goal if lower_is_better else value >= goal
        if file is not None:
            commit = subprocess.run(
                ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
            )
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
                "metric": metric,
                "value": value,
                "goal": goal,
                "met": met,
            }
            file.write_text(json.dumps(content, indent=1) + "\n")
        print(f"{self._name}: {metric}={value:.3g} goal={goal:g} {'ok' if met else 'short'}")
