"""Sending many callbacks again, a hundred to a transaction."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from chargeapp.clock import utcnow
from chargeapp.commands.printing import progress
from chargeapp.pipeline import CALLBACKS
from chargeapp.request_search import Search, find_requests
from chargeapp.runtime import Runtime
from chargeapp.services.redeliveries import RedeliveryRefused, redeliver
from chargeapp.storage.models import SessionRequest

REQUESTS_PER_TRANSACTION = 100


class Redelivery:
    """Counts what was `sent` and, by reason, what was `refused`; a dry run changes nothing and counts the same."""

    def __init__(self, runtime: Runtime, *, dry_run: bool) -> None:
        self._runtime = runtime
        self._dry_run = dry_run
        self.sent = 0
        self.refused: Counter[str] = Counter()

    def send(self, request_ids: Sequence[str]) -> None:
        with progress("Sending again", len(request_ids)) as advance:
            for start in range(0, len(request_ids), REQUESTS_PER_TRANSACTION):
                batch = request_ids[start : start + REQUESTS_PER_TRANSACTION]
                with self._runtime.database.writing() as session:
                    found = [request for id_ in batch if (request := session.get(SessionRequest, id_))]
                    self._send_again(session, found)
                if missing := len(batch) - len(found):
                    self.refused["There is no request with this id."] += missing
                self._wake_callbacks()
                advance(len(batch))

    def send_all(self, state: str, station_id: str | None, since: datetime | None) -> None:
        """From the newest to the oldest."""
        search = Search(state=state, station=station_id, since=since)
        before: str | None = None
        with progress("Sending again", total=None) as advance:
            while True:
                with self._runtime.database.writing() as session:
                    found = find_requests(session, search, before, REQUESTS_PER_TRANSACTION)
                    self._send_again(session, found.requests)
                self._wake_callbacks()
                advance(len(found.requests))
                before = found.older
                if before is None:
                    return

    def _send_again(self, session: Session, requests: Sequence[SessionRequest]) -> None:
        for request in requests:
            try:
                redeliver(session, request, self._runtime.settings.request_ttl_seconds, utcnow())
            except RedeliveryRefused as refusal:
                self.refused[str(refusal)] += 1
            else:
                self.sent += 1
        if self._dry_run:
            session.rollback()

    def _wake_callbacks(self) -> None:
        if not self._dry_run:
            self._runtime.wakeups.ring(CALLBACKS.queue)
