"""Backups: consistent while writers are at work, checked before they count, and good to go on with."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pysqlite3 import dbapi2 as sqlite
from sqlalchemy import func, select, text
from support.builders import (
    NOW,
    Callbacks,
    accept,
    attempt,
    decide,
    end,
    eventually,
    new_database,
    rows,
    the_request,
)

from chargeapp.storage import backups, schema
from chargeapp.storage.backups import BackupRefused
from chargeapp.storage.database import Database
from chargeapp.storage.models import SessionRequest

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from chargeapp.storage.database import Database
from support.builders import accept
database = Database(f"sqlite:///{sys.argv[1]}")
while True:
    accept(database, 3)
"""
TESTS = Path(__file__).parents[1]
LATER = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with new_database(tmp_path) as database:
        yield database


def deliver(database: Database) -> None:
    decide(database)
    attempt(database)
    end(database)


def counted(path: Path) -> dict[str, int]:
    return backups.verify(path)


def held_within(path: Path, query: str) -> object:
    connection = sqlite.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute(query).fetchone()[0]
    finally:
        connection.close()


def test_a_backup_has_every_row(database: Database, tmp_path: Path) -> None:
    accept(database, 5)
    deliver(database)

    counts = backups.back_up(database, tmp_path / "copy.db")

    assert counts == {"charging_session_requests": 5, "events": 20}
    assert counted(tmp_path / "copy.db") == counts


def test_a_backup_is_one_file_that_only_its_owner_reads(database: Database, tmp_path: Path) -> None:
    place = tmp_path / "backups"
    place.mkdir()

    backups.back_up(database, place / "copy.db")

    assert [each.name for each in place.iterdir()] == ["copy.db"]
    assert (place / "copy.db").stat().st_mode & 0o777 == 0o600


def test_backups_made_while_processes_write_are_consistent(database: Database, tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, database.path, TESTS]) for _ in range(2)]
    try:
        eventually(lambda: len(rows(database, SessionRequest)) > 20, "nobody writes", 30)
        copies = [tmp_path / f"copy-{number}.db" for number in range(5)]
        counts = [backups.back_up(database, copy)["charging_session_requests"] for copy in copies]
        assert [writer.poll() for writer in writers] == [None, None]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()

    # Each transaction stores three requests, with a command and an event for each.
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    for copy, requests in zip(copies, counts, strict=True):
        assert requests % 3 == 0
        assert held_within(copy, "SELECT count(*) FROM events") == requests
        assert held_within(copy, "SELECT count(*) FROM charging_session_request_outbox") == requests
        assert held_within(copy, "SELECT sum(count) FROM tallies WHERE name = 'requests'") == requests
        assert held_within(copy, "SELECT count(*) FROM pragma_foreign_key_check") == 0


def test_writers_do_not_wait_for_a_backup(database: Database, tmp_path: Path) -> None:
    accept(database, 300)
    thread = threading.Thread(target=backups.back_up, args=(database, tmp_path / "copy.db"))
    thread.start()
    accept(database)
    thread.join()

    assert len(rows(database, SessionRequest)) == 301
    assert counted(tmp_path / "copy.db")["charging_session_requests"] in (300, 301)


def test_the_locks_of_the_process_survive_its_backup(database: Database, tmp_path: Path) -> None:
    with database.writing() as session:
        session.execute(text("SELECT 1"))
        backups.back_up(database, tmp_path / "copy.db")
        tried = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; from pysqlite3 import dbapi2 as s;"
                "s.connect(sys.argv[1], timeout=0, isolation_level=None).execute('BEGIN IMMEDIATE')",
                database.path,
            ],
            capture_output=True,
            text=True,
        )

    assert "database is locked" in tried.stderr


def test_an_existing_file_is_not_overwritten(database: Database, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.write_text("precious")

    with pytest.raises(BackupRefused, match=r"copy\.db exists already"):
        backups.back_up(database, target)

    assert target.read_text() == "precious"


def test_a_backup_that_cannot_be_written_says_so_and_leaves_nothing(database: Database, tmp_path: Path) -> None:
    with pytest.raises(BackupRefused, match="could not be made"):
        backups.back_up(database, tmp_path / "nowhere" / "copy.db")

    (tmp_path / "file").touch()
    with pytest.raises(BackupRefused, match="could not be made"):
        backups.back_up(database, tmp_path / "file" / "copy.db")


def test_a_backup_found_to_be_damaged_is_not_kept(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(copy: Path) -> dict[str, int]:
        raise BackupRefused(f"{copy} is damaged")

    monkeypatch.setattr(backups, "verify", damaged)
    before = set(tmp_path.iterdir())

    with pytest.raises(BackupRefused, match="damaged"):
        backups.back_up(database, tmp_path / "copy.db")

    assert set(tmp_path.iterdir()) == before


def test_what_a_backup_that_was_killed_left_behind_is_no_hindrance(database: Database, tmp_path: Path) -> None:
    import os

    (tmp_path / f".copy.db.{os.getpid()}").write_text("half a backup")

    backups.back_up(database, tmp_path / "copy.db")

    assert not (tmp_path / f".copy.db.{os.getpid()}").exists()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a database is to be put back."""
    place = tmp_path / "restored"
    place.mkdir()
    return place / "chargeapp.db"


def test_a_restored_database_goes_on_where_the_backup_was_made(database: Database, tmp_path: Path, place: Path) -> None:
    (delivered,) = accept(database)
    deliver(database)
    (decided,) = accept(database)
    decide(database)
    backups.back_up(database, tmp_path / "copy.db")

    aside, counts = backups.restore(tmp_path / "copy.db", place, LATER)

    assert (aside, counts["charging_session_requests"]) == (None, 2)
    restored = Database(f"sqlite:///{place}")
    assert schema.status(restored).up_to_date
    # What was under way is taken up again, and new requests are accepted.
    assert [each.request_id for each in attempt(restored)] == [decided]
    accept(restored)
    deliver(restored)
    assert {each.state for each in rows(restored, SessionRequest)} == {"delivered"}
    assert the_request(restored, delivered).ended_at == NOW
    with restored.reading() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
    restored.close()


def test_the_database_before_is_kept_beside_the_restored_one(database: Database, tmp_path: Path) -> None:
    accept(database, 2)
    backups.back_up(database, tmp_path / "copy.db")
    accept(database, 3)
    database.close()

    aside, counts = backups.restore(tmp_path / "copy.db", database.path, LATER)

    assert aside == tmp_path / "chargeapp.db.before-20260203T040506Z"
    assert counts["charging_session_requests"] == 2
    assert len(rows(database, SessionRequest)) == 2
    before = Database(f"sqlite:///{aside}")
    assert len(rows(before, SessionRequest)) == 5
    before.close()


def test_the_log_of_the_database_before_is_not_applied_to_the_restored_one(database: Database, tmp_path: Path) -> None:
    backups.back_up(database, tmp_path / "copy.db")
    # A process that was killed leaves its log behind.
    writer = subprocess.Popen([sys.executable, "-c", WRITER, database.path, TESTS])
    eventually(lambda: len(rows(database, SessionRequest)) > 20, "nobody writes", 30)
    writer.kill()
    writer.wait()
    database._store._gate.close()
    log = database.path.with_name("chargeapp.db-wal")
    assert log.stat().st_size > 0

    aside, _ = backups.restore(tmp_path / "copy.db", database.path, LATER)
    database.close()

    assert aside is not None
    assert aside.with_name(aside.name + "-wal").exists()
    restored = Database(f"sqlite:///{database.path}")
    with restored.reading() as session:
        assert session.scalar(select(func.count()).select_from(SessionRequest)) == 0
        assert session.scalar(text("PRAGMA integrity_check")) == "ok"
    restored.close()


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half : half + 8192] = b"\xff" * 8192
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_by_text(path: Path) -> None:
    path.write_text("This is no database at all, though it has a good name." * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [damage, cut, replace_by_text, empty])
def test_a_spoiled_backup_is_refused_and_the_database_stays(database: Database, tmp_path: Path, spoil: object) -> None:
    accept(database, 200)
    backups.back_up(database, tmp_path / "copy.db")
    spoil(tmp_path / "copy.db")  # type: ignore[operator]
    before = set(tmp_path.iterdir())

    with pytest.raises(BackupRefused, match=r"copy\.db is (damaged|not a backup)"):
        backups.restore(tmp_path / "copy.db", database.path, LATER)

    assert set(tmp_path.iterdir()) == before
    assert len(rows(database, SessionRequest)) == 200


def test_a_backup_that_does_not_exist_is_refused(database: Database, tmp_path: Path) -> None:
    with pytest.raises(BackupRefused, match="does not exist"):
        backups.restore(tmp_path / "copy.db", database.path, LATER)


def test_another_database_is_no_backup(database: Database, tmp_path: Path) -> None:
    other = sqlite.connect(str(tmp_path / "copy.db"))
    other.execute("CREATE TABLE songs (name)")
    other.close()

    with pytest.raises(BackupRefused, match="is not a backup of chargeapp"):
        backups.restore(tmp_path / "copy.db", database.path, LATER)


def test_a_disk_without_room_for_the_backup_leaves_the_database_as_it_was(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(database)
    backups.back_up(database, tmp_path / "copy.db")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backups.shutil, "copyfile", full)
    with pytest.raises(BackupRefused, match="No space left"):
        backups.restore(tmp_path / "copy.db", database.path, LATER)

    assert len(rows(database, SessionRequest)) == 1
    assert list(tmp_path.glob(".*restored*")) == []
    assert rows(database, Callbacks) == []
