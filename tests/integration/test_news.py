"""The log tells of a request what was committed, after the commit, and nothing else."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from flask import Flask
from structlog.testing import capture_logs
from support.builders import (
    DELIVERED,
    FAILED,
    NOW,
    TOKEN,
    Callbacks,
    Requests,
    accept,
    attempt,
    change,
    claim,
    decide,
    end,
    facts,
    new_database,
    only_row,
    seconds,
)

from chargeapp.domain.authorization import Answer
from chargeapp.domain.charging_session import Decision, Reason
from chargeapp.logs import get_logger
from chargeapp.services.dead_letters import replay
from chargeapp.storage import news, outbox
from chargeapp.storage.database import Database
from chargeapp.storage.news import News
from chargeapp.web.error_responses import named_request


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    # A logger that was used keeps the settings of its first use.
    monkeypatch.setattr(news, "log", get_logger())
    with new_database(tmp_path) as found:
        yield found


def test_every_fact_of_a_timeline_is_a_line_with_the_id(database: Database) -> None:
    with capture_logs() as lines:
        (request_id,) = accept(database)
        decide(database)
        attempt(database, DELIVERED)
        end(database)

    words = [fact.type for fact in facts(database, request_id)]
    assert [line["event"].replace(" ", "").lower() for line in lines] == [word.lower() for word in words]
    assert {line["request_id"] for line in lines} == {request_id}
    assert lines[0] == {
        "event": "Request accepted",
        "action": "request_accepted",
        "request_id": request_id,
        "log_level": "debug",
    }
    assert lines[1]["decision"] == "allowed"


def test_what_goes_wrong_is_told_by_default_and_the_rest_is_not(database: Database) -> None:
    with capture_logs() as lines:
        accept(database)
        decide(database, Answer(Decision.UNKNOWN, Reason.CIRCUIT_OPEN, "authorization_service"))
        attempt(database, FAILED)
        attempt(database, DELIVERED, NOW + seconds(10))
        end(database, NOW + seconds(10))

    assert [(line["action"], line["log_level"]) for line in lines] == [
        ("request_accepted", "debug"),
        ("authorization_decided", "info"),
        ("callback_attempted", "info"),
        ("callback_attempted", "debug"),
        ("callback_delivery_succeeded", "debug"),
    ]


def test_what_is_rolled_back_is_not_told(database: Database) -> None:
    with capture_logs() as lines, suppress(ZeroDivisionError), database.writing() as session:
        news.note(session, [News("req-1", "RequestAccepted")])
        raise ZeroDivisionError

    with capture_logs() as more, database.writing() as session:
        news.note(session, [News("req-2", "RequestAccepted")])
        session.rollback()

    assert lines == more == []


def test_what_a_savepoint_takes_back_is_not_told_and_the_rest_is(database: Database) -> None:
    with capture_logs() as lines, database.writing() as session:
        news.note(session, [News("req-1", "RequestAccepted")])
        with suppress(ZeroDivisionError), session.begin_nested():
            news.note(session, [News("req-2", "RequestAccepted")])
            raise ZeroDivisionError
        with session.begin_nested():
            news.note(session, [News("req-3", "RequestAccepted")])

    assert [line["request_id"] for line in lines] == ["req-1", "req-3"]


def test_it_is_told_after_the_commit(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads the line finds the request."""
    found: list[int] = []
    tell = news.tell

    def look_and_tell(session: object) -> None:
        found.append(len(facts(database, only_row(database, Requests).request_id)))
        tell(session)  # type: ignore[arg-type]

    monkeypatch.setattr(news, "tell", look_and_tell)
    accept(database)

    assert found == [1]


def test_rows_of_lost_jobs_and_replayed_dead_letters_are_told_with_the_id(database: Database) -> None:
    (request_id,) = accept(database)
    claim(database, Requests, job_id="lost")
    with capture_logs() as recovered:
        change(database, lambda session: outbox.release_lost(session, Requests, ["lost"]))
    (ticket,) = claim(database, Requests)
    buried = change(database, lambda session: outbox.bury(session, Requests, ticket, "Error", NOW))
    with capture_logs() as replayed:
        change(database, lambda session: replay(session, "authorization", ticket.row_id, NOW))

    assert [(line["action"], line["request_id"]) for line in recovered] == [("row_recovered", request_id)]
    assert buried == request_id
    assert [(line["action"], line["request_id"]) for line in replayed] == [("dead_letter_replayed", request_id)]


def test_a_row_with_another_owner_is_not_said_to_be_buried(database: Database) -> None:
    accept(database)
    decide(database)
    (stale,) = claim(database, Callbacks)
    change(database, lambda session: outbox.release(session, Callbacks, [stale], NOW))
    claim(database, Callbacks)

    assert change(database, lambda session: outbox.bury(session, Callbacks, stale, "Error", NOW)) is None


def test_of_an_address_only_a_request_id_is_told(database: Database) -> None:
    """Somebody may have put a driver token in its place."""
    (request_id,) = accept(database)
    app = Flask(__name__)
    app.add_url_rule("/<request_id>", "show")

    with app.test_request_context(f"/{request_id}"):
        assert named_request() == {"request_id": request_id}
    with app.test_request_context(f"/{TOKEN}"):
        assert named_request() == {}
