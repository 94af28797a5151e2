"""A topic that is deleted and made again under a running read in Python."""

import dataclasses

import pytest

from beam_k8s.errors import KafkaError
from beam_k8s.transforms import ReadFromKafka, sdf
from beam_k8s.transforms.clients import KafkaPythonConsumers
from tests.unit.test_kafka_sdf import Call


def read_on(reader, todo, upto=1 << 62):
    """Call after call, as a runner makes them."""
    while todo.parts[0].next < upto:
        todo = Call(reader, todo).finish().residual
    return todo


@pytest.mark.timeout(60)
@pytest.mark.parametrize("records", [0, 10])
def test_the_read_ends_in_an_error_that_says_so(broker, topic, records):
    name = topic()
    broker.produce(name, [(b"k", b"%d" % number) for number in range(50)])
    servers = {"bootstrap.servers": broker.bootstrap_servers, "auto.offset.reset": "earliest"}
    config = dataclasses.replace(ReadFromKafka(servers, [name])._config, poll_timeout_ms=100)
    consumers = KafkaPythonConsumers(config.bootstrap_servers, None, config.properties)
    reader = sdf.make_reader(config, consumers)
    (todo,) = sdf.ListParts(config, consumers).process(b"")
    todo = read_on(reader, todo, 50)
    with broker.admin() as admin:
        admin.delete_topics([name])
    broker.create_topics({name: 1})
    broker.produce(name, [(b"k", b"%d" % number) for number in range(records)])
    with pytest.raises(KafkaError, match=r"was read up to offset 50 .* made again, or cut"):
        read_on(reader, todo)
