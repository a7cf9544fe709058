"""What a stage's workers have not done yet, as an onlooker sees it who joins no group and so disturbs nobody."""

import contextlib
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from chargeapp.pipeline import Stage
from chargeapp.transport.broker import BrokerRefuses, BrokerUnavailable
from chargeapp.transport.cloud_events import unpack_command
from chargeapp.transport.kafka_client import ANSWER_SECONDS, REFUSALS, group_of, topic_of, unavailable
from chargeapp.transport.message import PoisonMessage

READ_SECONDS = 5.0
MESSAGES_AT_ONCE = 500
# In place of a time, these ask for the ends of a partition.
EARLIEST, LATEST = -2, -1


@dataclass(frozen=True)
class Stretch:
    """A partition's messages from one offset up to, not including, another."""

    partition: int
    begin: int
    end: int


class KafkaLook:
    """Its methods may raise BrokerUnavailable.

    An AdminClient could ask about all groups. But a broker that comes back and does not know a group yet makes it die
    of a segmentation fault (librdkafka 2.16), so each group is asked about by a consumer of its name.
    """

    def __init__(self, client: Mapping[str, Any], stage: Stage) -> None:
        self._client = client
        self._stage = stage
        self._topic = topic_of(stage)
        self._refused = False
        self._consumer = Consumer({**client, "group.id": group_of(stage), "enable.auto.commit": False})

    def close(self) -> None:
        self._consumer.close()

    def lag(self) -> int:
        return sum(each.end - each.begin for each in self._undone())

    def waiting_jobs(self) -> set[str]:
        """Ids of the jobs whose messages are not done."""
        stretches = {each.partition: each for each in self._undone() if each.end > each.begin}
        if not stretches:
            return set()
        found: set[str] = set()
        deadline = time.monotonic() + READ_SECONDS
        own = {"group.id": "chargeapp.look", "enable.auto.commit": False, "enable.partition.eof": True}
        reader = Consumer({**self._client, **own, "auto.offset.reset": "earliest"})
        with unavailable(self._topic):
            try:
                reader.assign([TopicPartition(self._topic, each.partition, each.begin) for each in stretches.values()])
                while stretches:
                    if time.monotonic() > deadline:
                        raise BrokerUnavailable("Kafka: messages cannot be read in time")
                    for message in reader.consume(MESSAGES_AT_ONCE, 0.1):
                        self._look_at(message, stretches, found)
            finally:
                reader.close()
        return found

    def _look_at(self, message: Message, stretches: dict[int, Stretch], found: set[str]) -> None:
        partition, offset = message.partition(), message.offset()
        if (error := message.error()) is not None and error.code() != KafkaError._PARTITION_EOF:
            raise KafkaException(error)
        if partition not in stretches or offset is None:
            return
        if error is None:
            with contextlib.suppress(PoisonMessage):
                found.add(unpack_command(self._stage, message.value()).job_id)
        if error is not None or offset + 1 >= stretches[partition].end:
            del stretches[partition]

    def _undone(self) -> list[Stretch]:
        with unavailable(self._topic):
            partitions = self._partitions()
            if not partitions:
                return []
            committed = self._committed(partitions)
            # In this order: what is done meanwhile only makes the stretch look longer.
            begins, ends = self._ends(partitions, EARLIEST), self._ends(partitions, LATEST)
        return [Stretch(each, _begin(committed[each], begins[each], end), end) for each, end in ends.items()]

    def _committed(self, partitions: list[TopicPartition]) -> dict[int, int]:
        """Who may not ask gets no answer; that he may not, the library tells beside it, and once."""
        try:
            found = _offsets(self._consumer.committed(partitions, timeout=ANSWER_SECONDS))
        except KafkaException as error:
            if self._told() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                self._refused = True
            if self._refused:
                raise BrokerRefuses(f"Kafka: rights are missing: Describe and Read on group {self._topic}") from error
            raise
        # What it has to tell would pile up.
        self._told()
        self._refused = False
        return found

    def _told(self) -> int | None:
        message = self._consumer.poll(0)
        error = message.error() if message else None
        return error.code() if error else None

    def _partitions(self) -> list[TopicPartition]:
        """Empty if there is no such topic."""
        found = self._consumer.list_topics(self._topic, timeout=ANSWER_SECONDS).topics[self._topic]
        if found.error is not None and found.error.code() in REFUSALS:
            raise KafkaException(found.error)
        return [TopicPartition(self._topic, number) for number in sorted(found.partitions)]

    def _ends(self, partitions: list[TopicPartition], kind: int) -> dict[int, int]:
        asked = [TopicPartition(self._topic, each.partition, kind) for each in partitions]
        return _offsets(self._consumer.offsets_for_times(asked, timeout=ANSWER_SECONDS))


def _offsets(positions: Iterable[TopicPartition]) -> dict[int, int]:
    """Of each partition; raises KafkaException if one is not known."""
    found = list(positions)
    for each in found:
        if each.error is not None:
            raise KafkaException(each.error)
    return {each.partition: each.offset for each in found}


def _begin(committed: int, first: int, end: int) -> int:
    """Where a worker would go on: in a topic that was made anew, at the beginning."""
    return committed if first <= committed <= end else first


def new_run_id(stage: Stage) -> str:
    """Of a job that a worker begins; no message has it."""
    return f"{stage.queue}-run-{uuid.uuid4().hex}"


def is_run(job_id: str) -> bool:
    return "-run-" in job_id
