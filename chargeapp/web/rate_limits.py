"""How many requests a key may make, and an address that brings none; counted in Redis, over all processes.

While Redis is away each process counts for itself, and so it does where Kafka carries the jobs and no Redis is given.
Asking it takes no longer than TIMEOUT_SECONDS, and once it was found wanting it is left alone for a while, so a request
never waits for it nor fails because of it.
"""

import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import redis
from flask import Flask, Response, request
from flask_limiter import ApplicationLimit, Limiter, RateLimitExceeded

from chargeapp.runtime import Runtime
from chargeapp.transport.redis_client import connect
from chargeapp.web.auth import failed_attempt, known_caller
from chargeapp.web.error_responses import WORDS, error_response
from chargeapp.web.loop import Beside

TIMEOUT_SECONDS = 0.1
# Nobody guesses 32 random bytes; this keeps the noise of trying away from the database and the log.
FAILED_ATTEMPTS = "30/minute"
# A probe that is answered 429 would have a working process restarted.
PROBES = frozenset({"operations.health", "operations.live", "operations.ready"})


class LimiterBeside(Limiter):
    """Redis is asked beside the loop, and only about requests that a limit concerns."""

    def __init__(self, beside: Beside, *given: Any, concerns: Callable[[], bool], **named: Any) -> None:
        super().__init__(*given, **named)
        self._beside = beside
        self._concerns = concerns

    def _check_request_limit(self, *given: Any, **named: Any) -> None:
        if self._concerns():
            self._beside.run(copy_context().run, super()._check_request_limit, *given, **named)


def install_rate_limits(app: Flask, runtime: Runtime, beside: Beside) -> None:
    limits = [
        # Counted after the key was looked at: a good key is let in, whoever else fails behind the same proxy.
        ApplicationLimit(
            limit_provider=FAILED_ATTEMPTS,
            key_function=address,
            scope="failed attempts",
            exempt_when=lambda: not failed_attempt(),
        )
    ]
    limit = runtime.settings.effective_rate_limit
    if limit:
        limits.append(ApplicationLimit(limit_provider=limit, scope="all"))
    limiter = LimiterBeside(
        beside,
        key_or_address,
        concerns=lambda: request.endpoint not in PROBES and (limit is not None or failed_attempt()),
        application_limits=[*limits],
        in_memory_fallback_enabled=True,
        **_storage(runtime),
        swallow_errors=True,
    )
    limiter.init_app(app)

    @app.errorhandler(RateLimitExceeded)
    def too_many(error: RateLimitExceeded) -> Response:
        status, message = WORDS[429]
        if failed_attempt():
            message = "Too many attempts with API keys that are not valid."
        seconds = seconds_until_reset(limiter, error)
        return error_response(429, status, f"{message} Try again in {seconds} seconds.", retry_after=seconds)


def _storage(runtime: Runtime) -> dict[str, Any]:
    if not runtime.uses_redis:
        return {"storage_uri": "memory://"}
    pool = connect(runtime.redis_url, TIMEOUT_SECONDS).connection_pool
    # The URI only names the kind; the pool knows where.
    return {"storage_uri": "redis://", "storage_options": {"connection_pool": pool}}


def key_or_address() -> str:
    caller = known_caller()
    return f"key {caller.key_id}" if caller is not None and caller.key_id else address()


def address() -> str:
    return f"address {request.remote_addr}"


def seconds_until_reset(limiter: Limiter, error: RateLimitExceeded) -> int:
    longest = error.limit.limit.get_expiry()
    try:
        current = limiter.current_limit
        left = current.reset_at - time.time() if current else longest
    except redis.RedisError:
        left = longest
    return max(1, min(round(left), longest))
