"""The worker's own WindowInto against Beam's."""

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.worker.bundle_processor import BeamTransformFactory
from apache_beam.transforms.window import FixedWindows, Sessions, SlidingWindows, TimestampedValue, WindowFn
from apache_beam.utils.timestamp import Duration, Timestamp
from hypothesis import given
from hypothesis import strategies as st

from beam_k8s.transforms import windows

MICROS = st.integers(-(10**12), 10**16)
SPANS = st.integers(1, 10**9).map(lambda micros: Duration(micros=micros))


SEEN = []


class Seen(beam.DoFn):
    def process(self, value, window=beam.DoFn.WindowParam, time=beam.DoFn.TimestampParam):
        SEEN.append((value, window, time))


def assert_same(windowfn, times):
    offset, period, made = windows.window_maker(windowfn)
    for micros in times:
        expected = windowfn.assign(WindowFn.AssignContext(Timestamp(micros=micros)))
        assert list(made[micros - (micros - offset) % period]) == expected


@given(SPANS, MICROS, st.lists(MICROS))
def test_fixed_windows_are_beams(size, offset, times):
    assert_same(FixedWindows(size, Timestamp(micros=offset % size.micros)), times)


@given(SPANS, st.integers(1, 5), MICROS, st.lists(MICROS))
def test_sliding_windows_are_beams(period, overlap, offset, times):
    size = Duration(micros=period.micros * overlap)
    assert_same(SlidingWindows(size, period, Timestamp(micros=offset % period.micros)), times)


def test_other_windows_are_left_to_beam():
    class Odd(FixedWindows):
        pass

    for windowfn in (Sessions(5), SlidingWindows(5, 2), Odd(5)):
        assert windows.window_maker(windowfn) is None


def test_elements_of_several_windows_come_out_as_with_beams_own_step(monkeypatch):
    def run():
        SEEN.clear()
        made = beam.Pipeline()
        (
            made
            | beam.Create(range(20))
            | beam.Map(lambda number: TimestampedValue(number, number * 0.9))
            | "Sliding" >> beam.WindowInto(SlidingWindows(6, 2))
            | "Again" >> beam.WindowInto(SlidingWindows(4, 2))
            | "Other" >> beam.WindowInto(SlidingWindows(5, 2))
            | "Fixed" >> beam.WindowInto(FixedWindows(3))
            | beam.ParDo(Seen())
        )
        FnApiRunner().run_pipeline(made, made.options).wait_until_finish()
        return sorted(SEEN, key=repr)

    beams = run()
    monkeypatch.setattr(BeamTransformFactory, "_known_urns", dict(BeamTransformFactory._known_urns))
    windows.install()
    assert run() == beams
    assert len(beams) > 20
