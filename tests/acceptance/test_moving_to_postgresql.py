"""A live deployment moves to PostgreSQL: real processes, requests in flight, a tool that dies on its way."""

import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import requests
from deployment import STATION, Deployment
from pysqlite3 import dbapi2 as sqlite
from servers import Answer, Receiver
from sqlalchemy import func, select
from support.killed_move import move_killed
from support.postgres_server import EMPTY, PostgresServer

from chargeapp.storage.models import EventRecord

pytestmark = pytest.mark.only_on("sqlite", reason="moves from SQLite to PostgreSQL")
CALLERS = 4
MORE = 40
SHOWN = 5_000


@dataclass
class Traffic:
    """Callers that send the next request as soon as they have an answer; who gets no 200 sends the same again."""

    url: str
    callback_url: str
    accepted: dict[str, str] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with requests.Session() as http:
            while not self.stopping.is_set():
                key = uuid.uuid4().hex
                while (answer := self.send(http, key)).status_code == 503:
                    pass
                assert answer.status_code == 200, answer.text
                self.accepted[key] = answer.json()["requestId"]

    def send(self, http: requests.Session, key: str) -> requests.Response:
        body = {"stationId": STATION, "driverToken": "driver-token-that-moves", "callbackUrl": self.callback_url}
        return http.post(f"{self.url}/api/v1/charging-session", json=body, headers={"Idempotency-Key": key}, timeout=30)


@dataclass
class Moved:
    deployment: Deployment
    url: str
    file: Path
    traffic: Traffic
    callbacks: dict[str, list[object]]
    told: dict[str, object]


@pytest.fixture(scope="module")
def moved(postgres: PostgresServer, data_dir: Callable[[], Path], receiver: Receiver) -> Iterator[Moved]:
    """The tool is killed twice and started again, while callers go on; in the end all requests have ended."""
    with postgres.new_database(EMPTY) as url, Deployment(data_dir()) as deployment:
        deployment.up()
        path = receiver.path(Answer(204, delay_seconds=0.1))
        traffic = Traffic(deployment.url, receiver.url(path))
        file = deployment.runtime.database.path
        assert file
        with ThreadPoolExecutor(CALLERS) as pool:
            callers = [pool.submit(traffic.run) for _ in range(CALLERS)]
            try:
                deployment.until(lambda: len(traffic.accepted) > MORE, "no traffic")
                move_killed(url, "target", "analyze", environment=deployment.environment)
                move_killed(url, "source", "close_for_good", environment=deployment.environment)
                told = json.loads(move(deployment, url))
                before = len(traffic.accepted)
                deployment.until(lambda: len(traffic.accepted) > before + MORE, "no traffic after the switch")
            finally:
                traffic.stopping.set()
            for caller in callers:
                caller.result()
        deployment.until(lambda: ended(deployment) == len(traffic.accepted), "requests did not end")
        yield Moved(deployment, url, file, traffic, receiver.by_request(path), told)


def move(deployment: Deployment, url: str) -> str:
    command = [sys.executable, "-m", "chargeapp", "migrate-store", "--to", url, "--json"]
    done = subprocess.run(command, env=deployment.environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-SHOWN:]
    return done.stdout


def ended(deployment: Deployment) -> int:
    with deployment.runtime.database.reading() as session:
        return session.scalar(select(func.count()).select_from(EventRecord).where(EventRecord.terminal)) or 0


def test_nothing_is_lost_and_nothing_is_sent_twice(moved: Moved) -> None:
    assert set(moved.callbacks) == set(moved.traffic.accepted.values())
    assert {len(each) for each in moved.callbacks.values()} == {1}


def test_every_request_has_one_end_and_it_is_in_postgresql(moved: Moved) -> None:
    with psycopg.connect(moved.url) as connection:
        found = connection.execute(
            "SELECT request_id, count(*) FROM events WHERE terminal GROUP BY request_id"
        ).fetchall()

    assert dict(found) == dict.fromkeys(moved.traffic.accepted.values(), 1)


def test_the_counts_are_equal(moved: Moved) -> None:
    assert moved.told["state"] == "moved"
    assert moved.told["before"] == moved.told["after"]


def test_a_key_used_before_answers_the_same_after(moved: Moved) -> None:
    first = next(iter(moved.traffic.accepted))
    with requests.Session() as http:
        answer = moved.traffic.send(http, first)

    assert answer.json()["requestId"] == moved.traffic.accepted[first]
    assert answer.headers["Idempotency-Replayed"] == "true"


def test_the_old_file_took_no_write_after_the_switch_and_takes_none(moved: Moved) -> None:
    file = sqlite.connect(moved.file, isolation_level=None)
    try:
        (count,) = file.execute("SELECT count(*) FROM charging_session_requests").fetchone()
        with pytest.raises(sqlite.IntegrityError, match="has moved"):
            file.execute("DELETE FROM charging_session_requests")
    finally:
        file.close()

    before = moved.told["before"]
    assert isinstance(before, dict)
    assert count == before["charging_session_requests"] < len(moved.traffic.accepted)


def test_all_processes_went_on_without_a_restart(moved: Moved) -> None:
    lines = [json.loads(line) for line in moved.deployment.output().splitlines() if line.startswith("{")]

    went = {line["process"] for line in lines if line.get("action") == "store_moved"}
    assert "Traceback" not in moved.deployment.output()
    assert len(went) >= 5
