"""From measured values to targets and tables: each figure ends up where it belongs."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benching import backlog, databases, growth, intake, latency, migration, saturated, slow_destination, start
from benching.load import Paced, Posted
from benching.result import Result
from benching.saturation import Saturation


def posted(p99: float = 20.0, accepted: int = 100) -> Posted:
    return Posted(accepted, refused=0, seconds=10.0, p50=5.0, p99=p99, client_cpu_seconds=0.1)


def saturation(rate: float, p99: float = 20.0, cpu_millis: float = 4.0) -> Saturation:
    """Ten seconds in which ten a second are accepted; so many a second are delivered."""
    accepted = [(number + 1) / 10 for number in range(100)]
    delivered = [(number + 1) / rate for number in range(100)]
    cpu = {"web": cpu_millis, "worker callbacks": 1.0, "worker authorization": 2.0}
    return Saturation(posted(p99), accepted, delivered, cpu, cores_busy=1.9, cores_stolen=0.0)


def reached(result: Result) -> dict[str, tuple[float, float | None, bool]]:
    return {each.name: (round(each.ours, 2), each.ratio and round(each.ratio, 2), each.met) for each in result.targets}


def test_the_median_round_of_each_system_counts_when_saturated() -> None:
    result = saturated.report(
        {
            "chargeapp": [saturation(10, p99=30), saturation(9, p99=10), saturation(10, p99=20)],
            "Dramatiq": [saturation(4, p99=50), saturation(5, p99=40), saturation(1, p99=60)],
            "Celery": [saturation(3, p99=90)],
        },
        seconds=10,
    )

    assert reached(result) == {
        "rate-beside-dramatiq": (10, 2.5, True),
        "rate-beside-celery": (10, 3.33, False),
        "ahead-at-the-end": (0, None, True),
        "ahead-for-long": (0, None, True),
        "post-p99-saturated": (20, 0.4, True),
    }
    assert ("**together**", "7.00", "7.00", "7.00") in result.tables[1].rows
    assert "worker callbacks" not in result.charts["cpu"]


def test_latency_is_compared_with_the_better_peer_of_each_percentile() -> None:
    def paced(usual: float, rare: float) -> list[Paced]:
        return [Paced([usual] * 49 + [rare], [1.0] * 50, sent=50, failed=0)] * 2

    result = latency.report({10: {"chargeapp": paced(12, 60), "Dramatiq": paced(40, 50), "Celery": paced(15, 100)}})

    assert reached(result) == {"median-at-10": (12, 0.8, True), "p99-at-10": (60, 1.2, False)}


def test_intake_is_compared_with_the_bare_view_of_the_same_settings() -> None:
    def run(accepted: int, p99: float) -> list[intake.Intake]:
        return [intake.Intake(posted(p99, accepted), cpu_millis=1.0)]

    result = intake.report({intake.OURS: run(6, 30), intake.BARE: run(10, 10), intake.SYNC: run(100, 1)})

    assert reached(result) == {"intake-rate": (0.6, 0.6, True), "intake-p99": (30, 3.0, True)}


def test_a_long_history_is_compared_with_an_empty_database() -> None:
    result = growth.report(
        {"empty": [saturation(10)], "full": [saturation(8)]},
        {"empty": [[10.0]], "full": [[11.0]]},
        rate=100,
        size_gib=3,
    )

    assert reached(result) == {"history-rate": (8, 0.8, False), "history-latency": (11, 1.1, True)}


def test_the_slowest_tenth_and_the_largest_process_count_for_a_backlog() -> None:
    delivered = [number / 100 for number in range(901)] + [9 + number / 50 for number in range(1, 101)]
    memory: backlog.Memory = [(second, {"web": 50.0, "worker": 100.0 + second}) for second in range(11)]

    result = backlog.report(1000, delivered, memory)

    assert reached(result) == {
        "drain-slowest-tenth": (pytest.approx(50, rel=0.02), 0.5, False),
        "memory": (110, None, True),
        "memory-growth": (pytest.approx(9, abs=0.1), None, True),
    }


def test_the_others_are_compared_with_themselves_beside_a_slow_destination() -> None:
    result = slow_destination.report(
        {slow_destination.WITHOUT: [[10.0] * 100], slow_destination.WITH: [[19.0] * 100]}, 10
    )

    assert reached(result) == {"slow-destination": (19, 1.9, True)}


def test_the_first_start_is_compared_with_the_imports() -> None:
    seconds = {start.FIRST: [2.0], start.AGAIN: [1.0], start.IMPORTS: [0.4], start.HELP: [0.1], start.CLICK: [0.05]}

    assert reached(start.report(seconds)) == {"start-up": (2000, 5.0, False), "start-help": (100, 2.0, True)}


def test_each_setup_of_a_database_has_its_rate_and_its_costs() -> None:
    work = databases.Work(30, 100).for_each(databases.Work(10, 60), requests=10)

    result = databases.report(
        {"one": [saturation(10)], "two": [saturation(9), saturation(8), saturation(7)]}, {"one": [work]}, seconds=10
    )

    assert [(row[0], row[1]) for row in result.tables[0].rows] == [("one", "10"), ("two", "8 (7 to 9)")]
    assert result.tables[1].columns == ("CPU ms per request", "web", "workers", "together")
    assert result.tables[1].rows[0] == ("one", "4.00", "3.00", "7.00")
    assert result.tables[2].rows == [("one", "2.0", "4.0")]


def test_a_move_is_judged_by_the_caller_who_waited_longest() -> None:
    counts = {"charging_session_requests": 3, "events": 9}
    told = {"before": counts, "after": {**counts, "events": 8}, "seconds": 1.5, "pauseMillis": 20}

    result = migration.report(told, {"SQLite": 10.0}, [1.0, 2_100.0], called_back=2, twice=0)

    assert reached(result) == {"migration-pause": (2100, None, False)}
    assert ("rows moved", "12") in result.tables[0].rows
    assert ("counts of all tables equal", "NO") in result.tables[0].rows
