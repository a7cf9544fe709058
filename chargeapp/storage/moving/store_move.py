"""The steps of a move, each safe to repeat; who calls them shows how far they came."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.orm import Session

from chargeapp.storage import schema
from chargeapp.storage.database import Database
from chargeapp.storage.moved import MoveRefused
from chargeapp.storage.moving import source, target, target_rows
from chargeapp.storage.moving.tables import TABLES

PAGE = 5_000
# With fewer changes left the switch is short.
FEW = 500


@dataclass(frozen=True)
class Switched:
    before: dict[str, int]
    after: dict[str, int]
    pause_seconds: float


class StoreMove:
    """Raises StoreMoved where the file says that it was moved before, MoveRefused where the database is another's."""

    def __init__(self, old: Database, new: Database) -> None:
        self._old = old
        self._new = new
        schema.upgrade(new)
        with new.reading() as session:
            filled_by = target.origin(session)
        with old.reading() as view:
            found = source.origin(view)
        if filled_by is None:
            with old.writing() as session:
                found = source.begin(session)
            with new.writing() as session:
                target.begin(session, found)
        if found is None or filled_by not in (None, found.id):
            raise MoveRefused("The PostgreSQL database was being filled from another store. Name a new one.")
        self._origin = found
        with new.writing() as session:
            target.close_to_others(session)
            self._progress = target.progress(session)

    @property
    def left(self) -> int:
        """About how many rows are still to be copied."""
        return sum(last - self._progress.copied.get(name, 0) for name, last in self._origin.last.items())

    def copy(self) -> Iterator[int]:
        """What was there at the beginning; yields by how much `left` fell."""
        for table in TABLES:
            after = self._progress.copied.get(table.name, 0)
            while True:
                with self._old.reading() as view:
                    last, rows = source.page(view, table, self._origin, after, PAGE)
                last = last if rows else self._origin.last[table.name]
                with self._filling() as session:
                    target_rows.copy(session, table, rows)
                    self._note(session, copied={**self._progress.copied, table.name: last})
                yield last - after
                after = last
                if not rows:
                    break

    def catch_up(self) -> Iterator[int]:
        """What changed meanwhile, until little is left; yields how many changes were applied."""
        applied = PAGE
        while applied > FEW:
            with self._old.reading() as view, self._filling() as session:
                applied = self._apply(view, session)
            with self._old.writing() as session:
                source.forget_changes(session, self._progress.position)
            yield applied

    def check(self) -> None:
        """Counts the same state of both, while everything goes on; raises MoveRefused if they differ."""
        with self._old.reading() as view:
            applied = PAGE
            while applied:
                with self._filling() as session:
                    applied = self._apply(view, session)
            here = source.counts(view.connection().connection.cursor())
        with self._filling() as session:
            target.unhurried(session)
            there = target.counts(session)
            target.analyze(session)
        if here != there:
            raise MoveRefused(f"The counts differ, so nothing was switched: {here} and {there}")

    def switch(self, sealed: bytes) -> Switched:
        """While nobody can write: applies the last changes, and says in the file where the store is from now on."""
        with self._new.reading() as after:
            with self._old.writing() as last:
                began_at = time.monotonic()
                with self._filling() as session:
                    while self._apply(last, session):
                        pass
                    target.number_on(session)
                    target.open_to_others(session)
                target.unhurried(after)
                target.take_view(after)
                source.close_for_good(last, sealed)
            pause = time.monotonic() - began_at
            finish(self._new)
            there = target.counts(after)
        return Switched(self._counts_of_file(), there, pause)

    def _counts_of_file(self) -> dict[str, int]:
        # A transaction would only say that the store has moved.
        with closing(self._old.engine.raw_connection()) as connection:
            return source.counts(connection.cursor())

    @contextmanager
    def _filling(self) -> Iterator[Session]:
        with self._new.writing() as session:
            target.fill(session)
            if target.progress(session) != self._progress:
                raise MoveRefused("Somebody else is moving this store just now.")
            yield session

    def _apply(self, view: Session, session: Session) -> int:
        position = self._progress.position
        until, count = source.last_change(view, position, PAGE)
        if count:
            target_rows.apply(session, {table: source.changes(view, table, position, until) for table in TABLES})
            self._note(session, position=until)
        return count

    def _note(self, session: Session, **changed: Any) -> None:
        self._progress = replace(self._progress, **changed)
        target.note(session, self._progress)


def finish(new: Database) -> None:
    """After the switch; the second time there is nothing to do."""
    with new.writing() as session:
        target.finish(session)


def abandon(old: Database) -> None:
    """The file is as if nobody had wanted to move it; what PostgreSQL has got is worth nothing."""
    with old.writing() as session:
        source.forget(session)
