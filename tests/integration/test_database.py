"""What is committed stays; who writes waits in line, and never for ever."""

import fcntl
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pysqlite3 import dbapi2 as sqlite
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError
from support.builders import NOW, accept, eventually, in_time, new_database, rows, seconds

from chargeapp.errors import DatabaseUnavailable, MisconfiguredError
from chargeapp.storage import fair_gate, heartbeats, schema
from chargeapp.storage import sqlite as module
from chargeapp.storage.database import Database
from chargeapp.storage.models import Base, ChargingSessionRequestOutbox, EventRecord, Heartbeat, SessionRequest
from chargeapp.storage.prepared import rows_on_driver
from chargeapp.storage.sqlite import check_sqlite_version, file_system_of

HOLD = {
    # As our own processes write, and as anybody else's tool does.
    "chargeapp": """
import sys
from sqlalchemy import text
from chargeapp.storage.database import Database
with Database(sys.argv[1]).writing() as session:
    session.execute(text("DELETE FROM charging_session_requests"))
    print("holding", flush=True)
    sys.stdin.readline()
    session.rollback()
""",
    "another tool": """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1].removeprefix("sqlite:///"), isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("holding", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
""",
}


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.3)
    monkeypatch.setattr(fair_gate, "BUSY_SECONDS", 0.3)
    with new_database(tmp_path) as database:
        yield database


@pytest.fixture
def holder(database: Database) -> Iterator[Callable[[str], "subprocess.Popen[bytes]"]]:
    """Starts another process that is in the middle of a writing transaction."""
    started: list[subprocess.Popen[bytes]] = []

    def start(kind: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD[kind], str(database.url)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"holding\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def write(database: Database) -> None:
    with database.writing() as session:
        heartbeats.beat(session, "test", NOW)


def pragma(database: Database, name: str) -> object:
    with database.reading() as session:
        return session.scalar(text(f"PRAGMA {name}"))


def test_every_commit_is_on_disk_before_it_is_answered(database: Database) -> None:
    with database.writing() as session:
        assert session.scalar(text("PRAGMA synchronous")) == 2  # FULL
    assert pragma(database, "journal_mode") == "wal"
    assert pragma(database, "foreign_keys") == 1


class RefusedError(Exception):
    """What a use case may raise in the middle of its transaction."""


def test_a_commit_after_a_claim_is_on_disk_again(database: Database) -> None:
    def level(*, durable: bool) -> int:
        with database.writing(durable=durable) as session:
            return int(session.scalar(text("PRAGMA synchronous")))

    assert [level(durable=each) for each in (True, False, False, True)] == [2, 1, 1, 2]
    for durable in (True, False):
        with pytest.raises(RefusedError), database.writing(durable=durable):
            raise RefusedError
        assert level(durable=True) == 2
        assert level(durable=False) == 1


def test_a_row_without_its_request_is_refused(database: Database) -> None:
    event = {"request_id": "req-none", "type": "RequestAccepted", "at": NOW, "details": {}, "terminal": False}

    with pytest.raises(IntegrityError, match="FOREIGN KEY"), database.writing() as session:
        session.execute(insert(EventRecord), [event])


def test_a_writer_has_the_lock_from_its_first_statement_on(database: Database) -> None:
    with database.writing() as session:
        session.execute(text("SELECT 1"))
        other = sqlite.connect(str(database.path), timeout=0)
        with pytest.raises(sqlite.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


def test_a_reader_waits_for_no_writer_and_sees_what_was_committed(database: Database) -> None:
    accept(database)
    with database.writing() as session:
        session.execute(text("DELETE FROM charging_session_requests"))
        assert len(rows(database, SessionRequest)) == 1
        session.rollback()


def test_what_was_raised_inside_a_transaction_undoes_all_of_it(database: Database) -> None:
    with pytest.raises(LookupError), database.writing() as session:
        heartbeats.beat(session, "test", NOW)
        raise LookupError

    with database.reading() as session:
        assert heartbeats.last(session, "test") is None


@pytest.mark.parametrize("kind", HOLD)
def test_a_database_locked_for_too_long_is_unavailable_within_a_bound_and_recovers(
    database: Database, holder: Callable[[str], "subprocess.Popen[bytes]"], kind: str
) -> None:
    process = holder(kind)
    began = time.monotonic()

    error = in_time(lambda: write(database), 5)

    assert isinstance(error, DatabaseUnavailable)
    assert time.monotonic() - began < 3
    process.communicate(b"go\n", timeout=10)
    write(database)


def test_a_stopped_process_in_the_middle_of_a_transaction_hangs_nobody(
    database: Database, holder: Callable[[str], "subprocess.Popen[bytes]"]
) -> None:
    process = holder("chargeapp")
    process.send_signal(signal.SIGSTOP)

    errors = [in_time(lambda: write(database), 5) for _ in range(3)]

    assert [type(error) for error in errors] == [DatabaseUnavailable] * 3
    process.send_signal(signal.SIGCONT)
    process.communicate(b"go\n", timeout=10)
    write(database)


def test_who_gave_up_waiting_holds_up_no_other_process(
    database: Database, holder: Callable[[str], "subprocess.Popen[bytes]"]
) -> None:
    first = holder("chargeapp")
    in_time(lambda: write(database), 5)
    first.communicate(b"go\n", timeout=10)

    # This process asked first; but it does not want the lock any more.
    second = holder("chargeapp")
    second.communicate(b"go\n", timeout=10)
    assert second.returncode == 0


def test_writers_in_threads_give_up_together(
    database: Database, holder: Callable[[str], "subprocess.Popen[bytes]"]
) -> None:
    holder("another tool")
    began = time.monotonic()
    errors: list[BaseException | None] = []
    threads = [threading.Thread(target=lambda: errors.append(in_time(lambda: write(database), 10))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [type(error) for error in errors] == [DatabaseUnavailable] * 6
    assert time.monotonic() - began < 4 * 0.3 + 1


@pytest.mark.parametrize("kind", HOLD)
def test_a_writer_killed_inside_its_transaction_blocks_nobody(
    database: Database, holder: Callable[[str], "subprocess.Popen[bytes]"], kind: str
) -> None:
    accept(database)
    process = holder(kind)
    process.kill()
    process.communicate()

    assert in_time(lambda: write(database), 5) is None
    assert len(rows(database, SessionRequest)) == 1


@pytest.mark.parametrize("version", [(3, 7, 0), (3, 40, 1), (3, 44, 5), (3, 45, 0), (3, 50, 6), (3, 51, 2)])
def test_an_sqlite_that_can_lose_rows_is_refused(version: tuple[int, int, int]) -> None:
    with pytest.raises(MisconfiguredError, match=r"3\.51\.3 or newer"):
        check_sqlite_version(version)


@pytest.mark.parametrize("version", [(3, 44, 6), (3, 50, 7), (3, 51, 3), (3, 53, 4), (4, 0, 0)])
def test_an_sqlite_that_was_fixed_is_accepted(version: tuple[int, int, int]) -> None:
    check_sqlite_version(version)


def test_the_sqlite_of_the_install_is_a_fixed_one() -> None:
    check_sqlite_version(sqlite.sqlite_version_info)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p"])
def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mounts = f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path} {kind} rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda self: mounts)

    with pytest.raises(MisconfiguredError, match=f"is on {kind}"):
        Database(f"sqlite:///{tmp_path}/data/chargeapp.db")


def test_the_nearest_mount_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = f"server:/x / nfs rw 0 0\n/dev/sda1 {tmp_path} ext4 rw 0 0\n/dev/sdb1 {tmp_path}x nfs rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda self: mounts)

    assert file_system_of(tmp_path / "data") == "ext4"
    assert file_system_of(Path("/srv")) == "nfs"


def test_a_kernel_that_does_not_tell_its_mounts_is_not_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(self: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", unknown)

    assert file_system_of(Path("/")) == ""


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql+psycopg2://localhost/chargeapp",
        "mysql://localhost/chargeapp",
        "chargeapp.db",
    ],
)
def test_a_database_that_processes_cannot_share_is_refused(url: str) -> None:
    with pytest.raises(MisconfiguredError, match="DATABASE_URL"):
        Database(url)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(MisconfiguredError, match="cannot be made"):
        Database(f"sqlite:///{tmp_path}/file/chargeapp.db")


@pytest.mark.parametrize("content", [b"", b"this is no database at all" * 100])
def test_a_database_that_cannot_be_used_is_unavailable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "chargeapp.db"
    if content:
        path.write_bytes(content)
    else:
        path.mkdir()
    database = Database(f"sqlite:///{path}")

    with pytest.raises(DatabaseUnavailable):
        write(database)
    with pytest.raises(DatabaseUnavailable), database.reading() as session:
        session.execute(text("SELECT 1"))
    database.close()


def test_the_log_is_moved_into_the_database_by_a_checkpoint(database: Database) -> None:
    accept(database, 50)
    log = database.path.with_name(database.path.name + "-wal")
    before = database.path.stat().st_size
    assert log.stat().st_size > 0

    database.checkpoint()

    assert database.path.stat().st_size >= before
    # Outside of a transaction, which would keep the log from moving.
    with database.glancing() as connection:
        assert rows_on_driver(connection, "PRAGMA wal_checkpoint")[0][0] == 0


def test_the_last_of_the_log_is_moved_while_nobody_writes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise some commit comes in between each time, and the log never begins anew."""
    real, held = database.engine.raw_connection, []

    class Watched:
        def __init__(self) -> None:
            self._connection = real()

        def cursor(self) -> "Watched":
            return self

        def execute(self, statement: str) -> Any:
            held.append(is_held(database.path.with_name(database.path.name + ".lock")))
            return self._connection.cursor().execute(statement)

        def close(self) -> None:
            self._connection.close()

    accept(database)
    monkeypatch.setattr(database.engine, "raw_connection", Watched)
    database.checkpoint()

    assert held == [False, True]


def is_held(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_checkpoint_that_fails_says_so(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def cursor(self) -> "Broken":
            return self

        def execute(self, _: str) -> None:
            raise sqlite.OperationalError("disk I/O error")

        def close(self) -> None:
            """Given back."""

    monkeypatch.setattr(database.engine, "raw_connection", Broken)

    with pytest.raises(DatabaseUnavailable, match="disk I/O error"):
        database.checkpoint()


def test_times_keep_their_zone(database: Database) -> None:
    elsewhere = datetime(2026, 1, 2, 4, 0, tzinfo=timezone(timedelta(hours=1)))
    with database.writing() as session:
        session.add(Heartbeat(process="test", at=elsewhere, note=""))

    with database.reading() as session:
        assert session.get_one(Heartbeat, "test").at == datetime(2026, 1, 2, 3, 0, tzinfo=UTC)


def test_a_time_without_a_zone_is_refused(database: Database) -> None:
    with pytest.raises(ValueError, match="without a zone"), database.writing() as session:
        heartbeats.beat(session, "test", NOW.replace(tzinfo=None))


def test_heartbeats_are_forgotten_after_an_hour(database: Database) -> None:
    with database.writing() as session:
        heartbeats.beat(session, "worker old", NOW - seconds(3601))
        heartbeats.beat(session, "worker new", NOW - seconds(3599))
        heartbeats.forget_old(session, NOW)

    with database.reading() as session:
        assert [each.process for each in heartbeats.since(session, "worker", NOW - seconds(9999))] == ["worker new"]


def test_migrations_go_up_and_down_again(database: Database) -> None:
    assert schema.status(database).up_to_date

    schema.downgrade(database, "base")
    assert schema.status(database).current is None
    with database.reading() as session:
        tables = session.scalars(text("SELECT name FROM sqlite_master WHERE type = 'table'")).all()
    assert {name for name in tables if not name.startswith(("alembic", "sqlite"))} == set()

    schema.upgrade(database)
    assert schema.status(database).up_to_date
    accept(database)


def test_the_migrations_make_what_the_models_say(database: Database) -> None:
    with database.reading() as session:
        differences = compare_metadata(MigrationContext.configure(session.connection()), Base.metadata)

    assert differences == []


def test_several_processes_may_upgrade_at_once(tmp_path: Path) -> None:
    script = (
        "import sys; from chargeapp.storage import schema; from chargeapp.storage.database import Database;"
        "database = Database(sys.argv[1]); sys.stdin.readline(); schema.upgrade(database); database.close()"
    )
    url = f"sqlite:///{tmp_path}/chargeapp.db"
    processes = [
        subprocess.Popen([sys.executable, "-c", script, url], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    errors = [process.communicate(b"go\n", timeout=30)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], errors
    database = Database(url)
    assert schema.status(database).up_to_date
    assert len(rows(database, ChargingSessionRequestOutbox)) == 0
    database.close()


def test_a_lock_is_free_again_soon_after_its_holder_ended(
    database: Database, holder: Callable[[str], "subprocess.Popen[bytes]"]
) -> None:
    process = holder("chargeapp")
    waiting = threading.Thread(target=write, args=(database,))
    waiting.start()
    process.communicate(b"go\n", timeout=10)
    waiting.join(5)

    assert not waiting.is_alive()
    eventually(lambda: rows(database, ChargingSessionRequestOutbox) == [])
