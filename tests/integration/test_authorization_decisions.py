"""One decision for each request, made once, whoever is late."""

import pytest
from support.builders import (
    ALLOWED,
    NOW,
    STATION,
    VAULT,
    Callbacks,
    Requests,
    accept,
    claim_and_take,
    decide,
    facts,
    only_row,
    own_rows,
    rows,
    seconds,
    the_request,
)

from chargeapp.domain.authorization import Answer
from chargeapp.domain.charging_session import Decision, Reason
from chargeapp.services.authorization_decisions import (
    Answered,
    Question,
    decide_overdue,
    record_decisions,
    take_questions,
)
from chargeapp.storage.database import Database
from chargeapp.storage.models import Tally
from chargeapp.storage.outbox import LEASE_SECONDS

DENIED = Answer(Decision.NOT_ALLOWED, Reason.BLOCKED, "access_list", tries=2, millis=40)


def begin(database: Database, now=NOW) -> list[Question]:
    tickets = claim_and_take(database, Requests, now)
    with database.writing() as session:
        return take_questions(session, own_rows(session, Requests, tickets), now)


def record(database: Database, *answered: Answered, now=NOW) -> None:
    with database.writing() as session:
        record_decisions(session, answered, now)


def overdue(database: Database, now) -> int:
    with database.writing() as session:
        return decide_overdue(session, now, now)


def tally(database: Database, name: str) -> tuple[int, int] | None:
    with database.reading() as session:
        found = session.get(Tally, (name, NOW.replace(second=0)))
        return (found.count, found.millis) if found else None


def test_a_question_has_what_the_service_must_know(database: Database) -> None:
    (request_id,) = accept(database)

    (question,) = begin(database)

    assert (question.request_id, question.station_id) == (request_id, STATION)
    assert VAULT.hash(VAULT.open(question.token_sealed)) == question.token_hash
    assert question.decide_by == NOW + seconds(30)
    assert the_request(database, request_id).state == "authorizing"


def test_a_decision_its_event_and_the_command_to_tell_the_caller_are_stored_together(database: Database) -> None:
    (request_id,) = accept(database, destination="caller.example:443")
    (question,) = begin(database)

    record(database, Answered(question, DENIED), now=NOW + seconds(1))

    request, row = the_request(database, request_id), only_row(database, Callbacks)
    assert (request.state, request.decision, request.reason) == ("decided", "not_allowed", "blocked")
    assert (request.source, request.decided_at) == ("access_list", NOW + seconds(1))
    assert only_row(database, Requests).settled_at == NOW + seconds(1)
    assert (row.type, row.destination) == ("SendAuthorizationDecisionCallbackCommand", "caller.example:443")
    assert row.payload == {"request_id": request_id, "round": 1}
    (fact,) = facts(database, request_id, "AuthorizationDecided")
    assert fact.details == {
        "decision": "not_allowed",
        "reason": "blocked",
        "source": "access_list",
        "tries": 2,
        "millis": 40,
    }


def test_decisions_are_counted_with_the_time_they_took(database: Database) -> None:
    accept(database, 2)
    for question, answer in zip(begin(database), (ALLOWED, DENIED), strict=True):
        record(database, Answered(question, answer))

    assert tally(database, "decisions_allowed") == (1, 0)
    assert tally(database, "decisions_not_allowed") == (1, 0)
    assert tally(database, "authorization") == (2, 47)
    assert tally(database, "authorization_le_10") == (1, 0)
    assert tally(database, "authorization_le_50") == (1, 0)
    assert tally(database, "authorization_errors") is None


@pytest.mark.parametrize("reason", ["authorization_error", "authorization_timeout", "circuit_open"])
def test_a_decision_that_nobody_made_counts_as_an_error(database: Database, reason: str) -> None:
    accept(database)
    (question,) = begin(database)
    record(database, Answered(question, Answer(Decision.UNKNOWN, reason, "authorization_service")))

    assert tally(database, "authorization_errors") == (1, 0)


def test_the_result_of_a_job_whose_row_was_claimed_anew_is_noted_and_discarded(database: Database) -> None:
    (request_id,) = accept(database)
    (late,) = begin(database)
    (fresh,) = begin(database, NOW + seconds(LEASE_SECONDS))

    record(database, Answered(fresh, ALLOWED))
    record(database, Answered(late, DENIED))

    assert the_request(database, request_id).decision == "allowed"
    (fact,) = facts(database, request_id, "LateResultDiscarded")
    assert fact.details == {"decision": "not_allowed"}
    assert len(rows(database, Callbacks)) == 1


def test_a_late_result_before_the_new_one_changes_nothing_either(database: Database) -> None:
    (request_id,) = accept(database)
    (late,) = begin(database)
    begin(database, NOW + seconds(LEASE_SECONDS))

    record(database, Answered(late, DENIED))

    assert the_request(database, request_id).decision is None
    assert only_row(database, Requests).settled_at is None


def test_a_request_that_the_deadline_decided_keeps_that_decision(database: Database) -> None:
    (request_id,) = accept(database)
    (question,) = begin(database)
    overdue(database, NOW + seconds(30))

    record(database, Answered(question, ALLOWED))

    request = the_request(database, request_id)
    assert (request.decision, request.reason, request.source) == ("unknown", "authorization_timeout", "deadline")
    assert len(facts(database, request_id, "LateResultDiscarded")) == 1
    assert len(rows(database, Callbacks)) == 1
    assert only_row(database, Requests).settled_at is not None


def test_a_row_whose_request_is_decided_already_is_settled_without_a_question(database: Database) -> None:
    accept(database)
    overdue(database, NOW + seconds(30))

    assert begin(database) == []
    assert only_row(database, Requests).settled_at == NOW


def test_only_what_is_overdue_is_decided_by_the_deadline(database: Database) -> None:
    (early,) = accept(database, decide_within_seconds=10)
    (late,) = accept(database, decide_within_seconds=20)

    assert overdue(database, NOW + seconds(10)) == 1

    assert the_request(database, early).decision == "unknown"
    assert the_request(database, late).decision is None
    assert overdue(database, NOW + seconds(10)) == 0


def test_recording_nothing_changes_nothing(database: Database) -> None:
    record(database)
    decide(database)

    assert rows(database, Callbacks) == []
