"""What people may look for in the list of requests. A whole driver token is understood in the form only.

Addresses are kept by browsers, proxies and logs, so there a token is its masked form and a fingerprint: the beginning
of its keyed hash, which nobody without the key can make or check.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, pre_load, validate

from chargeapp.domain.charging_session import Decision, State
from chargeapp.domain.identifiers import is_driver_token
from chargeapp.request_search import Driver, Search
from chargeapp.security.driver_tokens import TokenVault, mask
from chargeapp.web.schemas import StationId

MINUTE = "%Y-%m-%dT%H:%M"
FINGERPRINT_DIGITS = 16
MASKED = re.compile(rf"([A-Za-z0-9\-._~]{{0,4}})[…*]([A-Za-z0-9\-._~]{{0,4}})(?:~([0-9a-f]{{{FINGERPRINT_DIGITS}}}))?")


class DriverField(fields.Field[Driver]):
    whole_token: Callable[[str], Driver | None] = staticmethod(lambda _: None)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Driver:
        text = str(value)
        if found := MASKED.fullmatch(text):
            return Driver(f"{found[1]}…{found[2]}", found[3])
        if driver := self.whole_token(text):
            return driver
        raise ValidationError("Give a whole driver token in this form, or a masked one such as DRIV…6789 or DRIV*6789.")


class SearchSchema(Schema):
    """The query of the list; what is empty was not asked for."""

    class Meta:
        unknown = EXCLUDE

    request = fields.String(
        validate=validate.Regexp(r"req-[0-9a-f]{0,32}\Z", error="Write it like req-019a; the end may be left out.")
    )
    station = StationId(error_messages={"uuid": "A station id is a UUID."})
    driver = DriverField()
    state = fields.String(validate=validate.OneOf([*State], error="There is no such state."))
    decision = fields.String(validate=validate.OneOf([*Decision], error="There is no such decision."))
    since = fields.NaiveDateTime(MINUTE, error_messages={"invalid": "Write it like 2026-01-31T08:30."})
    until = fields.NaiveDateTime(MINUTE, error_messages={"invalid": "Write it like 2026-01-31T08:30."})
    before = fields.String(validate=validate.Regexp(r"req-[0-9a-f]{32}\Z", error="There is no such page."))

    @pre_load
    def leave_out_what_is_empty(self, data: Any, **kwargs: Any) -> dict[str, str]:
        return {name: text for name, value in data.items() if (text := value.strip())}


class FormSchema(SearchSchema):
    """The same as it is typed: here a driver token may be whole."""

    def __init__(self, vault: TokenVault, min_length: int) -> None:
        super().__init__()

        def whole_token(text: str) -> Driver | None:
            if not is_driver_token(text, min_length):
                return None
            return Driver(mask(text), vault.hash(text)[:FINGERPRINT_DIGITS])

        driver = self.fields["driver"]
        assert isinstance(driver, DriverField)
        driver.whole_token = whole_token


def search_of(given: dict[str, Any]) -> Search:
    """Of what a schema found to be good."""
    moments = {name: given[name].replace(tzinfo=UTC) for name in ("since", "until") if name in given}
    return Search(**{name: value for name, value in given.items() if name != "before"} | moments)


def query_of(given: dict[str, Any]) -> dict[str, str]:
    """The same for an address."""
    return {
        name: value.isoformat(timespec="minutes") if isinstance(value, datetime) else str(value)
        for name, value in given.items()
    }
