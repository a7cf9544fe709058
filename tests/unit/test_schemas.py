"""What callers may send, field by field."""

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import ValidationError

from chargeapp.web.schemas import PageSchema, SessionRequestSchema

STATION = "123e4567-e89b-12d3-a456-426614174000"
BODY = {"stationId": STATION, "driverToken": "DRIVER-TOKEN-0123456789", "callbackUrl": "https://caller.example/"}
SCHEMA = SessionRequestSchema(20)
LOADED = {
    "station_id": STATION,
    "driver_token": BODY["driverToken"],
    "callback_url": BODY["callbackUrl"],
    "ttl_seconds": None,
}
NAMES = {"stationId": "station_id", "driverToken": "driver_token", "callbackUrl": "callback_url"}


def refused(changes: dict[str, Any], schema: SessionRequestSchema = SCHEMA) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as raised:
        schema.load(BODY | changes)
    messages: dict[str, list[str]] = raised.value.normalized_messages()
    return messages


def test_both_spellings_mean_the_same() -> None:
    assert SCHEMA.load(BODY) == LOADED
    assert SCHEMA.load({NAMES[name]: value for name, value in BODY.items()}) == LOADED


@pytest.mark.parametrize("camel", [*NAMES, "ttlSeconds"])
def test_both_spellings_at_once_are_refused(camel: str) -> None:
    snake = NAMES.get(camel, "ttl_seconds")
    value = BODY.get(camel, 60)

    assert refused({camel: value, snake: value}) == {snake: [f"Give either {snake} or {camel}, not both."]}


@given(st.uuids())
def test_any_uuid_is_a_station(station: uuid.UUID) -> None:
    for text in (str(station), station.hex, str(station).upper()):
        assert SCHEMA.load(BODY | {"stationId": text})["station_id"] == str(station)


@pytest.mark.parametrize(
    "station",
    [
        "",
        "x",
        None,
        7,
        [STATION],
        f"{{{STATION}}}",
        f"urn:uuid:{STATION}",
        f" {STATION}",
        f"{STATION}\n",
        STATION[:-1],
        "0x" + "1" * 30,
        "1_" * 16,
        "+" + "1" * 31,
        "\u0661" * 32,
        "123e4567e-89b-12d3-a456-426614174000",
    ],
)
def test_whatever_is_no_uuid_is_refused(station: Any) -> None:
    messages = refused({"stationId": station})

    assert list(messages) == ["station_id"]


def test_the_message_for_a_station_is_the_published_one() -> None:
    assert refused({"stationId": "x"}) == {"station_id": ["Invalid station_id format. Must be a valid UUID."]}


@pytest.mark.parametrize("token", ["x" * 20, "x" * 80, "aZ09-._~aZ09-._~aZ09"])
def test_a_token_of_20_to_80_of_the_characters_allowed_is_accepted(token: str) -> None:
    assert SCHEMA.load(BODY | {"driverToken": token})["driver_token"] == token


@pytest.mark.parametrize("token", ["x" * 19, "x" * 81, "x" * 20 + "\n", "x" * 20 + "é", "x" * 20 + " ", "", 7, None])
def test_any_other_token_is_refused_and_not_repeated(token: Any) -> None:
    messages = refused({"driverToken": token})

    assert list(messages) == ["driver_token"]
    assert "x" * 19 not in str(messages)


def test_a_lower_minimum_admits_short_rfid_uids() -> None:
    assert SessionRequestSchema(8).load(BODY | {"driverToken": "04A2B3C4"})["driver_token"] == "04A2B3C4"
    assert "8 to 80" in refused({"driverToken": "04A2B3C"}, SessionRequestSchema(8))["driver_token"][0]


@pytest.mark.parametrize("ttl", [1, 86_400])
def test_a_time_to_live_is_from_one_second_to_a_day(ttl: int) -> None:
    assert SCHEMA.load(BODY | {"ttlSeconds": ttl})["ttl_seconds"] == ttl


@pytest.mark.parametrize("ttl", [0, -1, 86_401, "60", 1.5, True, []])
def test_any_other_time_to_live_is_refused(ttl: Any) -> None:
    assert list(refused({"ttlSeconds": ttl})) == ["ttl_seconds"]


def test_unknown_fields_are_refused() -> None:
    assert refused({"tarif": 1}) == {"tarif": ["Unknown field."]}


@pytest.mark.parametrize("name", BODY)
def test_each_field_is_required(name: str) -> None:
    body = {key: value for key, value in BODY.items() if key != name}
    with pytest.raises(ValidationError) as raised:
        SCHEMA.load(body)

    assert raised.value.normalized_messages() == {NAMES[name]: [f"{NAMES[name]} is required."]}


@pytest.mark.parametrize("body", [None, [], "text", 7])
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    with pytest.raises(ValidationError):
        SCHEMA.load(body)


@given(st.dictionaries(st.text(max_size=12), st.none() | st.booleans() | st.integers() | st.text(), max_size=5))
def test_junk_is_refused_in_words(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as raised:
        SCHEMA.load(body)

    assert all(isinstance(each, list) and each for each in raised.value.normalized_messages().values())


def test_a_page_has_50_requests_by_default() -> None:
    assert PageSchema().load({}) == {"state": None, "stationId": None, "cursor": None, "limit": 50}


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "201"},
        {"limit": "x"},
        {"state": "done"},
        {"cursor": "req-1"},
        {"stationId": "x"},
        {"a": 1},
    ],
)
def test_a_page_that_makes_no_sense_is_refused(query: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PageSchema().load(query)
