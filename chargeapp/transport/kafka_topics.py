"""Our topics: whether we may do with them what we have to, and making those that are missing."""

import time
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient, NewTopic  # type: ignore[attr-defined]

from chargeapp.pipeline import STAGES
from chargeapp.transport.broker import BrokerRefuses, BrokerUnavailable
from chargeapp.transport.kafka_client import ANSWER_SECONDS, EVENTS_TOPIC, topic_of, unavailable

# As many workers of a stage can read at the same time; more of them take rows from the database only.
PARTITIONS = 12
RIGHTS_SECONDS = 2.0
WRITE = (AclOperation.DESCRIBE, AclOperation.WRITE)
NEEDED = {**{topic_of(stage): (*WRITE, AclOperation.READ) for stage in STAGES}, EVENTS_TOPIC: WRITE}


def make_topics(admin: AdminClient) -> None:
    """Those that are missing, copied as often as the broker does by default."""
    wanted = [NewTopic(topic, num_partitions=PARTITIONS) for topic in missing_topics(admin)]
    if not wanted:
        return
    with unavailable("topics"):
        begun = admin.create_topics(wanted, request_timeout=ANSWER_SECONDS)
    for topic, made in begun.items():
        with unavailable(f"Create on topic {topic}"):
            try:
                made.result(2 * ANSWER_SECONDS)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
    # A broker hears of them a moment later, and until then refuses who subscribes.
    give_up_at = time.monotonic() + ANSWER_SECONDS
    with unavailable("topics"):
        while not NEEDED.keys() <= admin.list_topics(timeout=ANSWER_SECONDS).topics.keys():
            if time.monotonic() > give_up_at:
                return
            time.sleep(0.02)


def prepare(client: dict[str, Any]) -> None:
    """What a new cluster lacks; raises BrokerUnavailable."""
    make_topics(AdminClient(client))


def missing_topics(admin: AdminClient) -> list[str]:
    """Raises BrokerRefuses, which names every right that is missing, or BrokerUnavailable."""
    with unavailable("topics"):
        listed = admin.list_topics(timeout=ANSWER_SECONDS).topics
    try:
        return _described(admin)
    except BrokerRefuses:
        raise
    except BrokerUnavailable:
        # Only a controller is asked about rights. While there is none, the other brokers go on.
        if not NEEDED.keys() <= listed.keys():
            raise
        return []


def _described(admin: AdminClient) -> list[str]:
    absent: list[str] = []
    missing: list[str] = []
    wanted = TopicCollection(list(NEEDED))
    with unavailable("topics"):
        found = admin.describe_topics(wanted, include_authorized_operations=True, request_timeout=RIGHTS_SECONDS)
        for topic, needed in NEEDED.items():
            try:
                # An old broker says nothing of rights.
                allowed = found[topic].result(2 * RIGHTS_SECONDS).authorized_operations or needed
            except KafkaException as error:
                if (code := error.args[0].code()) == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    absent.append(topic)
                elif code != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise
                allowed = needed if topic in absent else ()
            if lacking := [each.name.title() for each in needed if each not in allowed]:
                missing.append(f"{' and '.join(lacking)} on topic {topic}")
    if missing:
        raise BrokerRefuses(f"Kafka: rights are missing: {', '.join(missing)}")
    return absent
