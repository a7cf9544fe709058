"""How much of everything a run takes; all of `FULL` together stays below 25 minutes on two cores."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Rounds are repetitions in turn with the peers, so that a machine that drifts hits all alike."""

    rounds: int = 3
    saturated_seconds: int = 6
    intake_seconds: int = 5
    latency_rounds: int = 2
    latency_seconds: tuple[tuple[int, float], ...] = ((10, 20.0), (100, 12.0))
    history: int = 1_000_000
    growth_rounds: int = 2
    pages_few: int = 1_000
    pages_rounds: int = 15
    backlog: int = 100_000
    slow_rounds: int = 2
    slow_seconds: float = 15.0
    slow_answer_seconds: float = 10.0
    database_rounds: int = 2
    start_runs: int = 7
    drain_seconds: float = 180.0
    backlog_drain_seconds: float = 900.0


FULL = Plan()
QUICK = Plan(
    rounds=1,
    saturated_seconds=1,
    intake_seconds=1,
    latency_rounds=1,
    latency_seconds=((10, 1.0), (100, 1.0)),
    history=2_000,
    growth_rounds=1,
    pages_few=200,
    pages_rounds=1,
    backlog=300,
    slow_rounds=1,
    slow_seconds=2.0,
    slow_answer_seconds=1.0,
    database_rounds=1,
    start_runs=1,
    drain_seconds=60.0,
    backlog_drain_seconds=60.0,
)
