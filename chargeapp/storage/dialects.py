"""The one statement that SQLAlchemy spells differently for each database: INSERT … ON CONFLICT."""

from functools import cache
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from chargeapp.storage.models import Base
from chargeapp.storage.prepared import Prepared


def upsert(
    session: Session,
    model: type[Base],
    key: tuple[str, ...],
    *,
    replaced: tuple[str, ...] = (),
    added: tuple[str, ...] = (),
) -> Prepared:
    """Insert rows; where the `key` exists, replace some columns and add to others."""
    return _upsert(session.get_bind().dialect.name, model, key, replaced, added)


@cache
def _upsert(
    dialect: str, model: type[Base], key: tuple[str, ...], replaced: tuple[str, ...], added: tuple[str, ...]
) -> Prepared:
    table: Any = model.__table__
    statement = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    changes: dict[str, Any] = {name: statement.excluded[name] for name in replaced}
    changes |= {name: table.c[name] + statement.excluded[name] for name in added}
    return Prepared(statement.on_conflict_do_update(index_elements=list(key), set_=changes))
