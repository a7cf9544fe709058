"""What an authorization service is asked and what it answers."""

from dataclasses import dataclass
from datetime import datetime

from chargeapp.domain.charging_session import Decision


@dataclass(frozen=True)
class Inquiry:
    """May this driver charge at this station? Worth answering until `decide_by`."""

    station_id: str
    driver_token: str
    token_hash: str
    decide_by: datetime


@dataclass(frozen=True)
class Answer:
    """`source` names who answered; `millis` is what all tries took together; `failures` says why tries failed."""

    decision: Decision
    reason: str | None
    source: str
    tries: int = 1
    millis: int = 0
    failures: tuple[str, ...] = ()
