"""What callers may send. Both spellings of a name are understood, but not both at once."""

from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, pre_load, validate

from chargeapp.domain.charging_session import State
from chargeapp.domain.identifiers import DRIVER_TOKEN_MAX_LENGTH, canonical_station_id, driver_token_pattern
from chargeapp.security.callback_url import MAX_LENGTH as CALLBACK_URL_MAX_LENGTH

SPELLINGS = {
    "station_id": "stationId",
    "driver_token": "driverToken",
    "callback_url": "callbackUrl",
    "ttl_seconds": "ttlSeconds",
}


class StationId(fields.String):
    """Any UUID, kept in its canonical form."""

    default_error_messages = {"uuid": "Invalid station_id format. Must be a valid UUID."}  # noqa: RUF012

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        try:
            return canonical_station_id(value if isinstance(value, str) else "")
        except ValueError:
            raise self.make_error("uuid") from None


class SessionRequestSchema(Schema):
    """The body of `POST /api/v1/charging-session`. Touches no database; the address policy comes after it."""

    class Meta:
        unknown = RAISE

    error_messages = {"unknown": "Unknown field.", "type": "The request body must be a JSON object."}  # noqa: RUF012

    station_id = StationId(
        required=True,
        error_messages={"required": "station_id is required."},
        metadata={"description": "Where the driver stands: a UUID."},
    )
    driver_token = fields.String(
        required=True,
        metadata={"description": "Who wants to charge. Kept sealed, shown masked, erased some time after the end."},
        error_messages={"required": "driver_token is required.", "invalid": "driver_token must be a string."},
    )
    callback_url = fields.String(
        required=True,
        metadata={
            "description": "Where the decision goes: http or https, no user name or password, a public address.",
            "pattern": "^[hH][tT][tT][pP][sS]?://",
            "maxLength": CALLBACK_URL_MAX_LENGTH,
        },
        error_messages={"required": "callback_url is required.", "invalid": "callback_url must be a string."},
    )
    ttl_seconds = fields.Integer(
        strict=True,
        load_default=None,
        metadata={"description": "No callback later than this many seconds after acceptance."},
        validate=validate.Range(1, 86_400, error="ttl_seconds must be from 1 to 86400."),
        error_messages={"invalid": "ttl_seconds must be a whole number."},
    )

    def __init__(self, token_min_length: int) -> None:
        super().__init__()
        message = (
            f"Invalid driver_token format. Must be {token_min_length} to {DRIVER_TOKEN_MAX_LENGTH} characters"
            " out of A-Z a-z 0-9 - . _ ~"
        )
        pattern = driver_token_pattern(token_min_length)
        self.fields["driver_token"].validators = [validate.Regexp(pattern, error=message)]

    @pre_load
    def one_spelling(self, data: Any, **kwargs: Any) -> Any:
        if not isinstance(data, dict):
            return data
        twice = {
            snake: [f"Give either {snake} or {camel}, not both."]
            for snake, camel in SPELLINGS.items()
            if snake in data and camel in data
        }
        if twice:
            raise ValidationError(twice)
        return {SNAKE.get(name, name): value for name, value in data.items()}


SNAKE = {camel: snake for snake, camel in SPELLINGS.items()}


class AuthorizeSchema(Schema):
    """The body of `POST /internal/v1/authorize`."""

    class Meta:
        unknown = RAISE

    station_id = fields.String(required=True)
    driver_token = fields.String(required=True)


class PageSchema(Schema):
    """The query of the list of requests."""

    class Meta:
        unknown = RAISE

    state = fields.String(
        load_default=None,
        allow_none=False,
        validate=validate.OneOf([state.value for state in State]),
        metadata={"description": "Only requests in this state."},
    )
    stationId = StationId(  # noqa: N815 - the caller's spelling
        load_default=None, allow_none=False, metadata={"description": "Only requests of this station."}
    )
    cursor = fields.String(
        load_default=None,
        allow_none=False,
        validate=validate.Regexp(r"req-[0-9a-f]{32}\Z", error="Unknown cursor."),
        metadata={"description": "The `cursor` of the page before."},
    )
    limit = fields.Integer(
        load_default=50, validate=validate.Range(1, 200), metadata={"description": "How many on one page."}
    )
