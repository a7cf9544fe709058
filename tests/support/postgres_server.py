"""A real PostgreSQL on a private socket, of Debian's package or what is on the PATH."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from chargeapp.storage import schema
from chargeapp.storage.database import Database
from support.builders import eventually

USER = "chargeapp"
EMPTY = "template1"
MIGRATED = "migrated"
numbers = count()


def find_postgres() -> Path | None:
    """The directory of its programs; None if it is not installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda each: float(each.parts[4]))
    found = str(debian[-1]) if debian else shutil.which("initdb")
    return Path(found).parent if found else None


def needed_postgres() -> Path:
    """The same, for tests that cannot do without."""
    programs = find_postgres()
    if programs is None:
        pytest.skip("PostgreSQL is not installed. On Debian or Ubuntu: sudo apt-get install postgresql")
    return programs


class PostgresServer:
    """A context manager; may be stopped and started again in between."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # Not in pytest's directory, which others may not enter.
        self.directory = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._data = self.directory / "data"
        self._owner = owner()
        self._process: subprocess.Popen[bytes] | None = None
        if self._owner:
            shutil.chown(self.directory, self._owner)

    def url(self, database: str) -> str:
        return f"postgresql://{USER}@/{database}?host={self.directory}"

    @contextmanager
    def new_database(self, template: str = MIGRATED) -> Iterator[str]:
        """The URL of one that has all tables, or with `EMPTY` none."""
        name = f"test_{next(numbers)}"
        self._run(sql.SQL("CREATE DATABASE {} TEMPLATE {}"), name, template)
        yield self.url(name)
        # Processes that a test killed may not have gone yet.
        self._run(sql.SQL("DROP DATABASE {} WITH (FORCE)"), name)

    def _run(self, statement: sql.SQL, *names: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as admin:
            admin.execute(statement.format(*map(sql.Identifier, names)))

    def start(self) -> None:
        # Nothing but the machine could lose what is not synced, so tests need not wait for the disk.
        options = {"listen_addresses": "", "unix_socket_directories": str(self.directory), "fsync": "off"}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self._process = self._spawn("postgres", "-D", str(self._data), *words)
        eventually(self._answers, "PostgreSQL does not start", 30)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: every connection is closed at once. SIGQUIT: as after a loss of power, but for the disk's cache."""
        if self._process:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    @contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """One of its processes is held still."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def _initialize(self) -> None:
        words = ["-D", str(self._data), "-U", USER, "--auth=trust", "--encoding=UTF8", "--no-sync"]
        # Sorts as a customer's server does: not by bytes.
        words += ["--locale-provider=icu", "--icu-locale=en-US", "--locale=C.UTF-8"]
        initdb = self._spawn("initdb", *words)
        assert initdb.wait(60) == 0, (self.directory / "log").read_text()

    def _spawn(self, program: str, *words: str) -> "subprocess.Popen[bytes]":
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [self._programs / program, *words],
                cwd=self.directory,
                stdout=log,
                stderr=log,
                user=self._owner,
                group=pwd.getpwnam(self._owner).pw_gid if self._owner else None,
                extra_groups=[] if self._owner else None,
            )

    def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, (self.directory / "log").read_text()
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def __enter__(self) -> "PostgresServer":
        self._initialize()
        self.start()
        self._run(sql.SQL("CREATE DATABASE {}"), MIGRATED)
        template = Database(self.url(MIGRATED))
        schema.upgrade(template)
        template.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.directory)


def owner() -> str | None:
    """Who is to run it: root, which it refuses to run as, lends it another user."""
    if os.geteuid() != 0:
        return None
    users = {each.pw_name for each in pwd.getpwall()}
    return "postgres" if "postgres" in users else "nobody"
