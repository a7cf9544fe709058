"""What the bench makes of measured values, checked by hand."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benching.figures import longest_ahead, percentile, slices, spread, waiting
from benching.result import Target

# Ten a second are accepted over ten seconds.
ACCEPTED = [number / 10 for number in range(100)]


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(share: float, value: float) -> None:
    assert percentile(range(100, 0, -1), share) == value


def test_the_percentile_of_few_values_is_one_of_them() -> None:
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([1.0, 2.0], 0.5) == 1.0


def test_a_spread_is_the_median_and_the_range() -> None:
    assert spread([1000.0, 3000.0, 2000.0]) == "2,000 (1,000 to 3,000)"
    assert spread([1.25], digits=1) == "1.2"


def test_what_is_accepted_and_not_delivered_is_waiting() -> None:
    delivered = [at + 2 for at in ACCEPTED]

    assert waiting(ACCEPTED, delivered, [0.95, 5.05, 9.9, 20.0]) == [10, 20, 20, 0]


def test_delivery_that_keeps_pace_is_never_long_behind() -> None:
    delivered = [at + 0.5 for at in ACCEPTED]

    assert longest_ahead(ACCEPTED, delivered, until=10.0) == 1.0


def test_delivery_at_half_the_pace_is_behind_all_the_time() -> None:
    delivered = [at * 2 for at in ACCEPTED]

    assert longest_ahead(ACCEPTED, delivered, until=10.0) == 10.0


def test_each_tenth_has_its_rate() -> None:
    evenly = [100 + number / 50 for number in range(1001)]
    half_as_fast = [evenly[-1] + number / 25 for number in range(1, 1001)]

    rates = slices([*evenly, *half_as_fast])

    assert rates == pytest.approx([50] * 5 + [25] * 5, rel=0.01)


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (Target("a", "", ours=200, bound=2, unit="/s", peer=100), True),
        (Target("a", "", ours=199, bound=2, unit="/s", peer=100), False),
        (Target("a", "", ours=10, bound=1, unit="ms", peer=10, at_most=True), True),
        (Target("a", "", ours=11, bound=1, unit="ms", peer=10, at_most=True), False),
        (Target("a", "", ours=120, bound=120, unit="MiB", at_most=True), True),
        (Target("a", "", ours=121, bound=120, unit="MiB", at_most=True), False),
    ],
)
def test_a_target_is_a_ratio_to_the_peer_or_else_a_bound(target: Target, met: bool) -> None:
    assert target.met is met
