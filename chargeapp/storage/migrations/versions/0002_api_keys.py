"""API keys"""

import sqlalchemy as sa
from alembic import op

from chargeapp.storage.columns import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("callback_hosts", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime()),
        sa.Column("revoked_at", UtcDateTime()),
    )
    # A caller pages through its own requests, however few of all they are.
    op.create_index("ix_requests_caller", "charging_session_requests", ["caller", "id"])


def downgrade() -> None:
    op.drop_index("ix_requests_caller", "charging_session_requests")
    op.drop_table("api_keys")
