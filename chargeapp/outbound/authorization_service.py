"""An external authorization service over HTTP: one deadline for all tries, a circuit breaker, never a guess."""

import json
import random
import time
from datetime import datetime

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from chargeapp.clock import millis_since
from chargeapp.domain.authorization import Answer, Inquiry
from chargeapp.domain.charging_session import Decision, Reason
from chargeapp.errors import PermanentFailure, TemporaryFailure
from chargeapp.outbound.circuit_breaker import CircuitBreaker
from chargeapp.outbound.http_client import HttpClient
from chargeapp.security.driver_tokens import mask

SOURCE = "authorization_service"
FIRST_PAUSE_SECONDS = 0.1
HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}


class AnswerSchema(Schema):
    class Meta:
        unknown = EXCLUDE

    status = fields.Enum(Decision, by_value=True, required=True)
    reason = fields.String(allow_none=True, load_default=None, validate=validate.Length(max=200))


class AuthorizationService:
    """`POST url {"station_id", "driver_token"}` -> `{"status", "reason"?}`; `unknown` when nothing usable comes."""

    def __init__(self, url: str, client: HttpClient, max_retries: int, breaker: CircuitBreaker | None) -> None:
        self._url = url
        self._client = client
        self._max_retries = max_retries
        self._breaker = breaker
        self._schema = AnswerSchema()

    def authorize(self, inquiry: Inquiry, now: datetime) -> Answer:
        started = time.monotonic()
        give_up_at = started + (inquiry.decide_by - now).total_seconds()
        body = json.dumps({"station_id": inquiry.station_id, "driver_token": inquiry.driver_token}).encode()
        reason = Reason.AUTHORIZATION_TIMEOUT
        tries = 0
        failures: list[str] = []
        while tries <= self._max_retries and (left := give_up_at - time.monotonic()) > 0:
            if self._breaker and not self._breaker.admits():
                reason = Reason.CIRCUIT_OPEN
                break
            tries += 1
            succeeded = False
            try:
                decision, why = self._ask(body, left)
                succeeded = True
            except (TemporaryFailure, PermanentFailure) as error:
                timed_out = getattr(error, "reason", "") == "timeout"
                reason = Reason.AUTHORIZATION_TIMEOUT if timed_out else Reason.AUTHORIZATION_ERROR
                failures.append(str(error))
            finally:
                # Whatever happened: a breaker that waits for the outcome of its probe stays open for ever.
                self._record(succeeded=succeeded)
            if succeeded:
                why = _masked(why, inquiry.driver_token)
                return Answer(decision, why, SOURCE, tries, millis_since(started), tuple(failures))
            pause = FIRST_PAUSE_SECONDS * 2 ** (tries - 1) * random.uniform(1, 1.5)
            if tries <= self._max_retries and time.monotonic() + pause < give_up_at:
                time.sleep(pause)
            else:
                break
        return Answer(Decision.UNKNOWN, reason, SOURCE, tries, millis_since(started), tuple(failures))

    def _record(self, *, succeeded: bool) -> None:
        if self._breaker:
            self._breaker.record(succeeded=succeeded)

    def _ask(self, body: bytes, timeout_seconds: float) -> tuple[Decision, str | None]:
        answer = self._client.post(self._url, body, HEADERS, timeout_seconds)
        if answer.status in (400, 422):
            return Decision.INVALID, None
        if answer.status != 200:
            raise TemporaryFailure(f"The authorization service answered {answer.status}")
        try:
            loaded = self._schema.loads(answer.body.decode())
        except (ValidationError, ValueError, RecursionError) as error:
            raise TemporaryFailure("The authorization service answered nonsense") from error
        return loaded["status"], loaded["reason"]


def _masked(reason: str | None, driver_token: str) -> str | None:
    """A service may name the driver in its reason, which is stored and shown."""
    return reason and reason.replace(driver_token, mask(driver_token))
