"""What a deployment of the tests stands on: SQLite or PostgreSQL, RQ or Kafka."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from support.builders import eventually
from support.kafka_server import KafkaServer
from support.postgres_server import PostgresServer

from chargeapp.pipeline import STAGES
from chargeapp.transport.kafka_client import EVENTS_TOPIC, group_of, topic_of

STACKS = ("sqlite+rq", "postgresql+rq", "postgresql+kafka")
DEFAULT = STACKS[0]
ANSWER_SECONDS = 10.0
# Of a consumer that was killed its group knows for ten seconds more.
FORGOTTEN_SECONDS = 30.0


class Kafkas:
    """A context manager. Each broker serves one deployment at a time; the next one finds nothing there."""

    def __init__(self, class_path: str) -> None:
        self._class_path = class_path
        self._running = ExitStack()
        self._idle: list[KafkaServer] = []

    @contextmanager
    def lend(self) -> Iterator[KafkaServer]:
        broker = self._one()
        began = broker.pid
        yield broker
        # An AdminClient may die of one that was started again.
        if broker.pid == began:
            self._idle.append(broker)

    def _one(self) -> KafkaServer:
        try:
            broker = self._idle.pop()
        except IndexError:
            return self._running.enter_context(KafkaServer(self._class_path))
        forget_chargeapp(broker)
        return broker

    def __enter__(self) -> "Kafkas":
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()


def forget_chargeapp(broker: KafkaServer) -> None:
    delete_topics(broker)
    admin = admin_of(broker)
    for stage in STAGES:
        eventually(lambda stage=stage: is_gone(admin, group_of(stage)), "a group has members", FORGOTTEN_SECONDS)


def admin_of(broker: KafkaServer) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.address, "log_level": 0})


def delete_topics(broker: KafkaServer) -> None:
    admin = admin_of(broker)
    ours = {*map(topic_of, STAGES), EVENTS_TOPIC} & set(admin.list_topics(timeout=ANSWER_SECONDS).topics)
    for deleted in admin.delete_topics(sorted(ours)).values() if ours else ():
        deleted.result(ANSWER_SECONDS)


def is_gone(admin: AdminClient, group: str) -> bool:
    try:
        admin.delete_consumer_groups([group])[group].result(ANSWER_SECONDS)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.NON_EMPTY_GROUP:
            return False
        if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
            raise
    return True


@dataclass(frozen=True)
class Ground:
    """What one deployment has for itself."""

    settings: dict[str, str] = field(default_factory=dict)
    kafka: KafkaServer | None = None


@dataclass(frozen=True)
class Stack:
    """SQLite and a Redis that the deployment brings along, but for the servers that are given."""

    postgres: PostgresServer | None = None
    kafkas: Kafkas | None = None

    @contextmanager
    def ground(self) -> Iterator[Ground]:
        settings: dict[str, str] = {}
        kafka = None
        with ExitStack() as given:
            if self.postgres:
                settings["DATABASE_URL"] = given.enter_context(self.postgres.new_database())
            if self.kafkas:
                kafka = given.enter_context(self.kafkas.lend())
                settings |= {"BROKER": "kafka", "KAFKA_BOOTSTRAP_SERVERS": kafka.address}
            yield Ground(settings, kafka)
