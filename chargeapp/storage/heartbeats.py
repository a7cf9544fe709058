"""When each process last said that it works."""

from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from chargeapp.storage.dialects import upsert
from chargeapp.storage.models import Heartbeat

BEAT_SECONDS = 5.0
FORGOTTEN_AFTER = timedelta(hours=1)


def beat(session: Session, process: str, now: datetime, note: str = "") -> None:
    statement = upsert(session, Heartbeat, ("process",), replaced=("at", "note"))
    statement.change(session, {"process": process, "at": now, "note": note})


def leave(session: Session, process: str) -> None:
    """An orderly end: the process is gone, not missing."""
    session.execute(delete(Heartbeat).where(Heartbeat.process == process))


def forget_old(session: Session, now: datetime) -> None:
    session.execute(delete(Heartbeat).where(Heartbeat.at < now - FORGOTTEN_AFTER))


def since(session: Session, prefix: str, moment: datetime) -> list[Heartbeat]:
    """Those of processes called `prefix…` that are not older than `moment`."""
    statement = select(Heartbeat).where(Heartbeat.process.startswith(prefix), Heartbeat.at >= moment)
    return list(session.scalars(statement.order_by(Heartbeat.process)))


def last(session: Session, process: str) -> datetime | None:
    return session.scalars(select(Heartbeat.at).where(Heartbeat.process == process)).first()
