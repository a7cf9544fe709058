"""Delivery events for other services: in their order, each at least once, and only what is committed."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Row, delete, update
from support.builders import FAILED, NOW, STATION, TOKEN, accept, attempt, change, decide, end, seconds

from chargeapp import event_feed
from chargeapp.domain.callback import Outcome, Reply
from chargeapp.domain.charging_session import Reason
from chargeapp.domain.retry_policy import RetryPolicy
from chargeapp.event_feed import EventFeed
from chargeapp.storage import event_feed as stored
from chargeapp.storage import timeline
from chargeapp.storage.database import Database
from chargeapp.storage.models import EventRecord, SessionRequest
from chargeapp.transport.broker import BrokerUnavailable
from chargeapp.transport.cloud_events import pack_event

ONE_ATTEMPT = RetryPolicy(max_retries=0, first_delay_seconds=1.0, rounds_seconds=(30,))
GONE = Reply(Outcome.FINAL, 12, 410, "answered 410", Reason.GONE)


class Others:
    def __init__(self) -> None:
        self.told: list[Row[Any]] = []
        self.away = False

    def publish(self, events: Sequence[Row[Any]]) -> None:
        if self.away:
            raise BrokerUnavailable
        self.told += events

    @property
    def heard(self) -> list[tuple[str, str]]:
        return [(each.request_id, each.type) for each in self.told]


@pytest.fixture
def others() -> Others:
    return Others()


@pytest.fixture
def feed(database: Database, others: Others) -> EventFeed:
    return begun(database, others)


def begun(database: Database, others: Others) -> EventFeed:
    feed = EventFeed(database, others.publish)
    feed.look()
    return feed


def deliver(database: Database) -> str:
    (request_id,) = accept(database)
    decide(database)
    attempt(database)
    end(database)
    return request_id


def test_others_hear_of_each_delivery_once_and_in_order(feed: EventFeed, database: Database, others: Others) -> None:
    first, second = deliver(database), deliver(database)

    assert feed.look() == 2
    assert feed.look() == 0

    assert others.heard == [(first, "CallbackDeliverySucceeded"), (second, "CallbackDeliverySucceeded")]


def test_what_happened_before_the_feed_began_is_not_told(database: Database, others: Others) -> None:
    deliver(database)

    feed = begun(database, others)
    later = deliver(database)
    feed.look()

    assert [request_id for request_id, _ in others.heard] == [later]


def test_another_relay_goes_on_where_the_first_stopped(feed: EventFeed, database: Database, others: Others) -> None:
    deliver(database)
    feed.look()
    later = deliver(database)

    EventFeed(database, others.publish).look()

    assert [request_id for request_id, _ in others.heard][1:] == [later]


def test_what_could_not_be_published_comes_with_the_next_look(
    feed: EventFeed, database: Database, others: Others
) -> None:
    request_id = deliver(database)
    others.away = True
    with pytest.raises(BrokerUnavailable):
        feed.look()
    others.away = False

    feed.look()

    assert others.heard == [(request_id, "CallbackDeliverySucceeded")]


def test_of_two_relays_one_publishes(feed: EventFeed, database: Database, others: Others) -> None:
    deliver(database)
    other = EventFeed(database, others.publish)
    publish, looked = others.publish, []

    def publish_slowly(events: Sequence[Row[Any]]) -> None:
        looked.append(other.look())
        publish(events)

    feed._publish = publish_slowly
    feed.look()
    other.look()

    assert looked == [0]
    assert len(others.told) == 1


def test_an_event_says_how_it_went_and_nothing_of_the_driver(
    feed: EventFeed, database: Database, others: Others
) -> None:
    (request_id,) = accept(database)
    decide(database)
    attempt(database, FAILED, policy=ONE_ATTEMPT)
    end(database, policy=ONE_ATTEMPT)
    attempt(database, GONE, now=NOW + seconds(60))
    end(database, now=NOW + seconds(60))
    feed.look()

    events = [json.loads(pack_event(each).value) for each in others.told]

    assert {pack_event(each).key for each in others.told} == {STATION}
    assert [each.pop("id") for each in events] == [f"{request_id}.{each.id}" for each in others.told]
    assert all(each.pop("time") for each in events)
    assert [each.pop("data") for each in events] == [
        {
            "requestId": request_id,
            "stationId": STATION,
            "decision": "allowed",
            "reason": reason,
            "round": number,
            "terminal": terminal,
        }
        for reason, number, terminal in (("undeliverable", 1, False), ("gone", 2, True))
    ]
    assert (
        events
        == [
            {
                "specversion": "1.0",
                "source": "/chargeapp",
                "type": "chargeapp.event.CallbackDeliveryFailed",
                "subject": request_id,
                "datacontenttype": "application/json",
                "partitionkey": STATION,
            }
        ]
        * 2
    )
    text = " ".join(pack_event(each).value.decode() for each in others.told)
    assert not any(part in text for part in (TOKEN, TOKEN[:4], TOKEN[-4:], "caller.example"))


def test_numbers_that_begin_anew_after_a_purge_are_no_reason_to_be_silent(
    feed: EventFeed, database: Database, others: Others
) -> None:
    deliver(database)
    feed.look()
    change(database, lambda session: session.execute(delete(SessionRequest)))
    feed.look()
    later = deliver(database)

    feed.look()

    assert others.heard[-1][0] == later


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_event_that_is_committed_late_is_told_before_those_behind_it(
    feed: EventFeed, database: Database, others: Others
) -> None:
    (first,) = accept(database, now=event_feed.utcnow())
    with database.writing() as session:
        timeline.append(session, [timeline.Fact(first, "CallbackDeliveryFailed")], event_feed.utcnow())
        with database.writing() as other:
            timeline.append(other, [timeline.Fact(first, "CallbackDeliverySucceeded")], event_feed.utcnow())
        assert feed.look() == 0

    assert feed.look() == 2
    assert [type_ for _, type_ in others.heard] == ["CallbackDeliveryFailed", "CallbackDeliverySucceeded"]


def test_a_number_that_nobody_ever_brings_is_not_waited_for_for_ever(
    feed: EventFeed, database: Database, others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = deliver(database)
    with database.reading() as session:
        before = timeline.newest(session)
    change(database, lambda session: session.execute(update(stored.EventFeed).values(position=before - 3)))
    monkeypatch.setattr(event_feed, "LONG_AGO", timedelta(days=36500))
    monkeypatch.setattr(feed, "_passed", 0)
    change(database, lambda session: session.add(numbered(before + 5, request_id)))

    assert (feed.look(), len(others.told)) == (1, 1)
    monkeypatch.setattr(event_feed, "LATE_SECONDS", 0.0)
    feed._missing.clear()
    assert feed.look() == 1


@pytest.mark.parametrize(("minutes", "told"), [(4, 0), (6, 1)])
def test_a_relay_of_cron_waits_five_minutes_for_a_missing_number(
    feed: EventFeed, database: Database, others: Others, minutes: int, told: int
) -> None:
    request_id = deliver(database)
    feed.look()
    with database.reading() as session:
        newest = timeline.newest(session)
    at = event_feed.utcnow() - timedelta(minutes=minutes)
    change(database, lambda session: session.add(numbered(newest + 5, request_id, at)))

    assert EventFeed(database, others.publish).look() == told


def numbered(number: int, request_id: str, at: datetime = NOW) -> EventRecord:
    return EventRecord(id=number, request_id=request_id, type="CallbackDeliveryFailed", at=at, details={})
