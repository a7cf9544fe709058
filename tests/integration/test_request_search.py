"""The list of requests: what it finds, in which order, and that a whole token gets into no address."""

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask.testing import FlaskClient
from sqlalchemy import update
from support.builders import STATION, TOKEN, accept, change, seconds
from support.callers import api_of, bearer, make_key
from werkzeug.test import TestResponse

from chargeapp.clock import utcnow
from chargeapp.request_search import Driver, Search, find_requests
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope
from chargeapp.security.driver_tokens import mask
from chargeapp.storage.models import SessionRequest

HTML = {"Accept": "text/html"}
ELSEWHERE = "00000000-0000-4000-8000-000000000000"
ALIKE = "DRIVER-TOKEN-ANOTHER-6789"
NOW = (utcnow() - seconds(3600)).replace(second=0, microsecond=0)


def request_of(runtime: Runtime, at: datetime = NOW, token: str = TOKEN, station: str = STATION, **values: Any) -> str:
    vault = runtime.vault
    (id_,) = accept(
        runtime.database, now=at, token_hash=vault.hash(token), token_masked=mask(token), station_id=station
    )
    if values:
        statement = update(SessionRequest).where(SessionRequest.id == id_).values(**values)
        change(runtime.database, lambda session: session.execute(statement))
    return id_


def found(answer: TestResponse) -> list[str]:
    """The ids of the rows, from the top."""
    assert answer.status_code == 200
    return re.findall(r'<tr id="(req-[0-9a-f]{32})"', answer.text)


def search(client: FlaskClient, **fields: str) -> TestResponse:
    """As a browser does: the form is posted, and its answer followed."""
    page = client.get("/requests", headers=HTML).text
    token = re.search(r'name="form_token" value="([0-9a-f]{64})"', page)
    assert token
    return client.post(
        "/requests", data={**fields, "form_token": token[1]}, headers=HTML | {"Sec-Fetch-Site": "same-origin"}
    )


def test_the_newest_come_first_and_each_page_goes_on_where_the_last_one_ended(
    console: tuple[Runtime, FlaskClient],
) -> None:
    runtime, client = console
    ids = [request_of(runtime, NOW + seconds(number)) for number in range(120)]
    shown: list[str] = []

    address: str | None = "/requests"
    while address:
        answer = client.get(address)
        shown += found(answer)
        # A request that arrives meanwhile moves nothing.
        request_of(runtime, NOW + seconds(500))
        link = re.search(r'href="([^"]*before[^"]*)" rel="next"', answer.text)
        address = link[1].replace("&amp;", "&") if link else None

    assert shown == ids[::-1]


def test_each_filter_finds_its_own(console: tuple[Runtime, FlaskClient]) -> None:
    runtime, client = console
    day = timedelta(days=1)
    plain = request_of(runtime, NOW - day)
    elsewhere = request_of(runtime, NOW - day + seconds(60), station=ELSEWHERE)
    another = request_of(runtime, NOW, token="another-driver-token-0002")
    failed = request_of(runtime, NOW + seconds(60), state="failed", decision="not_allowed")
    unknown = request_of(runtime, NOW + seconds(120), state="delivered", decision="unknown")
    moment = (NOW + seconds(60)).strftime("%Y-%m-%dT%H:%M")
    expected = {
        "": [unknown, failed, another, elsewhere, plain],
        f"request={failed}": [failed],
        f"request={failed[:16]}": [failed],
        f"request={failed[:16]}&state=delivered": [],
        f"station={ELSEWHERE}": [elsewhere],
        f"station={ELSEWHERE.replace('-', '').upper()}": [elsewhere],
        "driver=anot*0002": [another],
        "driver=anot…0002": [another],
        "state=failed": [failed],
        "state=accepted": [another, elsewhere, plain],
        "decision=not_allowed": [failed],
        "decision=unknown": [unknown],
        "decision=unknown&state=failed": [],
        f"state=accepted&station={STATION}": [another, plain],
        f"driver=DRIV*6789&station={STATION}&decision=unknown&state=delivered": [unknown],
        f"since={moment}": [unknown, failed],
        f"until={moment}": [another, elsewhere, plain],
        f"until={NOW - day + seconds(240):%Y-%m-%dT%H:%M}": [elsewhere, plain],
        f"until={NOW - day + seconds(240):%Y-%m-%dT%H:%M}&station={STATION}&state=": [plain],
    }

    for query, ids in expected.items():
        assert found(client.get(f"/requests?{query}")) == ids, query


def test_a_whole_token_that_is_typed_finds_its_driver_and_is_in_no_address(
    console: tuple[Runtime, FlaskClient], capsys: pytest.CaptureFixture[str]
) -> None:
    runtime, client = console
    mine = request_of(runtime)
    alike = request_of(runtime, token=ALIKE)
    assert mask(ALIKE) == mask(TOKEN)

    answer = search(client, driver=f" {TOKEN} ")
    followed = client.get(answer.location, headers=HTML)

    assert answer.status_code == 303
    asked = parse_qs(urlsplit(answer.location).query)
    assert asked == {"driver": [f"DRIV…6789~{runtime.vault.hash(TOKEN)[:16]}"]}
    assert found(followed) == [mine]
    assert set(found(client.get("/requests?driver=DRIV*6789"))) == {mine, alike}
    everything = answer.location + answer.text + followed.text + str(answer.headers) + "".join(capsys.readouterr())
    assert TOKEN not in everything


def test_a_whole_token_in_an_address_is_refused_and_not_repeated(console: tuple[Runtime, FlaskClient]) -> None:
    runtime, client = console
    request_of(runtime)

    answer = client.get(f"/requests?driver={TOKEN}", headers=HTML)

    assert answer.status_code == 400
    assert "masked one such as" in answer.text
    assert TOKEN not in answer.text


def test_short_tokens_are_found_where_they_are_allowed(tmp_path: Path) -> None:
    with api_of(tmp_path, driver_token_min_length=4) as (runtime, client):
        mine = request_of(runtime, token="A1B2C3D4")
        request_of(runtime, token="FFFFFFD4")

        answer = search(client, driver="A1B2C3D4")

        assert "A1B2C3D4" not in answer.location
        assert found(client.get(answer.location)) == [mine]


WRONG = {
    "request": ["x", "req-XYZ", "req-" + "0" * 33],
    "station": ["x", "123"],
    "driver": ["short", "<script>alert(1)</script>", "DRIV…6789~123"],
    "state": ["gone"],
    "decision": ["perhaps"],
    "since": ["yesterday", "2026-13-01T00:00"],
    "until": ["2026-01-01"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in WRONG.items() for text in texts])
def test_what_cannot_be_looked_for_is_said_beside_its_field(
    console: tuple[Runtime, FlaskClient], name: str, text: str
) -> None:
    _, client = console
    for answer in (search(client, **{name: text}), client.get("/requests", query_string={name: text}, headers=HTML)):
        assert answer.status_code == 400
        assert 'role="alert"' in answer.text
        assert re.search(rf'id="{name}"[^>]* aria-invalid="true" aria-describedby="{name}-wrong"', answer.text)
        assert f'id="{name}-wrong"' in answer.text
        assert "<script>alert" not in answer.text


def test_the_form_shows_what_was_searched_for(console: tuple[Runtime, FlaskClient]) -> None:
    _, client = console

    page = client.get(f"/requests?station={STATION}&state=failed&driver=DRIV*6789&since=2026-01-02T03:04").text

    assert f'value="{STATION}"' in page
    assert '<option value="failed" selected>' in page
    assert 'value="DRIV…6789"' in page
    assert 'value="2026-01-02T03:04"' in page
    assert "There are none." in page


def test_a_form_of_another_site_searches_for_nothing(console: tuple[Runtime, FlaskClient]) -> None:
    _, client = console

    answer = client.post("/requests", data={"driver": TOKEN}, headers=HTML | {"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 403


def test_a_key_needs_no_form_token(console: tuple[Runtime, FlaskClient]) -> None:
    runtime, client = console

    answer = client.post("/requests", data={"state": "failed"}, headers=bearer(make_key(runtime, Scope.OPERATE)))

    assert (answer.status_code, answer.location) == (303, "/requests?state=failed")


def test_a_look_that_finds_little_ends_in_time_and_can_be_gone_on_with(console: tuple[Runtime, FlaskClient]) -> None:
    runtime, _ = console
    wanted = Search(state="delivered", decision="not_allowed")
    rare = request_of(runtime, NOW, state="delivered", decision="not_allowed")
    for number in range(25):
        request_of(runtime, NOW + seconds(number + 1), state="delivered", decision="allowed")
    looks = []
    before: str | None = None

    while True:
        with runtime.database.reading() as session:
            look = find_requests(session, wanted, before, limit=5, looked_through=10)
        looks.append((len(look.requests), look.cut_short))
        if not look.older:
            break
        before = look.older

    assert looks == [(0, True), (0, True), (1, False)]
    assert [each.id for each in look.requests] == [rare]


def test_a_page_that_is_full_is_no_cut_look(console: tuple[Runtime, FlaskClient]) -> None:
    runtime, _ = console
    ids = [request_of(runtime, NOW + seconds(number), decision="allowed") for number in range(12)]

    pages = []
    before: str | None = None
    while not pages or before:
        with runtime.database.reading() as session:
            look = find_requests(session, Search(decision="allowed"), before, limit=5, looked_through=100)
        pages.append([each.id for each in look.requests])
        assert not look.cut_short
        before = look.older

    assert pages == [ids[:6:-1], ids[6:1:-1], ids[1::-1]]


def test_a_driver_is_written_as_it_is_read() -> None:
    assert str(Driver("DRIV…6789")) == "DRIV…6789"
    assert str(Driver("DRIV…6789", "0123456789abcdef")) == "DRIV…6789~0123456789abcdef"


def test_callers_are_told_apart_whatever_else_is_asked(console: tuple[Runtime, FlaskClient]) -> None:
    runtime, _ = console
    mine = request_of(runtime, caller="hub", state="failed")
    request_of(runtime, caller="fleet", state="failed")

    for wanted in (Search(caller="hub"), Search(caller="hub", state="failed"), Search(caller="hub", station=STATION)):
        with runtime.database.reading() as session:
            assert [each.id for each in find_requests(session, wanted).requests] == [mine]


def test_the_first_year_is_a_time_like_any_other(console: tuple[Runtime, FlaskClient]) -> None:
    runtime, client = console
    (request_id,) = (request_of(runtime),)

    assert found(client.get(str(search(client, since="0001-01-01T00:00").location))) == [request_id]
