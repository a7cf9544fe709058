"""What carries the jobs of the deployment under drill, and what can be done to it."""

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import redis

from chargeapp.pipeline import STAGES
from chargeapp.transport.embedded_redis import embedded_redis_url


class BrokerSilent(Exception):  # noqa: N818 - says what is the matter
    """Nobody can be asked at the moment."""


class Broker(Protocol):
    # How to ask for it on the command line, and what each fault does: a name, and whether it could be done.
    words: str
    faults: dict[str, Callable[[], bool]]

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def forget(self) -> None: ...

    def settings(self) -> dict[str, str]:
        """Of the deployment that is to use it."""

    def engine(self) -> str:
        """Its name, and its version if that is known."""

    def jobs(self) -> dict[str, int]:
        """How many each queue still has; raises BrokerSilent."""


class EmbeddedRedis:
    """The one that the deployment itself runs."""

    words = ""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.faults: dict[str, Callable[[], bool]] = {"flush redis": self._flush, "kill redis": self._kill}

    def start(self) -> None:
        """The deployment starts it."""

    def stop(self) -> None:
        """And stops it."""

    def forget(self) -> None:
        """It keeps nothing."""

    def settings(self) -> dict[str, str]:
        return {}

    def engine(self) -> str:
        return "Redis"

    def jobs(self) -> dict[str, int]:
        try:
            with self._connected() as client:
                return {
                    stage.queue: int(
                        client.llen(f"rq:queue:{stage.queue}") + client.zcard(f"rq:scheduled:{stage.queue}")
                    )
                    for stage in STAGES
                }
        except redis.RedisError as error:
            raise BrokerSilent from error

    def _flush(self) -> bool:
        with contextlib.suppress(redis.RedisError), self._connected() as client:
            return bool(client.flushall())
        return False

    def _kill(self) -> bool:
        with contextlib.suppress(redis.RedisError, ProcessLookupError), self._connected() as client:
            os.kill(client.info("server")["process_id"], signal.SIGKILL)
            return True
        return False

    def _connected(self) -> redis.Redis:
        return redis.Redis.from_url(embedded_redis_url(self._data_dir), socket_timeout=5)
