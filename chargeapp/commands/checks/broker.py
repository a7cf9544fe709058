"""Whether Redis answers, keeps what it is given, and agrees about the time."""

import time
from collections.abc import Iterator
from typing import Any

import redis
from redis.sentinel import MasterNotFoundError, SentinelConnectionPool

from chargeapp.commands.checks import Finding, fail, ok, warn
from chargeapp.errors import ChargeappError
from chargeapp.runtime import Runtime

OLDEST_VERSION = 5
SKEW_SECONDS = 2.0


def check_broker(runtime: Runtime) -> Iterator[Finding]:
    try:
        client = runtime.redis
        address = _address(client)
    except (ChargeappError, ValueError, OSError) as error:
        yield fail("redis", str(error), "correct REDIS_URL, for example redis://localhost:6379/0")
        return
    try:
        client.ping()
        facts: dict[str, Any] = client.info()
        skew = _skew_seconds(client)
    except (redis.RedisError, OSError) as error:
        yield fail("redis", f"{address} does not answer as it should: {error}", advice(error, runtime))
        return
    yield version(address, str(facts.get("redis_version", "")))
    yield eviction(str(facts.get("maxmemory_policy", "unknown")))
    yield clock(skew)


def advice(error: Exception, runtime: Runtime) -> str:
    if not runtime.settings.redis_url:
        return "start `chargeapp up`, which brings its own, or set REDIS_URL"
    if isinstance(error, MasterNotFoundError):
        return "is the service's name in REDIS_URL that of `redis-cli -p 26379 SENTINEL MASTERS`, and may we ask there?"
    if isinstance(error, redis.AuthenticationError):
        return "correct the user and the password in REDIS_URL"
    if isinstance(error, redis.exceptions.NoPermissionError):
        return "give the user the rights of docs/redis-acl.md"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "name the authority that signed Redis's certificate: rediss://…?ssl_ca_certs=FILE, and a host it is for"
    return "start it, or correct REDIS_URL"


def version(address: str, found: str) -> Finding:
    if not found.partition(".")[0].isdecimal() or int(found.partition(".")[0]) < OLDEST_VERSION:
        return fail("redis", f"{address}, version {found or 'unknown'}", f"RQ needs Redis {OLDEST_VERSION} or newer")
    return ok("redis", f"{address}, version {found}")


def eviction(policy: str) -> Finding:
    if policy != "noeviction":
        found = f"maxmemory-policy is {policy}: jobs may vanish when memory is short"
        return fail("redis memory", found, "redis-cli CONFIG SET maxmemory-policy noeviction")
    return ok("redis memory", "nothing is evicted")


def clock(skew: float) -> Finding:
    if abs(skew) > SKEW_SECONDS:
        found = f"{abs(skew):,.1f} s {'behind' if skew > 0 else 'ahead of'} that of Redis"
        return warn("redis clock", found, "synchronise both machines with NTP")
    return ok("redis clock", f"agrees within {SKEW_SECONDS:.0f} s")


def _skew_seconds(client: redis.Redis) -> float:
    """How far the clock of Redis is ahead of ours."""
    before = time.time()
    seconds, microseconds = client.time()
    after = time.time()
    return float(seconds + microseconds / 1e6 - (before + after) / 2)


def _address(client: redis.Redis) -> str:
    """Without the password that REDIS_URL may contain."""
    if isinstance(pool := client.connection_pool, SentinelConnectionPool):
        return f"master {pool.service_name}"
    options = pool.connection_kwargs
    return str(options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}")
