"""How much load and how many faults each kind of drill has."""

from dataclasses import dataclass, replace


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
    kills: int = 0
    kills_of_each: int = 0
    flushes: int = 0
    redis_kills: int = 0
    pauses: int = 0
    long_pauses: int = 0
    failpoint_repeats: int = 0
    drain_seconds: float = 120.0

    @property
    def faultless(self) -> bool:
        return self.seconds_between_kills is None and not self.failpoint_repeats


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
    redis_kills=2,
    pauses=3,
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
    redis_kills=20,
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
PLANS = {plan.name: plan for plan in (SMOKE, LONG, FAILPOINTS, CALM)}
