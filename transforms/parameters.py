"""DoFns that ask for the time, the window or the pane of an element, in the worker, at a fraction of Beam's cost.

Beam's invoker compares each parameter with each kind that there is, in Python, and makes the arguments anew for each
element: 2 us a parameter, as much as all else that a small DoFn costs. Here they are found once, and the element goes
through Beam's other invoker, that of DoFns that ask for nothing, as a windowed value of itself. A DoFn that asks for
anything else (state, timers, side inputs, restrictions, keys, contexts) is Beam's as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import apache_beam as beam
from apache_beam.internal import pickler
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.worker import bundle_processor, operations
from apache_beam.transforms import core
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import create as windowed_value

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["install"]


def _timestamp(element: Any) -> Timestamp:
    found = Timestamp.__new__(Timestamp)  # its __init__ costs four times as much
    found.micros = element.timestamp_micros
    return found


def _window(element: Any) -> Any:
    (found,) = element.windows
    return found


_FOUND: dict[Any, Callable[[Any], Any]] = {
    beam.DoFn.TimestampParam: _timestamp,
    beam.DoFn.WindowParam: _window,
    beam.DoFn.PaneInfoParam: lambda element: element.pane_info,
}
"""Parameter -> its argument, of a windowed value in one window."""


def _asked(fn: beam.DoFn) -> list[Any] | None:
    """What a DoFn asks for beside the element, if that is all of ``_FOUND``."""
    names, defaults = core.get_function_arguments(fn, "process")
    supported = all(isinstance(each, core._DoFnParam) and each in _FOUND for each in defaults)  # noqa: SLF001 - their type
    return defaults if defaults and supported and len(names) == len(defaults) + 1 else None


class _Asking(beam.DoFn):
    """A DoFn as one that asks for nothing and takes windowed values."""

    def __init__(self, fn: beam.DoFn) -> None:
        self._fn = fn
        for name in ("setup", "start_bundle", "finish_bundle", "teardown", "_runtime_output_constraints"):
            if hasattr(fn, name):  # Beam keeps the last one there if it is to check types at run time
                setattr(self, name, getattr(fn, name))
        process, finds = fn.process, [_FOUND[each] for each in _asked(fn) or ()]
        if len(finds) == 1:
            (find,) = finds
            self.process = lambda element: process(element.value, find(element))
        else:
            self.process = lambda element: process(element.value, *[find(element) for find in finds])

    def __reduce__(self) -> tuple[type[_Asking], tuple[beam.DoFn]]:
        return _Asking, (self._fn,)


class _Ask(operations.DoOperation):
    def process(self, element: Any) -> None:
        super().process(element.with_value(element))


class _AskOfEachWindow(operations.DoOperation):
    def process(self, element: Any) -> None:
        windows = element.windows
        if len(windows) == 1:
            super().process(element.with_value(element))
        else:
            for window in windows:  # without the pane, as Beam does it
                of_one = windowed_value(element.value, element.timestamp_micros, (window,))
                super().process(of_one.with_value(of_one))


def install() -> None:
    """Let this process's harness use it."""
    urn = common_urns.primitives.PAR_DO.urn
    factory_type = bundle_processor.BeamTransformFactory
    beams, _ = factory_type._known_urns[urn]  # noqa: SLF001 - no other way to what is replaced

    @factory_type.register_urn(urn, beam_runner_api_pb2.ParDoPayload)
    def create(factory: Any, transform_id: str, transform: Any, parameter: Any, consumers: Any) -> Any:
        more = (parameter.side_inputs, parameter.state_specs, parameter.timer_family_specs)
        samples = factory.data_sampler is not None  # which encodes elements that failed, as they are in the invoker
        if not (any(more) or parameter.restriction_coder_id or samples):
            info = core.DoFnInfo.from_runner_api(parameter.do_fn, factory.context)
            fn, args, kwargs, tags, windowing = pickler.loads(info.serialized_dofn_data())
            plain = not (args or kwargs or tags or fn._process_batch_defined)  # noqa: SLF001 - as Beam asks it
            if plain and (asked := _asked(fn)):
                return bundle_processor._create_pardo_operation(  # noqa: SLF001
                    factory,
                    transform_id,
                    transform,
                    consumers,
                    pickler.dumps((_Asking(fn), (), {}, [], windowing)),
                    parameter,
                    _AskOfEachWindow if beam.DoFn.WindowParam in asked else _Ask,
                )
        return beams(factory, transform_id, transform, parameter, consumers)
