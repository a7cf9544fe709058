"""Short drills: nothing is lost, stuck or made up while a process is killed every second, and PostgreSQL too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from drilling.brokers import BrokerSilent
from drilling.kafka_broker import Kafka
from support.builders import eventually
from support.kafka_server import KafkaServer
from support.postgres_server import PostgresServer, needed_postgres

from chargeapp.pipeline import CALLBACKS
from chargeapp.transport.kafka_client import topic_of
from chargeapp.transport.kafka_topics import make_topics

ROOT = Path(__file__).resolve().parents[2]
DRILL_SECONDS = 300
pytestmark = pytest.mark.only_on("sqlite", reason="brings its own databases and brokers")


@pytest.mark.slow
@pytest.mark.timeout(DRILL_SECONDS + 30)
def test_every_invariant_holds_in_the_smoke_drill(tmp_path: Path) -> None:
    report = drill(tmp_path, "smoke")

    assert report.startswith("# Drill `smoke` on SQLite and Redis: everything holds")


@pytest.mark.slow
@pytest.mark.timeout(DRILL_SECONDS + 30)
def test_every_invariant_holds_while_postgresql_is_restarted(tmp_path: Path) -> None:
    needed_postgres()

    report = drill(tmp_path, "brief", "--database", "postgresql")

    assert report.startswith("# Drill `brief` on PostgreSQL and Redis: everything holds")
    for fault in ("restart database", "crash database", "cut connections"):
        assert f"| holds | {fault} |" in report


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "drilling", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
        timeout=DRILL_SECONDS,
    )


def drill(directory: Path, *words: str) -> str:
    """Its report, if everything holds."""
    done = run(*words, "--out", directory)
    report = "".join(each.read_text() for each in directory.glob("*.md"))
    assert done.returncode == 0, report + done.stdout + done.stderr
    return report


def test_only_an_empty_database_is_drilled(postgres: PostgresServer) -> None:
    with postgres.new_database() as url:
        done = run("brief", "--database", url)

    assert done.returncode == 1
    assert "The database is not empty" in done.stderr


def test_a_broker_is_kafka_or_an_address() -> None:
    done = run("brief", "--broker", "rabbit")

    assert done.returncode == 2
    assert "--broker: kafka, or an address" in done.stderr


def test_only_a_cluster_without_our_topics_is_drilled(kafka: KafkaServer) -> None:
    make_topics(AdminClient({"bootstrap.servers": kafka.address}))

    done = run("brief", "--broker", kafka.address)

    assert done.returncode == 1
    assert "There is a topic" in done.stderr


def test_the_drill_counts_what_is_left_in_kafka_and_can_delete_it(kafka: KafkaServer) -> None:
    client = {"bootstrap.servers": kafka.address, "log_level": 0}
    make_topics(AdminClient(client))
    drilled = Kafka(kafka.address)

    def left() -> int | None:
        try:
            return drilled.jobs()[CALLBACKS.queue]
        except BrokerSilent:
            return None

    eventually(lambda: drilled.faults["delete records"]() and left() == 0, "what others left is not gone", 30)
    producer = Producer(client)
    for key in ("one", "two", "three"):
        producer.produce(topic_of(CALLBACKS), b"", key)
    assert producer.flush(10) == 0

    assert left() == 3
    assert drilled.faults["delete records"]()
    assert left() == 0


def test_the_drill_explains_itself() -> None:
    done = subprocess.run([ROOT / "scripts" / "drill", "--help"], capture_output=True, text=True, timeout=DRILL_SECONDS)

    assert done.returncode == 0, done.stderr
    for command in (
        "smoke",
        "smoke --database postgresql",
        "smoke --database postgresql --broker kafka",
        "brief",
        "long",
        "failpoints",
        "calm",
    ):
        assert f"scripts/drill {command}" in done.stdout
