"""The database under drill: what it is, what can be done to it, and what else can be said of it than its tables say."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pysqlite3 import dbapi2 as sqlite
from sqlalchemy import text

from chargeapp.storage.database import Database


class Store(Protocol):
    database: Database
    url: str
    # How to ask for it on the command line, and what each fault does: a name, and whether it could be done.
    words: str
    faults: dict[str, Callable[[], bool]]

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def forget(self) -> None: ...

    def engine(self) -> str:
        """Its name and version."""

    def log_bytes(self) -> int | None:
        """Of SQLite's write-ahead log."""

    def idle_transactions(self) -> int | None:
        """Sessions that began one and do nothing in it."""

    def integrity(self) -> str | None:
        """`ok`, or the first fault that was found; None if it cannot be checked here."""


class SqliteFile:
    words = ""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "chargeapp.db"
        self.url = f"sqlite:///{self._path}"
        self.database = Database(self.url)
        self.faults: dict[str, Callable[[], bool]] = {}

    def start(self) -> None:
        """Whoever comes first makes the file."""

    def stop(self) -> None:
        self.database.close()

    def forget(self) -> None:
        """The file goes with its directory."""

    def engine(self) -> str:
        return f"SQLite {sqlite.sqlite_version}"

    def log_bytes(self) -> int | None:
        try:
            return self._path.with_name(self._path.name + "-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def idle_transactions(self) -> int | None:
        return None

    def integrity(self) -> str | None:
        with self.database.reading() as session:
            return str(session.scalar(text("PRAGMA integrity_check")))
