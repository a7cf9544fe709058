"""How a request ends: once, for a reason, after as many rounds as its time allows."""

import pytest
from sqlalchemy import delete, insert, update
from sqlalchemy.exc import IntegrityError
from support.builders import (
    DELIVERED,
    FAILED,
    NOW,
    POLICY,
    Callbacks,
    Deliveries,
    accept,
    attempt,
    change,
    decide,
    end,
    facts,
    only_row,
    rows,
    seconds,
    the_request,
)

from chargeapp.domain.callback import Outcome, Reply
from chargeapp.domain.retry_policy import RetryPolicy
from chargeapp.services.delivery_events import record_delivery_events
from chargeapp.services.redeliveries import RedeliveryRefused, redeliver
from chargeapp.storage.database import Database
from chargeapp.storage.models import EventRecord, SessionRequest, Tally

ONE_TRY = RetryPolicy(max_retries=0, first_delay_seconds=1, rounds_seconds=(30, 120, 600))
GONE = Reply(Outcome.FINAL, 5, 410, "answered 410", "gone")


def decided(database: Database, **changes: object) -> str:
    (request_id,) = accept(database, **changes)
    decide(database)
    return request_id


def a_round(database: Database, reply: Reply, now=NOW) -> None:
    attempt(database, reply, now, ONE_TRY)
    end(database, now, ONE_TRY)


def again(database: Database, request_id: str, now=NOW) -> None:
    change(database, lambda session: redeliver(session, session.get_one(SessionRequest, request_id), 900, now))


def terminal(database: Database, request_id: str) -> list[str]:
    return [fact.type for fact in facts(database, request_id) if fact.terminal]


def tallied(database: Database, name: str) -> int:
    return sum(row.count for row in rows_of_tallies(database) if row.name == name)


def rows_of_tallies(database: Database) -> list[Tally]:
    with database.reading() as session:
        return list(session.query(Tally))


def test_a_delivered_callback_ends_the_request(database: Database) -> None:
    request_id = decided(database)
    a_round(database, DELIVERED, NOW + seconds(1))

    request = the_request(database, request_id)
    assert (request.state, request.ended_at) == ("delivered", NOW + seconds(1))
    assert terminal(database, request_id) == ["CallbackDeliverySucceeded"]
    assert only_row(database, Deliveries).settled_at == NOW + seconds(1)
    assert tallied(database, "requests_delivered") == 1


def test_after_a_failed_round_another_one_follows_from_the_stored_command(database: Database) -> None:
    request_id = decided(database)
    a_round(database, FAILED)

    _, following = rows(database, Callbacks)
    assert following.payload == {"request_id": request_id, "round": 2}
    assert (following.due_at, following.destination) == (NOW + seconds(30), "caller.example:443")
    assert the_request(database, request_id).ended_at is None
    assert terminal(database, request_id) == []


def test_rounds_follow_their_pauses_until_the_request_expires_and_then_it_has_failed(database: Database) -> None:
    request_id = decided(database, ttl_seconds=1500)
    now, begun = NOW, []
    while the_request(database, request_id).ended_at is None:
        begun.append((now - NOW).total_seconds())
        a_round(database, FAILED, now)
        now = rows(database, Callbacks)[-1].due_at

    assert begun == [0, 30, 150, 750, 1350]
    assert the_request(database, request_id).state == "failed"
    assert terminal(database, request_id) == ["CallbackDeliveryFailed"]
    assert len(facts(database, request_id, "CallbackDeliveryFailed")) == 5
    assert tallied(database, "requests_failed") == 1


def test_without_rounds_the_first_failure_is_the_end(database: Database) -> None:
    request_id = decided(database)
    once = RetryPolicy(max_retries=0, first_delay_seconds=1, rounds_seconds=())
    attempt(database, FAILED, policy=once)
    end(database, policy=once)

    assert the_request(database, request_id).state == "failed"


def test_a_final_answer_ends_the_request_as_failed_with_its_reason(database: Database) -> None:
    request_id = decided(database)
    a_round(database, GONE)

    assert the_request(database, request_id).state == "failed"
    (fact,) = facts(database, request_id, "CallbackDeliveryFailed")
    assert fact.details == {"round": 1, "reason": "gone", "final": True, "error": "answered 410"}


def test_an_expired_decision_ends_the_request_as_expired(database: Database) -> None:
    request_id = decided(database, ttl_seconds=60)
    attempt(database, DELIVERED, NOW + seconds(60))
    end(database, NOW + seconds(60))

    assert the_request(database, request_id).state == "expired"
    assert terminal(database, request_id) == ["CallbackDeliveryFailed"]


def test_an_event_that_comes_twice_is_written_once(database: Database) -> None:
    request_id = decided(database)
    attempt(database, DELIVERED)
    end(database)
    end(database)
    change(database, lambda session: record_delivery_events(session, [], POLICY, NOW))

    assert len(facts(database, request_id, "CallbackDeliverySucceeded")) == 1


def test_a_redelivery_sends_the_callback_again_without_a_second_end(database: Database) -> None:
    request_id = decided(database)
    a_round(database, DELIVERED)
    again(database, request_id, NOW + seconds(5))
    a_round(database, DELIVERED, NOW + seconds(6))

    request = the_request(database, request_id)
    assert (request.state, request.ended_at) == ("delivered", NOW)
    assert request.callback_attempts == 2
    assert terminal(database, request_id) == ["CallbackDeliverySucceeded"]
    assert len(facts(database, request_id, "CallbackDeliverySucceeded")) == 2
    assert len(facts(database, request_id, "RedeliveryRequested")) == 1
    assert tallied(database, "requests_delivered") == 1


def test_a_redelivery_that_fails_does_not_undo_how_the_request_ended(database: Database) -> None:
    request_id = decided(database)
    a_round(database, DELIVERED)
    again(database, request_id)
    a_round(database, GONE)

    assert the_request(database, request_id).state == "delivered"


def test_a_redelivery_that_succeeds_makes_a_failed_request_delivered_and_keeps_its_first_end(
    database: Database,
) -> None:
    request_id = decided(database)
    a_round(database, GONE)
    again(database, request_id, NOW + seconds(5))
    a_round(database, DELIVERED, NOW + seconds(6))

    request = the_request(database, request_id)
    assert (request.state, request.ended_at) == ("delivered", NOW)
    assert terminal(database, request_id) == ["CallbackDeliveryFailed"]


def test_further_rounds_of_a_redelivery_are_known_as_such(database: Database) -> None:
    request_id = decided(database)
    a_round(database, GONE)
    again(database, request_id)
    a_round(database, FAILED)

    assert rows(database, Callbacks)[-1].payload == {"request_id": request_id, "round": 2, "redelivery": True}


def test_a_redelivery_gives_the_request_time_again(database: Database) -> None:
    request_id = decided(database, ttl_seconds=60)
    attempt(database, DELIVERED, NOW + seconds(60))
    end(database, NOW + seconds(60))
    again(database, request_id, NOW + seconds(100))
    a_round(database, DELIVERED, NOW + seconds(101))

    assert the_request(database, request_id).state == "delivered"


@pytest.mark.parametrize("step", ["undecided", "decided", "attempted", "redelivered"])
def test_a_callback_on_its_way_is_not_sent_a_second_time(database: Database, step: str) -> None:
    (request_id,) = accept(database)
    if step != "undecided":
        decide(database)
    if step in ("attempted", "redelivered"):
        attempt(database, DELIVERED)
    if step == "redelivered":
        end(database)
        again(database, request_id)

    with pytest.raises(RedeliveryRefused, match="on its way"):
        again(database, request_id)


def test_without_its_driver_token_a_callback_cannot_be_sent_again(database: Database) -> None:
    request_id = decided(database)
    a_round(database, DELIVERED)
    change(database, lambda session: session.execute(update(SessionRequest).values(token_sealed=None)))

    with pytest.raises(RedeliveryRefused, match="erased"):
        again(database, request_id)


def test_the_database_itself_refuses_a_second_terminal_event(database: Database) -> None:
    request_id = decided(database)
    a_round(database, DELIVERED)
    second = {"request_id": request_id, "type": "CallbackDeliveryFailed", "at": NOW, "details": {}, "terminal": True}

    with pytest.raises(IntegrityError, match=r"(?i)unique"):
        change(database, lambda session: session.execute(insert(EventRecord), [second]))


def test_the_database_itself_refuses_to_change_an_event(database: Database) -> None:
    request_id = decided(database)

    with pytest.raises(IntegrityError, match="never changed"):
        change(database, lambda session: session.execute(update(EventRecord).values(type="Other")))
    assert [fact.type for fact in facts(database, request_id)] == ["RequestAccepted", "AuthorizationDecided"]


def test_events_go_only_with_their_request(database: Database) -> None:
    request_id = decided(database)
    change(database, lambda session: session.execute(delete(SessionRequest)))

    assert facts(database, request_id) == []
    assert rows(database, Callbacks) == []
