"""Connections and transactions. SQLite: one writer at a time, in the order of asking; readers never wait."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pysqlite3 import dbapi2 as sqlite
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DataError, IntegrityError, ProgrammingError
from sqlalchemy.orm import Session

from chargeapp.errors import DatabaseUnavailable, MisconfiguredError
from chargeapp.storage import news
from chargeapp.storage.fair_gate import BUSY_SECONDS, FairGate
from chargeapp.storage.prepared import run_on_driver

# Fixed in these and in everything newer: two connections that checkpoint and write could lose committed rows.
FIXED_SQLITE = ((3, 51, 3), (3, 50, 7), (3, 44, 6))
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs"})


class Database:
    """One for each process; connects when first used, so it may be made before a fork but not used."""

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
        except ArgumentError as error:
            raise MisconfiguredError("DATABASE_URL: not a database URL, for example sqlite:////srv/c.db") from error
        if self.url.get_backend_name() != "sqlite":
            raise MisconfiguredError(
                "DATABASE_URL: this release stores in SQLite only, for example sqlite:////srv/c.db"
            )
        if self.url.database in (None, "", ":memory:"):
            raise MisconfiguredError("DATABASE_URL: several processes share the database, so it must be a file")
        check_sqlite_version(sqlite.sqlite_version_info)
        self.path = Path(str(self.url.database))
        self._prepare_directory()
        self.engine = _create_engine(str(self.path))
        self._claims = _create_engine(str(self.path), synchronous="NORMAL")
        self._readers = self.engine.execution_options(read_only=True)
        self._glances = threading.Lock()
        self._glance: Connection | None = None
        self._gate = FairGate(self.path.with_name(self.path.name + ".lock"))

    def _prepare_directory(self) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise MisconfiguredError(f"{self.path.parent} cannot be made: {error.strerror}") from error
        if (kind := file_system_of(self.path.parent)) in NETWORK_FILE_SYSTEMS:
            raise MisconfiguredError(
                f"{self.path.parent} is on {kind}: SQLite would lose data there. Use a local disk."
            )

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Session]:
        """One transaction, on disk at the end; raises DatabaseUnavailable if that cannot be had in time.

        One that is not `durable` survives any crash of a process, but not a loss of power: enough for a claim, which
        is then simply made again.
        """
        engine = self.engine if durable else self._claims
        try:
            with self._gate.hold(), Session(engine, expire_on_commit=False) as session, session.begin():
                yield session
        except DatabaseError as error:
            raise _unavailable(error, "The database cannot commit just now") from error
        # Others may write meanwhile.
        news.tell(session)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A consistent view that waits for nobody."""
        try:
            with Session(self._readers, expire_on_commit=False) as session:
                yield session
        except DatabaseError as error:
            raise _unavailable(error, "The database cannot be read just now") from error

    @contextmanager
    def glancing(self) -> Iterator[Connection]:
        """For one prepared statement that reads the newest rows: a tenth of what a transaction around it costs."""
        try:
            with self._glances:
                if self._glance is None:
                    self._glance = self._readers.connect()
                try:
                    yield self._glance
                except DatabaseError:
                    self._glance.invalidate()
                    self._glance = None
                    raise
        except DatabaseError as error:
            raise _unavailable(error, "The database cannot be read just now") from error

    def checkpoint(self) -> None:
        """Move the log into the database as far as that disturbs nobody; the relay does it, not a request."""
        connection = self.engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite.OperationalError as error:
            raise DatabaseUnavailable(f"The database cannot be checkpointed just now: {error}") from error
        finally:
            connection.close()

    def close(self) -> None:
        glance, self._glance = self._glance, None
        if glance is not None:
            glance.close()
        self.engine.dispose()
        self._claims.dispose()
        self._gate.close()


def is_database_trouble(error: Exception) -> bool:
    """Locked, full, read-only or damaged is the database's trouble; everything else is a fault of ours."""
    return isinstance(error, DatabaseError) and not isinstance(error, IntegrityError | ProgrammingError | DataError)


def _unavailable(error: DatabaseError, what: str) -> Exception:
    return DatabaseUnavailable(f"{what}: {error.orig}") if is_database_trouble(error) else error


def _create_engine(path: str, synchronous: str = "FULL") -> Engine:
    engine = create_engine(
        f"sqlite+pysqlite:///{path}",
        module=sqlite,
        hide_parameters=True,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        pool_size=8,
        max_overflow=64,
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        # The driver's own implicit BEGIN is deferred and fails at once when it has to become a writer.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            f"synchronous={synchronous}",
            "foreign_keys=ON",
            "temp_store=MEMORY",
            # What is erased is overwritten, where that costs no page more.
            "secure_delete=FAST",
            "journal_size_limit=67108864",
            # Checkpoints are the relay's work, off the path of requests; this is only the safety net.
            "wal_autocheckpoint=20000",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        reading = connection.get_execution_options().get("read_only")
        run_on_driver(connection, "BEGIN DEFERRED" if reading else "BEGIN IMMEDIATE").close()

    return engine


def check_sqlite_version(version: tuple[int, int, int]) -> None:
    """Raises MisconfiguredError for a library that can lose committed rows in WAL mode."""
    newest = FIXED_SQLITE[0]
    if version >= newest or any(version[:2] == fixed[:2] and version >= fixed for fixed in FIXED_SQLITE):
        return
    found = ".".join(map(str, version))
    raise MisconfiguredError(f"SQLite {found} can lose committed rows (WAL bug); 3.51.3 or newer is needed")


def file_system_of(directory: Path) -> str:
    """The kind of file system that holds `directory`, as the kernel names it; empty where it does not tell."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    real = str(directory.resolve())
    holding = [(point, kind) for point, kind in mounts if real == point or real.startswith(point.rstrip("/") + "/")]
    return max(holding, key=lambda each: len(each[0]))[1] if holding else ""
