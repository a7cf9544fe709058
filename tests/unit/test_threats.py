"""THREATS.md names tests as proof: they exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
THREATS = (ROOT / "THREATS.md").read_text()
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
NAMES = {name for path in TESTS for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)}


def test_every_test_named_exists() -> None:
    named = re.findall(r"`((?:tests/[\w/]+/)?test_\w+(?:\.py)?)`", THREATS)

    missing = [each for each in named if each not in NAMES and not (ROOT / each).is_file()]
    assert len(named) > 50
    assert missing == []


def test_every_threat_names_a_test() -> None:
    rows = [line for line in THREATS.splitlines() if line.startswith("|") and not line.startswith(("|---", "| Threat"))]

    assert len(rows) > 30
    assert [row for row in rows if "`test" not in row.rstrip(" |").rpartition(" | ")[2]] == []
