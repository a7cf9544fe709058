"""Two hosts on one PostgreSQL, one of them with a wrong clock: both go by the server's."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from deployment import Deployment
from servers import Answer, AuthorizationStub, Receiver
from sqlalchemy import select
from support.moved_clock import MovedClock
from support.postgres_server import PostgresServer
from support.redis_server import RedisServer

from chargeapp.clock import utcnow
from chargeapp.pipeline import STAGES
from chargeapp.relay import RECOVERY_SECONDS
from chargeapp.security.secrets_file import new_secrets
from chargeapp.storage import heartbeats
from chargeapp.storage.models import SessionRequest

pytestmark = pytest.mark.only_on("sqlite", reason="brings its own PostgreSQL and Redis")
HOUR = 3600
ALLOWED = b'{"status": "allowed"}'


@pytest.fixture(scope="module")
def wrong(data_dir: Callable[[], Path]) -> MovedClock:
    return MovedClock(data_dir())


@pytest.fixture(scope="module")
def hosts(data_dir: Callable[[], Path], postgres: PostgresServer, wrong: MovedClock) -> Iterator[list[Deployment]]:
    """Everything on each; only the clock of the second is wrong, by an hour from its start."""
    service = AuthorizationStub()
    service.answers("driver", Answer(200, ALLOWED, delay_seconds=1))
    wrong.set(HOUR)
    with RedisServer() as redis, postgres.new_database() as url:
        shared = {**new_secrets(), "DATABASE_URL": url, "REDIS_URL": redis.url}
        right = Deployment(data_dir(), AUTHORIZATION_SERVICE_URL=service.url, **shared)
        other = Deployment(data_dir(), AUTHORIZATION_SERVICE_URL=service.url, **shared, **wrong.environment)
        with right, other:
            for program in ("web", "relay", *(f"worker {stage.queue}" for stage in STAGES)):
                right.start(*program.split())
                other.start(*program.split())
            for host in (right, other):
                host.until(lambda host=host: host.health()["status"] == "UP", "not healthy")
            yield [right, other]
    service.close()


@pytest.mark.parametrize("ahead", [-HOUR, 3 * HOUR], ids=["set back", "set forward"])
def test_a_wrong_clock_makes_nothing_late_and_disturbs_no_other_host(
    hosts: list[Deployment], receiver: Receiver, wrong: MovedClock, ahead: int
) -> None:
    path = receiver.path()
    ids = [host.submit(f"driver-token-of-hosts-{n}", receiver.url(path)) for n in range(3) for host in hosts]

    wrong.set(ahead)

    for request_id in ids:
        shown = hosts[0].wait_until(request_id, state="delivered")
        assert (shown["decision"], shown["source"]) == ("allowed", "authorization_service")
    looked_at = last_look(hosts[0])
    hosts[0].until(lambda: last_look(hosts[0]) > looked_at + timedelta(seconds=RECOVERY_SECONDS), "relays stall")
    with hosts[0].runtime.database.reading() as session:
        accepted = list(session.scalars(select(SessionRequest.accepted_at)))
    assert all(timedelta() <= utcnow() - each < timedelta(minutes=5) for each in accepted)
    assert all("clock_set" not in host.output() for host in hosts)


def last_look(host: Deployment) -> datetime:
    with host.runtime.database.reading() as session:
        looked_at = heartbeats.last(session, "relay")
    assert looked_at is not None
    return looked_at
