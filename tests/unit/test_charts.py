"""Charts and histories: the same figures as paths, as words and as rows."""

import re
from datetime import UTC, datetime, timedelta
from math import inf

import pytest

from chargeapp.history import DAY, HOUR, History, Interval, together
from chargeapp.storage.tallies import bucket, percentile
from chargeapp.web.charts import HEIGHT, Chart, millis, pictures

NOW = datetime(2026, 1, 2, 12, 7, tzinfo=UTC)


def intervals(number: int, **counts: dict[str, int]) -> list[Interval]:
    """Empty but for those named `at<number>`."""
    return [Interval(NOW + timedelta(minutes=each), counts.get(f"at{each}", {})) for each in range(number)]


def charts(**counts: dict[str, int]) -> dict[str, Chart]:
    hour = pictures(History(intervals(HOUR.bars, **counts), intervals(DAY.bars)))[0]
    return {chart.title: chart for chart in hour.charts}


def bars(path: str) -> list[tuple[int, float, float]]:
    """Where each begins from the left, and its lower and upper edge from below."""
    found = re.findall(r"M(\d+) ([\d.]+)h8v([\d.]+)h-8z", path)
    return [(int(x), HEIGHT - float(y) - float(height), HEIGHT - float(y)) for x, y, height in found]


def test_nothing_at_all_is_drawn_as_nothing() -> None:
    for chart in charts().values():
        assert [each.path for each in chart.series] == [""] * len(chart.series)
    assert charts()["Requests accepted"].description == "accepted 0. Upper edge: 0 in a minute."


def test_decisions_stand_upon_each_other_and_the_highest_bar_fills_the_chart() -> None:
    found = charts(at0={"decisions_allowed": 1}, at59={"decisions_allowed": 3, "decisions_unknown": 1})["Decisions"]
    allowed, not_allowed, unknown, _ = (bars(each.path) for each in found.series)

    assert allowed == [(0, 0, 25), (590, 0, 75)]
    assert not_allowed == []
    assert unknown == [(590, 75, 100)]
    assert found.highest == "4 in a minute"
    assert found.description == "allowed 4; not allowed 0; unknown 1; invalid 0. Upper edge: 4 in a minute."


def test_a_line_is_broken_where_nothing_was_timed() -> None:
    fast, slow = bucket("callback", 1), bucket("callback", 60_000)
    found = charts(at2={fast: 1}, at3={slow: 1}, at5={fast: 1})["95 of 100 were faster than"]

    (path,) = (each.path for each in found.series if each.name == "callback")
    assert re.findall("[MVh]", path) == ["M", "h", "V", "h", "M", "h"]
    assert [int(x) for x in re.findall(r"M(\d+) ", path)] == [20, 50]
    # What took longer than any bound is at the upper edge.
    assert "V0.0h" in path


def test_a_table_has_fewer_rows_than_the_chart_has_bars_and_the_same_sums() -> None:
    hour, day = pictures(
        History(
            intervals(HOUR.bars, at0={"requests": 1}, at4={"requests": 2}, at5={"requests": 4}),
            intervals(DAY.bars, at95={"requests": 8}),
        )
    )

    assert [row.count("requests") for row in hour.rows] == [3, 4] + [0] * 10
    assert [row.count("requests") for row in day.rows] == [0] * 23 + [8]
    assert hour.rows[1].begins_at == NOW + timedelta(minutes=5)


def test_intervals_together_have_the_percentile_of_all_their_calls() -> None:
    calls = {bucket("callback", 7): 94}, {bucket("callback", 7): 1, bucket("callback", 400): 5}
    both = together([Interval(NOW, each) for each in calls])

    assert both.percentile("callback", 0.95) == 10
    assert both.percentile("callback", 0.96) == 500
    assert both.percentile("authorization", 0.95) is None


@pytest.mark.parametrize(
    ("times", "share", "bound"),
    [
        ([1], 0.5, 5),
        ([5], 0.5, 5),
        ([6], 0.5, 10),
        ([1, 1, 300], 0.5, 5),
        ([1, 300, 300], 0.5, 500),
        ([40_000], 1, inf),
    ],
)
def test_a_percentile_is_the_bound_of_its_bucket(times: list[int], share: float, bound: float) -> None:
    counts: dict[str, int] = {}
    for each in times:
        counts[bucket("callback", each)] = counts.get(bucket("callback", each), 0) + 1

    assert percentile(counts, "callback", share) == bound


@pytest.mark.parametrize(
    ("bound", "words"), [(None, "-"), (5.0, "≤ 5 ms"), (2500.0, "≤ 2.5 s"), (30_000.0, "≤ 30 s"), (inf, "over 30 s")]
)
def test_times_are_written_for_people(bound: float | None, words: str) -> None:
    assert millis(bound) == words
