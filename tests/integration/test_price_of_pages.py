"""With many requests stored every page does as little work as with few: counted in SQLite's own steps, not in time."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import Engine, event, text
from support.builders import STATION, TOKEN
from support.callers import api_of

from chargeapp.clock import utcnow
from chargeapp.domain.charging_session import oldest_request_id
from chargeapp.pipeline import STAGES
from chargeapp.runtime import Runtime
from chargeapp.security.driver_tokens import mask

FEW, MANY = 6_000, 60_000
STEPS = 100
LISTED = "/api/v1/charging-session"
# A page that finds hardly anything among few may fill itself among many; this is about two milliseconds.
CHEAP = 15_000
BUSY_STATION = "00000000-0000-4000-8000-000000000000"
OUTBOXES = [stage.outbox.__tablename__ for stage in STAGES]
BIG = {"charging_session_requests", "events", *OUTBOXES}
REQUESTS = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :number)
    INSERT INTO charging_session_requests (id, caller, station_id, token_hash, token_masked, callback_url, destination,
        state, accepted_at, decide_by, expires_at, decision, decided_at, callback_attempts, ended_at)
    SELECT substr(:first, 1, 4) || printf('%012x%020x', :millis + i * 1000, i), 'hub',
        CASE WHEN i % 100 THEN :busy ELSE :station END, printf('%064x', i % 50),
        CASE WHEN i % 50 THEN 'DRIV…' || (1000 + i % 50) ELSE :masked END, 'https://caller.example/', 'caller.example',
        CASE WHEN i % 100 = 2 THEN 'expired' WHEN i % 100 AND i % 3 = 1 THEN 'failed' ELSE 'delivered' END,
        :at, :at, :at,
        CASE WHEN i % 150 = 3 THEN 'unknown' WHEN i % 10 = 4 THEN 'not_allowed' ELSE 'allowed' END, :at, 1, :at
    FROM n
"""
EVENTS = """
    INSERT INTO events (request_id, type, at, details, terminal)
    SELECT id, 'CallbackDeliverySucceeded', accepted_at, '{}', 1 FROM charging_session_requests
"""
ROWS = """
    INSERT INTO {} (request_id, type, payload, destination, created_at, due_at, attempts, enqueue_seq, settled_at)
    SELECT id, 'X', '{{}}', '', accepted_at, accepted_at, 1, 1, accepted_at FROM charging_session_requests
"""


def fill(runtime: Runtime, number: int) -> None:
    """That many ended requests, one a second."""
    begun = utcnow() - timedelta(seconds=number + 60)
    values = {
        "number": number,
        "first": oldest_request_id(begun),
        "millis": int(begun.timestamp() * 1000),
        "station": STATION,
        "busy": BUSY_STATION,
        "masked": mask(TOKEN),
        "at": begun.strftime("%Y-%m-%d %H:%M:%S.%f"),
    }
    with runtime.database.writing() as session:
        session.execute(text(REQUESTS), values)
        session.execute(text(EVENTS))
        for outbox in OUTBOXES:
            session.execute(text(ROWS.format(outbox)))


class Meter:
    """Counts the steps of every statement on every connection made while it is there."""

    def __init__(self) -> None:
        self.steps = 0
        self.statements: list[tuple[str, Any]] = []

    @contextmanager
    def attached(self) -> Iterator["Meter"]:
        listeners = (("connect", self._connected), ("before_cursor_execute", self._executed))
        for name, listener in listeners:
            event.listen(Engine, name, listener)
        yield self
        for name, listener in listeners:
            event.remove(Engine, name, listener)

    def _connected(self, connection: Any, _: Any) -> None:
        connection.set_progress_handler(self._stepped, STEPS)

    def _stepped(self) -> int:
        self.steps += STEPS
        return 0

    def _executed(self, _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        self.statements.append((statement, parameters))

    def steps_for(self, client: FlaskClient, path: str) -> int:
        before = self.steps
        answer = client.get(path, headers={"Accept": "text/html"})
        assert answer.status_code == 200, path
        return self.steps - before


def pages(runtime: Runtime) -> list[str]:
    with runtime.database.reading() as session:
        ids = session.scalars(text("SELECT id FROM charging_session_requests ORDER BY id DESC LIMIT 300")).all()
    one = ids[-1]
    filters = [
        f"before={one}",
        f"request={one[:14]}",
        f"station={STATION}",
        "driver=DRIV*6789",
        "driver=DRIV*6789~0000000000000000",
        "driver=ABCD*6789",
        *(f"state={state}" for state in ("accepted", "decided", "delivered", "failed", "expired")),
        *(f"decision={decision}" for decision in ("allowed", "not_allowed", "unknown", "invalid")),
        f"station={STATION}&state=expired",
        # Many failed, none of them there: the index of the state would be the wrong one.
        f"station={STATION}&state=failed",
        "driver=DRIV*6789&state=delivered&decision=unknown",
        "state=delivered&decision=unknown",
        f"station={BUSY_STATION}&driver=ABCD*6789",
        f"station={BUSY_STATION}&decision=unknown",
        f"station={BUSY_STATION}&state=expired",
        f"station={BUSY_STATION}&driver=DRIV*6789&decision=unknown",
        f"station={STATION}&driver=DRIV*6789&decision=unknown",
        "state=failed&decision=not_allowed",
        "state=delivered&decision=invalid",
        "state=expired&decision=unknown",
        f"request={one[:4]}&decision=invalid",
        f"since={utcnow() - timedelta(minutes=30):%Y-%m-%dT%H:%M}",
        f"until={utcnow() - timedelta(minutes=30):%Y-%m-%dT%H:%M}&decision=not_allowed",
    ]
    return [
        "/",
        "/queues",
        "/dead-letters",
        "/access-list",
        f"/requests/{one}",
        "/requests",
        *(f"/requests?{each}" for each in filters),
        "/failed",
        "/failed?reason=gone",
        f"/failed?station={STATION}",
        f"/failed?station={BUSY_STATION}&reason=blocked",
        f"/failed?station={STATION}&since={utcnow() - timedelta(hours=20):%Y-%m-%dT%H:%M}",
        *(
            f"/failed/redelivery?which=all{each}"
            for each in ("", "&reason=gone", f"&station={STATION}", f"&station={BUSY_STATION}&reason=blocked")
        ),
        LISTED,
        *(f"{LISTED}?{each}" for each in ("state=failed", f"stationId={STATION}&state=failed", f"stationId={STATION}")),
    ]


@contextmanager
def metered(directory: Path, number: int) -> Iterator[tuple[Runtime, FlaskClient, Meter]]:
    directory.mkdir()
    with Meter().attached() as meter, api_of(directory) as (runtime, client):
        fill(runtime, number)
        yield runtime, client, meter


def test_with_ten_times_the_requests_no_page_takes_more_than_twice_the_steps(tmp_path: Path) -> None:
    steps: dict[int, list[int]] = {}
    names: list[str] = []
    for number in (FEW, MANY):
        with metered(tmp_path / str(number), number) as (runtime, client, meter):
            names = pages(runtime)
            steps[number] = [meter.steps_for(client, path) for path in names]

    dear = {
        path: (few, many)
        for path, few, many in zip(names, steps[FEW], steps[MANY], strict=True)
        if many > max(2 * few, CHEAP)
    }
    assert dear == {}


def test_no_page_scans_a_big_table(tmp_path: Path) -> None:
    scanned = set()
    with metered(tmp_path / "plans", 500) as (runtime, client, meter):
        partial = small_indexes(runtime)
        for path in pages(runtime):
            meter.statements.clear()
            meter.steps_for(client, path)
            asked = [each for each in meter.statements if each[0].startswith("SELECT")]
            assert asked
            for statement, parameters in asked:
                for table, index in scans(runtime, statement, parameters):
                    ends_early = "LIMIT" in statement and index == "sqlite_autoindex_charging_session_requests_1"
                    if table in BIG and not ends_early and index not in partial:
                        scanned.add((path, table, index))

    assert scanned == set()


def test_a_statement_that_scans_would_be_noticed(tmp_path: Path) -> None:
    with metered(tmp_path / "plans", 10) as (runtime, _, _):
        plan = scans(runtime, "SELECT count(*) FROM events WHERE at > ?", ("2026",))

    assert plan == [("events", None)]


def small_indexes(runtime: Runtime) -> set[str]:
    """Of rows that are on their way or dead: few, however many requests are stored."""
    with runtime.database.reading() as session:
        return set(
            session.scalars(
                text("SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '%settled_at IS NULL%'")
            )
        ) | {"ix_requests_undecided", *(f"ix_{outbox}_dead" for outbox in OUTBOXES)}


def scans(runtime: Runtime, statement: str, parameters: Any) -> list[tuple[str, str | None]]:
    connection = runtime.database.engine.raw_connection()
    try:
        lines = [row[3] for row in connection.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    finally:
        connection.close()
    found = [re.match(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?", line) for line in lines]
    return [(each[1], each[2]) for each in found if each]
