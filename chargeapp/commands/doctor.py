"""`chargeapp doctor`: everything that could be wrong, and what to do about it."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from chargeapp.commands.checks import Finding

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def doctor(as_json: bool) -> None:
    """Check everything, one line each: ok, warn or fail, what was found → what to do.

    Looks at the settings, database, disk, Redis or Kafka, relay, workers, waiting requests, dead letters, callback
    addresses, secrets, API keys and clocks. Changes nothing, and works whatever is down. Exits with 1 if any check
    fails.

    \b
    Examples:
      chargeapp doctor
      chargeapp doctor --json | jq '.checks[] | select(.status != "ok")'
    """
    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            status, rest = str(finding)[:4], str(finding)[4:]
            click.echo(click.style(status, fg=COLOURS[finding.status]) + rest)
    failed = any(finding.status == "fail" for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "checks": [asdict(each) for each in findings]}, indent=2))
    if failed:
        raise SystemExit(1)


def examine() -> Iterator["Finding"]:
    from chargeapp.commands.checks import fail, ok
    from chargeapp.commands.checks.access import check_access
    from chargeapp.commands.checks.broker import check_broker
    from chargeapp.commands.checks.files import check_files
    from chargeapp.commands.checks.kafka import check_kafka
    from chargeapp.commands.checks.records import check_records
    from chargeapp.commands.checks.safety import check_safety
    from chargeapp.commands.opened import closing_runtime
    from chargeapp.config import load_settings
    from chargeapp.errors import MisconfiguredError

    try:
        settings = load_settings()
    except MisconfiguredError as error:
        yield fail("settings", " ".join(str(error).split()), "correct them; .env.example explains each")
        return
    yield ok("settings", f"valid, for {settings.chargeapp_env}")
    with closing_runtime(settings) as runtime:
        yield from check_files(settings)
        yield from check_records(runtime)
        if settings.uses_kafka:
            yield from check_kafka(runtime)
        if runtime.uses_redis:
            yield from check_broker(runtime)
        yield from check_safety(runtime)
        yield from check_access(runtime)
