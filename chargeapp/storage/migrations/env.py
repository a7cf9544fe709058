"""Alembic runs this; the connection and its transaction belong to the caller."""

from alembic import context

from chargeapp.storage.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
context.run_migrations()
