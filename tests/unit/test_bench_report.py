"""The bench's page, text and JSON from given figures; notes that people wrote are kept."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benching.report import CHARTS, PAGE, UNEXPLAINED, Report
from benching.result import Result, Table, Target
from benching.svg import bars, lines, stacked

SVG = "{http://www.w3.org/2000/svg}"
SLOW = Target("latency", "Median at most the best peer's", ours=15.0, bound=1.0, unit="ms", peer=10.0, at_most=True)
QUICK = Target("latency", "Median at most the best peer's", ours=9.0, bound=1.0, unit="ms", peer=10.0, at_most=True)
RATE = Target("rate", "Rate at least 2 times the peer's", ours=1234.0, bound=2.0, unit="/s", peer=500.0)


def report(*targets: Target) -> Report:
    result = Result(
        name="example",
        title="An example",
        method="Posted and counted.",
        targets=list(targets),
        tables=[Table(("", "rate/s"), [("chargeapp", "1,234"), ("`peer`", "500")], "Median of 3 rounds")],
        charts={"example": bars("Rate", "requests/s", {"chargeapp": 1234.0, "<peer>": 500.0})},
        figures={"chargeapp": [1234.0]},
    )
    return Report("2026-01-02", 61.0, False, {"cores": "2"}, [result])


def test_the_page_has_targets_machine_tables_and_charts(tmp_path: Path) -> None:
    report(RATE, SLOW).write(tmp_path)

    page = (tmp_path / PAGE).read_text()
    assert "| met | Rate at least 2 times the peer's | 1,234 /s | 500 /s | 2.47 |" in page
    assert "| **not met** | Median at most the best peer's | 15.0 ms | 10.0 ms | 1.50 |" in page
    assert "| cores | 2 |" in page
    assert "| chargeapp | 1,234 |" in page
    assert f"]({CHARTS}/example.svg)" in page
    assert (tmp_path / CHARTS / "example.svg").exists()


def test_a_target_that_is_not_met_has_a_place_for_its_reason(tmp_path: Path) -> None:
    report(RATE, SLOW).write(tmp_path)

    page = (tmp_path / PAGE).read_text()
    assert f"### {SLOW.wanted}\n\n<!-- note latency -->\n{UNEXPLAINED}\n<!-- end of note -->" in page
    assert "<!-- note rate -->" not in page


def test_a_reason_once_written_is_kept(tmp_path: Path) -> None:
    page = tmp_path / PAGE
    report(SLOW).write(tmp_path)
    page.write_text(page.read_text().replace(UNEXPLAINED, "One commit takes 4 ms.\n\nThere are three of them."))

    report(SLOW).write(tmp_path)
    again = page.read_text()
    report(QUICK).write(tmp_path)
    met = page.read_text()
    report(RATE).write(tmp_path)

    for text in (again, met, page.read_text()):
        assert "<!-- note latency -->\nOne commit takes 4 ms.\n\nThere are three of them.\n<!-- end of note -->" in text


def test_the_text_lines_its_columns_up() -> None:
    text = report(RATE, SLOW).as_text()

    assert "chargeapp  1,234\npeer       500\n" in text
    assert "NOT met  Median at most the best peer's    15.0 ms" in text
    assert "1 of 2 targets met, in 61 seconds." in text


def test_the_json_has_every_target_and_figure() -> None:
    content = json.loads(report(RATE, SLOW).as_json())

    assert [(each["name"], each["met"], round(each["ratio"], 2)) for each in content["targets"]] == [
        ("rate", True, 2.47),
        ("latency", False, 1.5),
    ]
    assert content["figures"] == {"example": {"chargeapp": [1234.0]}}


def test_what_could_not_be_measured_is_said_everywhere(tmp_path: Path) -> None:
    failed = replace(report(RATE), failures={"growth": "100 callbacks did not arrive within 60 s"})
    failed.write(tmp_path)

    assert "**Not measured: growth.**" in (tmp_path / PAGE).read_text()
    assert "NOT measured: growth. 100 callbacks did not arrive within 60 s" in failed.as_text()
    assert json.loads(failed.as_json())["failures"] == {"growth": "100 callbacks did not arrive within 60 s"}


def test_the_page_says_when_nothing_was_measured(tmp_path: Path) -> None:
    Report("2026-01-02", 0.0, False, {}, []).write(tmp_path)

    assert "Not measured yet" in (tmp_path / PAGE).read_text()


def drawn_bars(picture: ElementTree.Element) -> list[ElementTree.Element]:
    """Only they say their value."""
    return [each for each in picture.iter(f"{SVG}rect") if each.find(f"{SVG}title") is not None]


def test_a_bar_is_as_long_as_its_value() -> None:
    picture = ElementTree.fromstring(bars("Rate", "requests/s", {"chargeapp": 400.0, "a < b": 100.0}))

    widths = [
        float(each.attrib["width"]) for each in picture.iter(f"{SVG}rect") if each.find(f"{SVG}title") is not None
    ]
    assert widths[0] == 4 * widths[1]
    assert {"chargeapp", "a < b", "400", "100"} <= {each.text for each in picture.iter(f"{SVG}text")}


def test_the_parts_of_a_bar_follow_each_other() -> None:
    picture = ElementTree.fromstring(
        stacked("CPU", "ms", {"chargeapp": {"web": 1.0, "worker": 3.0}, "peer": {"worker": 2.0}})
    )

    web, worker, peers_worker = drawn_bars(picture)
    assert float(worker.attrib["x"]) == float(web.attrib["x"]) + float(web.attrib["width"])
    assert worker.attrib["fill"] == peers_worker.attrib["fill"] != web.attrib["fill"]


def test_a_line_goes_through_its_points() -> None:
    picture = ElementTree.fromstring(lines("Memory", "seconds", "MiB", {"web": [(0, 0), (5, 40), (10, 80)]}))

    (line,) = picture.iter(f"{SVG}polyline")
    (x0, y0), (x1, y1), (x2, y2) = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert (x1, y1) == ((x0 + x2) / 2, (y0 + y2) / 2)
    assert y2 < y0


def test_a_chart_of_nothing_is_still_a_picture() -> None:
    for chart in (bars("Nothing", "", {}), lines("Nothing", "", "", {"web": []})):
        assert ElementTree.fromstring(chart).tag == f"{SVG}svg"
