"""The built-in authorization service: a list of who may charge where."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from chargeapp.domain.authorization import Answer, Inquiry
from chargeapp.domain.charging_session import Decision, Reason
from chargeapp.storage.database import Database
from chargeapp.storage.models import AccessListEntry

SOURCE = "access_list"
ANY = "*"


class AccessList:
    def __init__(self, database: Database) -> None:
        self._database = database

    def authorize(self, inquiry: Inquiry, now: datetime) -> Answer:
        with self._database.reading() as session:
            return decide(session, inquiry.token_hash, inquiry.station_id, now)


def decide(session: Session, token_hash: str, station_id: str, now: datetime) -> Answer:
    """A block always wins; else the most particular entry decides, an entry for the driver before one for all."""
    entries = session.scalars(
        select(AccessListEntry).where(
            AccessListEntry.token_hash.in_((token_hash, ANY)), AccessListEntry.station_id.in_((station_id, ANY))
        )
    ).all()
    if not entries:
        return Answer(Decision.NOT_ALLOWED, Reason.NOT_IN_ACL, SOURCE)
    if any(entry.blocked for entry in entries):
        return Answer(Decision.NOT_ALLOWED, Reason.BLOCKED, SOURCE)
    entry = min(entries, key=lambda each: (each.token_hash == ANY, each.station_id == ANY))
    if entry.valid_from is not None and now < entry.valid_from:
        return Answer(Decision.NOT_ALLOWED, Reason.NOT_YET_VALID, SOURCE)
    if entry.valid_until is not None and now >= entry.valid_until:
        return Answer(Decision.NOT_ALLOWED, Reason.EXPIRED, SOURCE)
    return Answer(Decision.ALLOWED, None, SOURCE)
