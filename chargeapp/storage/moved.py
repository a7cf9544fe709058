"""A SQLite file that was moved away says where to, and takes no more writes from anybody, whatever program asks.

Its `user_version` is part of every transaction, so who begins one knows. The address is sealed: it may hold a password.
"""

from collections.abc import Callable
from typing import Any

from chargeapp.errors import DatabaseUnavailable, PermanentFailure

MOVED = 1
REFUSAL = "This store has moved to PostgreSQL"
# What seals the address; also the name of its keys.
PURPOSE = "address of the store"


class StoreMoved(DatabaseUnavailable):
    """The store has moved to PostgreSQL: set DATABASE_URL to it."""

    def __init__(self, sealed: bytes) -> None:
        super().__init__()
        self.sealed = sealed


class MoveRefused(PermanentFailure):
    """The store cannot be moved so; it works on as before."""


def check_still_here(rows: Callable[[str], list[Any]]) -> None:
    """Raises StoreMoved; `rows` runs a statement and returns what it finds."""
    [(version,)] = rows("PRAGMA user_version")
    if version == MOVED:
        [(sealed,)] = rows("SELECT url FROM moved_to")
        raise StoreMoved(sealed)
