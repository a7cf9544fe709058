"""The relay and workers on a real Kafka: what they publish, hold back, find lost, and when they have done it."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from structlog.testing import capture_logs
from support.builders import (
    FAILED,
    POLICY,
    STATION,
    TOKEN,
    Callbacks,
    Requests,
    accept,
    decide,
    eventually,
    just_now,
    new_runtime,
    only_row,
    rows,
    seconds,
    the_request,
)
from support.callers import open_api
from support.kafka_server import PASSWORD, USER, KafkaServer
from support.kafka_worker import working
from support.ports import free_port
from support.redis_server import RedisServer

import jobs.consumer
from chargeapp import relay as relay_module
from chargeapp.clock import utcnow
from chargeapp.commands.checks.kafka import check_kafka
from chargeapp.commands.overview import look
from chargeapp.config import Settings
from chargeapp.domain.authorization import Answer
from chargeapp.domain.callback import Reply
from chargeapp.domain.charging_session import Decision
from chargeapp.errors import MisconfiguredError
from chargeapp.pipeline import AUTHORIZATION, CALLBACKS, STAGES, Stage
from chargeapp.relay import Pass
from chargeapp.runtime import Runtime
from chargeapp.storage import outbox
from chargeapp.transport.broker import BrokerUnavailable
from chargeapp.transport.kafka_client import EVENTS_TOPIC, group_of, topic_of
from chargeapp.transport.kafka_topics import make_topics
from chargeapp.transport.kafka_transport import ROWS_WAITING
from jobs.kafka_worker import KafkaWorker

TOPIC = topic_of(AUTHORIZATION)


@pytest.fixture
def runtime(tmp_path: Path, kafka: KafkaServer) -> Iterator[Runtime]:
    with on_kafka(tmp_path, kafka) as runtime:
        eventually(lambda: answers(runtime), "no group can be asked about", 30)
        forget_messages(kafka)
        yield runtime


def forget_messages(kafka: KafkaServer) -> None:
    """What other tests left is done."""
    for stage in STAGES:
        reader = reader_of(kafka, stage)
        partitions = [TopicPartition(topic_of(stage), each) for each in range(12)]
        ends = [(each.partition, reader.get_watermark_offsets(each)[1]) for each in partitions]
        reader.commit(offsets=[TopicPartition(topic_of(stage), *each) for each in ends], asynchronous=False)
        reader.close()


def reader_of(kafka: KafkaServer, stage: Stage = AUTHORIZATION) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": kafka.address,
            "group.id": group_of(stage),
            "enable.partition.eof": True,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )


@contextmanager
def on_kafka(directory: Path, kafka: KafkaServer, **settings: Any) -> Iterator[Runtime]:
    given = {
        "broker": "kafka",
        "kafka_bootstrap_servers": (kafka.address,),
        "queue_consumer_threads": 4,
        "redis_url": None,
    }
    with new_runtime(directory, **given, **settings) as runtime:
        yield runtime


def answers(runtime: Runtime) -> bool:
    """A new broker first makes the topic in which it keeps the offsets."""
    try:
        runtime.transport.publish(AUTHORIZATION, [], "job", {})
        return set(runtime.transport.count_jobs()) == {stage.queue for stage in STAGES}
    except BrokerUnavailable:
        return False


def messages(kafka: KafkaServer) -> list[Any]:
    """All that wait, oldest first."""
    reader = reader_of(kafka)
    begins = reader.committed([TopicPartition(TOPIC, each) for each in range(12)], timeout=10)
    reader.assign(begins)
    found, ends = [], 0
    while ends < len(begins):
        for each in reader.consume(500, 0.1):
            if each.error() is None:
                found.append(each)
            else:
                ends += 1
    reader.close()
    return sorted(found, key=lambda each: each.timestamp())


def settled(runtime: Runtime) -> bool:
    return all(row.settled_at for row in rows(runtime.database, Requests))


def waiting(runtime: Runtime) -> int:
    return runtime.transport.count_jobs()["authorization"].waiting


def claimed_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay asks about rows at once, and not after the seconds that publishing may take."""
    monkeypatch.setattr(relay_module, "JUST_CLAIMED", seconds(-60))


def recovered(runtime: Runtime) -> int:
    done = Pass()
    runtime.relay.recover(done)
    return done.recovered


def tried(work: Callable[[], int]) -> int:
    try:
        return work()
    except BrokerUnavailable:
        return 0


def test_a_due_row_becomes_a_message_keyed_by_its_station_that_carries_its_number_only(
    runtime: Runtime, kafka: KafkaServer
) -> None:
    accept(runtime.database, now=just_now())

    assert runtime.relay.publish_due(AUTHORIZATION) == 1

    (message,) = messages(kafka)
    envelope = json.loads(message.value())
    row = only_row(runtime.database, Requests)
    assert message.key() == STATION.encode()
    assert dict(message.headers()) == {"content-type": b"application/cloudevents+json"}
    assert envelope.pop("time")
    assert envelope == {
        "specversion": "1.0",
        "id": f"{row.job_id}-{row.id}",
        "source": "/chargeapp",
        "type": "chargeapp.command.authorization",
        "datacontenttype": "application/json",
        "partitionkey": STATION,
        "data": {"row": row.id, "seq": 1},
    }


def test_the_rows_of_a_station_stay_in_one_partition(runtime: Runtime, kafka: KafkaServer) -> None:
    stations = [f"123e4567-e89b-12d3-a456-42661417{number:04}" for number in range(8)]
    for station in stations * 3:
        accept(runtime.database, now=just_now(), station_id=station)

    runtime.relay.publish_due(AUTHORIZATION)

    places = {(each.key().decode(), each.partition()) for each in messages(kafka)}
    assert sorted(station for station, _ in places) == stations
    assert len({partition for _, partition in places}) > 1


def test_rows_beyond_the_lag_wait_in_the_database(
    runtime: Runtime, kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(runtime.database, ROWS_WAITING + 10, now=just_now(), vault=runtime.vault)

    assert runtime.relay.publish_due(AUTHORIZATION) == ROWS_WAITING == waiting(runtime)
    assert runtime.relay.publish_due(AUTHORIZATION) == 0
    with working(runtime, monkeypatch):
        eventually(lambda: settled(runtime) and not waiting(runtime), "not worked on", 30)

    assert runtime.transport.room(AUTHORIZATION) > 0


def test_rows_that_cannot_be_published_are_released(tmp_path: Path, kafka: KafkaServer) -> None:
    nobody = (f"127.0.0.1:{free_port()}",)
    with new_runtime(tmp_path, broker="kafka", kafka_bootstrap_servers=nobody) as runtime:
        accept(runtime.database, now=just_now())
        runtime.transport.room = lambda _: 1  # type: ignore[method-assign]
        runtime.transport._topics_made = True  # type: ignore[attr-defined]

        with pytest.raises(BrokerUnavailable, match="Kafka"):
            runtime.relay.publish_due(AUTHORIZATION)

        row = only_row(runtime.database, Requests)
        assert (row.lease_until, row.job_id, row.settled_at) == (None, None, None)


def test_rows_whose_topic_was_deleted_are_due_again(
    runtime: Runtime, kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed_long_ago(monkeypatch)
    accept(runtime.database, 5, now=just_now())
    runtime.relay.publish_due(AUTHORIZATION)
    assert recovered(runtime) == 0

    admin = AdminClient({"bootstrap.servers": kafka.address})
    admin.delete_topics([TOPIC])[TOPIC].result(10)

    # For a moment the broker answers as if the topic were there.
    assert eventually(lambda: tried(lambda: recovered(runtime)), "never found lost") == 5
    assert eventually(lambda: tried(lambda: runtime.relay.publish_due(AUTHORIZATION)), "never published", 30) == 5
    assert len(messages(kafka)) == 5
    assert recovered(runtime) == 0


def test_rows_whose_messages_were_removed_are_due_again(
    runtime: Runtime, kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by retention."""
    claimed_long_ago(monkeypatch)
    accept(runtime.database, now=just_now())
    runtime.relay.publish_due(AUTHORIZATION)
    (message,) = messages(kafka)
    until = TopicPartition(TOPIC, message.partition(), message.offset() + 1)
    admin = AdminClient({"bootstrap.servers": kafka.address})
    for removed in admin.delete_records([until]).values():
        removed.result(10)

    assert recovered(runtime) == 1


def test_from_redis_to_kafka_and_back_the_rows_in_flight_are_due_again(
    runtime: Runtime, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed_long_ago(monkeypatch)
    accept(runtime.database, 3, now=just_now())
    with new_runtime(runtime.settings.chargeapp_data_dir, redis_url=server.url) as on_redis:
        assert on_redis.relay.publish_due(AUTHORIZATION) == 3
        assert recovered(on_redis) == 0

        assert recovered(runtime) == 3
        assert runtime.relay.publish_due(AUTHORIZATION) == 3
        assert recovered(runtime) == 0

        assert recovered(on_redis) == 3
        assert on_redis.relay.publish_due(AUTHORIZATION) == 3


def test_a_message_is_done_once_the_database_has_what_came_of_it(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = threading.Event(), threading.Event()

    class Slow:
        def authorize(self, *_: object) -> Answer:
            asked.set()
            assert answer.wait(20)
            return Answer(Decision.ALLOWED, None, "access_list", millis=7)

    vars(runtime)["authorizer"] = Slow()
    (request_id,) = accept(runtime.database, now=just_now(), vault=runtime.vault)
    runtime.relay.publish_due(AUTHORIZATION)
    with working(runtime, monkeypatch):
        assert asked.wait(20)
        assert waiting(runtime) == 1
        answer.set()
        eventually(lambda: not waiting(runtime), "never done", 20)

        assert the_request(runtime.database, request_id).decision == "allowed"


def test_a_worker_that_ends_in_the_middle_leaves_its_messages_to_the_next(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(runtime.database, now=just_now(), vault=runtime.vault)
    runtime.relay.publish_due(AUTHORIZATION)
    with monkeypatch.context() as patch, capture_logs():
        patch.setattr(jobs.consumer.Consumer, "run", lambda *_: (_ for _ in ()).throw(SystemExit()))
        dying = KafkaWorker(runtime, AUTHORIZATION)
        with pytest.raises(SystemExit):
            dying.work()

    with working(runtime, monkeypatch):
        eventually(lambda: settled(runtime) and not waiting(runtime), "not worked on", 20)


def test_a_poison_message_is_refused_with_one_line_and_passed_by(
    runtime: Runtime, kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = Producer({"bootstrap.servers": kafka.address})
    of_another = {"specversion": "1.0", "id": f"callbacks-{'0' * 32}-1", "source": "/chargeapp"}
    poison = [
        b"\x80\x04pickle",
        b"[" * 3000,
        b"x" * 5000,
        b"{}",
        json.dumps({**of_another, "type": "chargeapp.command.callbacks", "data": {"row": 1, "seq": 1}}).encode(),
        json.dumps({**of_another, "type": "chargeapp.command.authorization", "data": {"row": "1"}}).encode(),
    ]
    for each in poison:
        producer.produce(TOPIC, each, "key")
    producer.flush(10)
    accept(runtime.database, now=just_now(), vault=runtime.vault)

    with capture_logs() as lines, working(runtime, monkeypatch):
        runtime.relay.publish_due(AUTHORIZATION)
        eventually(lambda: settled(runtime) and not waiting(runtime), "not passed by", 20)

    refused = [each for each in lines if each["event"] == "Message refused"]
    assert len(refused) == len(poison)
    assert all(TOKEN not in str(each) for each in lines)


def test_a_row_whose_message_never_comes_is_taken_by_an_idle_worker(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(runtime.database, now=just_now(), vault=runtime.vault)
    with runtime.database.writing() as session:
        outbox.claim_due(session, Requests, job_id="authorization-gone", limit=1, now=utcnow())

    with working(runtime, monkeypatch):
        eventually(lambda: settled(runtime), "left lying", 20)


def test_what_a_job_has_to_try_again_later_the_relay_publishes_in_time(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under RQ the row stays leased for a grace, because the job itself comes back for it."""

    class Refusing:
        def send(self, *_: object) -> Reply:
            return FAILED

    vars(runtime).update(callback_endpoint=Refusing(), retry_policy=replace(POLICY, first_delay_seconds=300.0))
    accept(runtime.database, now=just_now(), vault=runtime.vault)
    decide(runtime.database, now=just_now())
    runtime.relay.publish_due(CALLBACKS)
    with working(runtime, monkeypatch, CALLBACKS):
        eventually(lambda: only_row(runtime.database, Callbacks).job_id is None, "never left to the relay", 20)
    row = only_row(runtime.database, Callbacks)
    del vars(runtime)["callback_endpoint"]

    assert (row.attempts, row.lease_until) == (1, None)
    assert row.due_at > utcnow() + seconds(100)


def test_a_password_over_tls_lets_in_and_a_wrong_one_does_not(tmp_path: Path, kafka: KafkaServer) -> None:
    given = {
        "broker": "kafka",
        "kafka_bootstrap_servers": (kafka.address_with_login,),
        "kafka_security_protocol": "SASL_SSL",
        "kafka_ssl_ca_location": str(kafka.authority.certificate),
        "kafka_sasl_mechanism": "PLAIN",
        "kafka_sasl_username": USER,
    }
    with new_runtime(tmp_path, **given, kafka_sasl_password=PASSWORD) as runtime:
        eventually(lambda: answers(runtime), "not let in", 30)
    with new_runtime(tmp_path, **given, kafka_sasl_password="another") as runtime:
        with pytest.raises(BrokerUnavailable):
            runtime.transport.ping()
        assert "another" not in repr(runtime.settings)


def test_health_metrics_the_page_of_queues_and_the_doctor_tell_of_kafka(runtime: Runtime) -> None:
    accept(runtime.database, 3, now=just_now())
    runtime.relay.publish_due(AUTHORIZATION)
    api = open_api(runtime)

    health = api.get("/health").get_json()["components"]
    assert (health["kafka"]["status"], "redis" in health) == ("UP", False)
    figures = api.get("/metrics?format=prometheus").get_data(as_text=True)
    assert "chargeapp_kafka_up 1.0" in figures
    assert 'chargeapp_kafka_lag{queue="authorization"} 3.0' in figures
    assert "redis" not in figures
    assert '<th scope="col">Messages waiting</th>' in (page := api.get("/queues").get_data(as_text=True))
    assert "<td>3</td>" in page
    (servers,) = runtime.settings.kafka_bootstrap_servers
    (finding,) = check_kafka(runtime)
    assert re.fullmatch(rf"{re.escape(servers)} answers; 3 messages wait", finding.found)
    (part,) = [each for each in look(runtime).parts if each.name == "kafka"]
    assert part.found.startswith("answers; messages waiting: authorization 3, callbacks 0, ")


def test_without_kafka_everything_says_so(tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    with new_runtime(tmp_path, broker="kafka", redis_url=None, kafka_bootstrap_servers=(nobody,)) as runtime:
        api = open_api(runtime)

        health = api.get("/health").get_json()
        assert (health["status"], health["components"]["kafka"]["status"]) == ("DEGRADED", "DOWN")
        figures = api.get("/metrics?format=prometheus").get_data(as_text=True)
        assert "chargeapp_kafka_up 0.0" in figures
        assert "kafka_lag" not in figures
        assert "Kafka does not answer." in api.get("/queues").get_data(as_text=True)
        (finding,) = check_kafka(runtime)
        assert finding.status == "fail"
        (part,) = [each for each in look(runtime).parts if each.name == "kafka"]
        assert part.health == "degraded"


def test_kafka_without_an_address_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match="KAFKA_BOOTSTRAP_SERVERS: needed"):
        Runtime(Settings(chargeapp_data_dir=tmp_path, broker="kafka")).verify()


def test_topics_are_made_at_the_start(runtime: Runtime, kafka: KafkaServer) -> None:
    found = AdminClient({"bootstrap.servers": kafka.address}).list_topics(timeout=10).topics

    ours = {name: len(each.partitions) for name, each in found.items() if name.startswith("chargeapp.")}
    assert ours == dict.fromkeys([*map(topic_of, STAGES), EVENTS_TOPIC], 12)


def test_whoever_has_made_topics_finds_them(kafka: KafkaServer) -> None:
    """Several processes make them at the same time, and subscribe at once."""
    client = {"bootstrap.servers": kafka.address, "log_level": 0}
    admin = AdminClient(client)
    ours = {*map(topic_of, STAGES), EVENTS_TOPIC}

    def there() -> set[str]:
        return ours & set(admin.list_topics(timeout=10).topics)

    def make_and_look(_: int) -> set[str]:
        own = AdminClient(client)
        make_topics(own)
        return ours & set(own.list_topics(timeout=10).topics)

    for _ in range(3):
        for deleted in admin.delete_topics(sorted(there())).values() if there() else ():
            deleted.result(10)
        eventually(lambda: not there(), "topics are not deleted")
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(make_and_look, range(4))) == [ours] * 4
