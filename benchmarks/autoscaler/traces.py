"""What the simulated jobs have to read: made from a few shapes, or from CSV files."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PEAK", "STEP", "Trace", "held_out", "of_folder", "tuning"]

STEP = 7.5
"""Seconds of a step of the simulation."""
PEAK = 9000.0
"""Records a second that a usual trace gets to: about a dozen workers."""
HOURS = 4
_FREE = 1e12
"""Records a second of a sink that never is the bottleneck."""


@dataclass(frozen=True)
class Trace:
    """Input of one job over time, one value a step."""

    name: str
    family: str
    rate: np.ndarray
    """Records a second."""
    sink: np.ndarray
    """Records a second that the job's sink takes from all workers together."""


def _seconds() -> np.ndarray:
    return np.arange(0, HOURS * 3600, STEP, dtype=float)


def _trace(name: str, rate: np.ndarray, sink: np.ndarray | float = _FREE) -> Trace:
    return Trace(name, name.partition("/")[0], np.maximum(rate, 0.0), np.broadcast_to(sink, rate.shape))


def _step(name: str, low: float, high: float, at: float, until: float) -> Trace:
    t = _seconds() / 3600
    return _trace(name, np.where((t >= at) & (t < until), high, low) * PEAK)


def _ramp(name: str, low: float, high: float, start: float, hours: float) -> Trace:
    t = _seconds() / 3600
    up = np.clip((t - start) / hours, 0, 1)
    down = np.clip((t - start - hours - 0.5) / 0.25, 0, 1)
    return _trace(name, (low + (high - low) * (up - down)) * PEAK)


def _sine(name: str, low: float, high: float, phase: float, second: float) -> Trace:
    day = 2 * np.pi * _seconds() / (HOURS * 3600)
    wave = (1 - second) * np.sin(day + phase) + second * np.sin(2 * day + 3 * phase)
    return _trace(name, (low + (high - low) * (wave + 1) / 2) * PEAK)


def _spikes(name: str, base: float, high: float, every: float, seconds: float) -> Trace:
    t = _seconds()
    return _trace(name, np.where((t + 0.6 * every) % every < seconds, high, base) * PEAK)


def _on_off(name: str, high: float, on: float, off: float) -> Trace:
    return _trace(name, np.where(_seconds() % (on + off) < on, high, 0.02) * PEAK)


def _dump(name: str, base: float, minutes: float, at: float) -> Trace:
    """So many minutes of input arrive at once, as after a stop of the job or of its producer."""
    t = _seconds()
    rate = np.full(t.shape, base * PEAK)
    rate[np.searchsorted(t, at * 3600)] += base * PEAK * minutes * 60 / STEP
    return _trace(name, rate)


def _slow_sink(name: str, base: float, sink: float, at: float, until: float) -> Trace:
    t = _seconds() / 3600
    return _trace(name, np.full(t.shape, base * PEAK), np.where((t >= at) & (t < until), sink * PEAK, _FREE))


def _idle(name: str, rate: float, burst: float, at: float) -> Trace:
    t = _seconds() / 3600
    return _trace(name, np.where((t >= at) & (t < at + 0.1), burst, rate) * PEAK)


def tuning() -> list[Trace]:
    """What all policies' settings were chosen on."""
    return [
        _step("step/up at 1 h, down at 2.5 h", 0.25, 0.8, 1.0, 2.5),
        _ramp("ramp/one hour", 0.15, 0.9, 0.5, 1.0),
        _sine("sine day/plain", 0.1, 0.9, -1.5, 0.0),
        _spikes("spikes/3 min every 40 min", 0.25, 0.8, 2400, 180),
        _on_off("on-off/30 min", 0.6, 1800, 1800),
        _dump("backlog dump/20 min", 0.3, 20, 1.0),
        _slow_sink("slow sink/half for 40 min", 0.4, 0.2, 1.0, 1.67),
        _idle("idle tenant/one burst", 0.003, 0.3, 2.0),
    ]


def held_out() -> list[Trace]:
    """What they are judged on."""
    return [
        _step("step/up at 0.7 h for good", 0.15, 0.7, 0.7, 9),
        _step("step/down at 1.5 h", 0.35, 0.9, 0.0, 1.5),
        _ramp("ramp/25 minutes", 0.1, 0.8, 1.0, 0.42),
        _ramp("ramp/two hours", 0.2, 1.0, 0.3, 2.0),
        _sine("sine day/two peaks", 0.15, 0.95, 0.7, 0.4),
        _sine("sine day/low", 0.05, 0.6, 2.0, 0.1),
        _spikes("spikes/6 min every 55 min", 0.2, 0.9, 3300, 360),
        _spikes("spikes/90 s every 25 min", 0.3, 0.7, 1500, 90),
        _on_off("on-off/50 and 20 min", 0.8, 3000, 1200),
        _on_off("on-off/15 and 45 min", 0.5, 900, 2700),
        _dump("backlog dump/10 min", 0.4, 10, 0.8),
        _dump("backlog dump/45 min", 0.2, 45, 1.2),
        _slow_sink("slow sink/two thirds for 25 min", 0.5, 0.33, 1.5, 1.92),
        _slow_sink("slow sink/a quarter for an hour", 0.3, 0.075, 1.0, 2.0),
        _idle("idle tenant/nearly nothing", 0.0005, 0.0005, 0.0),
        _idle("idle tenant/burst of 6 min", 0.01, 0.5, 1.3),
    ]


def of_folder(folder: Path) -> list[Trace]:
    """Each ``*.csv`` of a folder with the columns ``seconds,records_per_second``; a rate holds until the next one."""
    traces = []
    for file in sorted(folder.glob("*.csv")):
        with file.open() as lines:
            rows = [(float(row["seconds"]), float(row["records_per_second"])) for row in csv.DictReader(lines)]
        seconds, rates = (np.array(column) for column in zip(*rows, strict=True))
        at = np.arange(seconds[0], seconds[-1] + STEP, STEP)
        rate = rates[np.clip(np.searchsorted(seconds, at, side="right") - 1, 0, None)]
        traces.append(Trace(file.stem, file.stem, rate, np.broadcast_to(_FREE, rate.shape)))
    return traces
