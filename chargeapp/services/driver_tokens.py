"""Driver tokens after the fact: sealed anew when the keys change, and erased when a driver asks for it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session

from chargeapp.security.driver_tokens import TokenUnreadable, TokenVault, mask
from chargeapp.storage.models import (
    AccessListEntry,
    AuthorizationDecisionCallbackOutbox,
    CallbackDeliveryOutbox,
    SessionRequest,
    WebhookSecret,
)
from chargeapp.storage.turns import RETENTION, take_turn

ERASED = "erased"


@dataclass(frozen=True)
class Resealed:
    """One bite; `last_id` is where the next one begins, None when nothing is left."""

    last_id: str | None
    looked_at: int
    resealed: int
    unreadable: int


def count_sealed(session: Session) -> int:
    sealed = select(func.count()).select_from(SessionRequest).where(SessionRequest.token_sealed.is_not(None))
    return session.scalar(sealed) or 0


def reseal_driver_tokens(session: Session, vault: TokenVault, after: str, limit: int = 500) -> Resealed:
    """Seals the tokens of up to `limit` requests with the newest key; those sealed so already stay as they are."""
    take_turn(session, RETENTION)
    found = session.execute(
        select(SessionRequest.id, SessionRequest.token_sealed)
        .where(SessionRequest.token_sealed.is_not(None), SessionRequest.id > after)
        .order_by(SessionRequest.id)
        .limit(limit)
    ).all()
    changed: list[dict[str, object]] = []
    unreadable = 0
    for id_, sealed in found:
        try:
            anew = vault.resealed(sealed or b"")
        except TokenUnreadable:
            unreadable += 1
        else:
            if anew is not None:
                changed.append({"id": id_, "token_sealed": anew})
    if changed:
        session.execute(update(SessionRequest), changed)
    return Resealed(found[-1].id if found else None, len(found), len(changed), unreadable)


def reseal_webhook_secrets(session: Session, vault: TokenVault) -> Resealed:
    """All of them: they are few."""
    found = session.scalars(select(WebhookSecret)).all()
    resealed = unreadable = 0
    for each in found:
        try:
            anew = vault.resealed(each.secret_sealed)
        except TokenUnreadable:
            unreadable += 1
            continue
        if anew is not None:
            each.secret_sealed = anew
            resealed += 1
    return Resealed(None, len(found), resealed, unreadable)


@dataclass(frozen=True)
class Erased:
    """`under_way` requests were left alone: they need the token for their callback. All end by `over_by`."""

    requests: int
    access_list_entries: int
    under_way: int
    over_by: datetime | None


def erase_driver(session: Session, token: str, token_hash: str, limit: int = 500) -> Erased:
    """One bite of at most `limit` requests; nothing is left of the driver but the fact that somebody asked."""
    take_turn(session, RETENTION)
    # The masked form has the index.
    mine = (SessionRequest.token_masked == mask(token)) & (SessionRequest.token_hash == token_hash)
    ended = session.scalars(select(SessionRequest.id).where(mine, ~_under_way()).limit(limit)).all()
    if ended:
        session.execute(
            update(SessionRequest)
            .where(SessionRequest.id.in_(ended))
            .values(
                token_sealed=None,
                token_hash=ERASED,
                token_masked=ERASED,
                # Callers may have put the token into their own address.
                callback_url=func.replace(SessionRequest.callback_url, token, ERASED),
            )
        )
    entries = session.execute(
        delete(AccessListEntry).where(AccessListEntry.token_hash == token_hash).returning(AccessListEntry.station_id)
    ).all()
    under_way, over_by = session.execute(
        select(func.count(), func.max(SessionRequest.expires_at)).where(mine, _under_way())
    ).one()
    return Erased(len(ended), len(entries), under_way, over_by)


def _under_way() -> ColumnElement[bool]:
    """Undecided, its callback on its way, or on its way once more."""
    return or_(SessionRequest.ended_at.is_(None), callback_under_way())


def callback_under_way() -> ColumnElement[bool]:
    """Of a request that ended: its callback is being sent again. A dead letter is not under way."""
    return or_(
        *(
            exists().where(table.request_id == SessionRequest.id, table.settled_at.is_(None), table.dead_at.is_(None))
            for table in (AuthorizationDecisionCallbackOutbox, CallbackDeliveryOutbox)
        )
    )
