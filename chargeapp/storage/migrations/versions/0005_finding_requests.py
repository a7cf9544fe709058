"""Requests found by driver and by decision"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

RARE = sa.text("decision IN ('unknown', 'invalid')")


def upgrade() -> None:
    # One index as before, of shorter entries: the masked token finds a driver's requests, newest first.
    op.drop_index("ix_requests_token", "charging_session_requests")
    op.create_index("ix_requests_driver", "charging_session_requests", ["token_masked", "id"])
    # Costs nothing for requests that are decided as usual.
    op.create_index(
        "ix_requests_rare_decision",
        "charging_session_requests",
        ["decision", "id"],
        sqlite_where=RARE,
        postgresql_where=RARE,
    )


def downgrade() -> None:
    op.drop_index("ix_requests_rare_decision", "charging_session_requests")
    op.drop_index("ix_requests_driver", "charging_session_requests")
    op.create_index("ix_requests_token", "charging_session_requests", ["token_hash"])
