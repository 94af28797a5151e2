"""The plan of a pipeline: pure, so plain values in and out."""

import json
from functools import cache

import apache_beam as beam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_k8s import graph
from beam_k8s.launcher.plan import conflicts, make_plan
from beam_k8s.parallelism import plan_source
from beam_k8s.settings import resolve
from beam_k8s.transforms import ReadFromKafka, WriteToKafka
from tests.cluster.launch import ROOT

LOCAL = {"job_name": "j", "k8s_target": "local"}


@cache
def two_reads():
    pipeline = beam.Pipeline()
    for name, topics in (("Flights", ["flights"]), ("Weather", ["weather", "storms"])):
        pipeline | name >> ReadFromKafka({"bootstrap.servers": "127.0.0.1:1"}, topics)
    return pipeline.to_runner_api()


def plan(options=(), workers=8, **more):
    proto = two_reads()
    flags = {"job_name": "j", "k8s_target": "local", "num_workers": workers, **more}
    settings = resolve(flags, {}, {}, must_stream=graph.needs_streaming(proto))
    sources = {source.topics[0]: source.transform_id for source in graph.kafka_sources(proto)}
    partitions = {sources["flights"]: {"flights": 6}, sources["weather"]: {"weather": 2, "storms": 1}}
    return make_plan(proto, settings, dict(options), partitions)


def test_each_source_is_capped_at_its_own_partitions_and_idle_slots_are_told():
    flights, weather = plan().sources
    assert (flights.partitions, flights.parallelism, flights.idle_slots) == (6, 6, 2)
    assert (weather.partitions, weather.parallelism, weather.idle_slots) == (3, 3, 5)
    assert "5 of 8 slots have no partition" in str(plan())
    caps = {
        tuple(payload["topics"]): payload["max_parallelism"]
        for transform in plan().pipeline.components.transforms.values()
        if transform.spec.urn == graph.KAFKA_READ
        for payload in [json.loads(transform.spec.payload)]
    }
    assert caps == {("flights",): 6, ("weather", "storms"): 3}


def test_a_source_whose_topics_could_not_be_looked_at_has_no_cap_and_says_so():
    proto = two_reads()
    settings = resolve({"job_name": "j", "k8s_target": "local"}, {}, {}, must_stream=True)
    flights = next(source for source in graph.kafka_sources(proto) if source.topics == ("flights",))
    result = make_plan(proto, settings, {}, {flights.transform_id: {"flights": 6}})
    _, weather = result.sources
    assert (weather.partitions, weather.parallelism, weather.idle_slots) == (None, 1, 0)
    assert "an unknown number of partitions of weather, storms" in str(result)
    payloads = [
        json.loads(transform.spec.payload)
        for transform in result.pipeline.components.transforms.values()
        if transform.spec.urn == graph.KAFKA_READ
    ]
    assert {payload["topics"][0]: payload.get("max_parallelism") for payload in payloads} == {
        "flights": 6,
        "weather": None,
    }


def conflicts_of(flags, guarantee="exactly_once", **properties):
    """What is refused of a job with two such writes."""
    pipeline = beam.Pipeline()
    records = pipeline | ReadFromKafka({"bootstrap.servers": "127.0.0.1:1"}, ["words"])
    for name in ("One", "Two"):
        producer = {"bootstrap.servers": "127.0.0.1:1", **properties}
        records | name >> WriteToKafka(producer, "counts", delivery_guarantee=guarantee)
    settings = resolve(LOCAL | flags, {}, {}, must_stream=True)
    return [str(error) for error in conflicts(pipeline.to_runner_api(), settings, {})]


@pytest.mark.parametrize(
    ("flags", "properties"),
    [
        ({"checkpointing_interval": -1}, {}),
        ({"checkpointing_interval": 900_001}, {}),
        ({"checkpointing_interval": 840_001}, {}),  # and a minute for the checkpoint itself
        ({"checkpoint_timeout_millis": 900_000}, {}),
        ({"checkpointing_interval": 10_000}, {"transaction.timeout.ms": 10_000}),
    ],
)
def test_exactly_once_needs_checkpoints_before_kafka_aborts_its_transactions(flags, properties):
    one, two = conflicts_of(flags, **properties)
    (flag,) = flags.items()
    assert f"--{flag[0]}={flag[1]}" in one
    assert "One/Sink has delivery_guarantee='exactly_once'" in one
    assert "Two/Sink has delivery_guarantee='exactly_once'" in two
    assert all(f"transaction.timeout.ms={value}" in one for value in properties.values())
    assert conflicts_of(flags, guarantee="at_least_once", **properties) == []


def test_exactly_once_is_fine_with_the_defaults_and_with_intervals_that_fit():
    assert conflicts_of({}) == []
    assert conflicts_of({"checkpointing_interval": 840_000}) == []
    assert conflicts_of({"checkpointing_interval": 3_600_000}, **{"transaction.timeout.ms": 7_200_000}) == []


def test_an_autoscaler_needs_a_source_and_no_other_autoscaler():
    scaled = {"k8s_autoscaler_mode": "on"}
    assert conflicts_of(scaled) == []
    (other,) = conflicts_of(scaled | {"k8s_flink_conf": ["job.autoscaler.enabled=true"]})
    assert "--k8s_flink_conf=job.autoscaler.enabled=true starts the operator's autoscaler" in other
    pipeline = beam.Pipeline()
    pipeline | beam.Create([1])
    settings = resolve(LOCAL | scaled, {}, {})
    (blind,) = conflicts(pipeline.to_runner_api(), settings, {})
    assert "--k8s_autoscaler_mode=on: the pipeline reads nothing by beam_k8s.ReadFromKafka" in str(blind)


def test_a_plan_says_how_it_is_scaled_and_where_that_ends():
    text = str(plan(workers=1, k8s_autoscaler_mode="recommend", max_num_workers=9))
    assert "autoscaler recommend: policy balanced, 1 to 9 workers" in text
    assert "warning: the most workers are 9, but 6 partitions keep no more than 6 busy" in text
    assert "autoscaler" not in str(plan())


def test_the_writer_has_the_transaction_timeout_that_the_plan_reckons_with():
    source = ROOT / "images/runner/src/main/java/org/beamk8s/runner/kafka/KafkaWriteSpec.java"
    assert f'TRANSACTION_TIMEOUT_MS = "{graph.TRANSACTION_TIMEOUT_MS}"' in source.read_text()


def test_an_unbounded_read_makes_the_job_stream():
    assert plan().settings.streaming
    assert not graph.is_unbounded(beam.Pipeline().to_runner_api())


@given(st.dictionaries(st.from_regex(r"mine_[a-z]{1,8}", fullmatch=True), st.text(min_size=8)))
def test_no_option_of_the_user_reaches_the_translator_but_each_reaches_the_harness(options):
    result = plan(options)
    assert not set(options) & set(result.translator_options)
    assert options.items() <= result.harness_options.items()


def test_a_printed_plan_shows_no_value_of_an_option_and_no_secret_of_flinks():
    assert "planted" not in str(plan({"password": "planted"}))
    assert "planted" not in str(plan(k8s_flink_conf=["fs.azure.account.key.me=planted", "s3.secret-key=planted"]))


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_source_uses_as_many_subtasks_as_can_have_a_partition(partitions, slots):
    source = plan_source("s", "t", partitions, slots)
    assert source.parallelism + source.idle_slots == slots
    assert 1 <= source.parallelism <= partitions
    assert source.idle_slots == 0 or source.parallelism == partitions
