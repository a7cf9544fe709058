"""The wall clock is set under everything that waits: nobody's time is up because of that."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import count, pairwise
from pathlib import Path

import pytest
from deployment import Deployment
from servers import Answer, AuthorizationStub, Receiver
from sqlalchemy import select
from support.moved_clock import MovedClock

from chargeapp.storage import heartbeats
from chargeapp.storage.models import SessionRequest

pytestmark = pytest.mark.only_on(
    "rq", reason="the cron relay hung there under the clock these tests set, and why is not known"
)
HOUR = 3600
# Between two of the relay.
LOOK = timedelta(seconds=5)
RETRY_SECONDS = [1, 2]
ALLOWED = b'{"status": "allowed"}'
numbers = count()


@pytest.fixture(scope="module")
def clock(data_dir: Callable[[], Path]) -> MovedClock:
    return MovedClock(data_dir())


@pytest.fixture(scope="module")
def moved(data_dir: Callable[[], Path], clock: MovedClock) -> Iterator[Deployment]:
    """Everything, and a second relay. Questions are asked one at a time: meanwhile the others wait."""
    service = AuthorizationStub()
    service.answers("driver", Answer(200, ALLOWED, delay_seconds=1))
    with Deployment(
        data_dir(),
        **clock.environment,
        AUTHORIZATION_SERVICE_URL=service.url,
        QUEUE_CONSUMER_THREADS="1",
        CALLBACK_MAX_RETRIES=str(len(RETRY_SECONDS)),
    ) as deployment:
        deployment.up()
        deployment.start("relay")
        yield deployment
    service.close()


@pytest.mark.parametrize("ahead", [-HOUR, HOUR], ids=["an hour back", "two hours ahead"])
def test_nothing_is_too_late_or_stalls_because_the_clock_was_set(
    moved: Deployment, receiver: Receiver, clock: MovedClock, ahead: int
) -> None:
    retried, decided = receiver.path(500, 500, 204), receiver.path()
    ids = [submit(moved, receiver.url(path)) for path in (retried, decided, decided, decided)]
    receiver.wait_for(retried)
    times, looked_at = deadlines(moved), last_look(moved)

    clock.set(ahead)
    moved.run_cron()  # a process that never saw the old time

    for request_id in ids:
        shown = moved.wait_until(request_id, state="delivered")
        assert (shown["decision"], shown["source"]) == ("allowed", "authorization_service")
    attempts = receiver.at(retried)
    gaps = [after.at - before.at for before, after in pairwise(attempts)]
    assert all(gap >= 0.8 * planned for gap, planned in zip(gaps, RETRY_SECONDS, strict=True))
    assert len(receiver.at(decided)) == 3
    # Receivers go by the wall clock.
    assert abs(int(attempts[-1].headers["webhook-timestamp"]) - time.time() - ahead) < 60
    if moved.runtime.database.path:
        # Each of the processes noticed, two relays among them; it counts once.
        assert abs(json.loads((moved.data_dir / "chargeapp.db.clock").read_text())["behind"] - ahead) < 60
        assert deadlines(moved) == times
        assert '"action": "clock_set"' in moved.output()

    moved.until(lambda: last_look(moved) >= looked_at + LOOK, "the relay stalls")
    moved.wait_until(submit(moved, receiver.url(decided)), state="delivered")
    assert moved.health()["status"] == "UP"


def submit(deployment: Deployment, url: str) -> str:
    return deployment.submit(f"driver-token-of-clocks-{next(numbers)}", url)


def deadlines(deployment: Deployment) -> dict[str, tuple[datetime, datetime]]:
    with deployment.runtime.database.reading() as session:
        found = session.execute(select(SessionRequest.id, SessionRequest.decide_by, SessionRequest.expires_at))
        return {each.id: (each.decide_by, each.expires_at) for each in found}


def last_look(deployment: Deployment) -> datetime:
    with deployment.runtime.database.reading() as session:
        looked_at = heartbeats.last(session, "relay")
    assert looked_at is not None
    return looked_at
