"""Small charts as SVG: bars, stacked bars and lines. Figures come with them, so that nobody has to measure a bar."""

from collections.abc import Mapping, Sequence
from html import escape

WIDTH = 760
LABELS = 190
FIGURES = 90
BAR = 20
TOP = 64
LEFT, PLOT_HEIGHT, BOTTOM = 70, 240, 56
COLOURS = ("#0b6e4f", "#d97706", "#3b5bdb", "#9c36b5", "#c92a2a", "#5c7080", "#0c8599", "#94741b")
INK, GRID, GREY = "#1f2933", "#d9dee3", "#5c7080"
OURS = "chargeapp"
FONT = "font-family='system-ui, sans-serif'"


def bars(title: str, unit: str, values: Mapping[str, float]) -> str:
    """One bar for each label; ours has a colour of its own."""
    return stacked(title, unit, {label: {"": value} for label, value in values.items()})


def stacked(title: str, unit: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """A bar for each label, made of its parts; the same part has the same colour in every bar."""
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    plain = parts == [""]
    longest = max((sum(row.values()) for row in rows.values()), default=0) or 1
    scale = (WIDTH - LABELS - FIGURES) / longest
    drawn = [] if plain else _legend(parts)
    for number, (label, row) in enumerate(rows.items()):
        y = TOP + number * (BAR + 12)
        drawn.append(_text(LABELS - 10, y + 15, label, anchor="end"))
        x = float(LABELS)
        for part, value in row.items():
            colour = _plain_colour(label) if plain else COLOURS[parts.index(part) % len(COLOURS)]
            about = f"{label}, {part}: {value:g}" if part else f"{label}: {value:g}"
            drawn.append(
                f"<rect x='{x:.1f}' y='{y}' width='{value * scale:.1f}' height='{BAR}' fill='{colour}'>"
                f"<title>{escape(about)} {escape(unit)}</title></rect>"
            )
            x += value * scale
        drawn.append(_text(x + 6, y + 15, _figure(sum(row.values()))))
    return _picture(f"{title} ({unit})", TOP + len(rows) * (BAR + 12) + 12, drawn)


def lines(title: str, across: str, up: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Both axes begin at 0."""
    points = [point for each in series.values() for point in each]
    x_end, y_end = (_round_up(max((point[axis] for point in points), default=0)) for axis in (0, 1))
    bottom, right = TOP + PLOT_HEIGHT, WIDTH - 30
    drawn = _legend(list(series))
    for step in range(5):
        x, y = LEFT + (right - LEFT) * step / 4, bottom - PLOT_HEIGHT * step / 4
        drawn.append(f"<line x1='{LEFT}' x2='{right}' y1='{y:.1f}' y2='{y:.1f}' stroke='{GRID}'/>")
        drawn.append(_text(LEFT - 8, y + 4, _figure(y_end * step / 4), anchor="end"))
        drawn.append(_text(x, bottom + 18, _figure(x_end * step / 4), anchor="middle"))
    drawn.append(_text((LEFT + right) / 2, bottom + 40, across, anchor="middle"))
    for number, each in enumerate(series.values()):
        path = " ".join(
            f"{LEFT + (right - LEFT) * x / x_end:.1f},{bottom - PLOT_HEIGHT * y / y_end:.1f}" for x, y in each
        )
        colour = COLOURS[number % len(COLOURS)]
        drawn.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
    return _picture(f"{title} ({up})", bottom + BOTTOM, drawn)


def _plain_colour(label: str) -> str:
    return COLOURS[0] if label == OURS else GREY


def _legend(names: Sequence[str]) -> list[str]:
    drawn, x = [], 16.0
    for number, name in enumerate(names):
        drawn.append(f"<rect x='{x:.0f}' y='36' width='12' height='12' fill='{COLOURS[number % len(COLOURS)]}'/>")
        drawn.append(_text(x + 17, 46, name))
        x += 34 + 7 * len(name)
    return drawn


def _picture(title: str, height: float, drawn: list[str]) -> str:
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0f}' width='{WIDTH}' "
        f"height='{height:.0f}' role='img' {FONT} font-size='13' fill='{INK}'>"
    )
    paper = f"<rect width='{WIDTH}' height='{height:.0f}' fill='#ffffff'/>"
    name = f"<title>{escape(title)}</title>"
    heading = f"<text x='16' y='24' font-size='15' font-weight='600'>{escape(title)}</text>"
    return "\n".join([head, name, paper, heading, *drawn, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{escape(text)}</text>"


def _figure(value: float) -> str:
    return (
        f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}" if value >= 10 else f"{value:.2f}"
    )


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 6, 8, 10 times a power of ten; 1 for nothing."""
    power = 1.0
    while value > power * 10:
        power *= 10
    while 0 < value <= power:
        power /= 10
    return next((step * power for step in (1, 2, 4, 6, 8) if step * power >= value), power * 10) if value > 0 else 1.0
