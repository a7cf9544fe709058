"""The pages of failed requests: which are shown, what a dry run counts, and what is sent again."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs
from support.builders import STATION, Callbacks, accept, attempt, change, decide, end, facts, rows, seconds
from support.console import Visitor, words

from chargeapp import bulk_redelivery
from chargeapp.clock import utcnow
from chargeapp.domain.callback import Outcome, Reply
from chargeapp.domain.charging_session import Event, Reason
from chargeapp.errors import DatabaseUnavailable
from chargeapp.runtime import Runtime
from chargeapp.services import failed_requests
from chargeapp.services.failed_requests import LOOKED_AT
from chargeapp.services.redeliveries import Obstacle, redeliver_all
from chargeapp.storage.models import SessionRequest
from chargeapp.web import failed_redelivery

ELSEWHERE = "00000000-0000-4000-8000-000000000000"
GONE = Reply(Outcome.FINAL, 5, 410, "answered 410", Reason.GONE)
BLOCKED = Reply(Outcome.FINAL, 5, None, "refused", Reason.BLOCKED)
EXPIRED = Reply(Outcome.EXPIRED, 0)
DELIVERED = Reply(Outcome.DELIVERED, 5, 204)
HOUR = timedelta(hours=1)


def ended(
    runtime: Runtime, reply: Reply = GONE, number: int = 1, now: datetime | None = None, **changes: str
) -> list[str]:
    now = now or utcnow() - seconds(10)
    ids = accept(runtime.database, number, now=now, vault=runtime.vault, **changes)
    decide(runtime.database, now=now)
    attempt(runtime.database, reply, now=now)
    end(runtime.database, now=now)
    return ids


def shown(visitor: Visitor, query: str = "") -> list[str]:
    return re.findall(r'href="/requests/(req-[0-9a-f]{32})"', visitor.get(f"/failed{query}").text)


def redelivered(runtime: Runtime, request_id: str) -> int:
    return len(facts(runtime.database, request_id, Event.REDELIVERY_REQUESTED))


def erase_token(runtime: Runtime, request_id: str) -> None:
    erase = update(SessionRequest).where(SessionRequest.id == request_id).values(token_sealed=None)
    change(runtime.database, lambda session: session.execute(erase))


def test_failed_and_expired_requests_are_shown_with_their_reason_the_newest_first(visitor: Visitor) -> None:
    ids = [ended(visitor.runtime, reply)[0] for reply in (GONE, BLOCKED, EXPIRED)]
    ended(visitor.runtime, DELIVERED)
    accept(visitor.runtime.database)

    page = words(visitor.get("/failed").text)

    assert shown(visitor) == sorted(ids, reverse=True)
    assert page.index("expired expired") < page.index("failed blocked") < page.index("failed gone")
    assert "answered 410" in page


@pytest.mark.parametrize("reason", [Reason.GONE, Reason.BLOCKED, Reason.EXPIRED])
def test_the_reason_narrows_the_list(visitor: Visitor, reason: Reason) -> None:
    ids = {reply.reason or Reason.EXPIRED: ended(visitor.runtime, reply) for reply in (GONE, BLOCKED, EXPIRED)}

    assert shown(visitor, f"?reason={reason}") == ids[reason]


def test_station_and_time_of_acceptance_narrow_the_list(visitor: Visitor) -> None:
    noon = utcnow().replace(microsecond=0) - 24 * HOUR
    before, at, after = (ended(visitor.runtime, now=noon + hours * HOUR)[0] for hours in (-1, 0, 1))
    (elsewhere,) = ended(visitor.runtime, now=noon, station_id=ELSEWHERE)
    since, until = (f"{moment:%Y-%m-%dT%H:%M:%S}" for moment in (noon, noon + HOUR))

    assert shown(visitor, f"?station={ELSEWHERE}") == [elsewhere]
    assert set(shown(visitor, f"?since={since}")) == {at, after, elsewhere}
    assert set(shown(visitor, f"?until={since}")) == {before}
    assert set(shown(visitor, f"?since={since}&until={until}")) == {at, elsewhere}


def test_a_time_with_an_offset_stays_the_same_moment_in_links(visitor: Visitor) -> None:
    page = visitor.get("/failed?since=2026-01-31T08:00:00%2B02:00&until=0001-01-01T00:00").text

    assert 'name="since" type="datetime-local" value="2026-01-31T06:00:00"' in page
    assert 'name="until" type="datetime-local" value="0001-01-01T00:00:00"' in page


@pytest.mark.parametrize(
    "query",
    [
        "since=0001-01-01T00:00%2B23:59",
        "reason=x",
        "station=x",
        "since=x",
        "until=2026-13-01T00:00",
        "before=x",
        "id=x",
        "which=none",
    ],
)
def test_a_wrong_filter_is_refused_in_words(visitor: Visitor, query: str) -> None:
    for path in ("/failed", "/failed/redelivery", "/failed/redelivered"):
        answer = visitor.get(f"{path}?{query}")

        assert (answer.status_code, answer.mimetype) == (400, "text/html")
        assert 'role="alert"' in answer.text


def test_pages_follow_each_other_without_a_gap(visitor: Visitor) -> None:
    ids = ended(visitor.runtime, number=60)

    first = visitor.get("/failed").text
    older = re.search(r'href="/failed(\?before=[^"]*)"', first)

    assert older
    assert shown(visitor) + shown(visitor, older[1]) == sorted(ids, reverse=True)


def test_a_rare_reason_is_found_behind_many_others_in_bounded_looks(visitor: Visitor) -> None:
    (rare,) = ended(visitor.runtime, BLOCKED, now=utcnow() - HOUR)
    for _ in range(LOOKED_AT // 100):
        ended(visitor.runtime, GONE, 100)

    assert shown_by_looking_on(visitor, f"?reason={Reason.BLOCKED}") == [rare]


def test_the_failed_of_a_busy_station_are_found_in_bounded_looks(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failed_requests, "LOOKED_THROUGH", 3)
    (failed,) = ended(visitor.runtime, GONE, now=utcnow() - HOUR)
    ended(visitor.runtime, DELIVERED, 3)

    assert shown_by_looking_on(visitor, f"?station={STATION}") == [failed]


def shown_by_looking_on(visitor: Visitor, query: str) -> list[str]:
    """What is behind the first look."""
    first = visitor.get(f"/failed{query}").text
    older = re.search(r'href="/failed(\?[^"]*before=[^"]*)"', first)
    assert "Look on among the older ones" in first
    assert older
    return shown(visitor, older[1].replace("&amp;", "&"))


# Sending again


def test_a_dry_run_counts_and_changes_nothing(visitor: Visitor) -> None:
    ids = ended(visitor.runtime, number=5)
    erase_token(visitor.runtime, ids[0])
    visitor.post("/failed/redelivery", which="selected", id=ids[1])
    before = len(rows(visitor.runtime.database, Callbacks))

    page = words(visitor.get("/failed/redelivery?which=all").text)

    assert "Send 3 callbacks again?" in page
    assert "3 would be sent again" in page
    assert "1 are on their way already" in page
    assert "1 cannot be sent: their driver token was erased" in page
    assert len(rows(visitor.runtime.database, Callbacks)) == before


def test_only_those_selected_are_sent_again(visitor: Visitor) -> None:
    one, two, other = ended(visitor.runtime, number=3)

    page = visitor.follow(visitor.post("/failed/redelivery", which="selected", id=[one, two]))

    assert [redelivered(visitor.runtime, each) for each in (one, two, other)] == [1, 1, 0]
    assert "2 callbacks are sent again" in words(page)


def test_all_that_match_and_no_others_are_sent_again(visitor: Visitor) -> None:
    gone, blocked = ended(visitor.runtime, GONE, 3), ended(visitor.runtime, BLOCKED, 2)

    page = visitor.follow(visitor.post("/failed/redelivery", which="all", reason="gone"))

    assert [redelivered(visitor.runtime, each) for each in (*gone, *blocked)] == [1, 1, 1, 0, 0]
    assert "3 callbacks are sent again" in words(page)


def test_what_was_sent_again_is_delivered_and_leaves_the_list(visitor: Visitor) -> None:
    ended(visitor.runtime, GONE, 2)
    visitor.post("/failed/redelivery", which="all")

    attempt(visitor.runtime.database, DELIVERED, now=utcnow())
    end(visitor.runtime.database, now=utcnow())

    assert shown(visitor) == []


def test_sending_twice_sends_once(visitor: Visitor) -> None:
    ids = ended(visitor.runtime, number=2)
    visitor.post("/failed/redelivery", which="all")

    page = words(visitor.follow(visitor.post("/failed/redelivery", which="all")))

    assert [redelivered(visitor.runtime, each) for each in ids] == [1, 1]
    assert "0 callbacks are sent again" in page
    assert "2 were on their way already" in page


@pytest.mark.parametrize("fields", [{}, {"which": "selected"}, {"id": []}])
def test_nothing_selected_never_means_everything(visitor: Visitor, fields: dict[str, str | list[str]]) -> None:
    (request_id,) = ended(visitor.runtime)

    answer = visitor.post("/failed/redelivery", **fields)

    assert answer.status_code == 400
    assert "Select some requests first" in answer.text
    assert redelivered(visitor.runtime, request_id) == 0


@pytest.mark.parametrize(("limit", "value"), [("MOST_AT_ONCE", 2), ("SECONDS_AT_ONCE", 0)])
def test_many_are_sent_in_several_goes_that_leave_none_out(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(bulk_redelivery, "REQUESTS_PER_TRANSACTION", 2)
    monkeypatch.setattr(failed_redelivery, limit, value)
    ids = ended(visitor.runtime, number=5)

    page = visitor.follow(visitor.post("/failed/redelivery", which="all", station=STATION))
    goes = 1
    while "Send the next ones again" in page:
        fields = dict(re.findall(r'name="(station|which|before)" value="([^"]*)"', page))
        page = visitor.follow(visitor.post("/failed/redelivery", **fields))
        goes += 1

    assert goes == 3
    assert [redelivered(visitor.runtime, each) for each in ids] == [1] * 5


@pytest.mark.parametrize("reason", ["", "gone"])
def test_a_dry_run_of_many_counts_what_one_click_sends(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setattr(failed_redelivery, "MOST_AT_ONCE", 3)
    monkeypatch.setattr(failed_requests, "LOOKED_AT", 3)
    ended(visitor.runtime, GONE, 3, now=utcnow() - HOUR)
    erase_token(visitor.runtime, ended(visitor.runtime, GONE)[0])

    question = words(visitor.get(f"/failed/redelivery?which=all&reason={reason}").text)
    answer = words(visitor.follow(visitor.post("/failed/redelivery", which="all", reason=reason)))

    assert "Send 2 callbacks again?" in question
    assert "1 cannot be sent" in question
    assert "There may be more. These are sent first" in question
    assert "2 callbacks are sent again" in answer
    assert "1 could not be sent" in answer


def test_a_dry_run_that_found_none_can_be_gone_on_from(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_requests, "LOOKED_AT", 2)
    ended(visitor.runtime, BLOCKED, now=utcnow() - HOUR)
    ended(visitor.runtime, GONE, 2)

    page = visitor.get("/failed/redelivery?which=all&reason=blocked").text
    on = re.search(r'href="([^"]*)">Look further back', page)

    assert "Send 0 callbacks again?" in page
    assert on
    assert "Send 1 callback again?" in visitor.get(on[1].replace("&amp;", "&")).text


def test_what_was_delivered_since_the_page_was_made_is_left_alone(visitor: Visitor) -> None:
    ids = ended(visitor.runtime, GONE, 2)
    visitor.post("/failed/redelivery", which="selected", id=ids[0])
    attempt(visitor.runtime.database, DELIVERED, now=utcnow())
    end(visitor.runtime.database, now=utcnow())

    query = "&".join(f"id={each}" for each in ids)
    question = words(visitor.get(f"/failed/redelivery?which=selected&{query}").text)
    answer = words(visitor.follow(visitor.post("/failed/redelivery", which="selected", id=ids)))

    assert "1 were delivered meanwhile" in question
    assert "1 callback is sent again" in answer
    assert "1 had been delivered meanwhile" in answer
    assert [redelivered(visitor.runtime, each) for each in ids] == [1, 1]


def test_a_redelivery_is_one_line_in_the_log_with_the_name_of_the_key(visitor: Visitor) -> None:
    ids = ended(visitor.runtime, number=2)

    with capture_logs() as lines:
        visitor.post("/failed/redelivery", which="selected", id=ids)

    (line,) = [each for each in lines if each["action"] == "bulk_redelivery_requested"]
    assert (line["key_name"], line["key"], line["sent"]) == ("key of staff", visitor.key.split("_")[1], 2)
    assert line["id"] == ids


def test_a_form_of_another_session_sends_nothing(visitor: Visitor) -> None:
    (request_id,) = ended(visitor.runtime)

    assert visitor.post("/failed/redelivery", token="0" * 64, which="all").status_code == 403
    assert redelivered(visitor.runtime, request_id) == 0


def test_what_was_sent_before_the_database_failed_is_told_noted_and_gone_on_from(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_redelivery, "REQUESTS_PER_TRANSACTION", 2)
    ids = ended(visitor.runtime, number=5)

    with monkeypatch.context() as patch, capture_logs() as lines:
        patch.setattr(bulk_redelivery, "redeliver_all", failing_after(2))
        page = visitor.follow(visitor.post("/failed/redelivery", which="all"))
    fields = dict(re.findall(r'name="(which|before)" value="([^"]*)"', page))
    rest = visitor.follow(visitor.post("/failed/redelivery", **fields))

    assert "4 callbacks are sent again" in words(page)
    (line,) = [each for each in lines if each["action"] == "bulk_redelivery_requested"]
    assert (line["key_name"], line["sent"]) == ("key of staff", 4)
    assert "1 callback is sent again" in words(rest)
    assert [redelivered(visitor.runtime, each) for each in ids] == [1] * 5


def test_what_was_removed_meanwhile_is_counted_too(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    (request_id,) = ended(visitor.runtime)
    monkeypatch.setattr(bulk_redelivery, "redeliver_all", lambda *_, **__: {request_id: Obstacle.MISSING})

    page = words(visitor.follow(visitor.post("/failed/redelivery", which="all")))

    assert "1 had been removed a moment before." in page


def test_a_database_that_fails_at_once_means_that_nothing_was_sent(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (request_id,) = ended(visitor.runtime)
    monkeypatch.setattr(bulk_redelivery, "redeliver_all", failing_after(0))

    assert visitor.post("/failed/redelivery", which="all").status_code == 503
    assert redelivered(visitor.runtime, request_id) == 0


def failing_after(number: int) -> Callable[..., Any]:
    """Sends again so many times; then the database commits no more."""
    goes = iter(range(number))

    def work(*given: Any, **named: Any) -> Any:
        if next(goes, None) is None:
            raise DatabaseUnavailable
        return redeliver_all(*given, **named)

    return work
