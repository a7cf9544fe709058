"""An hour after the wall clock was set forward: what stands in a calendar counts by it, what waits does not."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from support.builders import accept, claim_and_take, new_runtime, own_rows, the_request
from support.callers import API, bearer, make_key, open_api

from chargeapp import clock
from chargeapp.clock import utcnow, wall_clock
from chargeapp.domain.charging_session import Reason
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope
from chargeapp.services.access_list import ANY, Entry, put_entries
from chargeapp.storage.models import ChargingSessionRequestOutbox
from jobs.authorization import Authorization

HALF_AN_HOUR = timedelta(minutes=30)


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    with new_runtime(tmp_path) as runtime:
        assert clock._course is not None
        clock._write(replace(clock._course, behind=3600.0, since=clock.seconds_up()))
        clock.keep_steady(clock._note)
        yield runtime
        clock._course = None


def test_requests_are_an_hour_behind(runtime: Runtime) -> None:
    assert clock.seconds_behind() == pytest.approx(3600, abs=60)


def test_an_api_key_ends_by_the_wall_clock(runtime: Runtime) -> None:
    key = make_key(runtime, Scope.READ, expires_at=wall_clock() - HALF_AN_HOUR)

    assert open_api(runtime).get(API, headers=bearer(key)).status_code == 401


def test_the_access_list_goes_by_the_wall_clock_and_the_deadline_does_not(runtime: Runtime) -> None:
    (request_id,) = accept(runtime.database, now=utcnow(), vault=runtime.vault)
    token_hash = the_request(runtime.database, request_id).token_hash
    with runtime.database.writing() as session:
        ended = Entry(token_hash, "masked", ANY, valid_until=wall_clock() - HALF_AN_HOUR)
        put_entries(session, [ended], wall_clock())
    tickets = claim_and_take(runtime.database, ChargingSessionRequestOutbox, utcnow())
    work = Authorization(runtime)
    with runtime.database.writing() as session:
        (question,) = work.take(session, own_rows(session, ChargingSessionRequestOutbox, tickets), utcnow())

    assert work.perform(question).answer.reason == Reason.EXPIRED
