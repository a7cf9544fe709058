"""Processes started one by one: with cron alone, with several relays at once, with a worker that comes late."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from deployment import Deployment, stop
from servers import Receiver

from chargeapp.clock import utcnow

REQUESTS = 200


@pytest.fixture(scope="module")
def apart(data_dir: Callable[[], Path]) -> Iterator[Deployment]:
    """The broker, the API and two of the workers: no relay, and nobody to send callbacks yet."""
    with Deployment(data_dir()) as deployment:
        deployment.start_broker()
        deployment.start("web")
        deployment.start("worker", "authorization")
        deployment.start("worker", "delivery-events")
        deployment.until(lambda: workers(deployment) == {"authorization", "delivery-events"}, "workers do not work")
        yield deployment


@contextmanager
def running(deployment: Deployment, *programs: str) -> Iterator[None]:
    started = [deployment.start(*program.split()) for program in programs]
    try:
        yield
    finally:
        assert [stop(process) for process in started] == [0] * len(started)


def workers(deployment: Deployment) -> set[str]:
    health = deployment.health()
    found = health["components"]["workers"]["details"] if "components" in health else {}
    return {queue for queue, count in found.items() if count != "0"}


def test_cron_alone_brings_a_request_to_its_end(apart: Deployment, receiver: Receiver) -> None:
    path = receiver.path()
    request_id = apart.submit("driver-token-of-relays-cron", receiver.url(path))
    assert apart.show(request_id)["state"] == "accepted"

    with running(apart, "worker callbacks"):
        for _ in range(3):  # one for each outbox; a job hands over by itself where it can
            apart.run_cron()

        apart.wait_until(request_id, state="delivered")
    assert len(receiver.at(path)) == 1
    assert apart.health()["components"]["relay"]["status"] == "UP"


def test_an_expired_decision_is_recorded_and_never_sent(apart: Deployment, receiver: Receiver) -> None:
    path = receiver.path()
    with running(apart, "relay"):
        request_id = apart.submit("driver-token-of-relays-late", receiver.url(path), ttlSeconds=1)
        apart.wait_until(request_id, state="decided")
        apart.until(lambda: expired(apart, request_id), "time stands still")
        with running(apart, "worker callbacks"):
            shown = apart.wait_until(request_id, state="expired")

            assert (shown["attempts"], receiver.at(path)) == (0, [])
            assert apart.terminal_events(request_id) == ["CallbackDeliveryFailed"]
            assert apart.post(f"/{request_id}/redelivery").status_code == 202
            apart.wait_until(request_id, state="delivered")
    assert len(receiver.at(path)) == len(apart.terminal_events(request_id)) == 1


def expired(deployment: Deployment, request_id: str) -> bool:
    return utcnow() > datetime.fromisoformat(deployment.show(request_id)["expiresAt"])


def test_two_relays_and_cron_at_once_claim_no_row_twice(apart: Deployment, receiver: Receiver) -> None:
    path = receiver.path()
    finished = threading.Event()

    def cron() -> int:
        runs = 0
        while not finished.is_set():
            apart.run_cron()
            runs += 1
        return runs

    with running(apart, "relay", "relay", "worker callbacks"), ThreadPoolExecutor(9) as pool:
        crons = pool.submit(cron)
        try:
            tokens = [f"driver-token-of-relays-{number:04}" for number in range(REQUESTS)]
            accepted = set(pool.map(lambda token: apart.submit(token, receiver.url(path)), tokens))
            receiver.wait_for(path, REQUESTS)
            apart.until(lambda: all_ended(apart), "requests did not end")
        finally:
            finished.set()
        assert crons.result() >= 1

    callbacks = receiver.by_request(path)
    assert set(callbacks) == accepted
    assert {len(each) for each in callbacks.values()} == {1}
    assert "Traceback" not in apart.output()


def all_ended(deployment: Deployment) -> bool:
    return set(deployment.get("/metrics").json()["outbox_rows_waiting"].values()) == {0}
