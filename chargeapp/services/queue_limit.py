"""Whether the queue takes another request, in most cases without counting it."""

from sqlalchemy.orm import Session

from chargeapp.storage import outbox, requests
from chargeapp.storage.models import ChargingSessionRequestOutbox


class QueueLimit:
    """One for each process that accepts requests, used by one transaction at a time.

    To count 10,000 undecided requests takes a millisecond, in which nobody else can write. There can be no more of
    them than were counted once and rows were added since, by whomever; only when that may be too many, or cannot
    tell because the newest rows were erased, they are counted again.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._counted = most
        self._newest = 0

    def free(self, session: Session, wanted: int) -> int:
        """How many of `wanted` more may wait for a decision."""
        newest = outbox.newest(session, ChargingSessionRequestOutbox)
        added = newest - self._newest
        if added < 0 or self._counted + added + wanted > self._most:
            self._counted, self._newest, added = requests.count_undecided(session, self._most), newest, 0
        return min(wanted, self._most - self._counted - added)
