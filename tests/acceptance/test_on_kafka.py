"""The whole pipeline with a real Kafka as its broker, and no Redis anywhere."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from deployment import STATION, Deployment, children_of, stop
from servers import Answer, Receiver
from sqlalchemy import func, select
from support.kafka_messages import messages_at
from support.kafka_server import KafkaServer
from support.postgres_server import PostgresServer

from chargeapp.pipeline import STAGES
from chargeapp.storage.models import EventRecord, SessionRequest
from chargeapp.transport.broker import BrokerUnavailable
from chargeapp.transport.kafka_client import EVENTS_TOPIC

pytestmark = pytest.mark.only_on("sqlite", reason="brings its own Kafka")
REQUESTS = 300
RECOVERED_SECONDS = 100.0  # a lease and its recovery
WORKERS = [f"worker {stage.queue}" for stage in STAGES]


@pytest.fixture
def apart(data_dir: Callable[[], Path], kafka: KafkaServer, postgres: PostgresServer) -> Iterator[Deployment]:
    """Each process by itself, so that those that end stay away until the test starts them again."""
    with postgres.new_database() as url:
        given = {"BROKER": "kafka", "KAFKA_BOOTSTRAP_SERVERS": kafka.address, "DATABASE_URL": url}
        with Deployment(data_dir(), **given) as deployment:
            yield deployment


def submit(deployment: Deployment, url: str, going_on: threading.Event) -> set[str]:
    """As fast as answers come, each for a station of its own, until it is enough."""

    def one(number: int) -> str:
        station = f"{STATION[:-4]}{number % 50:04}"
        body = {"stationId": station, "driverToken": f"driver-token-of-kafka-{number:06}", "callbackUrl": url}
        answer = requests.post(f"{deployment.url}/api/v1/charging-session", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["requestId"])

    accepted: set[str] = set()
    with ThreadPoolExecutor(4) as pool:
        while len(accepted) < REQUESTS or going_on.is_set():
            accepted |= set(pool.map(one, range(len(accepted), len(accepted) + 20)))
            going_on.wait(0) or threading.Event().wait(0.2)
    return accepted


def open_requests(deployment: Deployment) -> int:
    with deployment.runtime.database.reading() as session:
        return session.scalar(select(func.count()).where(SessionRequest.ended_at.is_(None))) or 0


def left(deployment: Deployment) -> list[str]:
    """What still has to be done."""
    with deployment.runtime.database.reading() as session:
        return [
            f"{row.id} of {stage.queue}: due {row.due_at}, taken {row.taken_at}, lease {row.lease_until}, {row.job_id}"
            for stage in STAGES
            for row in session.scalars(select(stage.outbox).where(stage.outbox.settled_at.is_(None)))
        ]


def terminal_events(deployment: Deployment) -> dict[str, int]:
    """How many each request has."""
    counted = select(EventRecord.request_id, func.count()).where(EventRecord.terminal).group_by(EventRecord.request_id)
    with deployment.runtime.database.reading() as session:
        return dict(session.execute(counted).all())


def test_kills_a_restart_of_the_broker_and_a_rebalance_lose_nothing(
    apart: Deployment, kafka: KafkaServer, receiver: Receiver
) -> None:
    path = receiver.path()
    programs = {name: apart.start(*name.split()) for name in ("web", "relay", *WORKERS)}
    apart.until(lambda: apart.health()["status"] == "UP", lambda: f"not healthy: {apart.health()}")
    going_on = threading.Event()
    going_on.set()
    with ThreadPoolExecutor(1) as pool:
        submitting = pool.submit(submit, apart, receiver.url(path), going_on)
        receiver.wait_for(path, 40)
        for name in ("worker callbacks", "relay"):
            assert stop(programs[name], signal.SIGKILL) == -signal.SIGKILL
            programs[name] = apart.start(*name.split())
        second = apart.start("worker", "callbacks")
        receiver.wait_for(path, 100)

        kafka.stop()
        apart.until(lambda: apart.health()["components"]["kafka"]["status"] == "DOWN", "nobody noticed")
        kafka.start()
        apart.until(lambda: apart.health()["components"]["kafka"]["status"] == "UP", "nobody noticed its return")
        assert stop(second) == 0
        going_on.clear()
        accepted = submitting.result()

    apart.until(lambda: not open_requests(apart), lambda: f"requests did not end: {left(apart)}", RECOVERED_SECONDS)
    assert accepted <= set(receiver.by_request(path))
    assert terminal_events(apart) == dict.fromkeys(accepted, 1)
    apart.until(lambda: not waiting(apart), lambda: f"messages are left: {waiting(apart)}")
    apart.until(lambda: accepted <= told_to_others(kafka), "other services did not hear of every end")
    assert [stop(process) for process in programs.values()] == [0] * len(programs)
    assert "Traceback" not in apart.output()


def told_to_others(kafka: KafkaServer) -> set[str]:
    """The requests of whose end there is an event; nothing there tells of a driver."""
    ended: set[str] = set()
    for each in messages_at(kafka.address, EVENTS_TOPIC.__eq__):
        value = each.value() or b""
        assert b"driver" not in value
        event = json.loads(value)
        if event["data"]["terminal"]:
            ended.add(event["subject"])
    return ended


def waiting(deployment: Deployment) -> int | str:
    try:
        return sum(jobs.waiting for jobs in deployment.runtime.transport.count_jobs().values())
    except BrokerUnavailable as error:
        return str(error)  # It may look for the coordinators of its groups for a while after it is back.


def test_up_needs_no_redis_and_tells_of_kafka(
    data_dir: Callable[[], Path], kafka: KafkaServer, receiver: Receiver
) -> None:
    path = receiver.path(Answer(500), Answer(204))
    with Deployment(data_dir(), BROKER="kafka", KAFKA_BOOTSTRAP_SERVERS=kafka.address) as deployment:
        deployment.up()
        request_id = deployment.submit("driver-token-of-kafka-up", receiver.url(path))

        shown = deployment.wait_until(request_id, state="delivered")

        assert shown["attempts"] == 2
        health = deployment.health()
        assert health["components"]["kafka"]["status"] == "UP"
        assert "redis" not in health["components"]
        metrics = deployment.get("/metrics?format=prometheus").text
        assert 'chargeapp_kafka_lag{queue="callbacks"}' in metrics
        commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in children_of(deployment.supervisor.pid)]
        assert not any("redis" in each for each in commands)
        os.kill(deployment.supervisor.pid, signal.SIGTERM)
        assert deployment.supervisor.wait(30) == 0
        assert "Traceback" not in deployment.output()
