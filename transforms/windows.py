"""WindowInto of fixed and sliding windows in the worker, at a fraction of what Beam's own step costs a record.

Beam's is a DoFn with a TimestampParam and a WindowParam, whose invoker, and the arithmetic with Timestamp objects, take
10 us a record: more than reading and parsing it. Records come in the order of their time, or nearly, so nearly all have
windows that were made before: here they are looked up by the start of the window, and the step is an operation without
a DoFn. The windows are the same, and so are the elements: without a pane, and one for each window that they were in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners import common
from apache_beam.runners.worker import operation_specs, operations
from apache_beam.runners.worker.bundle_processor import BeamTransformFactory
from apache_beam.transforms.core import Windowing
from apache_beam.transforms.window import FixedWindows, SlidingWindows, WindowFn
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import create as windowed_value

if TYPE_CHECKING:
    from apache_beam.transforms.window import IntervalWindow

__all__ = ["install", "window_maker"]

_KEPT = 1000
"""Starts of windows that are remembered: more than are open at once, but for late records."""


class _Windows(dict[int, "tuple[IntervalWindow, ...]"]):
    """Start of the newest window [us] -> all windows of the records from there on, for one period."""

    def __init__(self, windowfn: WindowFn) -> None:
        super().__init__()
        self._windowfn = windowfn

    def __missing__(self, start: int) -> tuple[IntervalWindow, ...]:
        if len(self) >= _KEPT:
            self.clear()
        # A tuple: it is shared by many elements, and Beam multiplies some lists of windows in place.
        self[start] = windows = tuple(self._windowfn.assign(WindowFn.AssignContext(Timestamp(micros=start))))
        return windows


def window_maker(windowfn: WindowFn) -> tuple[int, int, _Windows] | None:
    """(offset [us], period [us], windows by start) where all records of one period have the same windows, else None."""
    # Of these types exactly: a user's subclass may do anything.
    if type(windowfn) is FixedWindows:
        return windowfn.offset.micros, windowfn.size.micros, _Windows(windowfn)
    if type(windowfn) is SlidingWindows and windowfn.size.micros % windowfn.period.micros == 0:
        return windowfn.offset.micros, windowfn.period.micros, _Windows(windowfn)
    return None


class _AssignWindows(operations.Operation):
    def __init__(self, *args: Any, offset: int, period: int, windows: _Windows) -> None:
        super().__init__(*args)
        self._offset = offset
        self._period = period
        self._windows = windows

    def process(self, element: Any) -> None:
        micros = element.timestamp_micros
        windows = self._windows[micros - (micros - self._offset) % self._period]
        for _ in element.windows:
            self.output(windowed_value(element.value, micros, windows))


def install() -> None:
    """Let this process's harness use it."""
    urn = common_urns.primitives.ASSIGN_WINDOWS.urn
    beams, _ = BeamTransformFactory._known_urns[urn]  # noqa: SLF001 - no other way to what is replaced

    @BeamTransformFactory.register_urn(urn, beam_runner_api_pb2.WindowingStrategy)
    def create(factory: Any, transform_id: str, transform: Any, parameter: Any, consumers: Any) -> Any:
        maker = window_maker(Windowing.from_runner_api(parameter, factory.context).windowfn)
        if maker is None:
            return beams(factory, transform_id, transform, parameter, consumers)
        offset, period, windows = maker
        operation = _AssignWindows(
            common.NameContext(transform.unique_name, transform_id),
            operation_specs.WorkerFlatten(None, [factory.get_only_output_coder(transform)]),
            factory.counter_factory,
            factory.state_sampler,
            offset=offset,
            period=period,
            windows=windows,
        )
        return factory.augment_oldstyle_op(operation, transform.unique_name, consumers)
