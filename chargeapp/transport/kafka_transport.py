"""Publishes claimed rows to Kafka, one message each, and tells which of them wait there no more."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from cloudevents.core.bindings.kafka import KafkaMessage
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from sqlalchemy import Row

from chargeapp.pipeline import STAGES, Stage
from chargeapp.storage.outbox import Ticket
from chargeapp.transport.broker import BrokerUnavailable, Jobs
from chargeapp.transport.cloud_events import pack_command, pack_event
from chargeapp.transport.kafka_client import EVENTS_TOPIC, topic_of, unavailable
from chargeapp.transport.kafka_look import KafkaLook, is_run
from chargeapp.transport.kafka_topics import make_topics, missing_topics

ROWS_AT_ONCE = 64
# Rows beyond these wait in the database. Jobs that are at work take them from there in any case.
ROWS_WAITING = 128
DELIVERY_SECONDS = 5.0


class KafkaTransport:
    keyed = True

    def __init__(self, client: Mapping[str, Any]) -> None:
        self._client = dict(client)
        self._topics_made = False

    def room(self, stage: Stage) -> int:
        self._make_topics()
        return max(0, min(ROWS_AT_ONCE, ROWS_WAITING - self._looks[stage.queue].lag()))

    def publish(self, stage: Stage, tickets: Sequence[Ticket], job_id: str, stations: Mapping[int, str]) -> None:
        """One message for each ticket; returns when every copy that the broker wants is made."""
        messages = [pack_command(stage, each, job_id, stations.get(each.row_id, "")) for each in tickets]
        self._send(topic_of(stage), messages)

    def publish_events(self, events: Sequence[Row[Any]]) -> None:
        """For other services."""
        self._send(EVENTS_TOPIC, map(pack_event, events))

    def _send(self, topic: str, messages: Iterable[KafkaMessage]) -> None:
        """In this order, for each key."""
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: object) -> None:
            if error is not None:
                failed.append(error)

        self._make_topics()
        try:
            with unavailable(topic):
                for each in messages:
                    self._producer.produce(
                        topic, each.value, each.key, headers=dict(each.headers), on_delivery=delivered
                    )
                left = self._producer.flush(DELIVERY_SECONDS + 1)
                if failed:
                    raise KafkaException(failed[0])
            if left:
                raise BrokerUnavailable("Kafka: no answer")
        except BrokerUnavailable:
            self._forget_producer()
            raise

    def lost(self, stage: Stage, job_ids: Collection[str]) -> set[str]:
        """All but those with a message that the stage's group has not done yet."""
        # What a worker began by itself was never published; the end of its lease brings that back.
        published = {each for each in job_ids if not is_run(each)}
        return published - self._looks[stage.queue].waiting_jobs() if published else set()

    def count_jobs(self) -> dict[str, Jobs]:
        return {queue: Jobs(look.lag()) for queue, look in self._looks.items()}

    def enqueue_scheduled(self) -> None:
        """Kafka holds nothing back: rows that are to be tried again later are published later."""

    def ping(self) -> None:
        missing_topics(self._admin)

    def close(self) -> None:
        """While the interpreter still works: threads of the library would call into one that has ended."""
        self._forget_producer()
        self.__dict__.pop("_admin", None)
        for each in self.__dict__.pop("_looks", {}).values():
            each.close()

    def _make_topics(self) -> None:
        if not self._topics_made:
            make_topics(self._admin)
            self._topics_made = True

    @cached_property
    def _admin(self) -> AdminClient:
        return AdminClient(self._client)

    @cached_property
    def _looks(self) -> dict[str, KafkaLook]:
        return {stage.queue: KafkaLook(self._client, stage) for stage in STAGES}

    @cached_property
    def _producer(self) -> Producer:
        return Producer(
            {
                **self._client,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 0,
                "delivery.timeout.ms": int(DELIVERY_SECONDS * 1000),
                "request.timeout.ms": int(DELIVERY_SECONDS * 1000),
            }
        )

    def _forget_producer(self) -> None:
        """After a failure it may hold messages of rows that others have by then, or refuse to go on at all."""
        producer = self.__dict__.pop("_producer", None)
        if producer is not None:
            producer.purge()
        self._topics_made = False
