"""A PostgreSQL server of one's own, of Debian's package or what is on the PATH."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
from psycopg import sql

USER = "chargeapp"
START_SECONDS = 60.0


def find_postgres() -> Path | None:
    """The directory of its programs; None if it is not installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda each: float(each.parts[4]))
    found = str(debian[-1]) if debian else shutil.which("initdb")
    return Path(found).parent if found else None


class PostgresServer:
    """On a private socket; may be stopped and started again. `options` are settings of the server."""

    def __init__(self, programs: Path, **options: str) -> None:
        self._programs = programs
        # Not in a directory of the caller's, which others may not enter.
        self.directory = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._data = self.directory / "data"
        self._options = {"listen_addresses": "", "unix_socket_directories": str(self.directory), **options}
        self._password = secrets.token_hex(16)
        self._owner = owner()
        self._process: subprocess.Popen[bytes] | None = None
        if self._owner:
            shutil.chown(self.directory, self._owner)

    def url(self, database: str) -> str:
        return f"postgresql://{USER}@/{database}?host={self.directory}&port={self._port}"

    def url_at(self, address: str, database: str) -> str:
        """For whoever is not on this machine: with the password."""
        return f"postgresql://{USER}:{self._password}@{address}:{self._port}/{database}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def _port(self) -> str:
        return self._options.get("port", "5432")

    def initialize(self) -> None:
        password = self.directory / "password"
        password.write_text(self._password)
        words = ["-D", str(self._data), "-U", USER, "--encoding=UTF8", "--no-sync"]
        words += ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password}"]
        # Sorts as a customer's server does: not by bytes.
        words += ["--locale-provider=icu", "--icu-locale=en-US", "--locale=C.UTF-8"]
        if self._spawn("initdb", *words).wait(START_SECONDS):
            raise RuntimeError(f"initdb failed:\n{self.log()}")
        with (self._data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet scram-sha-256\n")

    def start(self) -> None:
        words = [word for name, value in self._options.items() for word in ("-c", f"{name}={value}")]
        self._process = self._spawn("postgres", "-D", str(self._data), *words)
        give_up_at = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"PostgreSQL does not start:\n{self.log()}")
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: every connection is closed at once. SIGQUIT: as after a loss of power, but for the disk's cache."""
        if self._process:
            self._process.send_signal(number)
            self._process.wait(START_SECONDS)
            self._process = None

    def create_database(self, name: str, template: str = "template1") -> None:
        self.run(sql.SQL("CREATE DATABASE {} TEMPLATE {}"), name, template)

    def run(self, statement: sql.SQL, *names: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as admin:
            admin.execute(statement.format(*map(sql.Identifier, names)))

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def _spawn(self, program: str, *words: str) -> "subprocess.Popen[bytes]":
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - found where PostgreSQL is installed
                [self._programs / program, *words],
                cwd=self.directory,
                stdout=log,
                stderr=log,
                user=self._owner,
                group=pwd.getpwnam(self._owner).pw_gid if self._owner else None,
                extra_groups=[] if self._owner else None,
                # Ctrl-C is for whoever uses it, who then stops it last.
                start_new_session=True,
            )

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True


def owner() -> str | None:
    """Who is to run it: root, which it refuses to run as, lends it another user."""
    if os.geteuid() != 0:
        return None
    users = {each.pw_name for each in pwd.getpwall()}
    return "postgres" if "postgres" in users else "nobody"
