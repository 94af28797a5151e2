"""The first example gives the right answer: on Flink with all of its data, in memory and on DirectRunner with less."""

from __future__ import annotations

import json
from functools import cache

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from tests.cluster.demo import EXAMPLE, example_module
from tests.cluster.launch import Launch, await_gone

data = example_module("data")
pipeline = example_module("pipeline")

OPTIONS = {"flights": "flights", "weather": "weather", "output": "flights-by-hour"}
"""What comes before ``_topic`` in an option of the example -> the topic's own name."""


@cache
def tables(month=None):
    return data.load(month=month)


@pytest.fixture
def loaded(broker, topic):
    """Makes topics of a test's own with the data of a month, or of all; gives their names by the example's names."""

    def load(month=None):
        names = {name: topic(n, label=name, config=data.TOPIC_CONFIG) for name, n in data.TOPICS.items()}
        flights, weather = tables(month)
        for name, records in (("flights", data.flight_records(flights)), ("weather", data.weather_records(weather))):
            data.produce(broker.bootstrap_servers, names[name], records, lambda _: None)
        return names

    return load


def written(broker, name):
    records = broker.read_topic(name)
    rows = [json.loads(record.value) for record in records]
    assert [record.key.decode() for record in records] == [row["origin"] for row in rows]
    return rows


def assert_right(rows, month=None):
    wrong = data.differences(rows, data.expected(tables(month)))
    assert not wrong, f"{len(wrong)} differences, for example:\n" + "\n".join(wrong[:10])


@pytest.fixture
def right_on_flink(broker, loaded, unique, tmp_path):
    """Runs a form of the example with the whole year as a user does, and checks all that it wrote."""

    def run(script, **environment):
        names = loaded()
        launch = Launch(
            script,
            [
                f"--bootstrap_servers={broker.bootstrap_servers}",
                *(f"--{option}_topic={names[name]}" for option, name in OPTIONS.items()),
                *("--until_now", "--streaming", f"--job_name={unique}"),
                *("--runner=FlinkK8s", "--k8s_target=local", "--num_workers=1", "--k8s_task_slots=2"),
            ],
            tmp_path,
            environment,
        )
        try:
            assert launch.wait() == 0, launch.output
            await_gone(launch.processes())
        finally:
            launch.kill_all()
        assert_right(written(broker, names["flights-by-hour"]))

    return run


def test_the_whole_year_on_flink_is_right_and_each_hour_is_there_once(right_on_flink):
    right_on_flink(EXAMPLE / "pipeline.py")


SLOW = """
import functools, os, time

def slow(function, record):
    if "PAUSE" not in os.environ:
        try:
            os.close(os.open(os.environ["FIRST_WORKER"], os.O_CREAT | os.O_EXCL))
            os.environ["PAUSE"] = "5e-5"
        except FileExistsError:
            os.environ["PAUSE"] = "0"
    if os.environ["PAUSE"] != "0":
        time.sleep(float(os.environ["PAUSE"]))
    return function(record)

flight = functools.partial(slow, flight)
"""


@pytest.mark.slow
def test_nothing_is_late_when_one_worker_is_slower_than_the_other(right_on_flink, tmp_path):
    """A source that has read all is idle long before the workers are done: what they hold must not become late."""
    text = (EXAMPLE / "pipeline.py").read_text()
    body, main, end = text.partition('\n\nif __name__ == "__main__":')
    script = tmp_path / "slow_pipeline.py"
    script.write_text(body + SLOW + main + end)
    right_on_flink(script, FIRST_WORKER=str(tmp_path / "first"))


def test_january_on_direct_runner_is_right(broker, loaded):
    names = loaded(month=1)
    config = {"bootstrap.servers": broker.bootstrap_servers}
    with beam.Pipeline(runner="DirectRunner", options=PipelineOptions([])) as running:
        pipeline.build(
            running,
            config | {"auto.offset.reset": "earliest"},
            config,
            stop_at="latest",
            **{f"{option}_topic": names[name] for option, name in OPTIONS.items()},
        )
    assert_right(written(broker, names["flights-by-hour"]), month=1)


def test_null_is_told_from_zero():
    """All flights cancelled, none with a delay, no weather, weather without a flight, a null in the weather."""
    no_weather = dict.fromkeys(data.WEATHER)
    fine = {"temp": 50.0, "wind_speed": 0.0, "precip": 0.0, "visib": 10.0}

    def flight(hour, dep_time, dep_delay, origin="EWR"):
        return hour * 3600 + 59 * 60, {"origin": origin, "dep_time": dep_time, "dep_delay": dep_delay}

    flights = [
        *(flight(0, None, None), flight(0, None, None)),
        *(flight(1, 30, 0), flight(1, 40, -4), flight(1, None, None)),
        flight(2, 1, 0, "JFK"),
        flight(2, 130, None),
    ]
    weathers = [
        (0, {"origin": "EWR", **fine}),
        (3600, {"origin": "EWR", **fine, "temp": None}),
        (3600, {"origin": "LGA", **fine}),
    ]

    def records(label, rows):
        return (
            running
            | label >> beam.Create([(time, json.dumps(row).encode()) for time, row in rows])
            | f"{label}Time" >> beam.MapTuple(lambda time, row: beam.window.TimestampedValue((b"", row), time))
        )

    def row(origin, hour, counts, weather):
        counts = dict(zip(("scheduled", "departures", "mean_dep_delay"), counts, strict=True))
        return origin.encode(), {"origin": origin, "hour": f"1970-01-01T0{hour}:00:00Z", **counts, **weather}

    with beam.Pipeline(runner="DirectRunner", options=PipelineOptions([])) as running:
        rows = pipeline.by_hour(records("Flights", flights), records("Weather", weathers))
        assert_that(
            rows | beam.MapTuple(lambda key, value: (key, json.loads(value))),
            equal_to(
                [
                    row("EWR", 0, (2, 0, None), fine),
                    row("EWR", 1, (3, 2, -2.0), fine | {"temp": None}),
                    row("EWR", 2, (1, 1, None), no_weather),
                    row("JFK", 2, (1, 1, 0.0), no_weather),
                ]
            ),
        )


def test_what_is_wrong_with_a_result_is_found():
    right = {("EWR", "a"): {"origin": "EWR", "hour": "a", "mean_dep_delay": 3.0, "temp": None}}
    (row,) = right.values()
    assert data.differences([row | {"mean_dep_delay": 3.0 + 1e-12}], right) == []
    for broken in (
        [],
        [row, row],
        [row | {"temp": 0.0}],
        [row | {"mean_dep_delay": 3.0 + 1e-6}],
        [row | {"mean_dep_delay": None}],
        [row, row | {"hour": "b"}],
    ):
        assert len(data.differences(broken, right)) == 1
