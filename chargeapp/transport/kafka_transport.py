"""Publishes claimed rows to Kafka, one message each, and tells which of them wait there no more."""

import contextlib
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cloudevents.core.bindings.kafka import KafkaMessage
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from sqlalchemy import Row

from chargeapp.pipeline import STAGES, Stage
from chargeapp.storage.outbox import Ticket
from chargeapp.transport.broker import BrokerUnavailable, Jobs
from chargeapp.transport.cloud_events import pack_command, pack_event, unpack_command
from chargeapp.transport.kafka_client import (
    ANSWER_SECONDS,
    EVENTS_TOPIC,
    answer,
    group_of,
    make_topics,
    partitions_of,
    topic_of,
    unavailable,
)
from chargeapp.transport.message import PoisonMessage

ROWS_AT_ONCE = 64
# Rows beyond these wait in the database. Jobs that are at work take them from there in any case.
ROWS_WAITING = 128
DELIVERY_SECONDS = 5.0
PING_SECONDS = 2.0


@dataclass(frozen=True)
class Stretch:
    """What of a partition its group has not done yet: from the first offset up to, not including, the second."""

    partition: TopicPartition
    begin: int
    end: int


class KafkaTransport:
    keyed = True

    def __init__(self, client: Mapping[str, Any]) -> None:
        self._client = dict(client)
        self._topics_made = False

    def room(self, stage: Stage) -> int:
        return max(0, min(ROWS_AT_ONCE, ROWS_WAITING - self._lag(stage)))

    def publish(self, stage: Stage, tickets: Sequence[Ticket], job_id: str, stations: Mapping[int, str]) -> None:
        """One message for each ticket; returns when every copy that the broker wants is made."""
        messages = [pack_command(stage, each, job_id, stations.get(each.row_id, "")) for each in tickets]
        self._send(topic_of(stage), messages)

    def publish_events(self, events: Sequence[Row[Any]]) -> None:
        """For other services."""
        self._send(EVENTS_TOPIC, map(pack_event, events))

    def _send(self, topic: str, messages: Iterable[KafkaMessage]) -> None:
        """In this order, for each key."""
        failed: list[str] = []

        def delivered(error: Any, _: object) -> None:
            if error is not None:
                failed.append(error.str())

        self._make_topics()
        with unavailable():
            producer = self._producer
            try:
                for each in messages:
                    producer.produce(topic, each.value, each.key, headers=dict(each.headers), on_delivery=delivered)
            except BufferError as error:
                failed.append(str(error))
            left = producer.flush(DELIVERY_SECONDS + 1)
        if failed or left:
            self._forget_producer()
            raise BrokerUnavailable(f"Kafka: {failed[0] if failed else 'no answer'}")

    def lost(self, stage: Stage, job_ids: Collection[str]) -> set[str]:
        """All but those with a message that the stage's group has not done yet."""
        # What a worker began by itself was never published; the end of its lease brings that back.
        published = {each for each in job_ids if not is_run(each)}
        return published - self._waiting_jobs(stage) if published else set()

    def count_jobs(self) -> dict[str, Jobs]:
        return {stage.queue: Jobs(self._lag(stage)) for stage in STAGES}

    def enqueue_scheduled(self) -> None:
        """Kafka holds nothing back: rows that are to be tried again later are published later."""

    def ping(self) -> None:
        with unavailable():
            self._admin.list_topics(timeout=PING_SECONDS)

    def close(self) -> None:
        self._forget_producer()

    def _lag(self, stage: Stage) -> int:
        return sum(each.end - each.begin for each in self._undone(stage))

    def _undone(self, stage: Stage) -> list[Stretch]:
        partitions = partitions_of(self._admin, topic_of(stage))
        if not partitions:
            self._topics_made = False
            return []
        request = ConsumerGroupTopicPartitions(group_of(stage), partitions)
        with unavailable():
            asked = self._admin.list_consumer_group_offsets([request], request_timeout=ANSWER_SECONDS)
            found = answer(asked[request.group_id]).topic_partitions
        committed = {each.partition: each.offset for each in found}
        # In this order: what is committed meanwhile only makes the stretch look longer.
        begins = self._offsets(partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        ends = self._offsets(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        return [
            Stretch(
                each,
                _begin(committed.get(each.partition, -1), begins[each.partition], ends[each.partition]),
                ends[each.partition],
            )
            for each in partitions
        ]

    def _offsets(self, partitions: list[TopicPartition], kind: OffsetSpec) -> dict[int, int]:
        with unavailable():
            asked = self._admin.list_offsets(dict.fromkeys(partitions, kind), request_timeout=ANSWER_SECONDS)
            return {partition.partition: answer(future).offset for partition, future in asked.items()}

    def _waiting_jobs(self, stage: Stage) -> set[str]:
        stretches = {each.partition.partition: each for each in self._undone(stage) if each.end > each.begin}
        if not stretches:
            return set()
        # It joins no group, so it disturbs nobody.
        reader = Consumer(
            {
                **self._client,
                "group.id": "chargeapp.look",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
            }
        )
        found: set[str] = set()
        deadline = time.monotonic() + DELIVERY_SECONDS
        with unavailable():
            try:
                topic = topic_of(stage)
                reader.assign(
                    [TopicPartition(topic, each.partition.partition, each.begin) for each in stretches.values()]
                )
                while stretches:
                    if time.monotonic() > deadline:
                        raise BrokerUnavailable("Kafka: messages cannot be read in time")
                    for message in reader.consume(500, 0.1):
                        self._look_at(stage, message, stretches, found)
            finally:
                reader.close()
        return found

    @staticmethod
    def _look_at(stage: Stage, message: Message, stretches: dict[int, Stretch], found: set[str]) -> None:
        partition = message.partition()
        assert partition is not None
        if (error := message.error()) is not None:
            if error.code() != error._PARTITION_EOF:
                raise KafkaException(error)
            stretches.pop(partition, None)
            return
        with contextlib.suppress(PoisonMessage):
            found.add(unpack_command(stage, message.value()).job_id)
        if partition in stretches and (message.offset() or 0) + 1 >= stretches[partition].end:
            del stretches[partition]

    def _make_topics(self) -> None:
        if not self._topics_made:
            make_topics(self._admin)
            self._topics_made = True

    @cached_property
    def _admin(self) -> AdminClient:
        return AdminClient(self._client)

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


def _begin(committed: int, first: int, end: int) -> int:
    """Where a worker would go on: of a topic that was made anew it begins at the beginning."""
    return committed if first <= committed <= end else first


def is_run(job_id: str) -> bool:
    return "-run-" in job_id
