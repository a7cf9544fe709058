"""Kafka under drill."""

import itertools
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from chargeapp.pipeline import STAGES, Stage
from chargeapp.transport.kafka_client import EVENTS_TOPIC, group_of, topic_of
from drilling.brokers import BrokerSilent
from drilling.kafka_server import KafkaServer

TOPICS = {*map(topic_of, STAGES), EVENTS_TOPIC}
ANSWER_SECONDS = 5.0
AWAY_SECONDS = 1.0
# A group whose members are killed may let nobody in for long.
JOIN_SECONDS = 12.0
STAY_SECONDS = 2.0


class Kafka:
    """A cluster that somebody lends, or with `server` that one: only such a server is ever stopped."""

    def __init__(self, address: str, server: KafkaServer | None = None) -> None:
        self.words = " --broker kafka" if server else " --broker HOST:PORT"
        self.faults: dict[str, Callable[[], bool]] = {
            "delete records": self._delete_records,
            "delete topics": self._delete_topics,
            "rebalance": self._rebalance,
        }
        if server:
            self.faults["kill kafka"] = lambda: self._kill(server)
        self._address = address
        self._server = server
        self._client: dict[str, Any] = {"bootstrap.servers": address, "log_level": 0}
        self._stages = itertools.cycle(STAGES)

    def start(self) -> None:
        """Raises LookupError for a cluster that chargeapp has been in, or that does not answer."""
        if self._server:
            self._server.initialize()
            self._server.start()
        try:
            there = AdminClient(self._client).list_topics(timeout=ANSWER_SECONDS).topics
        except KafkaException as error:
            raise LookupError(f"Kafka does not answer at {self._address}") from error
        if found := sorted(TOPICS & set(there)):
            raise LookupError(
                f"There is a topic {found[0]} already. A drill needs a cluster without chargeapp's topics"
            )

    def stop(self) -> None:
        if self._server:
            self._server.stop()

    def forget(self) -> None:
        if self._server:
            self._server.remove()

    def settings(self) -> dict[str, str]:
        return {"BROKER": "kafka", "KAFKA_BOOTSTRAP_SERVERS": self._address}

    def engine(self) -> str:
        return f"Kafka {self._server.version}" if self._server else "Kafka"

    def jobs(self) -> dict[str, int]:
        """The lag of each group."""
        try:
            return {stage.queue: self._lag(stage) for stage in STAGES}
        except KafkaException as error:
            raise BrokerSilent from error

    def _lag(self, stage: Stage) -> int:
        onlooker = Consumer({**self._client, "group.id": group_of(stage), "enable.auto.commit": False})
        try:
            lag = 0
            for each in onlooker.committed(self._partitions(onlooker, topic_of(stage)), ANSWER_SECONDS):
                first, end = onlooker.get_watermark_offsets(each, ANSWER_SECONDS)
                lag += end - (each.offset if first <= each.offset <= end else first)
            return lag
        finally:
            onlooker.close()

    def _partitions(self, client: Consumer | AdminClient, topic: str) -> list[TopicPartition]:
        found = client.list_topics(topic, timeout=ANSWER_SECONDS).topics[topic]
        return [TopicPartition(topic, number) for number in found.partitions]

    def _kill(self, server: KafkaServer) -> bool:
        server.stop()
        time.sleep(AWAY_SECONDS)
        server.start()
        return True

    def _delete_records(self) -> bool:
        """What retention does to those who read too late."""
        try:
            admin = AdminClient(self._client)
            everywhere = [each for topic in TOPICS for each in self._partitions(admin, topic)]
            for each in everywhere:
                each.offset = OFFSET_END
            for done in admin.delete_records(everywhere).values():
                done.result(ANSWER_SECONDS)
        except (KafkaException, TimeoutError):
            return False
        return bool(everywhere)

    def _delete_topics(self) -> bool:
        """The deployment has to make them again."""
        try:
            # Whoever forgets the client is told that all was cancelled.
            admin = AdminClient(self._client)
            there = TOPICS & set(admin.list_topics(timeout=ANSWER_SECONDS).topics)
            for done in admin.delete_topics(sorted(there)).values() if there else ():
                done.result(ANSWER_SECONDS)
        except (KafkaException, TimeoutError):
            return False
        return bool(there)

    def _rebalance(self) -> bool:
        """One more comes into a group, reads, does nothing, and goes: others have to read the same again."""
        stage = next(self._stages)
        visitor = Consumer(
            {
                **self._client,
                "group.id": group_of(stage),
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": 10_000,
            }
        )
        try:
            visitor.subscribe([topic_of(stage)])
            leave_at = time.monotonic() + JOIN_SECONDS
            while time.monotonic() < leave_at:
                visitor.poll(0.1)
                if visitor.assignment():
                    leave_at = min(leave_at, time.monotonic() + STAY_SECONDS)
        except KafkaException:
            return False
        finally:
            visitor.close()
        return True
