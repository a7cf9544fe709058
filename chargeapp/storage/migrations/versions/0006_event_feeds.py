"""How far events were published for other services"""

import sqlalchemy as sa
from alembic import op

from chargeapp.storage.columns import UtcDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "event_feeds",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("held_until", UtcDateTime()),
    )


def downgrade() -> None:
    op.drop_table("event_feeds")
