"""The first tables"""

import sqlalchemy as sa
from alembic import op

from chargeapp.storage.columns import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

OUTBOXES = (
    "charging_session_request_outbox",
    "authorization_decision_callback_outbox",
    "callback_delivery_outbox",
)
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "charging_session_requests",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("station_id", sa.String(36), nullable=False),
        sa.Column("token_sealed", sa.LargeBinary()),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("token_masked", sa.Text(), nullable=False),
        sa.Column("callback_url", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("accepted_at", UtcDateTime(), nullable=False),
        sa.Column("decide_by", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("decision", sa.String(16)),
        sa.Column("reason", sa.Text()),
        sa.Column("source", sa.Text()),
        sa.Column("decided_at", UtcDateTime()),
        sa.Column("callback_attempts", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text()),
        sa.Column("ended_at", UtcDateTime()),
    )
    _index("ix_requests_undecided", "charging_session_requests", ["decide_by"], where="decided_at IS NULL")
    _index("ix_requests_unended", "charging_session_requests", ["expires_at"], where="ended_at IS NULL")
    _index(
        "ix_requests_readable_token",
        "charging_session_requests",
        ["ended_at"],
        where="token_sealed IS NOT NULL AND ended_at IS NOT NULL",
    )
    _index("ix_requests_station", "charging_session_requests", ["station_id", "id"])
    _index("ix_requests_state", "charging_session_requests", ["state", "id"])
    _index("ix_requests_token", "charging_session_requests", ["token_hash"])
    for outbox in OUTBOXES:
        _create_outbox(outbox)
    op.create_table(
        "events",
        sa.Column("id", ROW_ID, primary_key=True),
        _request_id(),
        sa.Column("type", sa.String(60), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("terminal", sa.Boolean(), nullable=False),
    )
    _index("ix_events_request", "events", ["request_id"])
    _index("ux_events_one_terminal", "events", ["request_id"], where="terminal", unique=True)
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER events_never_change BEFORE UPDATE ON events"
            " BEGIN SELECT RAISE(ABORT, 'events are never changed'); END"
        )
    else:
        op.execute(
            "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'events are never changed' USING ERRCODE = 'integrity_constraint_violation'; END $$"
        )
        op.execute(
            "CREATE TRIGGER events_never_change BEFORE UPDATE ON events FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
    op.create_table(
        "idempotency_keys",
        sa.Column("caller", sa.Text(), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("body_hash", sa.String(64), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    _index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_table(
        "access_list",
        sa.Column("token_hash", sa.String(64), primary_key=True),
        sa.Column("station_id", sa.String(36), primary_key=True),
        sa.Column("token_masked", sa.Text(), nullable=False),
        sa.Column("blocked", sa.Boolean(), nullable=False),
        sa.Column("valid_from", UtcDateTime()),
        sa.Column("valid_until", UtcDateTime()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "tallies",
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("minute", UtcDateTime(), primary_key=True),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("millis", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "heartbeats",
        sa.Column("process", sa.Text(), primary_key=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
    )


def downgrade() -> None:
    for table in ("heartbeats", "tallies", "access_list", "idempotency_keys", "events", *OUTBOXES):
        op.drop_table(table)
    op.drop_table("charging_session_requests")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_change()")


def _create_outbox(name: str) -> None:
    op.create_table(
        name,
        sa.Column("id", ROW_ID, primary_key=True),
        _request_id(),
        sa.Column("type", sa.String(60), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("enqueue_seq", sa.Integer(), nullable=False),
        sa.Column("lease_until", UtcDateTime()),
        sa.Column("job_id", sa.Text()),
        sa.Column("taken_at", UtcDateTime()),
        sa.Column("settled_at", UtcDateTime()),
        sa.Column("dead_at", UtcDateTime()),
        sa.Column("last_error", sa.Text()),
    )
    _index(f"ix_{name}_due", name, ["due_at"], where="settled_at IS NULL AND dead_at IS NULL")
    _index(f"ix_{name}_dead", name, ["dead_at"], where="dead_at IS NOT NULL")
    _index(f"ix_{name}_request", name, ["request_id"])


def _request_id() -> sa.Column[str]:
    return sa.Column(
        "request_id",
        sa.String(40),
        sa.ForeignKey("charging_session_requests.id", ondelete="CASCADE"),
        nullable=False,
    )


def _index(name: str, table: str, columns: list[str], *, where: str | None = None, unique: bool = False) -> None:
    condition = sa.text(where) if where else None
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)
