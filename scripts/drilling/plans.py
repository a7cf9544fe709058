"""How much load and how many faults each kind of drill has."""

from collections.abc import Collection
from dataclasses import dataclass, replace

WORKERS = ("worker authorization", "worker callbacks", "worker delivery-events")
# gunicorn's master falls seldom: while it is away nobody accepts, and the load has to be carried on somehow.
WITHOUT_WORKERS = (*["web worker"] * 5, "web", *["relay"] * 4)
EVERYBODY = (*WITHOUT_WORKERS, *WORKERS * 2)


@dataclass(frozen=True)
class Plan:
    """Rates are per second, shares from 0 to 1."""

    name: str
    accepted: int
    rate: float
    keyed_share: float = 0.8
    replayed_share: float = 0.05
    receiver_errors: float = 0.10
    receiver_timeouts: float = 0.05
    receiver_resets: float = 0.02
    authorization_errors: float = 0.02
    seconds_between_kills: float | None = None
    bag: tuple[str, ...] = EVERYBODY
    kills: int = 0
    kills_of_each: int = 0
    flushes: int = 0
    broker_kills: int = 0
    topic_deletions: int = 0
    rebalances: int = 0
    database_restarts: int = 0
    database_crashes: int = 0
    connection_cuts: int = 0
    pauses: int = 0
    long_pauses: int = 0
    failpoint_repeats: int = 0
    drain_seconds: float = 120.0

    @property
    def faultless(self) -> bool:
        return self.seconds_between_kills is None and not self.failpoint_repeats

    @property
    def victims(self) -> list[str]:
        """Of what there must have been enough kills."""
        return list(dict.fromkeys(kind.split()[0] for kind in self.bag))

    def faults(self, possible: Collection[str]) -> dict[str, int]:
        """Beside kills and pauses: how often each of those that database and broker allow."""
        wanted = {
            "flush redis": self.flushes,
            "kill redis": self.broker_kills,
            "delete records": self.flushes,
            "delete topics": self.topic_deletions,
            "kill kafka": self.broker_kills,
            "rebalance": self.rebalances,
            "restart database": self.database_restarts,
            "crash database": self.database_crashes,
            "cut connections": self.connection_cuts,
        }
        return {name: times for name, times in wanted.items() if name in possible}


FAULTS = Plan("", 0, 0)
SMOKE = replace(
    FAULTS,
    name="smoke",
    accepted=2_000,
    rate=30,
    seconds_between_kills=0.95,
    kills=60,
    kills_of_each=8,
    flushes=3,
    broker_kills=2,
    topic_deletions=2,
    rebalances=3,
    database_restarts=3,
    database_crashes=3,
    connection_cuts=5,
    pauses=3,
)
# Whoever kills a worker waits for the end of its lease, and whoever refuses a callback four times for the next round.
BRIEF = replace(
    FAULTS,
    name="brief",
    accepted=600,
    rate=30,
    receiver_errors=0.05,
    receiver_timeouts=0.02,
    receiver_resets=0.01,
    seconds_between_kills=0.95,
    bag=WITHOUT_WORKERS,
    kills=15,
    kills_of_each=5,
    flushes=1,
    broker_kills=1,
    topic_deletions=1,
    rebalances=1,
    database_restarts=2,
    database_crashes=2,
    connection_cuts=3,
)
LONG = replace(
    FAULTS,
    name="long",
    accepted=50_000,
    rate=40,
    seconds_between_kills=0.8,
    kills=1_500,
    kills_of_each=100,
    flushes=20,
    broker_kills=20,
    topic_deletions=20,
    rebalances=20,
    database_restarts=15,
    database_crashes=15,
    connection_cuts=30,
    pauses=40,
    long_pauses=4,
    drain_seconds=180,
)
FAILPOINTS = replace(
    FAULTS, name="failpoints", accepted=0, rate=10, keyed_share=1.0, failpoint_repeats=3, drain_seconds=240
)
CALM = Plan(
    "calm",
    accepted=20_000,
    rate=100,
    receiver_errors=0,
    receiver_timeouts=0,
    receiver_resets=0,
    authorization_errors=0,
    drain_seconds=60,
)
PLANS = {plan.name: plan for plan in (SMOKE, BRIEF, LONG, FAILPOINTS, CALM)}
