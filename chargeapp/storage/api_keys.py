"""The statements that let every request in, built once; see requests.py."""

from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from chargeapp.storage.models import ApiKey
from chargeapp.storage.prepared import Prepared

TABLE: Any = ApiKey.__table__

FIND = Prepared(select(TABLE).where(TABLE.c.id == bindparam("id")))
ANY = Prepared(select(TABLE.c.id).limit(1))


def find(session: Session, key_id: str) -> Any:
    """The row with this id, or None."""
    return next(iter(FIND.rows(session, {"id": key_id})), None)


def any_exist(session: Session) -> bool:
    """Whether a key was ever made; those that expired or were revoked count."""
    return bool(ANY.rows(session, {}))
