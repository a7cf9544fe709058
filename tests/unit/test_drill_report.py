"""The report of a drill says, in its name and its first line, what was under drill."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from drilling.plans import SMOKE
from drilling.report import Report


@pytest.mark.parametrize(
    ("engine", "file", "names"),
    [
        ("SQLite 3.51.1 and Redis", "smoke.md", "SQLite and Redis"),
        ("PostgreSQL 15.18 and Redis", "smoke-postgresql.md", "PostgreSQL and Redis"),
        ("PostgreSQL 15.18 and Kafka 4.1.1", "smoke-postgresql-kafka.md", "PostgreSQL and Kafka"),
        ("SQLite 3.51.1 and Kafka", "smoke-kafka.md", "SQLite and Kafka"),
    ],
)
def test_a_report_names_database_and_broker(tmp_path: Path, engine: str, file: str, names: str) -> None:
    Report("smoke", 7, engine, "", "", {}, {}, [], [], {}, [], {}).write(tmp_path)

    report = (tmp_path / file).read_text()
    assert report.startswith(f"# Drill `smoke` on {names}: everything holds")
    assert engine in report


def test_each_broker_has_faults_of_its_own() -> None:
    redis = SMOKE.faults({"flush redis", "kill redis"})
    kafka = SMOKE.faults({"delete records", "delete topics", "rebalance", "kill kafka"})

    assert redis == {"flush redis": 3, "kill redis": 2}
    assert kafka == {"delete records": 3, "delete topics": 2, "kill kafka": 2, "rebalance": 3}
