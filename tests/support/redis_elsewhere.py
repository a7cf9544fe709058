"""Redis as others run it: on a port, with TLS, with a password, watched by Sentinels, or Valkey in its place."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from support.builders import eventually
from support.certificates import Authority

PASSWORD = "password-of-redis-in-tests"
SERVICE = "chargeapp"
SECONDS = 30.0


def installed(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed: sudo apt-get install {package}")
    return found


class Server:
    """One process in a directory of its own; `options` are lines of redis.conf."""

    def __init__(
        self, directory: Path, port: int, *options: str, program: str = "redis-server", words: str = ""
    ) -> None:
        directory.mkdir()
        self.port = port
        self._log = directory / "log"
        config = directory / "redis.conf"
        config.write_text("\n".join([*options, "bind 127.0.0.1", 'save ""', f"dir {directory}", ""]))
        command = [installed(program, program), str(config), *words.split()]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def wait_for(self, client: redis.Redis) -> None:
        def answers() -> bool:
            assert self.process.poll() is None, self.output()
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

        eventually(answers, "Redis does not start", SECONDS)

    def output(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def plain_server(directory: Path, port: int, program: str = "redis-server") -> Iterator[Server]:
    with (
        Server(directory, port, f"port {port}", f"requirepass {PASSWORD}", program=program) as server,
        redis.Redis(port=port, password=PASSWORD) as client,
    ):
        server.wait_for(client)
        yield server


@contextmanager
def tls_server(directory: Path, port: int, authority: Authority) -> Iterator[Server]:
    """Skips where redis-server was built without TLS."""
    certificate, key = authority.issue()
    options = (
        "port 0",
        f"tls-port {port}",
        f"tls-cert-file {certificate}",
        f"tls-key-file {key}",
        f"tls-ca-cert-file {authority.certificate}",
        "tls-auth-clients no",
        "user default off",
        f"user chargeapp on >{PASSWORD} ~* &* +@all",
    )
    trust = {"ssl": True, "ssl_ca_certs": str(authority.certificate)}
    with (
        Server(directory, port, *options) as server,
        redis.Redis(port=port, username="chargeapp", password=PASSWORD, **trust) as client,  # type: ignore[arg-type]
    ):
        try:
            server.wait_for(client)
        except AssertionError:
            if "tls-port" in server.output():
                pytest.skip("this redis-server was built without TLS: sudo apt-get install redis-server")
            raise
        yield server


class Watched:
    """A master, a replica, and three Sentinels that put the one in the place of the other."""

    def __init__(self, directory: Path, free_port: Callable[[], int]) -> None:
        self._directory = directory
        self._ports = [free_port() for _ in range(5)]
        self.hosts = ",".join(f"127.0.0.1:{port}" for port in self._ports[2:])
        self.url = f"redis+sentinel://:{PASSWORD}@{self.hosts}/{SERVICE}/0"
        self._redises: list[Server] = []

    def __enter__(self) -> "Watched":
        with ExitStack() as stack:
            master, replica, *sentinels = self._ports
            secret = (f"requirepass {PASSWORD}", f"masterauth {PASSWORD}", "repl-diskless-sync-delay 0")
            for port, options in ((master, ()), (replica, (f"replicaof 127.0.0.1 {master}",))):
                server = stack.enter_context(
                    Server(self._directory / str(port), port, f"port {port}", *secret, *options)
                )
                self._redises.append(server)
                with redis.Redis(port=port, password=PASSWORD) as client:
                    server.wait_for(client)
            watch = (
                f"sentinel monitor {SERVICE} 127.0.0.1 {master} 2",
                f"sentinel auth-pass {SERVICE} {PASSWORD}",
                f"sentinel down-after-milliseconds {SERVICE} 500",
                f"sentinel failover-timeout {SERVICE} 3000",
            )
            for port in sentinels:
                stack.enter_context(
                    Server(self._directory / str(port), port, f"port {port}", *watch, words="--sentinel")
                )
            self._sentinels = [stack.enter_context(redis.Redis(port=port)) for port in sentinels]
            eventually(self._agreed, "the Sentinels do not see each other and the replica", SECONDS)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def master_port(self) -> int:
        return int(self._state(self._sentinels[0])["port"])

    def kill_master(self) -> None:
        """Returns once the replica is in its place."""
        old = self.master_port()
        next(each for each in self._redises if each.port == old).kill()
        eventually(lambda: self.master_port() != old, "no fail-over", SECONDS)

    def _agreed(self) -> bool:
        try:
            states = [self._state(each) for each in self._sentinels]
        except redis.ConnectionError:
            return False
        return all(each.get("num-other-sentinels") == 2 and each.get("num-slaves") == 1 for each in states)

    def _state(self, sentinel: redis.Redis) -> dict[str, Any]:
        states: Any = sentinel.sentinel_masters()
        return dict(states.get(SERVICE, {}))
