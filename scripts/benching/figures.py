"""What is made of many measured values."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

AHEAD = 1.1


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median, and between what the values lie if there are several."""
    middle = f"{median(values):,.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def waiting(accepted: Sequence[float], delivered: Sequence[float], moments: Sequence[float]) -> list[int]:
    """How many were accepted and not delivered yet at each moment; both in order of time."""
    return [max(0, bisect_right(accepted, at) - bisect_right(delivered, at)) for at in moments]


def longest_ahead(accepted: Sequence[float], delivered: Sequence[float], until: float, step: float = 1.0) -> float:
    """Seconds, at most, in which each `step` accepted over 10 % more than were delivered in it."""
    longest = stretch = 0.0
    at = accepted[0]
    while at + step <= until:
        came = bisect_right(accepted, at + step) - bisect_right(accepted, at)
        went = bisect_right(delivered, at + step) - bisect_right(delivered, at)
        stretch = stretch + step if came > AHEAD * went else 0.0
        longest = max(longest, stretch)
        at += step
    return longest


def slices(moments: Sequence[float], count: int = 10) -> list[float]:
    """So many a second in each tenth of them, in order of time."""
    ordered = sorted(moments)
    edges = [ordered[round(number * (len(ordered) - 1) / count)] for number in range(count + 1)]
    each = (len(ordered) - 1) / count
    return [each / max(later - earlier, 1e-9) for earlier, later in pairwise(edges)]
