"""DoFns that ask for time, window or pane in our harness, against Beam's own invoker."""

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.worker import bundle_processor, operations
from apache_beam.runners.worker.bundle_processor import BeamTransformFactory
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.window import FixedWindows, IntervalWindow, SlidingWindows, TimestampedValue
from apache_beam.utils.windowed_value import WindowedValue

from beam_k8s.transforms import parameters

SEEN = []
TIME, WINDOW, PANE = beam.DoFn.TimestampParam, beam.DoFn.WindowParam, beam.DoFn.PaneInfoParam


def seen(*what):
    SEEN.append(what)


class Bundles(beam.DoFn):
    def setup(self):
        self.calls = ["setup"]

    def start_bundle(self):
        self.calls.append("start")

    def process(self, value, time=TIME, pane=PANE):
        seen("bundle", *self.calls, value, time, pane)
        return ()

    def finish_bundle(self):
        yield WindowedValue("finished", 7, (IntervalWindow(6, 12),))

    def teardown(self):
        seen("teardown")


class Outputs(beam.DoFn):
    def process(self, value, window=WINDOW, time=TIME):
        yield value
        yield TimestampedValue(-value, time + 1)
        yield beam.pvalue.TaggedOutput("odd", (value, window, time))


class CallsItself(beam.DoFn):
    def process(self, value, time=TIME):
        if value:
            yield from self.process(value - 1, time - 1)
        yield value, time


class Counted(beam.DoFn):
    COUNT = ReadModifyWriteStateSpec("count", beam.coders.VarIntCoder())

    def process(self, pair, window=WINDOW, count=beam.DoFn.StateParam(COUNT)):
        count.write((count.read() or 0) + pair[1])
        yield pair[0], count.read(), window


class Last(beam.DoFn):
    def __init__(self, step):
        self.step = step

    def process(self, value, window=WINDOW, time=TIME, pane=PANE):
        seen(self.step, value, window, time, pane)
        return ()


def everything(made):
    numbers = (
        made
        | beam.Create(range(12))
        | beam.Map(lambda number: TimestampedValue(number, number * 0.9))
        | "Sliding" >> beam.WindowInto(SlidingWindows(6, 2))
    )
    total = beam.pvalue.AsSingleton(made | "One" >> beam.Create([5]))
    outputs = numbers | "Outputs" >> beam.ParDo(Outputs()).with_outputs("odd", main="main")
    keyed = numbers | "Fixed" >> beam.WindowInto(FixedWindows(3)) | "Pair" >> beam.Map(lambda value: (value % 2, value))
    found = {
        "main": outputs.main,
        "odd": outputs.odd,
        "time": numbers | "Time" >> beam.Map(lambda value, at=TIME: (value, at)),
        "two": numbers | "Two" >> beam.FlatMap(lambda value, at=TIME, of=WINDOW: [(value, at, of)]),
        "filter": numbers | "Filter" >> beam.Filter(lambda value, of=WINDOW: of.start > 2),
        "itself": numbers | "Itself" >> beam.ParDo(CallsItself()),
        "bundles": numbers | "Bundles" >> beam.ParDo(Bundles()),
        "more": numbers | "More" >> beam.Map(lambda value, more, at=TIME: (value + more, at), 3),
        "named": numbers | "Named" >> beam.Map(lambda value, at=TIME, *, more: (value + more, at), more=3),
        "side": numbers | "Side" >> beam.Map(lambda value, side, at=TIME: (value + side, at), total),
        "default": numbers | "Default" >> beam.Map(lambda value, fixed=4, at=TIME: (value + fixed, at), 6),
        "key": keyed | "Key" >> beam.Map(lambda _, key=beam.DoFn.KeyParam, at=TIME: (key, at)),
        "counted": keyed | "Counted" >> beam.ParDo(Counted()),
    }
    for step, values in found.items():
        values | f"Last of {step}" >> beam.ParDo(Last(step))


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(BeamTransformFactory, "_known_urns", dict(BeamTransformFactory._known_urns))

    def run(build):
        SEEN.clear()
        made = beam.Pipeline()
        build(made)
        FnApiRunner().run_pipeline(made, made.options).wait_until_finish()
        return sorted(SEEN, key=repr)

    return run


def test_all_comes_out_as_with_beams_own_invoker(run, monkeypatch):
    beams = run(everything)
    made, create = {}, bundle_processor._create_pardo_operation

    def spy(factory, transform_id, transform, *args, **kwargs):
        operation = create(factory, transform_id, transform, *args, **kwargs)
        made[transform.unique_name.partition("/")[0]] = type(operation) is not operations.DoOperation
        return operation

    monkeypatch.setattr(bundle_processor, "_create_pardo_operation", spy)
    parameters.install()
    assert run(everything) == beams
    steps = made.keys() - {"Create", "One"}
    assert {step for step in steps if made[step] and not step.startswith("Last")} == {
        *("Outputs", "Time", "Two", "Filter", "Itself", "Bundles"),
    }
    assert {"More", "Named", "Side", "Default", "Key", "Counted"} < made.keys()


def test_an_error_of_the_user_names_the_step(run):
    parameters.install()

    def broken(value, time=TIME):
        raise LookupError(f"no {value} at {time}")

    with pytest.raises(Exception, match=r"no 1 at Timestamp.*while running 'Broken'"):
        run(lambda made: made | beam.Create([1]) | "Broken" >> beam.Map(broken))
