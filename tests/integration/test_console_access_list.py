"""The pages of the access list: who is shown how, and what adding, changing and removing do. No token is shown."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.builders import NOW, STATION, new_runtime
from support.console import Visitor, hidden, words

from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope
from chargeapp.security.driver_tokens import mask
from chargeapp.services.access_list import ANY, Entry, list_entries, put_entries
from chargeapp.storage.models import AccessListEntry

TOKEN = "driver-token-of-the-console"
MASKED = mask(TOKEN)


def entries(runtime: Runtime) -> list[AccessListEntry]:
    with runtime.database.reading() as session:
        return list_entries(session, 1_000)


def put(runtime: Runtime, *tokens: str, station: str = ANY) -> None:
    with runtime.database.writing() as session:
        put_entries(session, [Entry(runtime.vault.hash(each), mask(each), station) for each in tokens], NOW)


def of_token(runtime: Runtime, station: str = ANY) -> dict[str, str]:
    return {"driver": runtime.vault.hash(TOKEN), "station": station}


def test_an_entry_is_added_as_the_form_says(visitor: Visitor) -> None:
    answer = visitor.post(
        "/access-list",
        driver_token=f" {TOKEN} ",
        station=STATION.upper(),
        valid_from="2026-01-31T08:00",
        valid_until="2026-02-01T00:00:30",
    )

    (entry,) = entries(visitor.runtime)
    assert (entry.token_hash, entry.token_masked) == (visitor.runtime.vault.hash(TOKEN), MASKED)
    assert (entry.station_id, entry.blocked) == (STATION, False)
    assert entry.valid_from == datetime(2026, 1, 31, 8, tzinfo=UTC)
    assert entry.valid_until == datetime(2026, 2, 1, 0, 0, 30, tzinfo=UTC)
    page = visitor.follow(answer)
    assert "The entry is in the list." in page
    assert f"{MASKED} {STATION} yes 2026-01-31 08:00:00 2026-02-01 00:00:30" in words(page)


def test_left_empty_it_is_for_every_station_and_for_ever(visitor: Visitor) -> None:
    page = visitor.follow(visitor.post("/access-list", driver_token="*", station="", valid_from="", blocked="true"))

    (entry,) = entries(visitor.runtime)
    assert (entry.token_hash, entry.station_id, entry.blocked) == (ANY, ANY, True)
    assert "every driver every station blocked" in words(page)


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "short token": ({"driver_token": "too-short-to-be-one"}, "Must be 20 to 80 characters"),
    "no token": ({"driver_token": ""}, "Must be 20 to 80 characters"),
    "odd token": ({"driver_token": "driver token with spaces"}, "Must be 20 to 80 characters"),
    "no UUID": ({"driver_token": TOKEN, "station": "x"}, "Must be a valid UUID"),
    "no time in UTC": ({"driver_token": TOKEN, "valid_from": "0001-01-01T00:00+23:59"}, "Must be a date and time"),
    "no time": ({"driver_token": TOKEN, "valid_from": "noon"}, "Must be a date and time"),
    "empty window": (
        {"driver_token": TOKEN, "valid_from": "2026-01-02T00:00", "valid_until": "2026-01-01T00:00"},
        "Must be later than its beginning",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_form_comes_back_with_what_to_mend_and_without_the_token(visitor: Visitor, case: str) -> None:
    fields, message = WRONG[case]

    answer = visitor.post("/access-list", **fields)

    assert answer.status_code == 400
    assert message in answer.text
    assert not fields["driver_token"] or fields["driver_token"] not in answer.text
    assert all(value in answer.text for name, value in fields.items() if name != "driver_token")
    assert entries(visitor.runtime) == []


def test_an_entry_is_changed_on_its_page(visitor: Visitor) -> None:
    put(visitor.runtime, TOKEN, station=STATION)
    (link,) = re.findall(r'href="(/access-list/entry[^"]*)"', visitor.get("/access-list").text)
    page = visitor.get(link.replace("&amp;", "&")).text

    answer = visitor.post(
        "/access-list/entry",
        driver=hidden(page, "driver"),
        station=hidden(page, "station"),
        blocked="true",
        valid_until="2026-03-01T00:00",
    )

    (entry,) = entries(visitor.runtime)
    assert (entry.token_masked, entry.station_id, entry.blocked) == (MASKED, STATION, True)
    assert entry.valid_until == datetime(2026, 3, 1, tzinfo=UTC)
    assert "The entry was changed." in visitor.follow(answer)


def test_a_wrong_change_changes_nothing(visitor: Visitor) -> None:
    put(visitor.runtime, TOKEN)

    answer = visitor.post("/access-list/entry", **of_token(visitor.runtime), blocked="true", valid_until="never")

    assert answer.status_code == 400
    assert "Must be a date and time" in answer.text
    assert entries(visitor.runtime)[0].blocked is False


def test_an_entry_is_removed_and_no_other(visitor: Visitor) -> None:
    put(visitor.runtime, TOKEN)
    put(visitor.runtime, TOKEN, station=STATION)

    page = visitor.follow(visitor.post("/access-list/removal", **of_token(visitor.runtime, STATION)))

    assert [each.station_id for each in entries(visitor.runtime)] == [ANY]
    assert "The entry was removed." in page


@pytest.mark.parametrize("path", ["/access-list/entry", "/access-list/removal"])
def test_what_is_not_there_cannot_be_changed(visitor: Visitor, path: str) -> None:
    assert visitor.post(path, **of_token(visitor.runtime)).status_code == 404
    assert visitor.post(path, driver="x", station="*").status_code == 400
    assert entries(visitor.runtime) == []


def test_a_driver_is_found_by_token_which_is_in_no_address(visitor: Visitor) -> None:
    put(visitor.runtime, TOKEN, "another-driver-token-of-the-console")

    answer = visitor.post("/access-list/search", driver_token=TOKEN)

    page = visitor.follow(answer)
    assert TOKEN not in str(answer.location)
    assert words(page).count("every station yes") == 1
    assert MASKED in page


def test_a_driver_who_is_not_listed_and_one_who_cannot_be(visitor: Visitor) -> None:
    assert "There are none of this driver." in visitor.follow(visitor.post("/access-list/search", driver_token=TOKEN))
    refused = visitor.post("/access-list/search", driver_token="?")
    assert (refused.status_code, "Must be 20 to 80" in refused.text) == (400, True)


def test_pages_follow_each_other_without_a_gap(visitor: Visitor) -> None:
    put(visitor.runtime, *(f"driver-token-of-the-console-{number}" for number in range(120)))
    path, seen = "/access-list", list[str]()
    while path:
        page = visitor.get(path).text
        seen += re.findall(
            r"driver=([0-9a-f]{64})&", page.replace("&amp;", "&").partition("<h2>Add")[0].partition("Next")[0]
        )
        following = re.search(r'href="([^"]*)">Next ones', page)
        path = following[1].replace("&amp;", "&") if following else ""
    shown = [each for each in seen if each]

    assert sorted(set(shown)) == sorted(each.token_hash for each in entries(visitor.runtime))


def test_an_operator_looks_and_changes_nothing(runtime: Runtime) -> None:
    put(runtime, TOKEN)
    operator = Visitor(runtime, Scope.OPERATE)

    page = operator.get("/access-list").text
    codes = [
        operator.post(path, **of_token(runtime), driver_token=TOKEN, blocked="true").status_code
        for path in ("/access-list", "/access-list/entry", "/access-list/removal")
    ]

    assert MASKED in page
    assert "log in with a key that has the scope <code>admin</code>" in page
    assert "/access-list/entry" not in page
    assert codes == [403, 403, 403]
    assert [each.blocked for each in entries(runtime)] == [False]


def test_every_change_is_one_line_in_the_log_and_none_has_the_token(visitor: Visitor) -> None:
    with capture_logs() as lines:
        visitor.post("/access-list", driver_token=TOKEN)
        visitor.post("/access-list/search", driver_token=TOKEN)
        visitor.post("/access-list/entry", **of_token(visitor.runtime), blocked="true")
        visitor.post("/access-list/removal", **of_token(visitor.runtime))

    told: list[dict[str, Any]] = [dict(each) for each in lines]
    assert [each["action"] for each in told] == [f"access_list_entry_{how}" for how in ("added", "changed", "removed")]
    assert all((each["key_name"], each["driver"]) == ("key of staff", MASKED) for each in told)
    assert TOKEN not in str(told)


def test_where_another_service_decides_the_page_says_so(tmp_path: Path) -> None:
    with new_runtime(tmp_path, authorization_service_url="http://127.0.0.1:9/") as runtime:
        assert "This list is not asked" in Visitor(runtime).get("/access-list").text


def test_forms_of_another_session_change_nothing(visitor: Visitor) -> None:
    for path in ("/access-list", "/access-list/search", "/access-list/entry", "/access-list/removal"):
        assert visitor.post(path, token="", driver_token=TOKEN, driver="*", station="*").status_code == 403
    assert entries(visitor.runtime) == []
