"""Sessions of the console: begun with an API key, and never longer than that key is good."""

from datetime import datetime, timedelta

from sqlalchemy import delete, or_, update
from sqlalchemy.orm import Session

from chargeapp.security.console_sessions import hash_of, new_session_id
from chargeapp.storage.models import ConsoleSession

LONGEST = timedelta(hours=12)
LONGEST_IDLE = timedelta(hours=1)
# Looking at a page is to write no more often than this; a session may end that much earlier.
NOTED_EVERY = timedelta(minutes=1)


def begin_session(session: Session, key_id: str, now: datetime) -> str:
    """The new session's id; it cannot be had again. Removes what has ended meanwhile."""
    ended = or_(ConsoleSession.expires_at <= now, ConsoleSession.last_seen_at <= now - LONGEST_IDLE)
    session.execute(delete(ConsoleSession).where(ended))
    session_id = new_session_id()
    session.add(
        ConsoleSession(
            id_hash=hash_of(session_id), key_id=key_id, created_at=now, last_seen_at=now, expires_at=now + LONGEST
        )
    )
    return session_id


def find_session(session: Session, session_id: str, now: datetime) -> ConsoleSession | None:
    """None if it has ended or never began. Whether its key is still good is for the caller to ask."""
    found = session.get(ConsoleSession, hash_of(session_id))
    if found is None or found.expires_at <= now or found.last_seen_at <= now - LONGEST_IDLE:
        return None
    return found


def note_use(session: Session, session_id: str, now: datetime) -> None:
    used = update(ConsoleSession).where(ConsoleSession.id_hash == hash_of(session_id))
    session.execute(used.values(last_seen_at=now))


def end_session(session: Session, session_id: str) -> None:
    session.execute(delete(ConsoleSession).where(ConsoleSession.id_hash == hash_of(session_id)))
