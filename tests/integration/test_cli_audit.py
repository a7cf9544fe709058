"""`chargeapp audit export`: every decision once, no token, and nobody held up meanwhile."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cli_support import DRIVER, accept, ago, chargeapp, data_dir, end, now, runtime, shown, start, tables, terminal
from sqlalchemy import insert, text, update
from support.builders import eventually

from chargeapp.commands.audit_file import COLUMNS, harmless
from chargeapp.domain.callback import Outcome
from chargeapp.domain.charging_session import new_request_id
from chargeapp.runtime import Runtime
from chargeapp.services import audit
from chargeapp.services.audit import Period, pages_of_decisions
from chargeapp.services.driver_tokens import erase_driver
from chargeapp.services.retention import Retention, forget
from chargeapp.storage.models import SessionRequest

__all__ = ["data_dir", "tables"]

OTHER_DRIVER = "driver-token-number-0002"


@pytest.fixture
def app(tables: Path) -> Iterator[Runtime]:
    with runtime() as built:
        yield built


def exported(*options: str) -> list[dict[str, Any]]:
    ended = chargeapp("audit", "export", "--format", "jsonl", *options)
    assert ended.status == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


def many(app: Runtime, number: int, at: datetime | None = None, **changes: Any) -> None:
    """Decided and delivered requests, stored at once."""
    moment = at or ago(hours=1)
    row = {
        "caller": "hub",
        "station_id": "123e4567-e89b-12d3-a456-426614174000",
        "token_sealed": b"",
        "token_hash": app.vault.hash(DRIVER),
        "token_masked": "…",
        "callback_url": f"https://example.com/{DRIVER}",
        "destination": "example.com:443",
        "state": "delivered",
        "decide_by": moment,
        "expires_at": moment,
        "decision": "allowed",
        "source": "access_list",
        "decided_at": moment,
        "callback_attempts": 1,
        "ended_at": moment,
        **changes,
    }
    for begin in range(0, number, 50_000):
        times = [moment + timedelta(milliseconds=each) for each in range(begin, min(number, begin + 50_000))]
        rows = [row | {"id": new_request_id(each), "accepted_at": each} for each in times]
        with app.database.writing() as session:
            session.execute(insert(SessionRequest), rows)


def test_a_decision_is_told_with_source_reason_times_and_end(app: Runtime) -> None:
    moment = ago(minutes=1)
    request_id = end(app, Outcome.RETRY, at=moment)

    [found] = exported()

    assert list(found) == list(COLUMNS)
    assert found["requestId"] == request_id
    assert (found["decision"], found["reason"], found["source"]) == ("allowed", None, "access_list")
    assert (found["authorizationTries"], found["callbackAttempts"]) == (1, 1)
    assert (found["state"], found["lastError"], found["callbackDestination"]) == ("failed", "500", "example.com:443")
    assert found["acceptedAt"] == found["decidedAt"] == found["endedAt"] == moment.isoformat()


def test_csv_has_the_same_rows(app: Runtime) -> None:
    end(app, Outcome.DELIVERED)

    [row] = csv.DictReader(io.StringIO(chargeapp("audit", "export").out))

    assert row == {name: "" if value is None else str(value) for name, value in exported()[0].items()}


def test_a_period_is_that_of_acceptance_and_periods_that_meet_share_no_row(app: Runtime) -> None:
    older, newer = end(app, Outcome.DELIVERED, at=ago(hours=2)), end(app, Outcome.DELIVERED, at=ago(hours=1))
    between = ago(minutes=90).isoformat()

    assert [each["requestId"] for each in exported()] == [older, newer]
    assert [each["requestId"] for each in exported("--until", between)] == [older]
    assert [each["requestId"] for each in exported("--since", between)] == [newer]


def test_undecided_requests_are_left_out_and_counted(app: Runtime) -> None:
    end(app, Outcome.DELIVERED)
    accept(app)

    ended = chargeapp("audit", "export", "--format", "jsonl")

    assert len(ended.out.splitlines()) == 1
    assert "1 requests were not decided yet" in ended.err


def test_rows_of_one_driver_have_one_pseudonym_which_is_neither_token_nor_hash(app: Runtime) -> None:
    many(app, 2)
    many(app, 1, token_hash=app.vault.hash(OTHER_DRIVER))

    first, second, other = (each["driver"] for each in exported())

    assert first == second != other
    everything = chargeapp("audit", "export").out
    assert DRIVER not in everything
    assert app.vault.hash(DRIVER) not in everything


def test_what_retention_and_erasure_left_is_exported(app: Runtime) -> None:
    kept = end(app, Outcome.DELIVERED, at=ago(days=29))
    end(app, Outcome.DELIVERED, at=ago(days=31))
    with app.database.writing() as session:
        forget(session, Retention(timedelta(days=30), timedelta(hours=24)), now())

    [found] = exported()
    assert (found["requestId"], len(found["driver"])) == (kept, 32)

    with app.database.writing() as session:
        erase_driver(session, DRIVER, app.vault.hash(DRIVER))
    [found] = exported()
    assert (found["requestId"], found["driver"], found["decision"]) == (kept, "erased", "allowed")


@pytest.mark.parametrize("evil", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_no_cell_is_a_formula(app: Runtime, evil: str) -> None:
    many(app, 1, caller=evil, reason=f"{evil}, really", last_error="an error = an error")

    [row] = csv.DictReader(io.StringIO(chargeapp("audit", "export").out, newline=""))

    assert (row["caller"], row["reason"]) == (f"'{evil}", f"'{evil}, really")
    assert row["lastError"] == "an error = an error"
    assert harmless(-1) == -1
    assert exported()[0]["caller"] == evil


# The file


def test_a_file_is_complete_for_its_owner_only_and_never_overwritten_by_accident(app: Runtime, tmp_path: Path) -> None:
    end(app, Outcome.DELIVERED)
    file = tmp_path / "decisions.csv"
    first = chargeapp("audit", "export", "--output", str(file), "--json")
    content = file.read_text()

    again = chargeapp("audit", "export", "--output", str(file))
    forced = chargeapp("audit", "export", "--format", "jsonl", "--output", str(file), "--force")

    assert json.loads(first.out) == {"file": str(file), "decisions": 1, "undecided": 0}
    assert content.startswith("requestId,")
    assert file.stat().st_mode & 0o777 == 0o600
    assert (again.status, len(again.err.splitlines()), "--force" in again.err) == (1, 1, True)
    assert (forced.status, file.read_text()[0]) == (0, "{")


@pytest.mark.parametrize("output", ["/dev/null", ".", "missing/decisions.csv"])
def test_what_is_no_file_is_refused_in_one_line(app: Runtime, output: str) -> None:
    ended = chargeapp("audit", "export", "--force", "--output", output)

    assert (ended.status, len(ended.err.splitlines())) == (1, 1)
    assert not Path("/dev/null").is_file()


def test_an_export_that_fails_leaves_the_file_before_and_nothing_else(
    app: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(app, 3)
    folder = tmp_path / "exports"
    folder.mkdir()
    (folder / "decisions.csv").write_text("before")
    monkeypatch.setattr(audit, "REQUESTS_A_LOOK", 2)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    ended = chargeapp("audit", "export", "--force", "--output", str(folder / "decisions.csv"))

    assert ended.status == 1
    assert ended.err.splitlines()[-1].endswith("No space left on device.")
    assert [each.name for each in folder.iterdir()] == ["decisions.csv"]
    assert (folder / "decisions.csv").read_text() == "before"


@pytest.mark.parametrize(
    "mistake",
    [
        ("--since", "2026-01-02", "--until", "2026-01-01"),
        ("--since", "2999-01-01"),
        ("--since", "yesterday"),
        ("--json",),
    ],
    ids=" ".join,
)
def test_a_mistake_is_a_usage_error(app: Runtime, mistake: tuple[str, ...]) -> None:
    ended = chargeapp("audit", "export", *mistake)

    assert ended.status == 2
    assert "Traceback" not in ended.err


# A running system


def test_no_transaction_stays_open_between_two_looks(app: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the log of the database could not be emptied until the export ends."""
    monkeypatch.setattr(audit, "REQUESTS_A_LOOK", 2)
    many(app, 5)
    pages = pages_of_decisions(app.database, app.vault, Period(None, now()))
    next(pages)

    accept(app)
    connection = app.database.engine.raw_connection()
    busy, in_log, moved = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    connection.close()

    assert (busy, in_log) == (0, moved)
    assert sum(len(page.decisions) for page in pages) == 3


def test_requests_that_come_or_go_meanwhile_leave_the_others_complete(
    app: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "REQUESTS_A_LOOK", 2)
    many(app, 6)
    period = Period(None, ago(seconds=1))
    pages = pages_of_decisions(app.database, app.vault, period)
    found = [each["requestId"] for each in next(pages).decisions]
    end(app, Outcome.DELIVERED)
    with app.database.writing() as session:
        session.execute(text("DELETE FROM charging_session_requests WHERE id = :id"), {"id": found[1]})

    found += [each["requestId"] for page in pages for each in page.decisions]

    assert len(set(found)) == 6


def test_memory_is_flat_over_many_rows(app: Runtime) -> None:
    """The difference that 60,000 rows make is less than what they would take as text alone."""
    peak = "print(*(line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line), file=sys.stderr)"
    program = (
        "import sys, atexit; sys.argv = ['chargeapp', *sys.argv[1:]]\n"
        f"atexit.register(lambda: exec({peak!r}))\n"
        "from chargeapp.commands import main; main()"
    )

    def peak_kib() -> tuple[int, int]:
        ended = subprocess.run(
            [sys.executable, "-c", program, "audit", "export", "--format", "jsonl"], capture_output=True, check=True
        )
        return int(ended.stderr.splitlines()[-1]), len(ended.stdout) // 1024

    many(app, 2_000)
    small, _ = peak_kib()
    many(app, 60_000, at=ago(hours=2))
    large, written = peak_kib()

    assert written > 20_000
    assert large - small < written / 2


def test_progress_is_shown_on_a_terminal_and_the_output_is_clean(app: Runtime) -> None:
    many(app, 10)
    with terminal() as (ours, theirs):
        process = start("audit", "export", "--format", "jsonl", stdout=subprocess.PIPE, stderr=theirs)
        assert process.stdout is not None
        with process.stdout as out:
            lines = out.read().splitlines()
        assert process.wait(20) == 0
        seen = bytearray()
        eventually(lambda: seen.extend(shown(ours)) or b"Exported 10 decisions" in seen, "not said")

    assert b"Exporting" in seen
    assert [set(json.loads(line)) == set(COLUMNS) for line in lines] == [True] * 10


def test_the_events_of_a_purged_request_are_of_no_other(app: Runtime) -> None:
    """A request without its timeline, as an old backup may have it, is still exported."""
    request_id = end(app, Outcome.DELIVERED)
    with app.database.writing() as session:
        session.execute(text("DELETE FROM events"))
        session.execute(update(SessionRequest).where(SessionRequest.id == request_id).values(reason="blocked"))

    [found] = exported()

    assert (found["reason"], found["authorizationTries"]) == ("blocked", None)


def test_a_name_that_is_too_long_is_one_line(app: Runtime) -> None:
    ended = chargeapp("audit", "export", "--output", "x" * 300)

    assert (ended.status, len(ended.err.splitlines())) == (1, 1)
    assert ended.err.endswith("cannot be written: File name too long.\n")


def test_a_full_disk_behind_standard_output_is_one_line(app: Runtime) -> None:
    many(app, 1)

    with Path("/dev/full").open("wb") as full:
        process = start("audit", "export", stdout=full, stderr=subprocess.PIPE)
        _, said = process.communicate(timeout=30)

    assert (process.returncode, said) == (1, b"chargeapp: [Errno 28] No space left on device\n")
