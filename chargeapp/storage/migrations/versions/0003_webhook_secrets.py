"""Webhook secrets of callers"""

import sqlalchemy as sa
from alembic import op

from chargeapp.storage.columns import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "webhook_secrets",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("secret_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("retires_at", UtcDateTime()),
    )
    op.create_index("ix_webhook_secrets_caller", "webhook_secrets", ["caller"])


def downgrade() -> None:
    op.drop_table("webhook_secrets")
