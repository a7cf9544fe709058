"""What the database tells: whether it commits, who is at work, what waits and what went wrong."""

import time
from collections.abc import Iterator
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from chargeapp import reports
from chargeapp.clock import seconds_behind, utcnow
from chargeapp.commands.checks import Finding, fail, ok, warn
from chargeapp.commands.checks.files import is_to_be_made
from chargeapp.commands.opened import check_tables
from chargeapp.config import Settings
from chargeapp.errors import ChargeappError, MisconfiguredError
from chargeapp.runtime import Runtime
from chargeapp.storage import heartbeats
from chargeapp.storage.database import Database, data_file

FILE_ADVICE = "stop what holds or damaged the file; restore a backup if it is damaged"
SERVER_ADVICE = "start the server, or correct DATABASE_URL"
SLOW_COMMIT_SECONDS = 0.5
SKEW_SECONDS = 2.0
NEARLY_FULL = 0.9
# What a decision may take beyond its deadline until the relay records it.
LATE_SECONDS = 10.0


def check_records(runtime: Runtime) -> Iterator[Finding]:
    if is_to_be_made(runtime.settings):
        yield fail("database", "does not exist yet", "chargeapp db upgrade")
        return
    try:
        check_tables(runtime.database)
        seconds = commit(runtime.database)
        with runtime.database.reading() as session:
            product = named(session)
            findings = list(_from_database(session, runtime, utcnow()))
    except MisconfiguredError as error:
        found, _, advice = str(error).partition(". ")
        yield fail("database", found, advice or "correct DATABASE_URL")
    except (ChargeappError, SQLAlchemyError) as error:
        in_a_file = runtime.database.path is not None
        yield fail("database", str(getattr(error, "orig", error)), FILE_ADVICE if in_a_file else SERVER_ADVICE)
    else:
        yield database_speed(seconds, product)
        if runtime.database.path is None and data_file(runtime.settings.resolved_database_url):
            yield warn("store", "it has moved to PostgreSQL", "set DATABASE_URL to it, and restart the processes")
        yield from findings


def commit(database: Database) -> float:
    """How many seconds it took to write something to disk that leaves no trace."""
    began = time.monotonic()
    with database.writing() as session:
        heartbeats.beat(session, "doctor", utcnow())
        heartbeats.leave(session, "doctor")
    return time.monotonic() - began


def named(session: Session) -> str:
    """What keeps the data, and its version."""
    dialect = session.connection().dialect
    return f"{dialect.name} {'.'.join(map(str, dialect.server_version_info or ()))}"


def database_speed(seconds: float, product: str) -> Finding:
    found = f"{product}: tables are up to date; a commit took {seconds * 1000:.0f} ms"
    if seconds > SLOW_COMMIT_SECONDS:
        return warn("database", found, "look for a slow disk, or a process that writes for too long")
    return ok("database", found)


def _from_database(session: Session, runtime: Runtime, now: datetime) -> Iterator[Finding]:
    figures = reports.figures(session, now)
    processes = reports.processes(session, now)
    yield relay(processes)
    yield workers(processes)
    yield breaker(processes)
    yield dead_letters(figures)
    yield waiting(figures, runtime.settings)
    newest = [each.accepted_at for each in reports.latest_requests(session, 1)]
    beaten = heartbeats.last(session, "relay")
    behind = seconds_behind()
    if runtime.database.path is None:
        yield host_clock(behind)
        behind = 0.0
    yield recorded_clock([*newest, beaten] if beaten else newest, now, behind)


def relay(processes: reports.Processes) -> Finding:
    age = processes.relay_age_seconds
    if processes.relay_alive:
        return ok("relay", f"seen {max(age or 0.0, 0.0):.0f} s ago")
    found = "has never run" if age is None else f"last seen {age:,.0f} s ago"
    return fail("relay", found, "start `chargeapp relay`, or run scripts/relay.py from cron every minute")


def workers(processes: reports.Processes) -> Finding:
    found = ", ".join(f"{queue} {count}" for queue, count in processes.workers.items())
    missing = [queue for queue, count in processes.workers.items() if not count]
    if missing:
        commands = " and ".join(f"`chargeapp worker {queue}`" for queue in missing)
        return fail("workers", found, f"start {commands}")
    return ok("workers", found)


def breaker(processes: reports.Processes) -> Finding:
    if processes.circuit_breaker != "closed":
        found = f"circuit breaker is {processes.circuit_breaker}: decisions are `unknown`"
        return warn("authorization", found, "look after the service at AUTHORIZATION_SERVICE_URL")
    return ok("authorization", "circuit breaker is closed")


def dead_letters(figures: reports.Figures) -> Finding:
    dead = {queue: count for queue, count in figures.dead_letters.items() if count}
    if dead:
        found = ", ".join(f"{queue} {count:,}" for queue, count in dead.items())
        return warn("dead letters", found, "see `chargeapp dead-letters list`, mend the cause, then replay them")
    return ok("dead letters", "none")


def waiting(figures: reports.Figures, settings: Settings) -> Finding:
    age, size, most = figures.oldest_waiting_seconds, figures.queue_size, settings.queue_max_size
    found = f"{size:,} of at most {most:,} wait for a decision, the oldest for {age:,.0f} s"
    if age > settings.authorization_timeout_seconds + LATE_SECONDS:
        return fail("backlog", found, "the relay decides them by their deadline: start it")
    if size >= NEARLY_FULL * most:
        return warn("backlog", found, "start more `chargeapp worker authorization`, or raise QUEUE_MAX_SIZE")
    return ok("backlog", found)


def host_clock(ahead: float) -> Finding:
    if abs(ahead) > SKEW_SECONDS:
        found = f"this host's is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} that of PostgreSQL"
        return warn("host clock", found, "synchronise both machines with NTP: keys and signatures go by this one")
    return ok("host clock", f"agrees with that of PostgreSQL within {SKEW_SECONDS:.0f} s")


def recorded_clock(recorded: list[datetime], now: datetime, behind: float) -> Finding:
    """Whatever is recorded lies in the past, unless somebody set the clock back."""
    if abs(behind) > SKEW_SECONDS:
        found = f"was set {'forward' if behind > 0 else 'back'}; times of requests still differ by {abs(behind):,.0f} s"
        return warn("clock", found, "nothing is lost; keep it right with NTP, in small steps")
    ahead = max([(moment - now).total_seconds() for moment in recorded], default=0.0)
    if ahead > SKEW_SECONDS:
        return warn("clock", f"was set back by {ahead:,.0f} s or more", "keep it right with NTP, in small steps")
    return ok("clock", "has not been set lately")
