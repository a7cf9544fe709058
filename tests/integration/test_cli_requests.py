"""`chargeapp requests`: looking at requests and sending their callbacks again."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import (
    DRIVER,
    OTHER_STATION,
    STATION,
    accept,
    ago,
    chargeapp,
    data_dir,
    end,
    runtime,
    tables,
)
from sqlalchemy import select, update

from chargeapp import bulk_redelivery
from chargeapp.domain.callback import Outcome
from chargeapp.runtime import Runtime
from chargeapp.storage.models import AuthorizationDecisionCallbackOutbox, SessionRequest

__all__ = ["data_dir", "tables"]


@pytest.fixture
def app(tables: Path) -> Iterator[Runtime]:
    with runtime() as built:
        yield built


def listed(*options: str) -> list[str]:
    ended = chargeapp("requests", "list", "--json", *options)
    assert ended.status == 0
    return [each["requestId"] for each in json.loads(ended.out)]


def on_their_way(app: Runtime) -> list[str]:
    """Requests with a callback that is due."""
    outbox = AuthorizationDecisionCallbackOutbox
    with app.database.reading() as session:
        return list(session.scalars(select(outbox.request_id).where(outbox.settled_at.is_(None)).order_by(outbox.id)))


def erase_token(app: Runtime, request_id: str) -> None:
    with app.database.writing() as session:
        session.execute(update(SessionRequest).where(SessionRequest.id == request_id).values(token_sealed=None))


def test_requests_are_listed_newest_first(app: Runtime) -> None:
    older, newer = accept(app, at=ago(minutes=2)), accept(app, at=ago(minutes=1))

    assert listed() == [newer, older]


def test_a_list_can_be_narrowed_to_state_and_station(app: Runtime) -> None:
    failed = end(app, Outcome.FINAL)
    elsewhere = end(app, Outcome.FINAL, station=OTHER_STATION)
    accept(app)

    assert set(listed("--state", "failed")) == {failed, elsewhere}
    assert listed("--state", "failed", "--station", STATION.upper()) == [failed]


def test_a_long_list_goes_on_where_the_page_before_ended(app: Runtime) -> None:
    ids = [accept(app, at=ago(minutes=minutes)) for minutes in (1, 2, 3)]

    first = chargeapp("requests", "list", "--limit", "2")

    assert first.err == f"Older ones: add --before {ids[1]}\n"
    assert listed("--before", ids[1]) == ids[2:]


def test_a_table_shows_one_request_a_line_where_it_is_piped(app: Runtime) -> None:
    request_id = end(app, Outcome.DELIVERED)

    heading, line = chargeapp("requests", "list").out.splitlines()

    assert heading.split() == ["ID", "STATE", "DECISION", "REASON", "STATION", "DRIVER", "ACCEPTED", "TRIES"]
    assert line.split()[:5] == [request_id, "delivered", "allowed", STATION, "driv…0001"]


def test_an_empty_list_says_so(app: Runtime) -> None:
    assert chargeapp("requests", "list").out == "There are no such requests.\n"
    assert listed() == []


def test_show_tells_the_whole_story_without_the_token(app: Runtime) -> None:
    request_id = end(app, Outcome.FINAL)

    ended = chargeapp("requests", "show", request_id)

    events = ["RequestAccepted", "AuthorizationDecided", "CallbackAttempted", "CallbackDeliveryFailed"]
    assert [line.split()[1] for line in ended.out.splitlines()[-len(events) :]] == events
    assert "state        failed" in ended.out
    assert DRIVER not in ended.out


def test_show_as_json_has_the_names_of_the_api(app: Runtime) -> None:
    request_id = end(app, Outcome.DELIVERED)

    shown = json.loads(chargeapp("requests", "show", request_id, "--json").out)

    assert (shown["requestId"], shown["state"], shown["attempts"]) == (request_id, "delivered", 1)
    assert shown["timeline"][-1]["type"] == "CallbackDeliverySucceeded"


def test_what_came_from_outside_cannot_steer_the_terminal(app: Runtime) -> None:
    request_id = end(app, Outcome.FINAL)
    with app.database.writing() as session:
        session.execute(update(SessionRequest).values(last_error="\x1b]0;owned\x07[bold]"))

    ended = chargeapp("requests", "show", request_id)

    assert "\x1b" not in ended.out
    assert "[bold]" in ended.out


def test_showing_an_unknown_request_is_said_in_one_line(app: Runtime) -> None:
    ended = chargeapp("requests", "show", "req-unknown")

    assert ended.status == 1
    assert ended.err == "chargeapp: There is no request with this id. See: chargeapp requests list\n"


def test_a_named_request_is_sent_again_and_its_queue_woken(app: Runtime) -> None:
    request_id = end(app, Outcome.FINAL)

    with app.wakeups.listen("callbacks") as bell:
        ended = chargeapp("requests", "redeliver", request_id, request_id)
        assert bell.wait(0)

    assert (ended.status, ended.out) == (0, "1 sent again.\n")
    assert on_their_way(app) == [request_id]


def test_refusals_are_counted_with_their_reasons(app: Runtime) -> None:
    failed, erased, undecided = end(app, Outcome.FINAL), end(app, Outcome.FINAL), accept(app)
    erase_token(app, erased)

    ended = chargeapp("requests", "redeliver", failed, erased, undecided, "req-unknown")

    assert ended.status == 1
    assert ended.out == "1 sent again.\n"
    assert ended.err.splitlines() == [
        "1 refused: The driver token of this request was erased, so its callback cannot be sent again.",
        "1 refused: The callback of this request is still on its way.",
        "1 refused: There is no request with this id.",
        "chargeapp: 3 were not sent again.",
    ]
    assert on_their_way(app) == [failed]


def test_all_in_a_state_are_sent_again_a_hundred_to_a_transaction(
    app: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_redelivery, "REQUESTS_PER_TRANSACTION", 2)
    failed = {end(app, Outcome.FINAL, at=ago(minutes=minutes)) for minutes in range(5)}
    end(app, Outcome.DELIVERED)

    ended = chargeapp("requests", "redeliver", "--state", "failed", "--yes")

    assert (ended.status, ended.out) == (0, "5 sent again.\n")
    assert set(on_their_way(app)) == failed


def test_bulk_redelivery_can_be_narrowed_to_station_and_time(app: Runtime) -> None:
    wanted = end(app, Outcome.FINAL)
    end(app, Outcome.FINAL, station=OTHER_STATION)
    end(app, Outcome.FINAL, at=ago(hours=2))

    narrowed = ("--station", STATION, "--since", ago(hours=1).isoformat())
    assert chargeapp("requests", "redeliver", "--state", "failed", *narrowed, "--yes").out == "1 sent again.\n"

    assert on_their_way(app) == [wanted]


def test_a_dry_run_counts_the_same_and_changes_nothing(app: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_redelivery, "REQUESTS_PER_TRANSACTION", 2)
    ids = [end(app, Outcome.FINAL, at=ago(minutes=minutes)) for minutes in range(4)]
    erase_token(app, ids[0])

    with app.wakeups.listen("callbacks") as bell:
        ended = chargeapp("requests", "redeliver", "--state", "failed", "--dry-run")
        assert not bell.wait(0)

    assert (ended.status, ended.out) == (0, "3 would be sent again.\n")
    assert ended.err.startswith("1 refused: The driver token of this request was erased")
    assert on_their_way(app) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name the requests, or give --state."),
        (["req-1", "--state", "failed"], "Name the requests, or give --state."),
        (["req-1", "--since", "2026-01-01"], "--station and --since go with --state."),
        (["--state", "failed"], "Give --dry-run to see how many there are, then --yes to send them."),
        (["--state", "failed", "--yes", "--dry-run"], "Give --dry-run to see how many there are"),
        (["--state", "accepted", "--yes"], "is not one of 'delivered', 'failed', 'expired'"),
    ],
)
def test_a_doubtful_redelivery_is_refused(app: Runtime, arguments: list[str], message: str) -> None:
    ended = chargeapp("requests", "redeliver", *arguments)

    assert ended.status == 2
    assert message in ended.err
