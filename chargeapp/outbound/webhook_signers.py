"""Which secrets sign a caller's callbacks, looked up at the time of sending and remembered for a moment."""

import threading
from datetime import datetime, timedelta

from chargeapp.security.driver_tokens import TokenVault
from chargeapp.security.signatures import Signer
from chargeapp.storage.database import Database
from chargeapp.storage.webhook_secrets import signing

# A new secret signs in every process after this long, and a retired one has stopped.
REMEMBERED = timedelta(seconds=2)


class WebhookSigners:
    """`configured` signs for callers that have no secret of their own. Threads share it."""

    def __init__(self, database: Database, vault: TokenVault, configured: Signer) -> None:
        self._database = database
        self._vault = vault
        self._configured = configured
        self._known: dict[str, tuple[datetime, Signer]] = {}
        self._loading = threading.Lock()

    def of(self, caller: str, now: datetime) -> Signer:
        """Raises DatabaseUnavailable, and TokenUnreadable if the key that sealed the secret is gone."""
        # Of many threads that find it stale, one looks.
        with self._loading:
            looked_at, signer = self._known.get(caller, (None, self._configured))
            # The clock may be set back meanwhile.
            if looked_at is None or abs(now - looked_at) >= REMEMBERED:
                signer = self._load(caller, now)
                self._known[caller] = (now, signer)
            return signer

    def _load(self, caller: str, now: datetime) -> Signer:
        with self._database.reading() as session:
            found = signing(session, caller, now)
        return Signer(*(self._vault.open(each.secret_sealed) for each in found)) if found else self._configured
