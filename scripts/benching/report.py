"""What was measured, as text for a terminal, as JSON, and as a page with charts."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benching.result import Result, Row, Target

PAGE = "performance.md"
CHARTS = "performance"
NOTE = re.compile(r"<!-- note ([a-z0-9-]+) -->\n(.*?)<!-- end of note -->", re.DOTALL)
UNEXPLAINED = "Not explained yet."
COLUMNS = ("", "Target", "Measured", "Beside", "Ratio")

HEAD = """\
# Performance

Made by `scripts/bench`, which measures chargeapp beside its peers on one machine in one run. Figures of different
machines cannot be compared; the ratios can. The peers do the same job as most Python teams would build it, without an
outbox: what they promise less, they may do faster. chargeapp commits each step to disk with SQLite's
`synchronous=FULL`, but for claims, which are simply made again.

Everything is written anew by each run but the notes on targets, which are kept.
"""


@dataclass(frozen=True)
class Report:
    began: str
    seconds: float
    quick: bool
    machine: Mapping[str, str]
    results: Sequence[Result]
    failures: Mapping[str, str] = field(default_factory=dict)
    """What could not be measured, and why."""

    @property
    def targets(self) -> list[Target]:
        return [target for result in self.results for target in result.targets]

    def as_json(self) -> str:
        content = {
            "began": self.began,
            "seconds": round(self.seconds),
            "quick": self.quick,
            "machine": dict(self.machine),
            "failures": dict(self.failures),
            "targets": [asdict(each) | {"ratio": each.ratio, "met": each.met} for each in self.targets],
            "figures": {result.name: result.figures for result in self.results},
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def as_text(self) -> str:
        lines = []
        for result in self.results:
            lines += [result.title, ""]
            for table in result.tables:
                lines += [*([table.title] if table.title else []), *_aligned(table.columns, table.rows), ""]
        lines += _aligned(COLUMNS, [_target_row(each, "NOT met") for each in self.targets])
        met = sum(each.met for each in self.targets)
        lines += ["", f"{met} of {len(self.targets)} targets met, in {_minutes(self.seconds)}."]
        lines += [f"NOT measured: {name}. {why}" for name, why in self.failures.items()]
        if self.quick:
            lines.append("A quick run shows that the bench works. Its figures mean nothing.")
        return "\n".join(lines)

    def as_markdown(self, notes: Mapping[str, str]) -> str:
        """`notes` are what people wrote about targets, by the target's name."""
        lines = [HEAD]
        if not self.results:
            return HEAD + "\nNot measured yet: `scripts/bench all` fills this page.\n"
        if self.quick:
            lines.append("**A quick run, which only shows that the bench works. Its figures mean nothing.**\n")
        lines += [
            "## Targets",
            "",
            *_table(COLUMNS, [_target_row(each, "**not met**") for each in self.targets]),
            "",
            f"Measured {self.began}, in {_minutes(self.seconds)}.",
            "",
            *(f"**Not measured: {name}.** It failed.\n" for name in self.failures),
            *self._notes(notes),
            "## The machine",
            "",
            *_table(("", ""), list(self.machine.items())),
        ]
        for result in self.results:
            lines += ["", f"## {result.title}", "", result.method]
            for table in result.tables:
                lines += ["", *([f"{table.title}:", ""] if table.title else []), *_table(table.columns, table.rows)]
            for stem in result.charts:
                lines += ["", f"![{_words(stem)}]({CHARTS}/{stem}.svg)"]
        return "\n".join(lines) + "\n"

    def _notes(self, notes: Mapping[str, str]) -> list[str]:
        """A place for the reason of each target that is not met; no note is lost, even of one that is met now."""
        wanted = {each.name: each.wanted for each in self.targets if not each.met or each.name in notes}
        wanted |= {name: name for name in notes if name not in wanted}
        if not wanted:
            return []
        lines = ["## Notes on targets", ""]
        for name, title in wanted.items():
            lines += [
                f"### {title}",
                "",
                f"<!-- note {name} -->",
                notes.get(name, UNEXPLAINED),
                "<!-- end of note -->",
                "",
            ]
        return lines

    def write(self, directory: Path) -> None:
        """The page, and its charts in a folder beside it."""
        charts = directory / CHARTS
        charts.mkdir(parents=True, exist_ok=True)
        for result in self.results:
            for stem, chart in result.charts.items():
                (charts / f"{stem}.svg").write_text(chart)
        (charts / "figures.json").write_text(self.as_json())
        page = directory / PAGE
        page.write_text(self.as_markdown(notes_in(page.read_text()) if page.exists() else {}))


def notes_in(page: str) -> dict[str, str]:
    """What people wrote, by the target's name."""
    found = {name: text.strip() for name, text in NOTE.findall(page)}
    return {name: text for name, text in found.items() if text and text != UNEXPLAINED}


def _target_row(target: Target, not_met: str) -> Row:
    beside = "" if target.peer is None else _value(target.peer, target.unit)
    ratio = "" if target.ratio is None else f"{target.ratio:.2f}"
    return ("met" if target.met else not_met, target.wanted, _value(target.ours, target.unit), beside, ratio)


def _value(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if abs(value) >= 100 else f"{value:,.1f} {unit}"


def _words(stem: str) -> str:
    return stem.replace("-", " ").capitalize()


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _table(columns: Row, rows: Sequence[Row]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _aligned(columns: Row, rows: Sequence[Row]) -> list[str]:
    plain = [tuple(cell.replace("**", "").replace("`", "") for cell in row) for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*plain, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in plain]
