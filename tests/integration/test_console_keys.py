"""The page of the API keys: a key is shown once, and nowhere else; a form sent twice makes one."""

import re
from datetime import UTC, timedelta

import pytest
from structlog.testing import capture_logs
from support.callers import API, bearer, open_api
from support.console import BROWSER, Visitor, hidden, words

from chargeapp.clock import utcnow
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope, take_apart
from chargeapp.services.api_keys import list_keys
from chargeapp.storage.models import ApiKey

KEY = re.compile(r"cak_[0-9a-f]{12}_[A-Za-z0-9_-]{43}")


def all_keys(runtime: Runtime) -> list[ApiKey]:
    with runtime.database.reading() as session:
        return list_keys(session)


def form(visitor: Visitor, **fields: str | list[str]) -> dict[str, str | list[str]]:
    return {"name": "hub", "scope": ["submit", "read"], "latest": visitor.hidden("/keys", "latest"), **fields}


def test_a_key_is_made_as_the_form_says_and_lets_its_caller_in(visitor: Visitor) -> None:
    expires = utcnow().replace(second=0, microsecond=0) + timedelta(days=90)
    fields = form(
        visitor,
        name="hub, second key",
        caller="hub",
        scope=["read"],
        expires_at=f"{expires:%Y-%m-%dT%H:%M}",
        hosts="hooks.example.com, *.Hub.example.com",
    )

    page = visitor.post("/keys", **fields).text

    (key,) = KEY.findall(page)
    made = all_keys(visitor.runtime)[-1]
    assert (made.name, made.caller, made.scopes) == ("hub, second key", "hub", "read")
    assert made.expires_at == expires.astimezone(UTC)
    assert made.callback_hosts.split() == ["hooks.example.com", "*.hub.example.com"]
    assert open_api(visitor.runtime).get(API, headers=bearer(key)).status_code == 200


def test_the_key_is_shown_once_and_kept_nowhere(visitor: Visitor) -> None:
    with capture_logs() as lines:
        answer = visitor.post("/keys", **form(visitor))

    (key,) = KEY.findall(answer.text)
    secret = key[17:]
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in answer.headers
    assert answer.location is None
    assert secret not in str(lines)
    assert secret not in visitor.get("/keys").text
    assert secret.encode() not in b"".join(
        path.read_bytes() for path in visitor.runtime.settings.chargeapp_data_dir.glob("chargeapp.db*")
    )


def test_a_form_sent_twice_makes_one_key(visitor: Visitor) -> None:
    fields = form(visitor)
    visitor.post("/keys", **fields)

    again = visitor.post("/keys", **fields)

    assert again.status_code == 400
    assert "A key was made since this page was loaded" in again.text
    assert not KEY.search(again.text)
    assert [each.name for each in all_keys(visitor.runtime)] == ["key of staff", "hub"]


WRONG: dict[str, tuple[dict[str, str | list[str]], str]] = {
    "no name": ({"name": "  "}, "Give it a name."),
    "long name": ({"name": "x" * 81}, "Must have 1 to 80 printable characters."),
    "odd caller": ({"caller": "a\x07b"}, "Must have 1 to 80 printable characters."),
    "no scope": ({"scope": []}, "Choose at least one."),
    "unknown scope": ({"scope": ["read", "rule"]}, "Unknown scope."),
    "no time at all in UTC": ({"expires_at": "9999-12-31T23:59-23:59"}, "Must be a date and time"),
    "past": ({"expires_at": "2020-01-01T00:00"}, "Must lie in the future."),
    "no time": ({"expires_at": "soon"}, "Must be a date and time"),
    "no host": ({"hosts": "https://hub.example.com/x"}, "is no host"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_form_comes_back_with_what_to_mend(visitor: Visitor, case: str) -> None:
    fields, message = WRONG[case]

    answer = visitor.post("/keys", **form(visitor, **fields))

    assert answer.status_code == 400
    assert message in words(answer.text)
    assert len(all_keys(visitor.runtime)) == 1


def test_a_revoked_key_lets_nobody_in(visitor: Visitor) -> None:
    (key,) = KEY.findall(visitor.post("/keys", **form(visitor)).text)
    parts = take_apart(key)
    assert parts

    page = visitor.follow(visitor.post("/keys/revocation", id=parts.id))

    assert "Revoked: hub." in page
    assert open_api(visitor.runtime).get(API, headers=bearer(key)).status_code == 401


def test_revoking_one_s_own_key_logs_out(visitor: Visitor) -> None:
    assert "Revoke and log out" in visitor.get("/keys").text

    visitor.post("/keys/revocation", id=visitor.key.split("_")[1])

    assert visitor.get("/keys").location == "/login?ended=1"


def test_there_is_nothing_to_revoke_where_there_is_no_key(visitor: Visitor) -> None:
    assert visitor.post("/keys/revocation", id="000000000000").status_code == 404


def test_an_operator_cannot_make_itself_an_admin(runtime: Runtime) -> None:
    Visitor(runtime)
    operator = Visitor(runtime, Scope.OPERATE)

    page = operator.get("/keys").text
    made = operator.post("/keys", name="me", scope="admin", latest="")
    revoked = operator.post("/keys/revocation", id=all_keys(runtime)[0].id)

    assert '<form method="post" action="/keys' not in page
    assert (made.status_code, revoked.status_code) == (403, 403)
    assert [each.revoked_at for each in all_keys(runtime)] == [None, None]


def test_the_first_key_is_made_in_the_open_console_and_closes_it(runtime: Runtime) -> None:
    client = open_api(runtime)
    page = client.get("/keys", headers=BROWSER).text
    fields = {"form_token": hidden(page, "form_token"), "latest": "", "name": "chief", "scope": "admin"}

    made = client.post("/keys", headers=BROWSER, data=fields)

    assert "There are no keys yet" in page
    (key,) = KEY.findall(made.text)
    assert client.get("/keys", headers=BROWSER).location == "/login"
    assert client.post("/login", headers=BROWSER, data={"key": key}).location == "/"


def test_making_and_revoking_are_one_line_each_in_the_log(visitor: Visitor) -> None:
    with capture_logs() as lines:
        (key,) = KEY.findall(visitor.post("/keys", **form(visitor)).text)
        visitor.post("/keys/revocation", id=key[4:16])

    assert [(each["action"], each["key_name"], each["name"]) for each in lines] == [
        ("api_key_made", "key of staff", "hub"),
        ("api_key_revoked", "key of staff", "hub"),
    ]


def test_forms_of_another_session_change_nothing(visitor: Visitor) -> None:
    own = visitor.key.split("_")[1]

    assert visitor.post("/keys", token="", **form(visitor)).status_code == 403
    assert visitor.post("/keys/revocation", token="", id=own).status_code == 403
    assert [(each.id, each.revoked_at) for each in all_keys(visitor.runtime)] == [(own, None)]
