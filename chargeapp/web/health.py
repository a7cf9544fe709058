"""What works: DOWN only if requests cannot be accepted, DEGRADED if they will have to wait."""

from typing import Any

import redis

from chargeapp import reports
from chargeapp.clock import utcnow
from chargeapp.errors import TemporaryFailure
from chargeapp.runtime import Runtime
from chargeapp.storage import heartbeats
from chargeapp.transport.broker import BrokerRefuses, BrokerUnavailable

NEARLY_FULL = 0.9
SILENT = "does not answer"


def examine(runtime: Runtime) -> tuple[str, dict[str, Any]]:
    """The overall status, and each component with its details."""
    now = utcnow()
    try:
        prove_commit(runtime)
        with runtime.database.reading() as session:
            figures = reports.figures(session, now)
            processes = reports.processes(session, now)
    except TemporaryFailure:
        return "DOWN", {"database": _component("DOWN", error="cannot commit")}
    queue_max = runtime.settings.queue_max_size
    missing = [queue for queue, count in processes.workers.items() if not count]
    age = processes.relay_age_seconds
    components = {
        "queue": _component(
            _degraded_if(figures.queue_size >= NEARLY_FULL * queue_max),
            currentSize=str(figures.queue_size),
            maxSize=str(queue_max),
        ),
        "authorization": _component(
            _degraded_if(processes.circuit_breaker != "closed"),
            errorRate=_rate(figures.authorization_errors, sum(figures.decisions.values())),
            totalDecisions=str(sum(figures.decisions.values())),
            circuitBreaker=processes.circuit_breaker,
        ),
        "callbacks": _component(
            "UP",
            errorRate=_rate(figures.callbacks_failed, figures.callbacks_failed + figures.callbacks_succeeded),
            totalCallbacks=str(figures.callbacks_failed + figures.callbacks_succeeded),
        ),
        "database": _component("UP"),
        **{name: _answering(trouble) for name, trouble in server_troubles(runtime).items()},
        "relay": _component(
            _degraded_if(not processes.relay_alive), lastSeenSeconds="never" if age is None else f"{age:.0f}"
        ),
        "workers": _component(
            _degraded_if(bool(missing)), **{queue: str(count) for queue, count in processes.workers.items()}
        ),
    }
    degraded = any(component["status"] != "UP" for component in components.values())
    return "DEGRADED" if degraded else "UP", components


def prove_commit(runtime: Runtime) -> None:
    """What accepting a request needs; raises DatabaseUnavailable."""
    with runtime.database.writing(durable=False) as session:
        heartbeats.beat(session, "web", utcnow())


def answers(probe: redis.Redis) -> bool:
    try:
        probe.ping()
    except (redis.RedisError, OSError):
        return False
    return True


def server_troubles(runtime: Runtime) -> dict[str, str]:
    """Why Redis and Kafka are of no use, as far as they are used; empty for one that works."""
    found = {}
    if runtime.settings.uses_kafka:
        found["kafka"] = ""
        try:
            runtime.transport.ping()
        except BrokerRefuses:
            found["kafka"] = "a right is missing"
        except BrokerUnavailable:
            found["kafka"] = SILENT
    if runtime.uses_redis:
        found["redis"] = "" if answers(runtime.redis_probe) else SILENT
    return found


def _answering(trouble: str) -> dict[str, Any]:
    # Anybody may ask for health: addresses, paths and names are for `chargeapp doctor`.
    return _component("DOWN", error=trouble) if trouble else _component("UP")


def _component(status: str, **details: str) -> dict[str, Any]:
    return {"status": status, "details": details}


def _degraded_if(trouble: bool) -> str:
    return "DEGRADED" if trouble else "UP"


def _rate(failed: int, total: int) -> str:
    return f"{failed / total if total else 0.0:.2f}"
