"""What the console's forms and filters may bring. A field left empty counts as not given."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, pre_load, validate, validates_schema
from werkzeug.datastructures import MultiDict

from chargeapp.pipeline import STAGES
from chargeapp.security.api_keys import HostPatternRefused, Scope, host_pattern
from chargeapp.security.signatures import Kind
from chargeapp.services.access_list import ANY
from chargeapp.services.failed_requests import REASONS
from chargeapp.web.schemas import StationId

ROWS_SHOWN = 50
NAME_LENGTH = 80
REQUEST_ID = r"req-[0-9a-f]{32}\Z"
DRIVER_HASH = r"([0-9a-f]{64}|\*)"
ENTRY = rf"{DRIVER_HASH}:[!-~]+\Z"
ROW = rf"({'|'.join(each.queue for each in STAGES)}):[1-9][0-9]{{0,17}}\Z"


def each(pattern: str, otherwise: str) -> Callable[[list[str]], None]:
    def check(values: list[str]) -> None:
        if not all(re.match(pattern, value) for value in values):
            raise ValidationError(otherwise)

    return check


class Form(Schema):
    class Meta:
        unknown = EXCLUDE

    @pre_load
    def without_what_was_left_empty(self, data: MultiDict[str, str], **_: Any) -> dict[str, Any]:
        given = {name: [text for each in data.getlist(name) if (text := each.strip())] for name in self.fields}
        return {
            name: values if isinstance(self.fields[name], fields.List) else values[0]
            for name, values in given.items()
            if values
        }


class Moment(fields.AwareDateTime):
    """As browsers send the time of a form; it is UTC, unless it has an offset."""

    default_error_messages = {"invalid": "Must be a date and time such as 2026-01-31T08:00."}  # noqa: RUF012

    def __init__(self, **options: Any) -> None:
        super().__init__(format="iso", default_timezone=UTC, load_default=None, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> datetime:
        try:
            return super()._deserialize(value, attr, data, **kwargs).astimezone(UTC)
        except OverflowError:
            raise self.make_error("invalid", input=value, obj_type=self.OBJ_TYPE) from None


class StationOrAny(StationId):
    """A station's UUID, or `*`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        return ANY if value == ANY else super()._deserialize(value, attr, data, **kwargs)


class Name(fields.String):
    """A few printable words."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if len(value) > NAME_LENGTH or not value.isprintable():
            raise ValidationError(f"Must have 1 to {NAME_LENGTH} printable characters.")
        return str(value)


class Hosts(fields.Field[tuple[str, ...]]):
    """Host names, with spaces or commas between."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        try:
            return tuple(host_pattern(each) for each in value.replace(",", " ").split())
        except HostPatternRefused as refusal:
            raise ValidationError(str(refusal)) from None


class FailedSchema(Form):
    """Which failed requests: `which` are those selected by `id`, or all that the filter leaves."""

    reason = fields.String(load_default=None, validate=validate.OneOf([*REASONS], error="Unknown reason."))
    station = StationId(load_default=None)
    since = Moment()
    until = Moment()
    before = fields.String(load_default=None, validate=validate.Regexp(REQUEST_ID, error="Unknown page."))
    which = fields.String(load_default="selected", validate=validate.OneOf(["selected", "all"]))
    id = fields.List(
        fields.String(),
        load_default=list,
        validate=[each(REQUEST_ID, "Unknown request."), validate.Length(max=ROWS_SHOWN)],
    )


class RedeliveredSchema(FailedSchema):
    """What came of it, for the page that follows."""

    sent = fields.Integer(load_default=0, validate=validate.Range(0))
    under_way = fields.Integer(load_default=0, validate=validate.Range(0))
    delivered = fields.Integer(load_default=0, validate=validate.Range(0))
    erased = fields.Integer(load_default=0, validate=validate.Range(0))
    missing = fields.Integer(load_default=0, validate=validate.Range(0))


class DeadLettersSchema(Form):
    """`row` is a queue, a colon and a number; `which` are those, or all there are."""

    which = fields.String(load_default="selected", validate=validate.OneOf(["selected", "all"]))
    row = fields.List(fields.String(), load_default=list, validate=each(ROW, "Unknown row."))


class ReplayedSchema(Form):
    """What came of it."""

    replayed = fields.Integer(load_default=None, validate=validate.Range(0))
    gone = fields.Integer(load_default=0, validate=validate.Range(0))
    left = fields.Integer(load_default=0, validate=validate.Range(0))


class EntrySchema(Form):
    """Where and when a driver may charge, or that he must not."""

    station = StationOrAny(load_default=ANY)
    blocked = fields.Boolean(load_default=False)
    valid_from = Moment()
    valid_until = Moment()

    @validates_schema
    def window_is_not_empty(self, data: dict[str, Any], **_: Any) -> None:
        if data["valid_from"] and data["valid_until"] and data["valid_from"] >= data["valid_until"]:
            raise ValidationError("Must be later than its beginning.", "valid_until")


class KnownEntrySchema(Form):
    """An entry that is there: its driver by hash, as the list gives it."""

    driver = fields.String(required=True, validate=validate.Regexp(rf"{DRIVER_HASH}\Z", error="Unknown driver."))
    station = StationOrAny(required=True)


class AccessListSchema(Form):
    """Which part of the list: of one driver by hash, `after` the last entry of the page before."""

    driver = fields.String(load_default=None, validate=validate.Regexp(rf"{DRIVER_HASH}\Z", error="Unknown driver."))
    after = fields.String(load_default=None, validate=validate.Regexp(ENTRY, error="Unknown page."))
    done = fields.String(load_default=None)


class NewKeySchema(Form):
    """A key to be made."""

    name = Name(required=True, error_messages={"required": "Give it a name."})
    caller = Name(load_default=None)
    scope = fields.List(
        fields.String(),
        required=True,
        validate=each(rf"({'|'.join(Scope)})\Z", "Unknown scope."),
        error_messages={"required": "Choose at least one."},
    )
    expires_at = Moment()
    hosts = Hosts(load_default=())
    latest = fields.String(load_default="")


class RevocationSchema(Form):
    """A key that is to open nothing any more."""

    id = fields.String(required=True, validate=validate.Regexp(r"[!-~]+\Z", error="Unknown key."))


class RotationSchema(Form):
    """A webhook secret to be made, in whose place and with which overlap."""

    caller = Name(load_default="")
    overlap = fields.Integer(load_default=24, validate=validate.OneOf([0, 1, 24, 168, 720], error="Unknown overlap."))
    kind = fields.Enum(Kind, by_value=True, load_default=Kind.SYMMETRIC)
    latest = fields.Integer(load_default=0)


class RetirementSchema(Form):
    """A webhook secret that is to sign no longer."""

    id = fields.Integer(required=True, validate=validate.Range(1, 2**63 - 1))
