"""The report of a drill as JSON and as Markdown; without host names and paths."""

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chargeapp import __version__
from drilling.oracle import Finding

# Of a long drill the timeline is summed up into this many stretches.
STRETCHES = 20


@dataclass(frozen=True)
class Check:
    """Something the drill itself had to reach: enough load, enough faults, an end in time."""

    name: str
    figure: float
    wanted: str
    holds: bool


@dataclass(frozen=True)
class Report:
    name: str
    seed: int
    engine: str
    words: str
    began: str
    seconds: dict[str, float]
    figures: dict[str, float]
    checks: list[Check]
    findings: list[Finding]
    faults: dict[str, int]
    timeline: list[tuple[float, str]]
    failpoints: dict[str, int]

    @property
    def passed(self) -> bool:
        return all(each.holds for each in self.checks) and all(each.holds for each in self.findings)

    @property
    def _names(self) -> str:
        return " ".join(word for word in self.engine.split() if not word[0].isdigit())

    def as_json(self) -> str:
        content = asdict(self) | {
            "passed": self.passed,
            "machine": machine(),
            "checks": [asdict(each) for each in self.checks],
            "findings": [asdict(each) | {"holds": each.holds} for each in self.findings],
        }
        return json.dumps(content, indent=2) + "\n"

    def as_markdown(self) -> str:
        lines = [
            f"# Drill `{self.name}` on {self._names}: "
            + ("everything holds" if self.passed else "NOT everything holds"),
            "",
            f"Seed {self.seed}; begun {self.began}. "
            + ", ".join([self.engine, *(f"{name} {value}" for name, value in machine().items())])
            + ".",
            "",
            f"Replay the same load and faults: `scripts/drill {self.name}{self.words} --seed {self.seed}`.",
            "",
            *_table(
                ("", "Invariant", "Figure", "Bound", "Remark"),
                [
                    (
                        "holds" if each.holds else "**FAILS**",
                        f"{each.number or '+'}. {each.name}",
                        f"{each.figure:,}",
                        f"{each.bound:,}",
                        "; ".join(filter(None, (each.remark, *(() if each.holds else each.examples)))),
                    )
                    for each in self.findings
                ],
            ),
            "",
            "## The drill itself",
            "",
            *_table(
                ("", "Check", "Figure", "Wanted"),
                [
                    ("holds" if each.holds else "**FAILS**", each.name, f"{each.figure:,g}", each.wanted)
                    for each in self.checks
                ],
            ),
            "",
            *_table(("Figure", ""), [(name, f"{value:,g}") for name, value in self.figures.items()]),
            "",
            *_table(("Seconds", ""), [(name, f"{value:g}") for name, value in self.seconds.items()]),
        ]
        if self.faults:
            lines += ["", "## Faults", "", *_table(("Fault", "Times"), sorted(self.faults.items()))]
            lines += ["", "Over time:", "", *_timeline(self.timeline)]
        if self.failpoints:
            lines += ["", "## Failpoints reached", "", *_failpoints(self.failpoints)]
        return "\n".join(lines) + "\n"

    def write(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        stem = "-".join([self.name, *(each for each in ("postgresql", "kafka") if each in self.engine.lower())])
        (directory / f"{stem}.json").write_text(self.as_json())
        (directory / f"{stem}.md").write_text(self.as_markdown())


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count() or 0,
        "memory GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "Python": ".".join(map(str, sys.version_info[:3])),
        "chargeapp": __version__,
    }


def _timeline(timeline: list[tuple[float, str]]) -> list[str]:
    """Faults in stretches of equal length."""
    if not timeline:
        return []
    length = max(1.0, (max(at for at, _ in timeline) + 0.1) / STRETCHES)
    kinds = sorted({what for _, what in timeline})
    rows = []
    for number in range(STRETCHES):
        inside = [what for at, what in timeline if number * length <= at < (number + 1) * length]
        if inside:
            rows.append(
                (f"{number * length:.0f}-{(number + 1) * length:.0f}", *(inside.count(kind) or "" for kind in kinds))
            )
    return _table(("Second", *kinds), rows)


def _failpoints(reached: dict[str, int]) -> list[str]:
    actions = list(dict.fromkeys(name.split()[1] for name in reached))
    points = dict.fromkeys(name.split()[0] for name in reached)
    rows = [(f"`{point}`", *(reached[f"{point} {action}"] for action in actions)) for point in points]
    return _table(("Point", *actions), rows)


def _table(columns: tuple[str, ...], rows: list[Any]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
