"""The command line of the drill."""

import asyncio
import sys
from pathlib import Path

import click

from chargeapp.errors import DatabaseUnavailable
from drilling.brokers import Broker
from drilling.oracle import Finding
from drilling.plans import BRIEF, CALM, FAILPOINTS, LONG, SMOKE, Plan
from drilling.progress import Display
from drilling.report import Report
from drilling.run import Drill, new_seed
from drilling.stores import Store


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Find out, before going live, whether anything is lost when processes die.

    Each drill starts a deployment of its own on free ports with a data directory of its own, loads it, does it harm,
    waits until it has drained, and accounts for every request. Nothing else on this machine is touched. The exit
    status is 0 only if every invariant holds.

    \b
    Examples:
      scripts/drill smoke                     2,000 requests, 60 kills, 3 minutes
      scripts/drill smoke --seed 7            the same faults again
      scripts/drill smoke --database postgresql
                                              the same on a PostgreSQL server of its own, restarted meanwhile
      scripts/drill smoke --database postgresql://chargeapp@db.example/drill
                                              the same on an empty database of yours; its connections are cut
      scripts/drill smoke --database postgresql --broker kafka
                                              with Kafka instead of Redis, killed and emptied; needs Java and Maven
      scripts/drill brief                     600 requests, no worker is killed, 40 seconds
      scripts/drill failpoints                dies, raises and hangs at the worst moments, 20 minutes
      scripts/drill calm                      20,000 requests without a fault: no duplicate, 5 minutes
      scripts/drill long --out docs/drills    50,000 requests, 1,500 kills, half an hour
      scripts/drill smoke --json | jq .passed
    """


def add(plan: Plan, help_: str) -> None:
    @main.command(plan.name, help=help_, short_help=help_.partition("; ")[0])
    @click.option("--seed", type=int, help="Repeat the load, the faults and the answers of that drill.")
    @click.option(
        "--out", type=click.Path(file_okay=False, path_type=Path), help=f"Write {plan.name}.json and .md here."
    )
    @click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
    @click.option(
        "--database",
        metavar="postgresql|URL",
        help="Instead of SQLite: a PostgreSQL server of the drill's own, or the URL of an empty database.",
        callback=lambda context, option, value: value and opened(value),
    )
    @click.option(
        "--broker",
        metavar="kafka|HOST:PORT",
        help="Instead of Redis: a Kafka of the drill's own, or one that has none of chargeapp's topics.",
        callback=lambda context, option, value: value and carried_by(value),
    )
    @click.option("--keep", is_flag=True, help="Keep logs and database also if everything holds.")
    def command(
        *, seed: int | None, out: Path | None, as_json: bool, database: Store | None, broker: Broker | None, keep: bool
    ) -> None:
        display = Display()
        seed = new_seed() if seed is None else seed
        display.say(f"Drill {plan.name}, seed {seed}")
        drill = Drill(plan, seed, display, database, broker)
        display.say(f"Logs and database: {drill.directory}")
        try:
            report = drill.run()
        except (asyncio.CancelledError, KeyboardInterrupt):
            drill.forget()
            display.say("Stopped, and everything it had started with it.")
            sys.exit(130)
        except (LookupError, DatabaseUnavailable) as error:
            drill.forget()
            raise click.ClickException(str(error)) from error
        if out:
            report.write(out)
        click.echo(report.as_json() if as_json else in_words(report))
        if report.passed and not keep:
            drill.forget()
        sys.exit(not report.passed)


def opened(words: str) -> Store:
    """Raises UsageError for what cannot be used, and says what to do."""
    try:
        from drilling.postgres_database import NAME, PostgresDatabase
        from drilling.postgres_server import PostgresServer, find_postgres
    except ModuleNotFoundError as error:
        wanted = ".venv/bin/pip install --require-hashes -r requirements-postgres.lock"
        raise click.UsageError(f"The driver for PostgreSQL is missing: {wanted}") from error
    if words.partition("://")[0] not in ("postgresql", "postgresql+psycopg"):
        raise click.UsageError("--database: postgresql, or a URL such as postgresql://chargeapp@db.example/drill")
    if words != "postgresql":
        return PostgresDatabase(words)
    programs = find_postgres()
    if programs is None:
        raise click.UsageError("PostgreSQL is not installed. On Debian or Ubuntu: sudo apt-get install postgresql")
    server = PostgresServer(programs)
    return PostgresDatabase(server.url(NAME), server)


def carried_by(words: str) -> Broker:
    """Raises UsageError for what cannot be used, and says what to do."""
    try:
        from drilling.kafka_broker import Kafka
        from drilling.kafka_server import KafkaServer, find_kafka
    except ModuleNotFoundError as error:
        wanted = ".venv/bin/pip install --require-hashes -r requirements-kafka.lock"
        raise click.UsageError(f"The client of Kafka is missing: {wanted}") from error
    if words != "kafka":
        if not words.rpartition(":")[2].isdigit():
            raise click.UsageError("--broker: kafka, or an address such as kafka-1.example:9092")
        return Kafka(words)
    try:
        server = KafkaServer(find_kafka())
    except LookupError as error:
        raise click.UsageError(str(error)) from error
    return Kafka(server.address, server)


def in_words(report: Report) -> str:
    lines = [f"On {report.engine}:", *(_line(each) for each in report.findings)]
    lines += [
        f"{_word(each.holds)}     {each.name}: {each.figure:,g} (wanted: {each.wanted})" for each in report.checks
    ]
    lines += [f"        {name}: {value:,g}" for name, value in report.figures.items()]
    lines.append(f"{'Everything holds.' if report.passed else 'NOT everything holds.'} Seed {report.seed}.")
    return "\n".join(lines)


def _line(each: Finding) -> str:
    remark = f"  {each.remark}" if each.remark else ""
    line = f"{_word(each.holds)} {each.number or '+':>2}. {each.name}: {each.figure:,} (bound {each.bound:,}){remark}"
    return line if each.holds else "\n".join([line, *(f"              {example}" for example in each.examples)])


def _word(holds: bool) -> str:
    return "holds" if holds else "FAILS"


add(SMOKE, "2,000 requests, a kill every second; within 3 minutes.")
add(BRIEF, "600 requests, the API, the relay and the database killed and restarted; under a minute.")
add(LONG, "50,000 requests and 1,500 kills; about half an hour.")
add(FAILPOINTS, "Dies, raises and hangs at every failpoint, 3 times each; about 20 minutes.")
add(CALM, "20,000 requests without a fault: no duplicate; about 5 minutes.")

if __name__ == "__main__":
    main(prog_name="scripts/drill")
