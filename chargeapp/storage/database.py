"""Connections and transactions, whether SQLite keeps the data or PostgreSQL; which of them, only this package knows."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    InvalidRequestError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.orm import Session

from chargeapp.errors import DatabaseUnavailable, MisconfiguredError
from chargeapp.logs import get_logger
from chargeapp.storage import news
from chargeapp.storage.moved import StoreMoved
from chargeapp.storage.prepared import CONNECTION
from chargeapp.storage.wakeups import Wakeups

log = get_logger()

EXAMPLES = "for example sqlite:////srv/c.db or postgresql://chargeapp@db.example/chargeapp"
# PostgreSQL's words for tables, columns and rights that are missing; SQLite counts them among its troubles by itself.
NOT_AS_NEEDED = frozenset({"42P01", "42703", "42501"})
FAILURES = (DatabaseError, InterfaceError, NoConnectionFree)
Opened = TypeVar("Opened")


class Store(Protocol):
    """What differs from one kind of database to the other."""

    @property
    def path(self) -> Path | None: ...

    @property
    def engine(self) -> Engine: ...

    @property
    def readers(self) -> Engine: ...

    def writer(self, *, durable: bool) -> AbstractContextManager[Engine | Connection]:
        """Held by one transaction that writes."""

    def glancing(self) -> AbstractContextManager[Connection]: ...

    def exists(self) -> bool: ...

    def create(self) -> None: ...

    def prepare_migration(self, session: Session) -> None: ...

    def checkpoint(self) -> None: ...

    def wakeups(self, directory: Path) -> Wakeups: ...

    def close(self) -> None: ...


class Database:
    """One for each process; connects when first used, so it may be made before a fork but not used."""

    def __init__(self, url: str, unseal: Callable[[bytes], str] | None = None) -> None:
        """With `unseal` it goes on with PostgreSQL once the file was moved there, also in the middle of its work."""
        try:
            self.url = make_url(url)
        except ArgumentError as error:
            raise MisconfiguredError(f"DATABASE_URL: not a database URL, {EXAMPLES}") from error
        self._unseal = unseal
        self._stores = [_open(self.url)]
        self._following = threading.Lock()

    @property
    def _store(self) -> Store:
        return self._stores[-1]

    @property
    def path(self) -> Path | None:
        """The file that everything is in; None where a server keeps it."""
        return self._store.path

    @property
    def takes_turns(self) -> bool:
        """Whether who begins to write waits until everybody before has committed."""
        return self.path is not None

    @property
    def engine(self) -> Engine:
        return self._store.engine

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Session]:
        """One transaction, on disk at the end; raises DatabaseUnavailable if that cannot be had in time.

        One that is not `durable` may be lost with the power, and on PostgreSQL with the server: enough for a claim,
        which is then simply made again.
        """
        try:
            with ExitStack() as opened:
                session = self._opened(opened, lambda store: _writing(store, durable))
                yield session
        except FAILURES as error:
            raise _unavailable(error, "The database cannot commit just now") from error
        # Others may write meanwhile.
        news.tell(session)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A consistent view that waits for nobody."""
        try:
            with ExitStack() as opened:
                yield self._opened(opened, _reading)
        except FAILURES as error:
            raise _unavailable(error, "The database cannot be read just now") from error

    @contextmanager
    def glancing(self) -> Iterator[Connection]:
        """For one prepared statement that reads the newest rows: a tenth of what a transaction around it costs."""
        try:
            with ExitStack() as opened:
                yield self._opened(opened, lambda store: store.glancing())
        except FAILURES as error:
            raise _unavailable(error, "The database cannot be read just now") from error

    @contextmanager
    def migrating(self) -> Iterator[Session]:
        """One transaction that changes tables, alone among those that do, and however long that takes."""
        self._store.create()
        with self.writing() as session:
            self._store.prepare_migration(session)
            yield session

    def exists(self) -> bool:
        """False only if connecting would make an empty one."""
        return self._store.exists()

    def checkpoint(self) -> None:
        """Move the log into the database as far as that disturbs nobody; the relay does it, not a request."""
        self._store.checkpoint()

    def wakeups(self, directory: Path) -> Wakeups:
        """`directory` is shared by all processes of one deployment on this machine."""
        return self._store.wakeups(directory)

    def close(self) -> None:
        for store in self._stores:
            store.close()

    def _opened(self, stack: ExitStack, opening: Callable[[Store], AbstractContextManager[Opened]]) -> Opened:
        try:
            try:
                return stack.enter_context(opening(self._store))
            except StoreMoved as moved:
                self._follow(moved)
                return stack.enter_context(opening(self._store))
        except InvalidRequestError as error:
            # What SQLAlchemy says when new connections were closed, too: the server is just ending, or beginning.
            raise DatabaseUnavailable("The database closes every connection just now") from error

    def _follow(self, moved: StoreMoved) -> None:
        if self._unseal is None:
            raise moved
        with self._following:
            # Others may still read in the file, so it is closed with the rest.
            if len(self._stores) == 1:
                self.url = make_url(self._unseal(moved.sealed))
                self._stores.append(_open(self.url))
                log.warning("The store has moved, going on with PostgreSQL. Set DATABASE_URL.", action="store_moved")


def data_file(url: str) -> Path | None:
    """What a DATABASE_URL names; None for a server, and for what is no URL. Connects to nothing."""
    try:
        found = make_url(url)
    except ArgumentError:
        return None
    return Path(found.database) if found.get_backend_name() == "sqlite" and found.database else None


def is_database_trouble(error: Exception) -> bool:
    """Locked, full, read-only, gone or damaged is the database's trouble; everything else is a fault of ours."""
    if getattr(getattr(error, "orig", None), "sqlstate", None) in NOT_AS_NEEDED:
        return True
    return isinstance(error, FAILURES) and not isinstance(error, IntegrityError | ProgrammingError | DataError)


@contextmanager
def _writing(store: Store, durable: bool) -> Iterator[Session]:
    with Session(expire_on_commit=False) as session, store.writer(durable=durable) as session.bind, session.begin():
        # Begins at once, so that a store that has moved says so before anything is done.
        session.info[CONNECTION] = session.connection()
        yield session


@contextmanager
def _reading(store: Store) -> Iterator[Session]:
    with Session(store.readers, expire_on_commit=False) as session:
        session.info[CONNECTION] = session.connection()
        yield session


def _open(url: URL) -> Store:
    # Each brings a driver of its own, which only its users need.
    if url.get_backend_name() == "sqlite":
        from chargeapp.storage.sqlite import SqliteFile

        return SqliteFile(url)
    if url.drivername in ("postgresql", "postgresql+psycopg"):
        try:
            from chargeapp.storage.postgresql import PostgresServer
        except ModuleNotFoundError as error:
            raise MisconfiguredError(
                "DATABASE_URL names PostgreSQL, and its driver is not installed: pip install 'psycopg[binary]'"
            ) from error
        return PostgresServer(url)
    raise MisconfiguredError(f"DATABASE_URL: SQLite or PostgreSQL, {EXAMPLES}")


def _unavailable(error: Exception, what: str) -> Exception:
    return DatabaseUnavailable(f"{what}: {getattr(error, 'orig', error)}") if is_database_trouble(error) else error
