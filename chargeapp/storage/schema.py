"""Brings the tables up to date with Alembic's migrations, and tells which are missing."""

from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from chargeapp.storage.database import Database

MIGRATIONS = Path(__file__).with_name("migrations")


@dataclass(frozen=True)
class SchemaStatus:
    current: str | None
    newest: str | None

    @property
    def up_to_date(self) -> bool:
        return self.current == self.newest


def upgrade(database: Database, revision: str = "head") -> None:
    """One transaction; several processes may try at once, the later ones find nothing to do."""
    with database.migrating() as session:
        command.upgrade(_config(session.connection()), revision)


def downgrade(database: Database, revision: str) -> None:
    with database.migrating() as session:
        command.downgrade(_config(session.connection()), revision)


def status(database: Database) -> SchemaStatus:
    newest = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    if not database.exists():
        return SchemaStatus(None, newest)
    with database.reading() as session:
        current = MigrationContext.configure(session.connection()).get_current_revision()
    return SchemaStatus(current, newest)


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config
