"""What a measurement hands to the report."""

from dataclasses import dataclass, field

Row = tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """`ours` may be at least, or at most, `bound` times `peer`; without a peer, the bound itself."""

    name: str
    """Short and lasting: what is written about a target is kept under this name."""
    wanted: str
    ours: float
    bound: float
    unit: str
    peer: float | None = None
    at_most: bool = False

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None

    @property
    def met(self) -> bool:
        compared = self.ours if self.peer is None else self.ours / self.peer if self.peer else float("inf")
        return compared <= self.bound if self.at_most else compared >= self.bound


@dataclass(frozen=True)
class Table:
    columns: Row
    rows: list[Row]
    title: str = ""


@dataclass(frozen=True)
class Result:
    """`charts` are SVG texts by their file's stem; `figures` go into the JSON."""

    name: str
    title: str
    method: str
    targets: list[Target]
    tables: list[Table]
    charts: dict[str, str] = field(default_factory=dict)
    figures: dict[str, object] = field(default_factory=dict)
