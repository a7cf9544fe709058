"""Ringing is best effort: it wakes whoever listens, and never fails. By pipes or by NOTIFY, the rules are the same."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.builders import eventually, new_database
from support.postgres_server import PostgresServer, needed_postgres

from chargeapp.storage.database import Database
from chargeapp.storage.wakeups import Wakeups

SOON = 5.0
LISTENER = """
import sys, time
from pathlib import Path
from chargeapp.storage.database import Database
with Database(sys.argv[1]).wakeups(Path(sys.argv[2])).listen("relay") as bell:
    print("listening", flush=True)
    print(bell.wait(30), flush=True)
    time.sleep(30)
"""


@pytest.fixture
def wakeups(database: Database, tmp_path: Path) -> Wakeups:
    return database.wakeups(tmp_path / "wakeups")


def test_nobody_hears_a_ring_without_a_listener(wakeups: Wakeups) -> None:
    assert not wakeups.ring("authorization")


def test_the_relay_hears_a_ring_for_any_queue(wakeups: Wakeups) -> None:
    with wakeups.listen("relay") as bell:
        assert wakeups.ring("authorization")
        assert bell.wait(1)


def test_a_job_that_attends_its_queue_hears_the_ring_instead_of_the_relay(wakeups: Wakeups) -> None:
    with wakeups.listen("relay") as relay, wakeups.listen("callbacks") as job:
        assert wakeups.ring("callbacks")
        assert job.wait(SOON)
        assert not relay.wait(0)


def test_an_early_ring_is_heard_only_where_writers_wait_for_their_turn(wakeups: Wakeups, database: Database) -> None:
    with wakeups.listen("callbacks") as job:
        assert wakeups.ring_early("callbacks") is (database.path is not None)
        assert job.wait(0) is (database.path is not None)


def test_all_listeners_of_a_queue_are_woken(wakeups: Wakeups) -> None:
    with wakeups.listen("callbacks") as one, wakeups.listen("callbacks") as other:
        wakeups.ring("callbacks")
        assert one.wait(SOON)
        assert other.wait(SOON)


def test_a_ring_for_another_queue_is_not_heard(wakeups: Wakeups) -> None:
    with wakeups.listen("callbacks") as bell:
        assert not wakeups.ring("delivery-events")
        assert not bell.wait(0)


def test_many_rings_count_as_one(wakeups: Wakeups) -> None:
    with wakeups.listen("relay") as bell:
        for _ in range(10):
            wakeups.ring("authorization")
        assert bell.wait(SOON)
        assert not bell.wait(0)


def test_waiting_ends_after_its_time(wakeups: Wakeups) -> None:
    with wakeups.listen("relay") as bell:
        began = time.monotonic()
        assert not bell.wait(0.05)
        assert not bell.wait(-1)
        assert time.monotonic() - began < 1


def test_a_queue_is_attended_while_somebody_listens(wakeups: Wakeups) -> None:
    assert not wakeups.attended("callbacks")
    with wakeups.listen("callbacks"):
        assert wakeups.attended("callbacks")
        assert not wakeups.attended("call")
    assert not wakeups.attended("callbacks")


def test_a_thread_of_the_listener_rings_its_bell(wakeups: Wakeups) -> None:
    with wakeups.listen("callbacks") as bell:
        threading.Timer(0.05, bell.ring).start()
        assert bell.wait(SOON)


def test_a_ring_reaches_another_process_until_that_is_killed(database: Database, tmp_path: Path) -> None:
    wakeups = database.wakeups(tmp_path / "wakeups")
    command = [sys.executable, "-c", LISTENER, str(database.url), str(tmp_path / "wakeups")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"

        assert wakeups.ring("authorization")
        assert listener.stdout.readline() == "True\n"
        listener.kill()

    eventually(lambda: not wakeups.ring("authorization"), "it seems to listen still")
    assert not wakeups.attended("relay")


def test_listeners_hear_again_after_a_restart_of_the_server(tmp_path: Path) -> None:
    with (
        PostgresServer(needed_postgres()) as server,
        server.new_database() as url,
        new_database(tmp_path, url) as database,
    ):
        wakeups = database.wakeups(tmp_path)
        with wakeups.listen("relay") as relay, wakeups.listen("callbacks") as job:
            server.stop()
            assert not wakeups.ring("callbacks")
            assert not wakeups.attended("callbacks")
            assert not job.wait(0.1)
            server.start()

            eventually(lambda: job.wait(0.1), "what was missed is not looked for")
            assert relay.wait(SOON)
            assert wakeups.ring("callbacks")
            assert job.wait(SOON)
            assert not relay.wait(0)
