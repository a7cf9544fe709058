"""Two of everything on one PostgreSQL, as on two hosts: each has a data directory of its own, and only the URLs."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from deployment import STATION, Deployment
from servers import Receiver
from sqlalchemy import func, select, text
from support.postgres_server import PostgresServer, needed_postgres
from support.redis_server import RedisServer

from chargeapp.pipeline import STAGES
from chargeapp.security.secrets_file import new_secrets
from chargeapp.storage.models import EventRecord, SessionRequest

pytestmark = pytest.mark.only_on("sqlite", reason="brings its own PostgreSQL")
REQUESTS = 200
RECOVERED_SECONDS = 100.0  # a lease and its recovery
WORKERS = [f"worker {stage.queue}" for stage in STAGES]
# What README says of connections: a relay 2, a web process and a worker at most 8, and a worker one to listen.
MOST_CONNECTIONS = {"relay": 2, "web": 2 * 8, **dict.fromkeys(WORKERS, 9)}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(needed_postgres()) as server:
        yield server


@pytest.fixture(scope="module")
def hosts(server: PostgresServer, data_dir: Callable[[], Path]) -> Iterator[list[Deployment]]:
    shared = new_secrets()
    with RedisServer() as redis, server.new_database() as url:
        first = Deployment(data_dir(), DATABASE_URL=url, REDIS_URL=redis.url, **shared)
        second = Deployment(data_dir(), DATABASE_URL=url, REDIS_URL=redis.url, **shared)
        with first, second:
            for host in (first, second):
                for program in ("web", "relay", *WORKERS):
                    host.start(*program.split())
            for host in (first, second):
                host.until(lambda host=host: host.health()["status"] == "UP", "not healthy")
            yield [first, second]


def submit_to_both(hosts: list[Deployment], url: str) -> set[str]:
    """Each host gets every second request; what it does not accept is sent again until it does."""

    def submit(number: int) -> str:
        body = {"stationId": STATION, "driverToken": f"driver-token-of-two-hosts-{number:04}", "callbackUrl": url}
        ids: list[str] = []

        def accepted() -> bool:
            answer = requests.post(f"{hosts[number % 2].url}/api/v1/charging-session", json=body, timeout=30)
            assert answer.status_code in (200, 503), answer.text
            ids.extend([answer.json()["requestId"]] if answer.status_code == 200 else [])
            return bool(ids)

        hosts[0].until(accepted, "never accepted", 60)
        return ids[0]

    with ThreadPoolExecutor(8) as pool:
        return set(pool.map(submit, range(REQUESTS)))


def ended(host: Deployment) -> bool:
    with host.runtime.database.reading() as session:
        return not session.scalar(select(func.count()).where(SessionRequest.ended_at.is_(None)))


def terminal_events(host: Deployment) -> dict[str, int]:
    """How many each request has."""
    counted = select(EventRecord.request_id, func.count()).where(EventRecord.terminal).group_by(EventRecord.request_id)
    with host.runtime.database.reading() as session:
        return dict(session.execute(counted).all())


def connections(host: Deployment) -> int:
    counted = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with host.runtime.database.reading() as session:
        return int(session.scalar(counted) or 0)


def test_two_of_everything_call_back_each_request_once(hosts: list[Deployment], receiver: Receiver) -> None:
    path = receiver.path()

    accepted = submit_to_both(hosts, receiver.url(path))

    hosts[0].until(lambda: ended(hosts[0]), "requests did not end", RECOVERED_SECONDS)
    callbacks = receiver.by_request(path)
    assert set(callbacks) == accepted
    assert {len(each) for each in callbacks.values()} == {1}
    assert set(terminal_events(hosts[0]).values()) == {1}
    assert connections(hosts[0]) <= 2 * sum(MOST_CONNECTIONS.values())
    assert all("Traceback" not in host.output() for host in hosts)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_restart_of_the_server_in_the_middle_loses_nothing(
    hosts: list[Deployment], server: PostgresServer, receiver: Receiver, how: signal.Signals
) -> None:
    path = receiver.path()
    with ThreadPoolExecutor(1) as pool:
        submitting = pool.submit(submit_to_both, hosts, receiver.url(path))
        receiver.wait_for(path, REQUESTS // 4)
        server.stop(how)
        hosts[0].until(lambda: hosts[0].health()["status"] == "DOWN", "nobody noticed")
        server.start()
        accepted = submitting.result()

    hosts[0].until(lambda: ended(hosts[0]), "requests did not end", RECOVERED_SECONDS)
    assert accepted <= set(receiver.by_request(path))
    assert set(terminal_events(hosts[0]).values()) == {1}
    assert all("Traceback" not in host.output() for host in hosts)
