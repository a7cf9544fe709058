"""`chargeapp dead-letters`: what could not be processed, and putting it on its way again."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import accept, bury, chargeapp, data_dir, runtime, tables

from chargeapp.commands import dead_letters
from chargeapp.commands.parameters import QUEUES
from chargeapp.pipeline import AUTHORIZATION, STAGES
from chargeapp.runtime import Runtime
from chargeapp.storage.outbox import any_due

__all__ = ["data_dir", "tables"]


@pytest.fixture
def app(tables: Path) -> Iterator[Runtime]:
    with runtime() as built:
        yield built


def dead_row(app: Runtime) -> int:
    accept(app)
    return bury(app, AUTHORIZATION)


def rows() -> list[int]:
    ended = chargeapp("dead-letters", "list", "--json")
    assert ended.status == 0
    return [each["row_id"] for each in json.loads(ended.out)]


def is_due(app: Runtime) -> bool:
    from cli_support import now

    with app.database.reading() as session:
        return any_due(session, AUTHORIZATION.outbox, now(), now())


def test_a_dead_letter_is_listed_with_its_error(app: Runtime) -> None:
    request_id = accept(app)
    row_id = bury(app, AUTHORIZATION, error="cannot be opened")

    [found] = json.loads(chargeapp("dead-letters", "list", "--json").out)
    line = chargeapp("dead-letters", "list").out.splitlines()[1]

    assert (found["queue"], found["row_id"], found["request_id"]) == ("authorization", row_id, request_id)
    assert found["error"] == "cannot be opened"
    assert line.split()[:2] == ["authorization", str(row_id)]
    assert line.endswith("cannot be opened")


def test_having_none_is_said(app: Runtime) -> None:
    assert chargeapp("dead-letters", "list").out == "There are no dead letters.\n"
    assert rows() == []


def test_the_latest_are_listed_up_to_the_limit(app: Runtime) -> None:
    dead_row(app)
    latest = dead_row(app)

    assert [each["row_id"] for each in json.loads(chargeapp("dead-letters", "list", "--limit", "1", "--json").out)] == [
        latest
    ]


def test_a_replayed_row_is_due_again_and_its_queue_woken(app: Runtime) -> None:
    row_id = dead_row(app)
    assert not is_due(app)

    with app.wakeups.listen("authorization") as bell:
        ended = chargeapp("dead-letters", "replay", "authorization", str(row_id))
        assert bell.wait(0)

    assert (ended.status, ended.out) == (0, "1 put on their way again.\n")
    assert is_due(app)
    assert rows() == []


def test_all_are_replayed_in_batches(app: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "ROWS_PER_TRANSACTION", 2)
    for _ in range(5):
        dead_row(app)

    assert chargeapp("dead-letters", "replay", "--all").out == "5 put on their way again.\n"

    assert rows() == []


def test_all_of_one_queue_leave_the_others_alone(app: Runtime) -> None:
    row_id = dead_row(app)

    assert chargeapp("dead-letters", "replay", "callbacks", "--all").out == "0 put on their way again.\n"

    assert rows() == [row_id]


def test_a_row_that_is_no_dead_letter_is_reported(app: Runtime) -> None:
    row_id = dead_row(app)

    ended = chargeapp("dead-letters", "replay", "authorization", str(row_id), "999")

    assert ended.status == 1
    assert ended.out == "1 put on their way again.\n"
    assert ended.err.splitlines() == [
        "authorization 999: no dead letter (any more)",
        "chargeapp: 1 not replayed. See: chargeapp dead-letters list",
    ]


@pytest.mark.parametrize(
    "arguments", [[], ["callbacks"], ["callbacks", "1", "--all"], ["nowhere", "1"], ["callbacks", "x"]]
)
def test_a_doubtful_replay_is_refused(app: Runtime, arguments: list[str]) -> None:
    ended = chargeapp("dead-letters", "replay", *arguments)

    assert ended.status == 2
    assert "Error: " in ended.err


def test_the_queues_are_those_of_the_pipeline() -> None:
    assert tuple(stage.queue for stage in STAGES) == QUEUES
