"""How the whole system does, at one moment: what `chargeapp status` and `chargeapp top` show."""

import http.client
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import redis

from chargeapp import reports
from chargeapp.clock import utcnow
from chargeapp.commands.checks.files import is_to_be_made
from chargeapp.commands.checks.records import LATE_SECONDS, NEARLY_FULL, commit
from chargeapp.commands.opened import check_tables
from chargeapp.config import Settings
from chargeapp.errors import MisconfiguredError, TemporaryFailure
from chargeapp.runtime import Runtime
from chargeapp.transport.broker import BrokerUnavailable

WEB_SECONDS = 2.0
HOUR = timedelta(hours=1)


class Health(StrEnum):
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    DOWN = "down"

    @property
    def exit_code(self) -> int:
        return list(Health).index(self)


@dataclass(frozen=True)
class Part:
    """One part of the system. DOWN means that no request can be accepted."""

    name: str
    health: Health
    found: str


@dataclass(frozen=True)
class Overview:
    at: datetime
    parts: list[Part]
    backlogs: list[reports.Backlog]
    oldest_waiting_seconds: float
    last_hour: dict[str, int]
    today: dict[str, int]

    @property
    def health(self) -> Health:
        return max((part.health for part in self.parts), key=lambda each: each.exit_code)


def look(runtime: Runtime, *, commits: bool = True) -> Overview:
    """Whatever is down; figures are empty without a database. Unless it `commits`, it only reads."""
    now = utcnow()
    web, broker = _web(runtime.settings), _broker(runtime)
    try:
        _check_database(runtime, commits=commits)
        with runtime.database.reading() as session:
            figures, processes = reports.figures(session, now), reports.processes(session, now)
            return Overview(
                now,
                [
                    web,
                    *_at_work(runtime.settings, figures, processes),
                    Part("database", Health.HEALTHY, "commits" if commits else "answers"),
                    broker,
                ],
                reports.backlogs(session, now),
                figures.oldest_waiting_seconds,
                reports.counts_since(session, now - HOUR),
                reports.counts_since(session, now.replace(hour=0, minute=0, second=0, microsecond=0)),
            )
    except (MisconfiguredError, TemporaryFailure) as error:
        return Overview(now, [web, Part("database", Health.DOWN, str(error)), broker], [], 0.0, {}, {})


def _check_database(runtime: Runtime, *, commits: bool) -> None:
    """Raises MisconfiguredError or DatabaseUnavailable; makes no file or directory."""
    if is_to_be_made(runtime.settings):
        raise MisconfiguredError("There is no database yet. Make it: chargeapp db upgrade")
    check_tables(runtime.database)
    if commits:
        commit(runtime.database)


def _at_work(settings: Settings, figures: reports.Figures, processes: reports.Processes) -> Iterator[Part]:
    age = processes.relay_age_seconds
    seen = "has never run" if age is None else f"seen {max(age, 0.0):,.0f} s ago"
    yield Part("relay", _degraded_unless(processes.relay_alive), seen)
    alive = ", ".join(f"{queue} {count}" for queue, count in processes.workers.items())
    yield Part("workers", _degraded_unless(all(processes.workers.values())), alive)
    breaker = processes.circuit_breaker
    yield Part("breaker", _degraded_unless(breaker == "closed"), breaker)
    size, most, oldest = figures.queue_size, settings.queue_max_size, figures.oldest_waiting_seconds
    in_time = oldest <= settings.authorization_timeout_seconds + LATE_SECONDS
    waiting = f"{size:,} of at most {most:,} undecided, the oldest for {oldest:,.0f} s"
    yield Part("waiting", _degraded_unless(in_time and size < NEARLY_FULL * most), waiting)


def _web(settings: Settings) -> Part:
    """Asked where it listens on this machine."""
    host = _reachable(settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=WEB_SECONDS)
    try:
        connection.request("GET", "/health/live")
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        return Part("web", Health.DOWN, f"{host} port {settings.port} does not answer: {error}")
    finally:
        connection.close()
    # 404 is the answer where MONITORING_HEALTH_CHECK_ENABLED is false.
    if answer.status >= 500:
        return Part("web", Health.DOWN, f"{host} port {settings.port} answers {answer.status}")
    return Part("web", Health.HEALTHY, f"answers on {host} port {settings.port}")


def _reachable(host: str) -> str:
    """Who listens on every address listens on loopback, too."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"


def _broker(runtime: Runtime) -> Part:
    if runtime.settings.uses_kafka:
        return _kafka(runtime)
    try:
        runtime.redis_probe.ping()
    except (redis.RedisError, OSError, MisconfiguredError) as error:
        return Part("redis", Health.DEGRADED, f"does not answer, so accepted requests wait: {error}")
    return Part("redis", Health.HEALTHY, "answers")


def _kafka(runtime: Runtime) -> Part:
    try:
        waiting = ", ".join(f"{queue} {jobs.waiting:,}" for queue, jobs in runtime.transport.count_jobs().items())
    except (BrokerUnavailable, MisconfiguredError) as error:
        return Part("kafka", Health.DEGRADED, f"cannot be used, so accepted requests take longer: {error}")
    return Part("kafka", Health.HEALTHY, f"answers; messages waiting: {waiting}")


def _degraded_unless(well: bool) -> Health:
    return Health.HEALTHY if well else Health.DEGRADED
