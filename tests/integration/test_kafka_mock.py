"""Publishing and reading on the cluster that librdkafka brings along for tests: runs everywhere, without Java."""

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from support.builders import STATION, eventually

from chargeapp.pipeline import AUTHORIZATION, STAGES
from chargeapp.storage.outbox import Ticket
from chargeapp.transport import kafka_topics
from chargeapp.transport.broker import BrokerUnavailable
from chargeapp.transport.kafka_client import EVENTS_TOPIC, topic_of
from chargeapp.transport.kafka_subscription import Offsets, Subscription
from chargeapp.transport.kafka_transport import KafkaTransport

JOB = f"authorization-{'0' * 32}"
TICKETS = [Ticket(row, 1) for row in range(1, 21)]


@pytest.fixture
def client() -> Iterator[dict[str, Any]]:
    """It lives as long as the producer that makes it."""
    cluster = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 3, "log_level": 0})
    for topic in (*map(topic_of, STAGES), EVENTS_TOPIC):
        # It makes a topic that it is asked about.
        cluster.list_topics(topic, timeout=10)
    brokers = cluster.list_topics(timeout=10).brokers.values()
    yield {"bootstrap.servers": ",".join(f"{each.host}:{each.port}" for each in brokers), "log_level": 0}
    cluster.close()


@pytest.fixture
def transport(client: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaTransport]:
    """This cluster has no controller, so says nothing of rights."""
    monkeypatch.setattr(kafka_topics, "RIGHTS_SECONDS", 0.2)
    transport = KafkaTransport(client)
    yield transport
    transport.close()


def read(subscription: Subscription, number: int) -> tuple[list[Ticket], Offsets]:
    tickets: list[Ticket] = []
    offsets: Offsets = {}

    def enough() -> bool:
        commands, upto = subscription.read(0.1)
        tickets.extend(each.ticket for each in commands)
        offsets.update(upto)
        return len(tickets) >= number

    eventually(enough, "nothing comes", 30)
    return tickets, offsets


def publish(transport: KafkaTransport) -> None:
    stations = {each.row_id: f"{STATION}{each.row_id}" for each in TICKETS}
    transport.publish(AUTHORIZATION, TICKETS, JOB, stations)


def test_a_producer_that_refuses_to_go_on_is_replaced(transport: KafkaTransport) -> None:
    class Broken:
        def produce(self, *_: object, **__: object) -> None:
            raise KafkaException(KafkaError(KafkaError._FATAL))

        def purge(self) -> None:
            pass

    vars(transport)["_producer"] = Broken()
    with pytest.raises(BrokerUnavailable):
        publish(transport)

    publish(transport)


def test_what_was_not_done_comes_again_to_the_next(client: dict[str, Any], transport: KafkaTransport) -> None:
    publish(transport)
    with Subscription(client, AUTHORIZATION) as first:
        tickets, _ = read(first, len(TICKETS))
    with Subscription(client, AUTHORIZATION) as second:
        again, offsets = read(second, len(TICKETS))
        assert transport.count_jobs()["authorization"].waiting == len(TICKETS)
        second.done(offsets)
        eventually(lambda: second.read(0.1) and not transport.count_jobs()["authorization"].waiting, "not committed")

    assert sorted(tickets, key=lambda each: each.row_id) == TICKETS
    assert sorted(again, key=lambda each: each.row_id) == TICKETS


def test_the_lag_and_the_jobs_that_wait_are_those_of_the_topic(transport: KafkaTransport) -> None:
    publish(transport)

    assert transport.count_jobs()["authorization"].waiting == len(TICKETS)
    assert transport.lost(AUTHORIZATION, {JOB, "authorization-gone"}) == {"authorization-gone"}


def test_a_cluster_that_is_gone_is_unavailable() -> None:
    transport = KafkaTransport({"bootstrap.servers": "127.0.0.1:1", "log_level": 0})

    for work in (transport.ping, lambda: transport.room(AUTHORIZATION), lambda: publish(transport)):
        with pytest.raises(BrokerUnavailable, match="Kafka"):
            work()
    transport.close()
