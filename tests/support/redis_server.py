"""A real Redis on a private socket."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import redis

from chargeapp.transport.embedded_redis import find_redis_server
from chargeapp.transport.redis_client import connect
from support.builders import eventually


class RedisServer:
    """A context manager; may be stopped and started again, empty, in between. `options` are settings of Redis."""

    def __init__(self, **options: str) -> None:
        self._options = options
        # Not in pytest's directory: the path of a socket must be short.
        self._directory = Path(tempfile.mkdtemp(prefix="redis-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = self._directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.client = connect(self.url)

    def start(self) -> None:
        options = {"port": "0", "unixsocket": str(self.socket), "save": "", "dir": str(self._directory)}
        options |= self._options
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([find_redis_server(), *words], stdout=subprocess.DEVNULL)
        eventually(self._answers, "Redis does not start")

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    def __enter__(self) -> "RedisServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.stop()
        shutil.rmtree(self._directory)
