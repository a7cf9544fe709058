"""Tells a caller the decision by a signed HTTP POST, once; what the answer means is said as an Outcome."""

import json
import time
from datetime import datetime
from typing import Any

from chargeapp import __version__
from chargeapp.clock import millis_since
from chargeapp.domain.callback import Outcome, Reply
from chargeapp.domain.charging_session import Reason
from chargeapp.errors import PermanentFailure, TemporaryFailure
from chargeapp.outbound.http_client import HttpClient
from chargeapp.outbound.webhook_signers import WebhookSigners

USER_AGENT = f"chargeapp/{__version__}"


class CallbackEndpoint:
    def __init__(self, client: HttpClient, signers: WebhookSigners, timeout_seconds: float) -> None:
        self._client = client
        self._signers = signers
        self._timeout_seconds = timeout_seconds

    def send(self, url: str, caller: str, request_id: str, body: dict[str, Any], now: datetime) -> Reply:
        """2xx delivers, 410 is final, everything else may be retried; redirects are not followed."""
        content = json.dumps(body, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            **self._signers.of(caller, now).headers(request_id, content, now),
        }
        started = time.monotonic()
        try:
            answer = self._client.post(url, content, headers, self._timeout_seconds)
        except PermanentFailure as refused:
            return Reply(Outcome.FINAL, millis_since(started), error=str(refused), reason=Reason.BLOCKED)
        except TemporaryFailure as failed:
            return Reply(Outcome.RETRY, millis_since(started), error=str(failed))
        millis = millis_since(started)
        if 200 <= answer.status < 300:
            return Reply(Outcome.DELIVERED, millis, answer.status)
        error = f"answered {answer.status}"
        if answer.status == 410:
            return Reply(Outcome.FINAL, millis, answer.status, error, Reason.GONE)
        return Reply(Outcome.RETRY, millis, answer.status, error, retry_after_seconds=answer.retry_after_seconds)
