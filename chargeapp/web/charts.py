"""Charts as paths of SVG, with the words that say the same. No script draws them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, log10

from chargeapp.domain.charging_session import Decision
from chargeapp.history import DAY, HOUR, History, Interval, Span, together
from chargeapp.storage.tallies import DURATION_BOUNDS

# Units of a view box that is stretched to whatever place there is.
BAR, GAP, HEIGHT = 10, 2, 100
# In the tables so many bars are one row.
BARS_A_ROW = {HOUR: 5, DAY: 4}
AXIS = {HOUR: "%H:%M", DAY: "%m-%d %H:%M"}
SLOWEST = 60_000


@dataclass(frozen=True)
class Series:
    """`name` is its class in the style sheet too."""

    name: str
    label: str
    path: str
    summary: str


@dataclass(frozen=True)
class Chart:
    """`highest` is the value at its upper edge, in words."""

    id: str
    title: str
    series: list[Series]
    highest: str
    width: int
    lines: bool = False

    @property
    def description(self) -> str:
        return "; ".join(each.summary for each in self.series) + f". Upper edge: {self.highest}."


@dataclass(frozen=True)
class Picture:
    """One span in charts and in a table."""

    span: Span
    begins_at: str
    ends_at: str
    charts: list[Chart]
    rows: list[Interval]


def pictures(history: History) -> list[Picture]:
    return [_picture(HOUR, history.hour), _picture(DAY, history.day)]


def _picture(span: Span, intervals: list[Interval]) -> Picture:
    bars_a_row = BARS_A_ROW[span]
    return Picture(
        span,
        intervals[0].begins_at.strftime(AXIS[span]),
        (intervals[-1].begins_at + span.bar).strftime(AXIS[span]),
        [
            _stacked(span, intervals, "Requests accepted", {"requests": "accepted"}),
            _stacked(span, intervals, "Decisions", {f"decisions_{each}": each.replace("_", " ") for each in Decision}),
            _stacked(
                span,
                intervals,
                "Callback attempts",
                {"callbacks_succeeded": "succeeded", "callbacks_failed": "failed"},
            ),
            _slowness(span, intervals),
        ],
        [together(intervals[start : start + bars_a_row]) for start in range(0, len(intervals), bars_a_row)],
    )


def _stacked(span: Span, intervals: Sequence[Interval], title: str, names: dict[str, str]) -> Chart:
    heights = [sum(each.count(name) for name in names) for each in intervals]
    most = max(heights)
    below = [0.0] * len(intervals)
    series = []
    for name, label in names.items():
        path = ""
        for number, each in enumerate(intervals):
            if count := each.count(name):
                height = count / most * HEIGHT
                below[number] += height
                path += f"M{number * BAR} {HEIGHT - below[number]:.1f}h{BAR - GAP}v{height:.1f}h{GAP - BAR}z"
        series.append(Series(name, label, path, f"{label} {sum(each.count(name) for each in intervals):,}"))
    return Chart(_id(span, title), title, series, f"{most:,} in {_minutes(span)}", _width(intervals))


def _slowness(span: Span, intervals: Sequence[Interval]) -> Chart:
    series = [
        Series(
            call,
            label,
            _steps([each.percentile(call, 0.95) for each in intervals]),
            f"{label} {millis(together(intervals).percentile(call, 0.95))}",
        )
        for call, label in (("authorization", "decisions"), ("callback", "callback attempts"))
    ]
    title = "95 of 100 were faster than"
    return Chart(_id(span, title), title, series, f"{SLOWEST // 1000} s, by powers of ten", _width(intervals), True)


def _steps(values: Sequence[float | None]) -> str:
    """A line as long as there are values, begun anew after each gap."""
    path = ""
    for number, (before, value) in enumerate(pairwise([None, *values])):
        if value is None:
            continue
        y = HEIGHT * (1 - log10(min(value, SLOWEST)) / log10(SLOWEST))
        path += f"M{number * BAR} {y:.1f}" if before is None else f"V{y:.1f}"
        path += f"h{BAR}"
    return path


def millis(bound: float | None) -> str:
    """As people read it."""
    if bound is None:
        return "-"
    if bound == inf:
        return f"over {_seconds(DURATION_BOUNDS[-1])}"
    return f"≤ {_seconds(bound)}"


def _seconds(number: float) -> str:
    return f"{number:g} ms" if number < 1000 else f"{number / 1000:g} s"


def _minutes(span: Span) -> str:
    return "a minute" if span.minutes == 1 else f"{span.minutes} minutes"


def _id(span: Span, title: str) -> str:
    return f"{span.name} {title}".lower().replace(" ", "-")


def _width(intervals: Sequence[Interval]) -> int:
    return len(intervals) * BAR
