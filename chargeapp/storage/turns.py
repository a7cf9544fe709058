"""Transactions that must not overlap although they lock no common row."""

from sqlalchemy import text
from sqlalchemy.orm import Session

# What ends requests that nobody else ends, and what follows a clock that was set back.
DEADLINES = "deadlines"
# What forgets, and what must not be forgotten meanwhile.
RETENTION = "retention"

LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")


def take_turn(session: Session, name: str) -> None:
    """From here to their ends, transactions with this `name` run one after the other; on SQLite all do.

    Whatever it depends on has to be read after this.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.connection().execute(LOCK, {"name": name})
