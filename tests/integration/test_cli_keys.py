"""`chargeapp keys`: shown once, listed without secrets, revoked at once; and what doctor says about them."""

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cli_support import Ended, chargeapp, data_dir, now, tables

from chargeapp.app import create_app
from chargeapp.config import load_settings
from chargeapp.security.secrets_file import new_secrets

__all__ = ["data_dir", "tables"]

API = "/api/v1/charging-session"


def create(*arguments: str) -> str:
    ended = chargeapp("keys", "create", *arguments)
    assert ended.status == 0, ended.err
    return ended.out.strip()


def listed() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(chargeapp("keys", "list", "--json").out)
    return found


def status(key: str, path: str = API) -> int:
    return create_app(load_settings()).test_client().get(path, headers={"Authorization": f"Bearer {key}"}).status_code


def check() -> dict[str, str]:
    checks = json.loads(chargeapp("doctor", "--json").out)["checks"]
    return next(each for each in checks if each["check"] == "API keys")


def test_a_new_key_is_all_there_is_on_standard_output_and_lets_in(tables: Path) -> None:
    ended = chargeapp("keys", "create", "--name", "roaming hub")

    assert re.fullmatch(r"cak_[0-9a-f]{12}_[A-Za-z0-9_-]{43}\n", ended.out)
    assert ended.err == (
        "This key of roaming hub is good for submit and read, until it is revoked. Keep it: it is not shown again.\n"
    )
    assert status(ended.out.strip()) == 200


def test_a_key_is_never_shown_again(tables: Path) -> None:
    key = create("--name", "hub")
    shown = [chargeapp("keys", "list"), chargeapp("keys", "list", "--json"), chargeapp("keys", "revoke", key[4:16])]

    assert all(each.status == 0 for each in shown)
    assert all(key[17:] not in each.out + each.err for each in shown)


def test_the_list_tells_everything_else(tables: Path) -> None:
    key = create(
        *("--name", "second key", "--caller", "hub", "--scope", "operate", "--scope", "submit", "--expires-in", "90d"),
        *("--callback-host", "Hooks.Example.com", "--callback-host", "*.hub.example"),
    )
    [found] = listed()

    assert found | {"createdAt": "", "expiresAt": ""} == {
        "id": key[4:16],
        "name": "second key",
        "caller": "hub",
        "scopes": ["submit", "operate"],
        "callbackHosts": ["hooks.example.com", "*.hub.example"],
        "state": "usable",
        "createdAt": "",
        "expiresAt": "",
        "revokedAt": None,
    }
    expires_in = datetime.fromisoformat(found["expiresAt"]) - datetime.fromisoformat(found["createdAt"])
    assert timedelta(days=89, hours=23) < expires_in <= timedelta(days=90)


def test_the_list_for_people_has_a_line_for_each(tables: Path) -> None:
    assert chargeapp("keys", "list").out == "There are no keys yet. Make one: chargeapp keys create --name NAME\n"
    first, second = create("--name", "first"), create("--name", "second", "--expires-in", "2099-01-31")

    lines = chargeapp("keys", "list").out.splitlines()
    assert lines[0].split()[:3] == ["ID", "NAME", "CALLER"]
    assert [line.split()[:3] for line in lines[1:]] == [
        [first[4:16], "first", "first"],
        [second[4:16], "second", "second"],
    ]
    assert "2099-01-31T00:00:00Z" in lines[2]
    assert "submit, read" in lines[1]


def test_a_revoked_key_lets_nobody_in_and_stays_in_the_list(tables: Path) -> None:
    key, other = create("--name", "leaked"), create("--name", "other")
    client = create_app(load_settings()).test_client()
    headers = {"Authorization": f"Bearer {key}"}
    before = client.get(API, headers=headers).status_code

    ended = chargeapp("keys", "revoke", key[4:16])

    assert (before, client.get(API, headers=headers).status_code, status(other)) == (200, 401, 200)
    assert re.fullmatch(r"Revoked since \S+Z: leaked, of leaked\.\n", ended.out)
    assert [each["state"] for each in listed()] == ["revoked", "usable"]


def test_revoking_twice_changes_nothing(tables: Path) -> None:
    key = create("--name", "leaked")
    chargeapp("keys", "revoke", key[4:16])
    first = listed()

    assert chargeapp("keys", "revoke", key[4:16]).status == 0
    assert listed() == first


def test_revoking_what_does_not_exist_is_one_line(tables: Path) -> None:
    ended = chargeapp("keys", "revoke", "0123456789ab")

    assert (ended.status, ended.out) == (1, "")
    assert ended.err == "chargeapp: There is no key with this id. See: chargeapp keys list\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--name", ""],
        ["--name", "   "],
        ["--name", "a" * 81],
        ["--name", "hub\x1b[31m"],
        ["--name", "two\nlines"],
        ["--name", "hub", "--caller", ""],
        ["--name", "hub", "--scope", "everything"],
        ["--name", "hub", "--expires-in", "0"],
        ["--name", "hub", "--expires-in", "soon"],
        ["--name", "hub", "--expires-in", "2020-01-31"],
        ["--name", "hub", "--expires-in", "999999999d"],
        ["--name", "hub", "--callback-host", "https://hooks.example.com"],
        ["--name", "hub", "--callback-host", "hooks.example.com:8443"],
        ["--name", "hub", "--callback-host", "*"],
    ],
)
def test_a_mistake_makes_no_key(tables: Path, arguments: list[str]) -> None:
    ended = chargeapp("keys", "create", *arguments)

    assert (ended.status, ended.out) == (2, "")
    assert "Error: " in ended.err
    assert listed() == []


@pytest.mark.parametrize("command", [["keys", "list"], ["keys", "create", "--name", "hub"], ["keys", "revoke", "1"]])
def test_missing_tables_are_said_in_one_line(data_dir: Path, command: list[str]) -> None:
    ended: Ended = chargeapp(*command)

    assert ended.status == 1
    assert ended.err.endswith("Make it: chargeapp db upgrade\n")


def test_doctor_finds_no_fault_without_keys_where_only_this_machine_can_call(tables: Path) -> None:
    assert check()["status"] == "ok"
    assert "none: whoever reaches 127.0.0.1 may do everything" in check()["found"]


@pytest.mark.parametrize(("name", "value"), [("CHARGEAPP_ENV", "production"), ("HOST", "0.0.0.0")])
def test_doctor_fails_without_keys_where_others_can_call(
    tables: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for secret in new_secrets().items():
        monkeypatch.setenv(*secret)
    monkeypatch.setenv(name, value)
    without = check()
    create("--name", "hub")
    with_key = check()

    assert (without["status"], with_key["status"]) == ("fail", "ok")
    assert without["advice"] == "chargeapp keys create --name NAME"
    assert with_key["found"] == "1 usable"


def test_doctor_warns_of_keys_that_expire_within_a_week(tables: Path) -> None:
    create("--name", "later", "--expires-in", "8d")
    before = check()
    key = create("--name", "soon", "--expires-in", (now() + timedelta(days=6)).isoformat())

    found = check()

    assert before["status"] == "ok"
    assert (found["status"], found["found"]) == (
        "warn",
        f"2 usable, but expiring within 7 days: soon ({key[4:16]})",
    )
    assert found["advice"]


def test_doctor_tells_that_nobody_gets_in_any_more(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chargeapp("keys", "revoke", create("--name", "hub")[4:16])
    in_development = check()
    monkeypatch.setenv("CHARGEAPP_ENV", "production")
    in_production = check()

    assert (in_development["status"], in_production["status"]) == ("warn", "fail")
    assert in_production["found"] == "none of 1 is usable: nobody gets in"
