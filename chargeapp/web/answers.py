"""What the API answers and what callbacks say, for the OpenAPI document; a test holds real answers against it."""

from typing import Any

from marshmallow import EXCLUDE, INCLUDE, Schema, fields, validate

from chargeapp.domain.charging_session import Decision, Event, Reason, State

WORDS_OF_ERRORS = (
    "validation_error",
    "bad_request",
    "unauthorized",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "conflict",
    "payload_too_large",
    "unsupported_media_type",
    "idempotency_key_reused",
    "rate_limited",
    "internal_error",
    "queue_full",
    "unavailable",
    "error",
)


class Answer(Schema):
    """Callers are to overlook fields that they do not know: there may be more one day."""

    class Meta:
        unknown = EXCLUDE


def text(description: str, *, nullable: bool = False, **metadata: Any) -> fields.String:
    return fields.String(required=True, allow_none=nullable, metadata={"description": description, **metadata})


def word(description: str, *words: str, nullable: bool = False) -> fields.String:
    return fields.String(
        required=True, allow_none=nullable, validate=validate.OneOf(words), metadata={"description": description}
    )


def count(description: str) -> fields.Integer:
    return fields.Integer(required=True, metadata={"description": description, "minimum": 0})


def moment(description: str, *, nullable: bool = False) -> fields.String:
    return text(description, nullable=nullable, format="date-time")


def epoch_millis() -> fields.Integer:
    return count("Milliseconds since 1970.")


class ErrorSchema(Answer):
    """Every error has this one shape."""

    status = word("What is wrong, for programs.", *WORDS_OF_ERRORS)
    message = text("What is wrong, for people.")
    timestamp = epoch_millis()
    errors = fields.Dict(
        keys=fields.String(),
        values=fields.List(fields.String()),
        metadata={"description": "Where fields are at fault: what is wrong with each of them."},
    )


class AcknowledgementSchema(Answer):
    status = word("The request is on disk; the decision follows.", "accepted")
    message = text("The same, for people.")
    requestId = text("What the callback will bring as `request_id`.")  # noqa: N815
    timestamp = epoch_millis()


class RedeliverySchema(Answer):
    status = word("The callback is due again.", "accepted")
    message = text("The same, for people.")
    requestId = text("Of the request.")  # noqa: N815


class SessionRequestSummarySchema(Answer):
    requestId = text("Ids sort by age.")  # noqa: N815
    stationId = text("The station, a UUID.")  # noqa: N815
    driverToken = text("The driver token, masked.")  # noqa: N815
    callbackUrl = text("Where the decision goes.")  # noqa: N815
    state = word("How far it is.", *State)
    decision = word("Null until it is decided.", *Decision, nullable=True)
    reason = text("Why it was decided so, where that needs saying.", nullable=True)
    source = text("Who decided.", nullable=True)
    attempts = count("Callback attempts so far.")
    lastError = text("What went wrong with the last callback attempt.", nullable=True)  # noqa: N815
    acceptedAt = moment("When it was acknowledged.")  # noqa: N815
    decidedAt = moment("When it was decided.", nullable=True)  # noqa: N815
    expiresAt = moment("No callback is sent later than this.")  # noqa: N815
    endedAt = moment("When it was delivered, failed or expired.", nullable=True)  # noqa: N815


class FactSchema(Answer):
    """One line of a timeline; what it says besides depends on its type."""

    class Meta:
        unknown = INCLUDE

    type = word("What happened.", *Event)
    at = moment("When it happened.")


class SessionRequestDetailsSchema(SessionRequestSummarySchema):
    timeline = fields.List(fields.Nested(FactSchema), required=True, metadata={"description": "Oldest first."})


class PageOfRequestsSchema(Answer):
    requests = fields.List(
        fields.Nested(SessionRequestSummarySchema), required=True, metadata={"description": "Newest first."}
    )
    cursor = text(
        "Ask for the next page with it; null on the last page. A page may have fewer than `limit` and not be the last.",
        nullable=True,
    )


class AuthorizationSchema(Answer):
    station_id = text("As it was asked.")
    driver_token = text("As it was asked.")
    status = word("The decision.", *Decision)


class CallbackSchema(Answer):
    """What is posted to the `callbackUrl`; the same on every attempt."""

    station_id = text("The station, a UUID.")
    driver_token = text("The driver token.")
    status = word("The decision.", *Decision)
    timestamp = epoch_millis()
    request_id = text("What the acknowledgement said.")
    reason = text(
        f"Null or a word such as {', '.join(f'`{each}`' for each in list(Reason)[:7])};"
        " an authorization service may have words of its own.",
        nullable=True,
    )
