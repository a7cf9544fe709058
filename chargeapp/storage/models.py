"""The tables. Three outboxes share one shape; everything personal is sealed or hashed."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, LargeBinary, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column

from chargeapp.storage.columns import UtcDateTime

# SQLite numbers rows by itself only in a column of exactly this type.
RowId = BigInteger().with_variant(Integer, "sqlite")


# The other decisions are so frequent that a page of them is found without an index.
RARE_DECISION = "decision IN ('unknown', 'invalid')"


class Base(DeclarativeBase):
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, str: Text, bytes: LargeBinary}  # noqa: RUF012


class SessionRequest(Base):
    """One question: may this driver charge at this station?"""

    __tablename__ = "charging_session_requests"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    caller: Mapped[str]
    station_id: Mapped[str] = mapped_column(String(36))
    token_sealed: Mapped[bytes | None]
    token_hash: Mapped[str] = mapped_column(String(64))
    token_masked: Mapped[str]
    callback_url: Mapped[str]
    destination: Mapped[str]
    state: Mapped[str] = mapped_column(String(16))
    accepted_at: Mapped[datetime]
    decide_by: Mapped[datetime]
    expires_at: Mapped[datetime]
    decision: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[str | None]
    source: Mapped[str | None]
    decided_at: Mapped[datetime | None]
    callback_attempts: Mapped[int] = mapped_column(default=0)
    last_error: Mapped[str | None]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "ix_requests_undecided",
            "decide_by",
            sqlite_where=text("decided_at IS NULL"),
            postgresql_where=text("decided_at IS NULL"),
        ),
        Index(
            "ix_requests_unended",
            "expires_at",
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
        Index(
            "ix_requests_readable_token",
            "ended_at",
            sqlite_where=text("token_sealed IS NOT NULL AND ended_at IS NOT NULL"),
            postgresql_where=text("token_sealed IS NOT NULL AND ended_at IS NOT NULL"),
        ),
        Index("ix_requests_station", "station_id", "id"),
        Index("ix_requests_state", "state", "id"),
        # The masked form finds nearly one driver only, and the hash tells apart who shares it.
        Index("ix_requests_driver", "token_masked", "id"),
        Index(
            "ix_requests_rare_decision",
            "decision",
            "id",
            sqlite_where=text(RARE_DECISION),
            postgresql_where=text(RARE_DECISION),
        ),
        Index("ix_requests_caller", "caller", "id"),
    )


class OutboxRow(Base):
    """A command or event on its way: due, then leased to a job, in the end settled or dead."""

    __abstract__ = True

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    request_id: Mapped[str] = mapped_column(ForeignKey("charging_session_requests.id", ondelete="CASCADE"))
    type: Mapped[str] = mapped_column(String(60))
    payload: Mapped[dict[str, Any]]
    destination: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    # Raised by every claim: a late or doubled job carries an older number and does nothing.
    enqueue_seq: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[datetime | None]
    job_id: Mapped[str | None]
    # Set when a job begins with the row: of two jobs with the same number only the first goes on.
    taken_at: Mapped[datetime | None]
    settled_at: Mapped[datetime | None]
    dead_at: Mapped[datetime | None]
    last_error: Mapped[str | None]

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[Index, ...]:
        unsettled = text("settled_at IS NULL AND dead_at IS NULL")
        dead = text("dead_at IS NOT NULL")
        name = cls.__tablename__
        return (
            Index(f"ix_{name}_due", "due_at", sqlite_where=unsettled, postgresql_where=unsettled),
            Index(f"ix_{name}_dead", "dead_at", sqlite_where=dead, postgresql_where=dead),
            Index(f"ix_{name}_request", "request_id"),
        )


class ChargingSessionRequestOutbox(OutboxRow):
    __tablename__ = "charging_session_request_outbox"


class AuthorizationDecisionCallbackOutbox(OutboxRow):
    __tablename__ = "authorization_decision_callback_outbox"


class CallbackDeliveryOutbox(OutboxRow):
    __tablename__ = "callback_delivery_outbox"


class EventRecord(Base):
    """One fact of a request's timeline. Never changed; a request has exactly one terminal fact."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    request_id: Mapped[str] = mapped_column(ForeignKey("charging_session_requests.id", ondelete="CASCADE"))
    type: Mapped[str] = mapped_column(String(60))
    at: Mapped[datetime]
    details: Mapped[dict[str, Any]]
    terminal: Mapped[bool] = mapped_column(default=False)

    __table_args__ = (
        Index("ix_events_request", "request_id"),
        Index(
            "ux_events_one_terminal",
            "request_id",
            unique=True,
            sqlite_where=text("terminal"),
            postgresql_where=text("terminal"),
        ),
    )


class IdempotencyKey(Base):
    """A caller's key and what was answered, so that a repeated request is answered alike."""

    __tablename__ = "idempotency_keys"

    caller: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_hash: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(index=True)


class ApiKey(Base):
    """What lets a caller in. Of its secret only the hash is kept; scopes and hosts are words with spaces between."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str]
    caller: Mapped[str]
    secret_hash: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[str]
    callback_hosts: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class ConsoleSession(Base):
    """A browser that somebody logged in with an API key. Of the id in its cookie only the hash is kept."""

    __tablename__ = "console_sessions"

    id_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    created_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class AccessListEntry(Base):
    """Who may charge where. `*` stands for every driver or every station."""

    __tablename__ = "access_list"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    station_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    token_masked: Mapped[str]
    blocked: Mapped[bool] = mapped_column(default=False)
    valid_from: Mapped[datetime | None]
    valid_until: Mapped[datetime | None]
    created_at: Mapped[datetime]


class WebhookSecret(Base):
    """What signs the callbacks of a caller; those of the caller `""` sign for everybody who has none of their own."""

    __tablename__ = "webhook_secrets"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    caller: Mapped[str] = mapped_column(index=True)
    secret_sealed: Mapped[bytes]
    kind: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    # Signs until then beside the newer one; the newest has no end.
    retires_at: Mapped[datetime | None]


class Tally(Base):
    """How often something happened within a minute, and the milliseconds it took together."""

    __tablename__ = "tallies"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    minute: Mapped[datetime] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)
    millis: Mapped[int] = mapped_column(BigInteger)


class Heartbeat(Base):
    """When a process last said that it works, and anything it has to add; tells a stopped relay from an idle one."""

    __tablename__ = "heartbeats"

    process: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    note: Mapped[str] = mapped_column(default="")


class EventFeed(Base):
    """How far the events were published for other services, and until when one relay is at it."""

    __tablename__ = "event_feeds"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)
    held_until: Mapped[datetime | None]
