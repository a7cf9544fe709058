"""A worker's place among those that read a stage's topic."""

import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition

from chargeapp.logs import get_logger
from chargeapp.pipeline import Stage
from chargeapp.transport.cloud_events import Command, unpack_command
from chargeapp.transport.kafka_client import REFUSALS, group_of, topic_of
from chargeapp.transport.message import PoisonMessage

log = get_logger()

MESSAGES_AT_ONCE = 64
# Who reads nothing for so long is taken for dead. A worker reads all the time, also during a job.
READING_MILLIS = 120_000
SILENT_MILLIS = 10_000
LOOK_SECONDS = 1.0
# Trouble that did not come for so long is over; if it comes again, it is told again.
QUIET_SECONDS = 60.0
# Of one broker, or of the way to it: others may do. When none does, that is told.
PASSING = {KafkaError._TRANSPORT, KafkaError._RESOLVE}
Offsets = dict[int, int]


class Subscription:
    """A context manager. Messages are taken by `read`, and again by anybody until they were `done`."""

    def __init__(self, client: Mapping[str, Any], stage: Stage) -> None:
        self._stage = stage
        self._topic = topic_of(stage)
        self._own: set[int] = set()
        self._to_commit: Offsets = {}
        self._away = False
        self._look_at = 0.0
        self._last_seen: dict[int, float] = {}
        self._consumer = Consumer(
            {
                **client,
                "group.id": group_of(stage),
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                # Who joins or leaves disturbs nobody but those whose partitions move.
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": SILENT_MILLIS,
                "max.poll.interval.ms": READING_MILLIS,
                "error_cb": self._trouble,
                "on_commit": self._committed,
            }
        )

    def read(self, seconds: float) -> tuple[list[Command], Offsets]:
        """What came within this time, and up to where it goes; a message that is none of ours is left out."""
        self._commit()
        first = self._consumer.poll(seconds)
        if seconds:
            # Without, a job is under way, whose results must not wait for Kafka.
            self._notice_return()
        if first is None:
            return [], {}
        commands: list[Command] = []
        offsets: Offsets = {}
        for message in (first, *self._consumer.consume(MESSAGES_AT_ONCE - 1, 0)):
            if (error := message.error()) is not None:
                self._trouble(error)
                continue
            partition, offset = message.partition(), message.offset()
            assert partition is not None and offset is not None
            offsets[partition] = offset + 1
            try:
                commands.append(unpack_command(self._stage, message.value()))
            except PoisonMessage as poison:
                log.error("Message refused", action="message_refused", queue=self._stage.queue, error=str(poison))
        return commands, offsets

    def done(self, offsets: Offsets) -> None:
        """The database has what came of these messages."""
        self._to_commit |= offsets
        self._commit()

    def _commit(self) -> None:
        # What moved to another worker in the meantime is that one's to commit.
        positions = [TopicPartition(self._topic, *each) for each in self._to_commit.items() if each[0] in self._own]
        self._to_commit = {}
        if positions:
            self._consumer.commit(offsets=positions, asynchronous=True)

    def _committed(self, error: KafkaError | None, positions: list[TopicPartition]) -> None:
        """Whatever was not taken is tried again with the next read."""
        for each in positions:
            if (error is not None or each.error is not None) and each.offset > OFFSET_INVALID:
                self._to_commit.setdefault(each.partition, each.offset)

    def _assigned(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._own |= {each.partition for each in partitions}

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._own -= {each.partition for each in partitions}

    def _trouble(self, error: KafkaError) -> None:
        code = error.code()
        if code == KafkaError._ALL_BROKERS_DOWN:
            if not self._away:
                self._away = True
                log.warning("Waiting for Kafka", action="kafka_awaited", error=error.str())
        elif code not in PASSING:
            now = time.monotonic()
            if now - self._last_seen.get(code, -QUIET_SECONDS) >= QUIET_SECONDS:
                needed = {"needed": f"Describe and Read on topic and group {self._topic}"} if code in REFUSALS else {}
                log.warning(
                    "Kafka refuses", action="kafka_refuses", queue=self._stage.queue, error=error.str(), **needed
                )
            self._last_seen[code] = now

    def _notice_return(self) -> None:
        if not self._away or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_SECONDS
        try:
            self._consumer.list_topics(self._topic, timeout=0.5)
        except KafkaException:
            return
        self._away = False
        log.info("Kafka is back", action="kafka_back")

    def __enter__(self) -> "Subscription":
        self._consumer.subscribe(
            [self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the group, so that others go on with its partitions at once."""
        if not self._away:
            positions = [TopicPartition(self._topic, *each) for each in self._to_commit.items() if each[0] in self._own]
            try:
                if positions:
                    self._consumer.commit(offsets=positions, asynchronous=False)
            except KafkaException as error:
                log.warning("Messages will come again", action="commit_failed", error=str(error))
        self._consumer.close()
