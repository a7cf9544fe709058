"""What a short command needs: settings read, tables there, and whatever it used closed at the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from chargeapp.errors import MisconfiguredError

if TYPE_CHECKING:
    from chargeapp.config import Settings
    from chargeapp.runtime import Runtime
    from chargeapp.storage.database import Database


@contextmanager
def opened_runtime() -> Iterator["Runtime"]:
    """Raises MisconfiguredError that says what to do if the tables are missing or of another version."""
    from chargeapp.config import load_settings

    with closing_runtime(load_settings()) as runtime:
        check_tables(runtime.database)
        yield runtime


@contextmanager
def closing_runtime(settings: "Settings") -> Iterator["Runtime"]:
    from chargeapp.logs import configure_logging
    from chargeapp.runtime import Runtime

    # Lines of the log go to standard error; standard output belongs to what was asked for. What a command did it says
    # itself, so its log tells of trouble only.
    level = "warning" if settings.log_level == "info" else settings.log_level
    configure_logging(replace(settings, log_level=level), "command")
    runtime = Runtime(settings)
    try:
        yield runtime
    finally:
        used = vars(runtime)
        if "database" in used:
            runtime.database.close()
        runtime.close_transport()
        for name in ("redis", "redis_probe"):
            if name in used:
                used[name].close()


def check_tables(database: "Database") -> None:
    from chargeapp.storage import schema

    if not database.exists():
        raise MisconfiguredError(f"There is no database {database.path} yet. Make it: chargeapp db upgrade")
    found = schema.status(database)
    if not found.up_to_date:
        raise MisconfiguredError(
            f"The tables are of version {found.current or 'none'}, {found.newest} is needed. Run: chargeapp db upgrade"
        )
