"""The built-in access list: who may charge where, and which entry counts."""

from pathlib import Path

import pytest
from support.builders import NOW, STATION, TOKEN, new_runtime, seconds

import chargeapp.app
from chargeapp.domain.authorization import Inquiry
from chargeapp.outbound.access_list import AccessList
from chargeapp.services.access_list import ANY, Entry, count_entries, list_entries, put_entries, remove_entry
from chargeapp.storage.database import Database

DRIVER, ELSEWHERE = "a" * 64, "00000000-0000-4000-8000-000000000000"


def entry(driver: str = DRIVER, station: str = STATION, **changes: object) -> Entry:
    return Entry(driver, "DRIV…6789", station, **changes)  # type: ignore[arg-type]


def put(database: Database, *entries: Entry) -> None:
    with database.writing() as session:
        put_entries(session, entries, NOW)


def decided(database: Database, *entries: Entry) -> tuple[str, str | None]:
    put(database, *entries)
    inquiry = Inquiry(STATION, "unused", DRIVER, NOW + seconds(30))
    answer = AccessList(database).authorize(inquiry, NOW)
    assert answer.source == "access_list"
    return answer.decision, answer.reason


ALLOWED = ("allowed", None)
NOT_IN_ACL, BLOCKED = ("not_allowed", "not_in_acl"), ("not_allowed", "blocked")
EXPIRED, NOT_YET = ("not_allowed", "expired"), ("not_allowed", "not_yet_valid")


@pytest.mark.parametrize(("driver", "station"), [(DRIVER, STATION), (DRIVER, ANY), (ANY, STATION), (ANY, ANY)])
def test_who_is_listed_may_charge(database: Database, driver: str, station: str) -> None:
    assert decided(database, entry(driver, station)) == ALLOWED


@pytest.mark.parametrize("entries", [(), (entry("b" * 64),), (entry(station=ELSEWHERE),)])
def test_who_is_not_listed_may_not_charge(database: Database, entries: tuple[Entry, ...]) -> None:
    assert decided(database, *entries) == NOT_IN_ACL


def test_a_block_wins_over_everything(database: Database) -> None:
    assert decided(database, entry(), entry(ANY, ANY, blocked=True)) == BLOCKED


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ({"valid_from": NOW}, ALLOWED),
        ({"valid_from": NOW + seconds(1)}, NOT_YET),
        ({"valid_until": NOW + seconds(1)}, ALLOWED),
        ({"valid_until": NOW}, EXPIRED),
        ({"valid_from": NOW - seconds(1), "valid_until": NOW + seconds(1)}, ALLOWED),
    ],
)
def test_an_entry_counts_within_its_window(
    database: Database, window: dict[str, object], expected: tuple[str, str | None]
) -> None:
    assert decided(database, entry(**window)) == expected


def test_the_most_particular_entry_decides(database: Database) -> None:
    over = {"valid_until": NOW}

    assert decided(database, entry(ANY, ANY), entry(DRIVER, ANY, **over)) == EXPIRED
    assert decided(database, entry(ANY, STATION, **over)) == EXPIRED
    assert decided(database, entry(DRIVER, STATION)) == ALLOWED


def test_an_entry_for_the_driver_comes_before_one_for_the_station(database: Database) -> None:
    assert decided(database, entry(DRIVER, ANY), entry(ANY, STATION, valid_until=NOW)) == ALLOWED


def test_an_entry_for_the_same_driver_and_station_replaces_the_one_before(database: Database) -> None:
    assert decided(database, entry(blocked=True)) == BLOCKED
    assert decided(database, entry()) == ALLOWED
    with database.reading() as session:
        assert count_entries(session) == 1


def test_a_removed_entry_counts_no_more(database: Database) -> None:
    put(database, entry())
    with database.writing() as session:
        assert remove_entry(session, DRIVER, STATION)
        assert not remove_entry(session, DRIVER, STATION)

    assert decided(database) == NOT_IN_ACL


def test_entries_are_listed_page_by_page(database: Database) -> None:
    put(database, *[entry(driver * 64, station) for driver in "abc" for station in (STATION, ANY)])
    listed, after = [], None
    with database.reading() as session:
        while page := list_entries(session, 4, after):
            listed += [(each.token_hash, each.station_id) for each in page]
            after = listed[-1]

    assert listed == sorted(listed)
    assert len(listed) == 6


@pytest.mark.parametrize(
    ("station", "token", "status"),
    [
        (STATION, TOKEN, "allowed"),
        (STATION.replace("-", ""), TOKEN, "allowed"),
        (STATION.upper(), TOKEN, "allowed"),
        (STATION, "NOT-LISTED-0123456789", "not_allowed"),
        ("nowhere", TOKEN, "invalid"),
        (STATION, "short", "invalid"),
    ],
)
def test_the_list_answers_over_http_too(tmp_path: Path, station: str, token: str, status: str) -> None:
    with new_runtime(tmp_path) as runtime, pytest.MonkeyPatch.context() as patch:
        put(runtime.database, entry(runtime.vault.hash(TOKEN)))
        patch.setattr(chargeapp.app, "Runtime", lambda _: runtime)
        client = chargeapp.app.create_app(runtime.settings).test_client()

        response = client.post("/internal/v1/authorize", json={"station_id": station, "driver_token": token})

    assert response.get_json() == {"station_id": station, "driver_token": token, "status": status}
