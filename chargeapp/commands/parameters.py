"""Arguments that several commands understand alike."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from chargeapp.domain.identifiers import canonical_station_id

# Known without importing the pipeline and all the tables with it; a test compares them.
QUEUES = ("authorization", "callbacks", "delivery-events")


class StationId(click.ParamType[str]):
    """A station's UUID in its canonical form; with `or_any` also `*`."""

    name = "uuid"

    def __init__(self, *, or_any: bool = False) -> None:
        self._or_any = or_any

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if self._or_any and value == "*":
            return "*"
        try:
            return canonical_station_id(value)
        except ValueError:
            hint = " or * for every station" if self._or_any else ""
            self.fail(f"must be a UUID{hint}, for example 123e4567-e89b-12d3-a456-426614174000", param, ctx)


class Moment(click.ParamType[datetime]):
    """ISO 8601; without an offset it is UTC."""

    name = "iso"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return parse_moment(value)
        except ValueError:
            self.fail("must be a date or time such as 2026-01-31 or 2026-01-31T08:00:00+01:00", param, ctx)


class Duration(click.ParamType[timedelta]):
    """A whole number of seconds, minutes, hours or days: 90s, 15m, 24h, 7d; or 0."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        found = re.fullmatch(r"([0-9]{1,5})([smhd])|0", value, re.ASCII)
        if not found:
            self.fail("must be such as 90s, 15m, 24h, 7d or 0", param, ctx)
        units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
        return timedelta(**{units[found[2]]: int(found[1])}) if found[2] else timedelta()


def parse_moment(text: str) -> datetime:
    """Raises ValueError."""
    moment = datetime.fromisoformat(text)
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(str(error)) from error
