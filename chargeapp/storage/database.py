"""Connections and transactions. SQLite: one writer at a time, in the order of asking; readers never wait."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pysqlite3 import dbapi2 as sqlite
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DataError, IntegrityError, ProgrammingError
from sqlalchemy.orm import Session

from chargeapp.errors import MisconfiguredError, TemporaryFailure

# Fixed in these and in everything newer: two connections that checkpoint and write could lose committed rows.
FIXED_SQLITE = ((3, 51, 3), (3, 50, 7), (3, 44, 6))
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs"})
BUSY_SECONDS = 5.0


class DatabaseUnavailable(TemporaryFailure):
    """The database cannot commit just now; nothing was stored."""


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

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A consistent view that waits for nobody."""
        try:
            with Session(self._readers, expire_on_commit=False) as session:
                yield session
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
        self.engine.dispose()
        self._claims.dispose()
        self._gate.close()


class FairGate:
    """Lets one writer in at a time, over all processes, in the order of asking.

    SQLite's own waiting sleeps blindly for up to 100 ms; queueing for a file lock first took the 99th percentile of
    two writers from 9 ms to 1 ms and doubled their rate.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = threading.Lock()
        self._file: int | None = None
        self._owner = 0
        self._asking: _Asking | None = None

    @contextmanager
    def hold(self) -> Iterator[None]:
        give_up_at = time.monotonic() + BUSY_SECONDS
        if not self._threads.acquire(timeout=BUSY_SECONDS):
            raise DatabaseUnavailable("The database has been busy for too long; nothing was stored")
        try:
            file = self._open()
            self._lock(file, give_up_at)
            try:
                # Those who queued behind a blocked writer give up together instead of one after the other.
                if time.monotonic() > give_up_at:
                    raise DatabaseUnavailable("The database has been busy for too long; nothing was stored")
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def _lock(self, file: int, give_up_at: float) -> None:
        """In the order of asking, but not for ever: whoever holds it may have been stopped."""
        while True:
            if self._asking is None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    self._asking = _Asking(file)
            granted = self._asking.wait(give_up_at - time.monotonic())
            if granted is None:
                raise DatabaseUnavailable("The database has been busy for too long; nothing was stored")
            self._asking = None
            if granted:
                return

    def close(self) -> None:
        file, self._file = self._file, None
        # A thread that still asks needs it; its end closes neither more nor less than the process's.
        if file is not None and self._asking is None:
            os.close(file)
        self._asking = None

    def _open(self) -> int:
        # A lock taken through a descriptor inherited over a fork would be shared with the parent.
        if self._file is None or self._owner != os.getpid():
            self.close()
            try:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise DatabaseUnavailable(f"{self._path} cannot be opened: {error.strerror}") from error
            self._owner = os.getpid()
        return self._file


def is_database_trouble(error: Exception) -> bool:
    """Locked, full, read-only or damaged is the database's trouble; everything else is a fault of ours."""
    return isinstance(error, DatabaseError) and not isinstance(error, IntegrityError | ProgrammingError | DataError)


def _unavailable(error: DatabaseError, what: str) -> Exception:
    return DatabaseUnavailable(f"{what}: {error.orig}") if is_database_trouble(error) else error


class _Asking:
    """Stands in the kernel's queue, which knows no time limit, for threads that have one."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._changed = threading.Condition()
        self._wanted = True
        self._granted: bool | None = None
        threading.Thread(target=self._ask, name="database-gate", daemon=True).start()

    def wait(self, seconds: float) -> bool | None:
        """True: the lock is the caller's. False: it came when nobody wanted it. None: not in time, ask again."""
        with self._changed:
            self._wanted = True
            self._changed.wait_for(lambda: self._granted is not None, max(0.0, seconds))
            self._wanted = False
            return self._granted

    def _ask(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        with self._changed:
            if not self._wanted:
                fcntl.flock(self._file, fcntl.LOCK_UN)
            self._granted = self._wanted
            self._changed.notify()


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
        connection.exec_driver_sql("BEGIN DEFERRED" if reading else "BEGIN IMMEDIATE")

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
