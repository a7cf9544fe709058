"""Changing the secret that signs a caller's callbacks, without a moment at which the caller cannot check them."""

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from chargeapp.security.driver_tokens import TokenVault
from chargeapp.security.signatures import Kind, kind_of, new_secret
from chargeapp.storage import webhook_secrets
from chargeapp.storage.models import ApiKey, WebhookSecret
from chargeapp.storage.turns import take_turn


def rotate_secret(
    session: Session, vault: TokenVault, *, caller: str, configured: str, kind: Kind, overlap: timedelta, now: datetime
) -> str:
    """The new secret, in force at once; those before it sign beside it for `overlap` and not longer.

    `configured` is the secret in force for callers for whom none is stored.
    """
    retires_at = now + overlap
    take_turn(session, f"webhook secrets {caller}")
    own = webhook_secrets.own(session, caller, now)
    if own:
        for each in own:
            each.retires_at = min(each.retires_at or retires_at, retires_at)
    elif overlap:
        # Its first own secret takes the place of everybody's, which goes on signing for this caller a while.
        shared = [
            (vault.open(row.secret_sealed), row.retires_at) for row in webhook_secrets.signing(session, caller, now)
        ]
        for secret, ends_at in reversed(shared or [(configured, None)]):
            session.add(_row(vault, caller, secret, now, min(ends_at or retires_at, retires_at)))
            session.flush()  # The order of their numbers is the order of their signatures.
    secret = new_secret(kind)
    session.add(_row(vault, caller, secret, now, None))
    return secret


def retire_secret(session: Session, secret_id: int, now: datetime) -> WebhookSecret | None:
    """Ends its overlap at once; None if it does not sign beside a newer one."""
    found = session.get(WebhookSecret, secret_id)
    if found is None or found.retires_at is None or found.retires_at <= now:
        return None
    found.retires_at = now
    return found


def has_api_key(session: Session, caller: str) -> bool:
    """Whether anybody calls under this name."""
    return session.scalar(select(ApiKey.id).where(ApiKey.caller == caller).limit(1)) is not None


def _row(vault: TokenVault, caller: str, secret: str, now: datetime, retires_at: datetime | None) -> WebhookSecret:
    return WebhookSecret(
        caller=caller,
        secret_sealed=vault.seal(secret),
        kind=kind_of(secret),
        created_at=now,
        retires_at=retires_at,
    )
