"""The page of dead letters: what is shown of each, and putting some or all on their way again."""

import re
from typing import Any

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs
from support.builders import accept, change, decide, rows, seconds
from support.console import Visitor, words

from chargeapp.clock import utcnow
from chargeapp.errors import DatabaseUnavailable
from chargeapp.pipeline import AUTHORIZATION, CALLBACKS, Stage
from chargeapp.runtime import Runtime
from chargeapp.services.dead_letters import replay
from chargeapp.web import console_dead_letters


def bury_all(runtime: Runtime, stage: Stage, error: str = "cannot be opened") -> list[str]:
    values = {"dead_at": utcnow(), "last_error": error, "attempts": 7}
    change(runtime.database, lambda session: session.execute(update(stage.outbox).values(**values)))
    return [f"{stage.queue}:{row.id}" for row in rows(runtime.database, stage.outbox)]


def dead(runtime: Runtime) -> list[str]:
    return [
        f"{stage.queue}:{row.id}"
        for stage in (AUTHORIZATION, CALLBACKS)
        for row in rows(runtime.database, stage.outbox)
        if row.dead_at is not None
    ]


def test_dead_letters_of_every_outbox_are_shown_with_error_attempts_and_queue(visitor: Visitor) -> None:
    now = utcnow() - seconds(10)
    accept(visitor.runtime.database, now=now)
    decide(visitor.runtime.database, now=now)
    bury_all(visitor.runtime, CALLBACKS, "the key is missing")
    (request_id,) = accept(visitor.runtime.database, now=now)
    change(
        visitor.runtime.database,
        lambda session: session.execute(
            update(AUTHORIZATION.outbox)
            .where(AUTHORIZATION.outbox.request_id == request_id)
            .values(dead_at=now, last_error="cannot be opened", attempts=3)
        ),
    )

    page = visitor.get("/dead-letters").text

    assert "callbacks 1 the key" in words(page)
    for row in ("the key is missing 7 req-.* SendAuth", "cannot be opened 3 req-.* StartCharging"):
        assert re.search(row, words(page))
    assert f'href="/requests/{request_id}"' in page


def test_those_selected_are_due_again_and_the_others_stay(visitor: Visitor) -> None:
    accept(visitor.runtime.database, 3)
    one, two, other = bury_all(visitor.runtime, AUTHORIZATION)

    page = visitor.follow(visitor.post("/dead-letters/replay", which="selected", row=[one, two]))

    assert dead(visitor.runtime) == [other]
    assert "2 put on their way again" in words(page)


def test_all_are_due_again_whatever_their_queue(visitor: Visitor) -> None:
    now = utcnow() - seconds(10)
    accept(visitor.runtime.database, 2, now=now)
    decide(visitor.runtime.database, now=now)
    bury_all(visitor.runtime, CALLBACKS)
    accept(visitor.runtime.database)
    change(
        visitor.runtime.database,
        lambda session: session.execute(
            update(AUTHORIZATION.outbox).where(AUTHORIZATION.outbox.settled_at.is_(None)).values(dead_at=now)
        ),
    )

    page = words(visitor.follow(visitor.post("/dead-letters/replay", which="all")))

    assert dead(visitor.runtime) == []
    assert "3 put on their way again" in page
    assert "There are none." in page


def test_what_is_no_dead_letter_any_more_is_left_alone_and_counted(visitor: Visitor) -> None:
    accept(visitor.runtime.database)
    (row,) = bury_all(visitor.runtime, AUTHORIZATION)
    visitor.post("/dead-letters/replay", which="selected", row=row)

    page = words(visitor.follow(visitor.post("/dead-letters/replay", which="selected", row=[row, "callbacks:99"])))

    assert "0 put on their way again. 2 had been already." in page


def test_one_click_replays_a_bounded_number(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_dead_letters, "MOST_AT_ONCE", 3)
    monkeypatch.setattr(console_dead_letters, "ROWS_PER_TRANSACTION", 2)
    accept(visitor.runtime.database, 5)
    bury_all(visitor.runtime, AUTHORIZATION)

    offered = "Replay the latest 3" in visitor.get("/dead-letters").text
    visitor.post("/dead-letters/replay", which="all")

    assert offered
    assert len(dead(visitor.runtime)) == 2
    assert "Replay all 2" in visitor.get("/dead-letters").text


@pytest.mark.parametrize("row", [[], "nothing:1", "callbacks:0", "callbacks:1;", "callbacks:" + "9" * 30])
def test_nothing_or_nonsense_is_refused_in_words(visitor: Visitor, row: str | list[str]) -> None:
    accept(visitor.runtime.database)
    bury_all(visitor.runtime, AUTHORIZATION)

    answer = visitor.post("/dead-letters/replay", which="selected", row=row)

    assert (answer.status_code, answer.mimetype) == (400, "text/html")
    assert len(dead(visitor.runtime)) == 1


def test_a_replay_is_one_line_in_the_log_with_the_name_of_the_key(visitor: Visitor) -> None:
    accept(visitor.runtime.database)
    (row,) = bury_all(visitor.runtime, AUTHORIZATION)

    with capture_logs() as lines:
        visitor.post("/dead-letters/replay", which="selected", row=row)

    (line,) = [each for each in lines if each["action"] == "dead_letters_replayed"]
    assert (line["key_name"], line["rows"], line["replayed"]) == ("key of staff", [row], 1)


def test_what_was_replayed_before_the_database_failed_is_told_and_the_rest_stays(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_dead_letters, "ROWS_PER_TRANSACTION", 2)
    accept(visitor.runtime.database, 5)
    bury_all(visitor.runtime, AUTHORIZATION)
    goes = iter(range(4))

    def replay_or_fail(*given: Any) -> bool:
        if next(goes, None) is None:
            raise DatabaseUnavailable
        return replay(*given)

    monkeypatch.setattr(console_dead_letters, "replay", replay_or_fail)
    with capture_logs() as lines:
        page = words(visitor.follow(visitor.post("/dead-letters/replay", which="all")))

    assert "4 put on their way again. 1 are left" in page
    assert len(dead(visitor.runtime)) == 1
    (line,) = [each for each in lines if each["action"] == "dead_letters_replayed"]
    assert (line["replayed"], line["gone"], line["left"]) == (4, 0, 1)
