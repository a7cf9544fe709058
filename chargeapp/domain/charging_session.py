"""What a charging session request can be, and what can be decided about it."""

import re
import secrets
from datetime import datetime
from enum import StrEnum

from chargeapp.clock import epoch_millis


class State(StrEnum):
    """accepted -> authorizing -> decided -> delivered | failed | expired"""

    ACCEPTED = "accepted"
    AUTHORIZING = "authorizing"
    DECIDED = "decided"
    DELIVERED = "delivered"
    FAILED = "failed"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        return self in TERMINAL_STATES


TERMINAL_STATES = frozenset({State.DELIVERED, State.FAILED, State.EXPIRED})


class Decision(StrEnum):
    ALLOWED = "allowed"
    NOT_ALLOWED = "not_allowed"
    UNKNOWN = "unknown"
    INVALID = "invalid"


class Reason(StrEnum):
    """Why a decision is not simply `allowed`, or why a callback was not delivered."""

    AUTHORIZATION_TIMEOUT = "authorization_timeout"
    AUTHORIZATION_ERROR = "authorization_error"
    CIRCUIT_OPEN = "circuit_open"
    NOT_IN_ACL = "not_in_acl"
    BLOCKED = "blocked"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    GONE = "gone"
    UNDELIVERABLE = "undeliverable"


class Command(StrEnum):
    START_CHARGING_SESSION_REQUEST = "StartChargingSessionRequestCommand"
    SEND_AUTHORIZATION_DECISION_CALLBACK = "SendAuthorizationDecisionCallbackCommand"


class Event(StrEnum):
    """Facts of one request's timeline, in the past tense."""

    REQUEST_ACCEPTED = "RequestAccepted"
    AUTHORIZATION_DECIDED = "AuthorizationDecided"
    CALLBACK_ATTEMPTED = "CallbackAttempted"
    CALLBACK_DELIVERY_SUCCEEDED = "CallbackDeliverySucceeded"
    CALLBACK_DELIVERY_FAILED = "CallbackDeliveryFailed"
    REDELIVERY_REQUESTED = "RedeliveryRequested"
    LATE_RESULT_DISCARDED = "LateResultDiscarded"


def new_request_id(now: datetime) -> str:
    """Begins with the time, so that ids sort by age and new rows land at the end of every index."""
    return oldest_request_id(now) + secrets.token_hex(10)


def oldest_request_id(since: datetime) -> str:
    """No request accepted at this time or later has a smaller id."""
    return f"req-{max(0, epoch_millis(since)):012x}"


def is_request_id(text: str) -> bool:
    return re.fullmatch(r"req-[0-9a-f]{32}", text) is not None
