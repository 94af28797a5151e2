"""Combiner lifting of streaming pipelines: which steps, and that nobody can tell by the results."""

import apache_beam as beam
import pytest
from apache_beam.portability import common_urns
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, AfterWatermark, Repeatedly
from apache_beam.transforms.window import (
    FixedWindows,
    GlobalWindows,
    Sessions,
    SlidingWindows,
    TimestampedValue,
    WindowFn,
)
from apache_beam.utils.timestamp import Timestamp

from beam_k8s.lifting import lifted

PRECOMBINE = common_urns.combine_components.COMBINE_PER_KEY_PRECOMBINE.urn
RECORDS = [(f"k{number % 3}", number, number * 0.7) for number in range(60)]


def pipeline(window, combine=sum):
    made = beam.Pipeline()
    return made, windowed(made, window) | beam.CombinePerKey(combine)


def windowed(made, window):
    records = made | beam.Create(RECORDS)
    return records | beam.Map(lambda record: TimestampedValue((record[0], record[1]), record[2])) | window


class Lifting(FnApiRunner):
    def run_via_runner_api(self, pipeline, options):
        proto = lifted(pipeline)
        self.precombines = sum(each.spec.urn == PRECOMBINE for each in proto.components.transforms.values())
        return super().run_via_runner_api(proto, options)


@pytest.mark.parametrize("windowfn", [FixedWindows(10), SlidingWindows(10, 5), GlobalWindows()])
def test_a_lifted_step_gives_the_results_of_one_that_is_not(windowfn):
    def with_window(result, window=beam.DoFn.WindowParam):
        key, value = result
        return key, sorted(value) if isinstance(value, list) else value, window

    values = {}
    for key, value, time in RECORDS:
        for window in windowfn.assign(WindowFn.AssignContext(Timestamp.of(time))):
            values.setdefault((key, window), []).append(value)
    made = beam.Pipeline()
    records = windowed(made, beam.WindowInto(windowfn))
    for name, combine, expected in (
        ("Sum", sum, sum),
        ("Mean", beam.combiners.MeanCombineFn(), lambda values: sum(values) / len(values)),
        ("List", beam.combiners.ToListCombineFn(), sorted),
    ):
        assert_that(
            records | name >> beam.CombinePerKey(combine) | f"{name}InWindow" >> beam.Map(with_window),
            equal_to([(key, expected(values), window) for (key, window), values in values.items()]),
            label=name + "Expected",
        )
    runner = Lifting()
    runner.run_pipeline(made, made.options).wait_until_finish()
    assert runner.precombines >= 3


@pytest.mark.parametrize(
    "window",
    [
        beam.WindowInto(Sessions(10)),
        beam.WindowInto(FixedWindows(10), allowed_lateness=5),
        beam.WindowInto(
            FixedWindows(10),
            trigger=AfterWatermark(early=AfterCount(2)),
            accumulation_mode=AccumulationMode.DISCARDING,
        ),
        beam.WindowInto(
            GlobalWindows(), trigger=Repeatedly(AfterCount(5)), accumulation_mode=AccumulationMode.ACCUMULATING
        ),
    ],
    ids=["merging", "late", "early", "count"],
)
def test_what_can_be_told_apart_is_not_lifted(window):
    made, _ = pipeline(window)
    proto = made.to_runner_api()
    assert lifted(proto) == proto


def test_a_step_with_a_side_input_is_not_lifted():
    made = beam.Pipeline()
    side = made | "Side" >> beam.Create([1])

    class Plus(beam.CombineFn):
        def create_accumulator(self, *_):
            return 0

        def add_input(self, accumulator, value, *_):
            return accumulator + value

        def merge_accumulators(self, accumulators, *_):
            return sum(accumulators)

        def extract_output(self, accumulator, plus):
            return accumulator + plus

    made | beam.Create([("k", 1)]) | beam.CombinePerKey(Plus(), beam.pvalue.AsSingleton(side))
    proto = made.to_runner_api()
    assert lifted(proto) == proto


def test_all_that_a_lifted_pipeline_names_is_there_and_nothing_else_is():
    made, _ = pipeline(beam.WindowInto(FixedWindows(10)))
    proto = lifted(made.to_runner_api())
    components = proto.components
    used = {
        each
        for transform in components.transforms.values()
        for each in (*transform.inputs.values(), *transform.outputs.values())
    }
    assert used == set(components.pcollections)
    below = {each for transform in components.transforms.values() for each in transform.subtransforms}
    assert below | set(proto.root_transform_ids) == set(components.transforms)
    assert {each.coder_id for each in components.pcollections.values()} <= set(components.coders)
