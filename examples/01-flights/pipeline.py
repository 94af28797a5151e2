"""Departures beside weather, by airport and hour: two Kafka topics, joined in event time, into a third.

What counts: a *scheduled* flight belongs to the hour it was scheduled to leave in, which is the hour of its record's
create time. A *departure* is a scheduled flight that left (``dep_time`` is not null), whenever that was. The *mean
departure delay* is in minutes, over the flights that have a ``dep_delay``: an early one counts below zero; null if
there is none. There is one record for every airport and hour with a scheduled flight, also if all were cancelled. The
weather is that of the same airport and hour, null where the station has none.

Flights are combined before the join, so a small result for each airport and hour goes through it and not the flights.
"""

import argparse
import json
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import FixedWindows

from beam_k8s import ReadFromKafka, WriteToKafka

HOUR = 60 * 60
WEATHER = ("temp", "wind_speed", "precip", "visib")


def flight(record: tuple[bytes, bytes]) -> tuple[str, Any]:
    """A record of the flights topic -> (origin, (whether it left, delay in minutes or None))."""
    row = json.loads(record[1])
    return row["origin"], (row["dep_time"] is not None, row["dep_delay"])


def weather(record: tuple[bytes, bytes]) -> tuple[str, Any]:
    """A record of the weather topic -> (origin, what we tell of it)."""
    row = json.loads(record[1])
    return row["origin"], {name: row[name] for name in WEATHER}


class Departures(beam.CombineFn):
    """The flights of one airport and hour -> their counts and their mean delay."""

    def create_accumulator(self):
        return 0, 0, 0, 0  # scheduled, departures, delays, sum of the delays

    def add_input(self, accumulator, flight):
        scheduled, departures, delays, total = accumulator
        departed, delay = flight
        if delay is not None:
            delays += 1
            total += delay
        return scheduled + 1, departures + departed, delays, total

    def merge_accumulators(self, accumulators):
        return tuple(map(sum, zip(*accumulators, strict=True)))

    def extract_output(self, accumulator):
        scheduled, departures, delays, total = accumulator
        mean = total / delays if delays else None
        return {"scheduled": scheduled, "departures": departures, "mean_dep_delay": mean}


def result(joined, window=beam.DoFn.WindowParam):
    """One airport and hour, joined -> the (key, value) to write; none for weather without a flight."""
    origin, parts = joined
    for flights in parts["flights"]:
        row = {"origin": origin, "hour": f"{window.start.to_utc_datetime():%Y-%m-%dT%H:%M:%SZ}", **flights}
        row |= next(iter(parts["weather"]), dict.fromkeys(WEATHER))
        yield origin.encode(), json.dumps(row, allow_nan=False).encode()


def by_hour(flights, weathers):
    """The pipeline without its ends: PCollections of Kafka records in, (key, value) pairs to write out."""
    departures = (
        flights
        | "ParseFlight" >> beam.Map(flight)
        | "FlightHours" >> beam.WindowInto(FixedWindows(HOUR))
        | "Departures" >> beam.CombinePerKey(Departures())
    )
    conditions = weathers | "ParseWeather" >> beam.Map(weather) | "WeatherHours" >> beam.WindowInto(FixedWindows(HOUR))
    return (
        {"flights": departures, "weather": conditions}
        | "Join" >> beam.CoGroupByKey()
        | "Result" >> beam.FlatMap(result).with_output_types(tuple[bytes, bytes])
    )


def build(
    pipeline,
    consumer_config,
    producer_config,
    *,
    stop_at=None,
    flights_topic="flights",
    weather_topic="weather",
    output_topic="flights-by-hour",
):
    """Put all steps into ``pipeline``.

    Args:
        pipeline: the beam.Pipeline.
        consumer_config: of both ReadFromKafka.
        producer_config: of WriteToKafka.
        stop_at: of both ReadFromKafka: "latest" ends, None reads on.
        flights_topic: one record a flight, its create time being the scheduled departure.
        weather_topic: one record an airport and hour.
        output_topic: gets one record an airport and hour, keyed by airport.
    """

    def read(topic):
        return ReadFromKafka(
            consumer_config, [topic], timestamp_policy=ReadFromKafka.create_time_policy, stop_at=stop_at
        )

    rows = by_hour(
        pipeline | "Flights" >> read(flights_topic),
        pipeline | "Weather" >> read(weather_topic),
    )
    rows | "Write" >> WriteToKafka(producer_config, output_topic, delivery_guarantee="exactly_once")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap_servers", required=True, help="host:port of Kafka")
    parser.add_argument("--flights_topic", default="flights")
    parser.add_argument("--weather_topic", default="weather")
    parser.add_argument("--output_topic", default="flights-by-hour")
    parser.add_argument("--until_now", action="store_true", help="end when all that is in the topics now is processed")
    own, rest = parser.parse_known_args()
    # A job that starts anew reads from the beginning; one that is restored goes on where its checkpoint stands.
    consumer_config = {"bootstrap.servers": own.bootstrap_servers, "auto.offset.reset": "earliest"}
    with beam.Pipeline(options=PipelineOptions(rest, save_main_session=True)) as pipeline:
        build(
            pipeline,
            consumer_config,
            {"bootstrap.servers": own.bootstrap_servers},
            stop_at="latest" if own.until_now else None,
            flights_topic=own.flights_topic,
            weather_topic=own.weather_topic,
            output_topic=own.output_topic,
        )


if __name__ == "__main__":
    main()
