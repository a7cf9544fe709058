"""Two hosts with everything but the database and Redis, which are on a third one; then one is cut off, and healed."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
from deployment import STATION, Deployment, stop
from servers import Answer, Receiver
from sqlalchemy import func, select
from support.postgres_server import MIGRATED, PostgresServer, needed_postgres
from support.redis_server import RedisServer
from support.separate_hosts import SUBNET, SeparateHost, Switch, separate_hosts

from chargeapp.security.secrets_file import new_secrets
from chargeapp.storage.database import Database
from chargeapp.storage.models import EventRecord, SessionRequest

pytestmark = pytest.mark.only_on("sqlite", reason="brings its own PostgreSQL and Redis")
# A lease of a minute, and what it takes to find out that it has ended.
LEASE_ENDED_SECONDS = 80.0
# Twice the time after which a silent connection is given up.
BACK_SECONDS = 30.0
ANSWER_SECONDS = 20.0
PAUSE_SECONDS = 0.1
SOME = 30
# To one destination: those of the host that was cut off are made again by the other.
CALLS_UNDER_WAY = 24


@dataclass
class Caller:
    """Somebody on the host itself: asks until each request is accepted, one after the other."""

    host: SeparateHost
    deployment: Deployment
    callback_url: str
    accepted: list[str] = field(default_factory=list)
    refused: int = 0

    def call(self, finished: Callable[[], bool]) -> None:
        self.host.enter()
        with requests.Session() as http:
            while not finished():
                self._ask(http)

    def _ask(self, http: requests.Session) -> None:
        number = len(self.accepted)
        body = {
            "stationId": STATION,
            "driverToken": f"driver-token-apart-{number:05}",
            "callbackUrl": self.callback_url,
        }
        key = {"Idempotency-Key": f"{self.host.address} {number}"}
        url = f"{self.deployment.url}/api/v1/charging-session"
        answer = http.post(url, json=body, headers=key, timeout=ANSWER_SECONDS)
        assert answer.status_code in (200, 503), answer.text
        if answer.status_code == 200:
            self.accepted.append(answer.json()["requestId"])
        else:
            self.refused += 1
        time.sleep(PAUSE_SECONDS)


@dataclass
class Site:
    switch: Switch
    callers: list[Caller]
    receiver: Receiver
    path: str
    database: Database

    @contextmanager
    def calling(self, *callers: Caller) -> Iterator[None]:
        finished = threading.Event()
        threads = [threading.Thread(target=each.call, args=(finished.is_set,)) for each in callers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            finished.set()
            for thread in threads:
                thread.join()

    def unended(self, accepted: list[str]) -> set[str]:
        with self.database.reading() as session:
            unended = set(session.scalars(select(SessionRequest.id).where(SessionRequest.ended_at.is_(None))))
        return unended & set(accepted)


@pytest.fixture
def site(data_dir: Callable[[], Path]) -> Iterator[Site]:
    with ExitStack() as stack:
        switch, hosts = stack.enter_context(separate_hosts(2))
        with switch.inside():
            postgres = stack.enter_context(PostgresServer(needed_postgres(), listen_addresses=switch.address))
            # Whoever could reach it is one of ours.
            open_to_all = {"bind": switch.address, "port": "6379", "protected-mode": "no"}
            stack.enter_context(RedisServer(**open_to_all))
            receiver = Receiver(switch.address)
            stack.callback(receiver.close)
        settings = {
            "DATABASE_URL": postgres.url_at(switch.address, MIGRATED),
            "REDIS_URL": f"redis://{switch.address}:6379/0",
            "CALLBACK_ALLOWED_NETWORKS": SUBNET,
            **new_secrets(),
        }
        path = receiver.path(Answer(204, delay_seconds=0.2))
        callers = []
        for host in hosts:
            with host.inside():
                deployment = stack.enter_context(Deployment(data_dir(), **settings)).up()
            callers.append(Caller(host, deployment, receiver.url(path)))
        database = Database(postgres.url(MIGRATED))
        stack.callback(database.close)
        yield Site(switch, callers, receiver, path, database)


@pytest.mark.slow
def test_a_host_that_was_cut_off_loses_nothing_and_comes_back_by_itself(site: Site) -> None:
    stays, leaves = site.callers
    with site.calling(stays, leaves):
        until(lambda: min(len(stays.accepted), len(leaves.accepted)) >= SOME, "the hosts do not work")
        site.switch.cut(leaves.host)
        before = len(stays.accepted)
        until(lambda: leaves.refused > 0, "the host that was cut off does not notice", BACK_SECONDS)
        until(lambda: len(stays.accepted) >= before + SOME, "the other host accepts no more")
    until(lambda: not site.unended(stays.accepted), "the other host does not go on", LEASE_ENDED_SECONDS)

    site.switch.heal(leaves.host)
    # Whatever is done from now on is done by the one that was cut off.
    stop(stays.deployment.supervisor)
    before = len(leaves.accepted)
    with site.calling(leaves):
        until(lambda: len(leaves.accepted) >= before + SOME, "its API does not come back", BACK_SECONDS)
    until(lambda: not site.unended(leaves.accepted), "its relay and workers do not come back", LEASE_ENDED_SECONDS)

    callbacks = site.receiver.by_request(site.path)
    assert {*stays.accepted, *leaves.accepted} <= set(callbacks)
    assert terminal_events(site.database) == dict.fromkeys(callbacks, 1)
    assert sum(len(each) - 1 for each in callbacks.values()) <= CALLS_UNDER_WAY


def terminal_events(database: Database) -> dict[str, int]:
    counted = select(EventRecord.request_id, func.count()).where(EventRecord.terminal).group_by(EventRecord.request_id)
    with database.reading() as session:
        return dict(session.execute(counted).all())


def until(condition: Callable[[], bool], otherwise: str, deadline_seconds: float = 20.0) -> None:
    give_up_at = time.monotonic() + deadline_seconds
    while not condition():
        assert time.monotonic() < give_up_at, otherwise
        time.sleep(0.05)
