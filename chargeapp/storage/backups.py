"""Copies of the database: consistent while everything runs, and checked before they count."""

import os
import shutil
from datetime import datetime
from pathlib import Path

from pysqlite3 import dbapi2 as sqlite

from chargeapp.errors import PermanentFailure
from chargeapp.storage.database import Database

TABLES = ("charging_session_requests", "events")


class BackupRefused(PermanentFailure):
    """The backup cannot be made or used; nothing was changed."""


def back_up(database: Database, target: Path) -> dict[str, int]:
    """Write a checked copy to `target`, which must not exist; returns its row counts."""
    if target.exists():
        raise BackupRefused(f"{target} exists already. Name a new file.")
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    try:
        # SQLite makes the copy itself: opening the file beside it would drop this process's locks on it.
        connection = database.engine.raw_connection()
        try:
            connection.cursor().execute("VACUUM INTO ?", (str(draft),))
        finally:
            connection.close()
        counts = verify(draft)
        draft.chmod(0o600)
        with draft.open("rb") as copy:
            os.fsync(copy.fileno())
        draft.rename(target)
    except (sqlite.Error, OSError) as error:
        raise BackupRefused(f"The backup could not be made: {error}") from error
    finally:
        draft.unlink(missing_ok=True)
    return counts


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
    counts = verify(source)
    aside: Path | None = None
    draft = target.with_name(f".{target.name}.restored")
    shutil.copyfile(source, draft)
    draft.chmod(0o600)
    verify(draft)
    if target.exists():
        aside = target.with_name(f"{target.name}.before-{now:%Y%m%dT%H%M%SZ}")
        # Its log belongs to it: left behind, it would be applied to the restored database.
        for suffix in ("", "-wal", "-shm"):
            part = target.with_name(target.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
    draft.rename(target)
    return aside, counts


class _opened:  # noqa: N801 - reads as a statement
    def __init__(self, path: Path) -> None:
        self._connection = sqlite.connect(f"file:{path}?mode=ro", uri=True)

    def __enter__(self) -> sqlite.Connection:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()
