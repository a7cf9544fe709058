"""Copies of the database: consistent while everything runs, and checked before they count."""

import contextlib
import os
import shutil
from datetime import datetime
from pathlib import Path

from pysqlite3 import dbapi2 as sqlite

from chargeapp.errors import PermanentFailure
from chargeapp.storage.database import Database
from chargeapp.storage.moving import source as moving

TABLES = ("charging_session_requests", "events")


class BackupRefused(PermanentFailure):
    """The backup cannot be made or used; nothing was changed."""


def back_up(database: Database, target: Path) -> dict[str, int]:
    """Write a checked copy to `target`, which must not exist; returns its row counts."""
    file_of(database)
    if target.exists():
        raise BackupRefused(f"{target} exists already. Name a new file.")
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        # SQLite makes the copy itself: opening the file beside it would drop this process's locks on it.
        connection = database.engine.raw_connection()
        try:
            connection.cursor().execute("VACUUM INTO ?", (str(draft),))
        finally:
            connection.close()
        counts = verify(draft)
        _keep(draft)
        draft.rename(target)
    except (sqlite.Error, OSError) as error:
        raise BackupRefused(f"The backup could not be made: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return counts


def file_of(database: Database) -> Path:
    """Raises BackupRefused where a server keeps the database, and says what makes its backups."""
    if database.path is None:
        raise BackupRefused("PostgreSQL has its own tools for this: pg_dump --format=custom, and pg_restore --clean.")
    return database.path


def verify(copy: Path) -> dict[str, int]:
    """The row counts of a database that is no longer written to; raises BackupRefused if it is damaged."""
    try:
        with _opened(copy) as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
            if verdict != "ok":
                raise BackupRefused(f"{copy} is damaged: {verdict}")
            return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}  # noqa: S608
    except sqlite.Error as error:
        raise BackupRefused(f"{copy} is not a backup of chargeapp: {error}") from error


def restore(source: Path, target: Path, now: datetime) -> tuple[Path | None, dict[str, int]]:
    """Put a checked backup in place of the database, which is kept beside it; returns where, and the row counts.

    Nobody may have the database open.
    """
    if not source.is_file():
        raise BackupRefused(f"{source} does not exist.")
    if target.exists() and source.samefile(target):
        raise BackupRefused(f"{source} is the database itself. Name a backup.")
    counts = verify(source)
    draft = target.with_name(f".{target.name}.restored")
    try:
        shutil.copyfile(source, draft)
        verify(draft)
        _forget_processes(draft)
        _keep(draft)
        aside = _put_aside(target, now)
        draft.rename(target)
    except (sqlite.Error, OSError) as error:
        raise BackupRefused(f"The backup could not be put in place: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return aside, counts


def _keep(draft: Path) -> None:
    """On disk before it gets its name, and for its owner only."""
    draft.chmod(0o600)
    with draft.open("rb") as copy:
        os.fsync(copy.fileno())


def _forget_processes(draft: Path) -> None:
    """Those that worked while the backup was made do not work with what becomes of it; nor does a move that began."""
    connection = sqlite.connect(draft, isolation_level=None)
    try:
        connection.execute("DELETE FROM heartbeats")
        moving.abandon(connection.execute)
    finally:
        connection.close()


def _put_aside(target: Path, now: datetime) -> Path | None:
    if not target.exists():
        return None
    aside = target.with_name(f"{target.name}.before-{now:%Y%m%dT%H%M%SZ}")
    # Its log belongs to it: left behind, it would be applied to the restored database.
    for suffix in ("", "-wal", "-shm"):
        part = target.with_name(target.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


class _opened:  # noqa: N801 - reads as a statement
    def __init__(self, path: Path) -> None:
        self._connection = sqlite.connect(f"file:{path}?mode=ro", uri=True)

    def __enter__(self) -> sqlite.Connection:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()
