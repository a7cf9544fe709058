"""SQLite: one file on a local disk; one writer at a time, in the order of asking; readers never wait."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pysqlite3 import dbapi2 as sqlite
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.orm import Session

from chargeapp import clock
from chargeapp.errors import DatabaseUnavailable, MisconfiguredError, RequestRefused
from chargeapp.storage.fair_gate import BUSY_SECONDS, FairGate
from chargeapp.storage.moved import check_still_here
from chargeapp.storage.pipes import Pipes
from chargeapp.storage.prepared import rows_on_driver, run_on_driver

# Fixed in these and in everything newer: two connections that checkpoint and write could lose committed rows.
FIXED_SQLITE = ((3, 51, 3), (3, 50, 7), (3, 44, 6))
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs"})


class SqliteFile:
    def __init__(self, url: URL) -> None:
        if url.database in (None, "", ":memory:"):
            raise MisconfiguredError("DATABASE_URL: several processes share the database, so it must be a file")
        check_sqlite_version(sqlite.sqlite_version_info)
        self.path = Path(str(url.database))
        self._prepare_directory()
        self.engine = _create_engine(str(self.path))
        self.readers = self.engine.execution_options(read_only=True)
        self._writers: dict[bool, Connection] = {}
        self._glances = threading.Lock()
        self._glance: Connection | None = None
        self._gate = FairGate(self.path.with_name(self.path.name + ".lock"))
        clock.keep_steady(self.path.with_name(self.path.name + ".clock"))

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
    def writer(self, *, durable: bool) -> Iterator[Connection]:
        """This process's connection for such transactions: of its threads, one writes at a time."""
        with self._gate.hold():
            writer = self._writers.get(durable)
            if writer is None:
                writer = self._writers[durable] = self.engine.connect()
                if not durable:
                    run_on_driver(writer, "PRAGMA synchronous=NORMAL")
            try:
                yield writer
            except RequestRefused:
                # Rolled back, as it is every day.
                raise
            except BaseException:
                # Whatever state that left it in.
                self._writers.pop(durable, None)
                writer.invalidate()
                writer.close()
                raise

    @contextmanager
    def glancing(self) -> Iterator[Connection]:
        with self._glances:
            if self._glance is None:
                self._glance = self.readers.connect()
            try:
                check_still_here(partial(rows_on_driver, self._glance))
                yield self._glance
            except DatabaseError:
                self._glance.invalidate()
                self._glance = None
                raise

    def exists(self) -> bool:
        # Connecting would make an empty file.
        try:
            return self.path.exists()
        except PermissionError as error:
            raise MisconfiguredError(
                f"{self.path} cannot be looked at. Run as the owner of {self.path.parent}"
            ) from error

    def create(self) -> None:
        # SQLite gives its log the mode of the database, and would make it readable for everybody.
        try:
            self.path.touch(mode=0o600)
        except OSError as error:
            raise MisconfiguredError(f"{self.path} cannot be written to: {error.strerror}") from error

    def prepare_migration(self, session: Session) -> None:
        """Nothing: whoever writes is alone."""

    def checkpoint(self) -> None:
        move = "PRAGMA wal_checkpoint(PASSIVE)"
        try:
            with closing(self.engine.raw_connection()) as connection:
                # Most of it beside the writers, the rest while there are none: only then does the log begin anew. In
                # one that grows, each commit waits twice as long for the disk.
                connection.cursor().execute(move).fetchall()
                with self._gate.hold():
                    connection.cursor().execute(move).fetchall()
        except (sqlite.DatabaseError, SQLAlchemyError) as error:
            raise DatabaseUnavailable(f"The database cannot be checkpointed just now: {error}") from error

    def wakeups(self, directory: Path) -> Pipes:
        return Pipes(directory)

    def close(self) -> None:
        glance, self._glance = self._glance, None
        if glance is not None:
            glance.close()
        writers, self._writers = self._writers, {}
        for writer in writers.values():
            # Not back to those that anybody may take: one of them does not wait for the disk.
            writer.detach()
            writer.close()
        self.engine.dispose()
        self._gate.close()


def _create_engine(path: str) -> Engine:
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
            "synchronous=FULL",
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
        run_on_driver(connection, "BEGIN DEFERRED" if reading else "BEGIN IMMEDIATE")
        check_still_here(partial(rows_on_driver, connection))

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
