"""The statements that let every request in, built once; see requests.py."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, select

from chargeapp.storage.models import ApiKey
from chargeapp.storage.prepared import Prepared

TABLE: Any = ApiKey.__table__

FIND = Prepared(select(TABLE).where(TABLE.c.id == bindparam("id")))
ANY = Prepared(select(TABLE.c.id).limit(1))


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look found: the row of a key, or that nobody has made one yet."""

    key: Any | None

    def holds(self, connection: Connection) -> bool:
        """Whether another look finds the same."""
        if self.key is None:
            return not any_exist(connection)
        return bool(find(connection, self.key.id) == self.key)


def find(connection: Connection, key_id: str) -> Any:
    """The row with this id, or None."""
    return next(iter(FIND.rows_on(connection, {"id": key_id})), None)


def any_exist(connection: Connection) -> bool:
    """Whether a key was ever made; those that expired or were revoked count."""
    return bool(ANY.rows_on(connection, {}))
