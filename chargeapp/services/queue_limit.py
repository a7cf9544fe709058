"""Whether the queue takes another request, in most cases without counting it."""

import math
import time

from sqlalchemy.orm import Session

from chargeapp.storage import outbox, requests
from chargeapp.storage.models import ChargingSessionRequestOutbox

COUNT_SECONDS = 10.0


class QueueLimit:
    """One for each process that accepts requests, used by one transaction at a time.

    To count 10,000 undecided requests takes a millisecond, in which nobody else can write. There are no more of them
    than were counted once, and rows added since by whomever; where that may be too many, or was long ago, they are
    counted again. An erased table gives its numbers again, so an old count says too little.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._counted = most
        self._newest = 0
        self._counted_at = -math.inf

    def free(self, session: Session, wanted: int) -> int:
        """How many of `wanted` more may wait for a decision."""
        newest = outbox.newest(session, ChargingSessionRequestOutbox)
        added = newest - self._newest
        old = time.monotonic() - self._counted_at > COUNT_SECONDS
        if old or added < 0 or self._counted + added + wanted > self._most:
            self._counted, self._newest, added = requests.count_undecided(session, self._most), newest, 0
            self._counted_at = time.monotonic()
        return min(wanted, self._most - self._counted - added)
