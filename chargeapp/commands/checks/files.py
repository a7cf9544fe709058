"""Where the data lies: SQLite's version, the data directory, the space that is left."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from pysqlite3 import dbapi2 as sqlite

from chargeapp.commands.checks import Finding, fail, ok, warn
from chargeapp.config import Settings
from chargeapp.errors import MisconfiguredError
from chargeapp.storage.database import data_file
from chargeapp.storage.sqlite import NETWORK_FILE_SYSTEMS, check_sqlite_version, file_system_of

MEBIBYTE = 1024**2
FREE_FAIL = 100 * MEBIBYTE
FREE_WARN = 1024 * MEBIBYTE
FORGETFUL_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})


def check_files(settings: Settings) -> Iterator[Finding]:
    file = data_file(settings.resolved_database_url)
    if file is not None:
        yield sqlite_version(sqlite.sqlite_version_info)
    directory = settings.chargeapp_data_dir
    if not directory.is_dir():
        yield fail("data directory", f"{directory} does not exist", "chargeapp db upgrade makes it")
        return
    yield permissions(directory)
    if file is not None and file.parent.is_dir():
        yield file_system(file.parent, file_system_of(file.parent))
        yield free_space(shutil.disk_usage(file.parent).free)


def is_to_be_made(settings: Settings) -> bool:
    """Whether the database will be in a directory that is not there yet; connecting would make it."""
    file = data_file(settings.resolved_database_url)
    return file is not None and not file.parent.is_dir()


def sqlite_version(version: tuple[int, int, int]) -> Finding:
    try:
        check_sqlite_version(version)
    except MisconfiguredError as error:
        return fail("sqlite", str(error), "pip install pysqlite3==0.6.1, not pysqlite3-binary")
    return ok("sqlite", f"version {'.'.join(map(str, version))}")


def permissions(directory: Path) -> Finding:
    mode = stat.S_IMODE(directory.stat().st_mode)
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        return fail("data directory", f"{directory} cannot be written by this user", "run as its owner, or chown it")
    if mode & 0o077:
        return warn("data directory", f"{directory} is open to other users ({mode:o})", f"chmod 700 {directory}")
    return ok("data directory", f"{directory}, for its owner only")


def file_system(directory: Path, kind: str) -> Finding:
    if kind in NETWORK_FILE_SYSTEMS:
        return fail("file system", f"{directory} is on {kind}, where SQLite loses data", "use a local disk")
    if kind in FORGETFUL_FILE_SYSTEMS:
        return warn("file system", f"{directory} is on {kind}, gone after a restart", "use a disk")
    return ok("file system", kind or "unknown to this system")


def free_space(free: int) -> Finding:
    found = f"{free / MEBIBYTE:,.0f} MiB free"
    if free < FREE_WARN:
        return (fail if free < FREE_FAIL else warn)("disk space", found, "make room: without it nothing is accepted")
    return ok("disk space", found)
