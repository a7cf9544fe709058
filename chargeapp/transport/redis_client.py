"""The one place that connects to Redis: at an address, through a socket, with TLS, or by way of Sentinels."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from chargeapp.errors import MisconfiguredError

SENTINEL_SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
SENTINEL_PORT = 26379
SENTINEL_TIMEOUT_SECONDS = 1.0
# Some seconds, as redis-py does by default, and by way of Sentinels too. After them the worker ends, and is restarted.
WORKER_RETRIES = 10


def connect(url: str, timeout_seconds: float = 5.0) -> redis.Redis:
    """A client that never repeats a command by itself: one lost reply would enqueue a job twice."""
    return _client(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=min(2.0, timeout_seconds),
        socket_timeout=timeout_seconds,
    )


def connect_worker(url: str) -> redis.Redis:
    """For RQ's worker, which waits long for a job, and may repeat what it asks."""
    return _client(url, retry=Retry(ExponentialWithJitterBackoff(base=0.01, cap=1.0), WORKER_RETRIES))


def _client(url: str, **options: Any) -> redis.Redis:
    try:
        if urlsplit(url).scheme in SENTINEL_SCHEMES:
            client = _behind_sentinels(url, options)
        else:
            client = redis.Redis.from_url(url, protocol=2, **options)
        authority = client.connection_pool.connection_kwargs.get("ssl_ca_certs")
        if authority and not Path(authority).is_file():
            raise ValueError(f"ssl_ca_certs: {authority} is no file")
    except ValueError as error:
        raise MisconfiguredError(f"REDIS_URL: {error}") from error
    return client


def _behind_sentinels(url: str, options: dict[str, Any]) -> redis.Redis:
    """redis+sentinel://user:password@host:port,host:port/service/db; asked anew for each new connection."""
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    service, _, db = parts.path.strip("/").partition("/")
    addresses = [_address(each) for each in hosts.split(",") if each]
    if not addresses or not service:
        raise ValueError("Must be such as redis+sentinel://sentinel-1:26379,sentinel-2:26379/service/0")
    # All but hosts and service means what it means in any other Redis URL.
    plain = f"{SENTINEL_SCHEMES[parts.scheme]}://{credentials}@localhost/{db}?{parts.query}"
    parsed: dict[str, Any] = parse_url(plain)  # type: ignore[no-untyped-call]
    given = {name: value for name, value in parsed.items() if name not in ("host", "connection_class")}
    own = {name: given.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    tls = {"ssl": parts.scheme == "rediss+sentinel"} | {
        name: value for name, value in given.items() if name.startswith("ssl_")
    }
    timeout = min(SENTINEL_TIMEOUT_SECONDS, options.get("socket_timeout", SENTINEL_TIMEOUT_SECONDS))
    patience = {"socket_connect_timeout": timeout, "socket_timeout": timeout, "retry": Retry(NoBackoff(), 0)}
    to_sentinels = {**own, **tls, **patience, "protocol": 2}
    asked: Any = Sentinels(addresses, sentinel_kwargs=to_sentinels)  # type: ignore[no-untyped-call]
    client: redis.Redis = asked.master_for(service, **{**given, **tls, **options, "protocol": 2})
    return client


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "localhost", parts.port or SENTINEL_PORT


class Sentinels(Sentinel):
    def discover_master(self, service_name: str) -> Any:
        """In words of ours: redis-py's error is a paragraph of internals."""
        try:
            return super().discover_master(service_name)  # type: ignore[no-untyped-call]
        except MasterNotFoundError as error:
            asked = ", ".join(
                "{host}:{port}".format_map(each.connection_pool.connection_kwargs) for each in self.sentinels
            )
            raise MasterNotFoundError(f"No Sentinel of {asked} names a master {service_name!r} that works") from error
