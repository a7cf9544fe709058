"""`chargeapp requests tail`: every event as a line, at next to no cost, until nobody wants it any more."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_support import DRIVER, OTHER_STATION, accept, chargeapp, data_dir, end, runtime, start, tables
from sqlalchemy import event, text

from chargeapp.commands import followed_events
from chargeapp.commands.followed_events import Tail
from chargeapp.domain.callback import Outcome
from chargeapp.runtime import Runtime
from chargeapp.storage import timeline
from chargeapp.storage.models import SessionRequest

__all__ = ["data_dir", "tables"]


@pytest.fixture
def app(tables: Path) -> Iterator[Runtime]:
    with runtime() as built:
        yield built


def past(*options: str) -> list[dict[str, Any]]:
    ended = chargeapp("requests", "tail", "--no-follow", "--json", *options)
    assert ended.status == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


@contextmanager
def following(*options: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = start("requests", "tail", "--interval", "0.1", *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def test_each_event_is_a_line_with_its_request(app: Runtime) -> None:
    request_id = end(app, Outcome.DELIVERED)

    events = past()

    assert [each["type"] for each in events] == [
        "RequestAccepted",
        "AuthorizationDecided",
        "CallbackAttempted",
        "CallbackDeliverySucceeded",
    ]
    assert {each["requestId"] for each in events} == {request_id}
    assert events[1]["decision"] == "allowed"
    assert DRIVER not in str(events)
    lines = chargeapp("requests", "tail", "--no-follow").out.splitlines()
    assert [request_id in line for line in lines] == [True] * 4


def test_events_are_picked_by_station_and_state(app: Runtime) -> None:
    end(app, Outcome.DELIVERED)
    failed = end(app, Outcome.RETRY)
    elsewhere = accept(app, station=OTHER_STATION)

    assert {each["requestId"] for each in past("--lines", "100", "--state", "failed")} == {failed}
    assert {each["requestId"] for each in past("--station", OTHER_STATION)} == {elsewhere}


def test_new_events_are_shown_as_they_come_until_ctrl_c(app: Runtime) -> None:
    end(app, Outcome.DELIVERED)
    with following("--json", "--lines", "1") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["type"] == "CallbackDeliverySucceeded"

        request_id = accept(app)
        shown = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)

        assert (shown["requestId"], shown["type"]) == (request_id, "RequestAccepted")
        assert process.wait(20) == 0
        assert process.stderr.read() == b""


def test_it_ends_when_nobody_reads_any_more_even_if_nothing_happens(app: Runtime) -> None:
    accept(app)
    with following() as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()

        assert process.wait(20) == 0
        assert process.stderr.read() == b""


def test_it_follows_on_after_everything_was_purged(app: Runtime) -> None:
    end(app, Outcome.DELIVERED)
    tail = Tail(app.database, station=None, state=None)
    tail.begin(0)
    with app.database.writing() as session:
        session.execute(text("DELETE FROM charging_session_requests"))
    assert list(tail.look()) == []

    request_id = accept(app)

    assert [each.request_id for each in tail.look()] == [request_id]


def test_more_events_than_one_look_are_read_page_by_page(app: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed_events, "EVENTS_A_LOOK", 2)
    ids = [accept(app) for _ in range(5)]

    assert [each["requestId"] for each in past()] == ids


def test_a_look_reads_by_keys_only(app: Runtime) -> None:
    """Whatever is stored: no table is scanned, none is sorted."""
    asked: list[tuple[str, Any]] = []
    event.listen(app.database.engine, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
    with app.database.reading() as session:
        timeline.newest(session)
        timeline.following(session, 0, 500)

    with app.database.reading() as session:
        plans = [
            str(row[3])
            for sql, parameters in list(asked)
            for row in session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters)
        ]
    assert len(plans) == 3
    assert [plan for plan in plans if "SCAN" in plan or "TEMP" in plan] == []


def test_a_request_that_is_gone_meanwhile_takes_its_events_along(app: Runtime) -> None:
    request_id = accept(app)
    with app.database.writing() as session:
        session.delete(session.get_one(SessionRequest, request_id))

    assert past() == []


def test_a_mistake_is_said_in_one_line(app: Runtime) -> None:
    ended = chargeapp("requests", "tail", "--station", "here")

    assert ended.status == 2
    assert "must be a UUID" in ended.err
