"""Driver tokens are sealed anew under new keys, forgotten in time, and erased on demand."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import cli_support
import pytest
from cli_support import OTHER_STATION, STATION, chargeapp, data_dir, tables
from support.builders import (
    DELIVERED,
    NOW,
    TOKEN,
    VAULT,
    accept,
    attempt,
    change,
    decide,
    end,
    rows,
    seconds,
    the_request,
)

from chargeapp.config import load_settings
from chargeapp.domain.callback import Outcome
from chargeapp.reports import figures
from chargeapp.runtime import Runtime
from chargeapp.security.driver_tokens import TokenUnreadable, TokenVault, mask, new_key
from chargeapp.services.driver_tokens import erase_driver, reseal_driver_tokens
from chargeapp.services.redeliveries import RedeliveryRefused, redeliver
from chargeapp.services.retention import Retention, forget
from chargeapp.storage.database import Database
from chargeapp.storage.models import AccessListEntry, SessionRequest

__all__ = ["data_dir", "tables"]

RETENTION = Retention(requests=timedelta(days=30), driver_tokens=timedelta(hours=24))
DAY = timedelta(hours=24)
ANOTHER_TOKEN = "ANOTHER-DRIVER-TOKEN-98765"


@pytest.fixture
def runtime(tables: Path) -> Iterator[Runtime]:
    with cli_support.runtime() as built:
        yield built


def delivered(database: Database, token: str = TOKEN, callback_url: str = "https://caller.example/hook") -> str:
    sealed = {"token_sealed": VAULT.seal(token), "token_hash": VAULT.hash(token), "token_masked": mask(token)}
    [request_id] = accept(database, **sealed, callback_url=callback_url)
    decide(database)
    attempt(database, DELIVERED)
    end(database)
    return request_id


# Retention


def test_a_driver_token_is_erased_a_day_after_the_end_and_not_before(database: Database) -> None:
    request_id = delivered(database)
    assert change(database, lambda session: forget(session, RETENTION, NOW + DAY)).driver_tokens == 0
    kept = the_request(database, request_id).token_sealed

    forgotten = change(database, lambda session: forget(session, RETENTION, NOW + DAY + seconds(1)))

    assert kept is not None
    assert forgotten.driver_tokens == 1
    assert the_request(database, request_id).token_sealed is None


def test_the_token_of_a_request_that_has_not_ended_is_kept(database: Database) -> None:
    [request_id] = accept(database)

    assert not change(database, lambda session: forget(session, RETENTION, NOW + 10 * DAY)).driver_tokens
    assert the_request(database, request_id).token_sealed is not None


def test_retention_waits_for_a_callback_that_is_being_sent_again(database: Database) -> None:
    request_id = delivered(database)
    later = NOW + DAY - seconds(5)
    change(database, lambda session: redeliver(session, session.get_one(SessionRequest, request_id), 900, later))

    assert not change(database, lambda session: forget(session, RETENTION, later + seconds(10))).driver_tokens
    attempt(database, DELIVERED, later + seconds(11))
    end(database, later + seconds(12))
    assert change(database, lambda session: forget(session, RETENTION, later + seconds(13))).driver_tokens == 1


def test_an_erased_token_cannot_be_sent_again(database: Database) -> None:
    request_id = delivered(database)
    change(database, lambda session: forget(session, RETENTION, NOW + 2 * DAY))

    with pytest.raises(RedeliveryRefused, match="erased"), database.writing() as session:
        redeliver(session, session.get_one(SessionRequest, request_id), 900, NOW + 2 * DAY)


# New keys


def test_what_an_old_key_sealed_is_opened_and_sealed_anew_with_the_newest() -> None:
    old, new = new_key(), new_key()
    sealed = TokenVault([old], "hash").seal(TOKEN)

    resealed = TokenVault([new, old], "hash").resealed(sealed)

    assert resealed is not None
    assert TokenVault([new, old], "hash").open(sealed) == TokenVault([new], "hash").open(resealed) == TOKEN
    assert TokenVault([new], "hash").resealed(resealed) is None
    with pytest.raises(TokenUnreadable):
        TokenVault([new], "hash").resealed(sealed)


def test_resealing_goes_bite_by_bite_through_all_requests(database: Database) -> None:
    accept(database, 7)
    vault = TokenVault([new_key(), VAULT._keys[0]], "hash")
    after: str | None = ""
    bites = []
    while after is not None:
        bites.append(change(database, lambda session, after=after: reseal_driver_tokens(session, vault, after, 3)))
        after = bites[-1].last_id

    assert [each.resealed for each in bites] == [3, 3, 1, 0]
    newest_alone = TokenVault([vault._keys[0]], "hash")
    assert {newest_alone.open(each.token_sealed) for each in rows(database, SessionRequest)} == {TOKEN}


def test_the_command_seals_everything_with_the_newest_key(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    request_id = cli_support.end(runtime, Outcome.DELIVERED)
    secret = chargeapp("secrets", "rotate", "--overlap", "0").out.strip()
    old, new = runtime.secrets.driver_token_keys[0], new_key()

    monkeypatch.setenv("DRIVER_TOKEN_KEYS", f"{new},{old}")
    first = json.loads(chargeapp("tokens", "rotate", "--json").out)
    again = chargeapp("tokens", "rotate")

    monkeypatch.setenv("DRIVER_TOKEN_KEYS", new)
    alone = Runtime(load_settings())
    sealed = the_request(runtime.database, request_id).token_sealed
    newest = hashlib.sha256(new.encode()).hexdigest()[:12]
    assert first == {"stored": 2, "resealed": 2, "unreadable": 0, "newestKey": newest}
    assert again.out == f"0 of 2 sealed anew; the others were already. The newest key is {newest}.\n"
    assert alone.vault.open(sealed or b"") == cli_support.DRIVER
    assert secret.startswith("whsec_")
    assert json.loads(chargeapp("secrets", "list", "--json").out)[0]["kind"] == "symmetric"


def test_keys_in_the_secrets_file_rotate_too(runtime: Runtime, data_dir: Path) -> None:
    request_id = cli_support.end(runtime, Outcome.DELIVERED)
    file, new = data_dir / "secrets.json", new_key()
    content = json.loads(file.read_text())

    file.write_text(json.dumps(content | {"DRIVER_TOKEN_KEYS": f"{new},{content['DRIVER_TOKEN_KEYS']}"}))

    assert chargeapp("tokens", "rotate").out.startswith("1 of 1 sealed anew;")
    assert TokenVault([new], "").open(the_request(runtime.database, request_id).token_sealed or b"")


def test_a_missing_key_is_reported_and_nothing_is_lost(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    request_id = cli_support.end(runtime, Outcome.DELIVERED)
    before = the_request(runtime.database, request_id).token_sealed

    monkeypatch.setenv("DRIVER_TOKEN_KEYS", new_key())
    ended = chargeapp("tokens", "rotate")

    assert ended.status == 1
    assert "1 cannot be opened" in ended.err
    assert the_request(runtime.database, request_id).token_sealed == before


# One driver


def test_nothing_is_left_of_an_erased_driver_and_others_are_untouched(database: Database) -> None:
    mine = delivered(database, callback_url=f"https://caller.example/hook?driver={TOKEN}")
    other = delivered(database, ANOTHER_TOKEN)
    change(database, lambda session: session.add(entry(VAULT.hash(TOKEN))))
    change(database, lambda session: session.add(entry(VAULT.hash(ANOTHER_TOKEN))))

    erased = change(database, lambda session: erase_driver(session, TOKEN, VAULT.hash(TOKEN)))

    found, untouched = the_request(database, mine), the_request(database, other)
    assert asdict(erased) == {"requests": 1, "access_list_entries": 1, "under_way": 0, "over_by": None}
    assert (found.token_sealed, found.token_hash, found.token_masked) == (None, "erased", "erased")
    assert found.callback_url == "https://caller.example/hook?driver=erased"
    assert VAULT.open(untouched.token_sealed or b"") == ANOTHER_TOKEN
    assert [each.token_hash for each in rows_of_access_list(database)] == [VAULT.hash(ANOTHER_TOKEN)]


def test_statistics_and_timelines_survive_an_erasure(database: Database) -> None:
    delivered(database)
    with database.reading() as session:
        before = figures(session, NOW)

    change(database, lambda session: erase_driver(session, TOKEN, VAULT.hash(TOKEN)))

    with database.reading() as session:
        assert figures(session, NOW) == before


def test_a_request_under_way_keeps_its_token_until_its_callback_is_sent(database: Database) -> None:
    [request_id] = accept(database)

    def erase() -> tuple[int, int]:
        erased = change(database, lambda session: erase_driver(session, TOKEN, VAULT.hash(TOKEN)))
        return erased.requests, erased.under_way

    counts = [erase()]
    decide(database)
    counts.append(erase())
    [callback] = attempt(database, DELIVERED)
    counts.append(erase())
    end(database)
    counts.append(erase())
    change(database, lambda session: session.get_one(SessionRequest, request_id))

    assert VAULT.open(callback.token_sealed) == TOKEN
    assert counts == [(0, 1), (0, 1), (0, 1), (1, 0)]


def test_a_callback_being_sent_again_counts_as_under_way(database: Database) -> None:
    request_id = delivered(database)
    change(database, lambda session: redeliver(session, session.get_one(SessionRequest, request_id), 900, NOW))

    erased = change(database, lambda session: erase_driver(session, TOKEN, VAULT.hash(TOKEN)))

    assert (erased.requests, erased.under_way, erased.over_by) == (0, 1, NOW + seconds(900))


def test_the_command_erases_with_the_token_from_standard_input(runtime: Runtime) -> None:
    for station in (STATION, OTHER_STATION):
        cli_support.end(runtime, Outcome.DELIVERED, station=station)
    chargeapp("acl", "add", "-", given=cli_support.DRIVER)

    ended = chargeapp("tokens", "erase", "-", given=f"{cli_support.DRIVER}\n")

    shown = json.loads(chargeapp("requests", "list", "--json").out)
    assert ended.out == "Erased in 2 requests, and 1 access list entries.\n"
    assert ended.status == 0
    assert {each["driverToken"] for each in shown} == {"erased"}


def test_the_command_says_what_it_left_alone_and_fails(runtime: Runtime) -> None:
    cli_support.end(runtime, Outcome.DELIVERED, station=OTHER_STATION)
    cli_support.accept(runtime)

    ended = chargeapp("tokens", "erase", "-", "--json", given=cli_support.DRIVER)

    found = json.loads(ended.out)
    assert ended.status == 1
    assert (found["requests"], found["under_way"]) == (1, 1)
    assert "Run this again after 20" in ended.err
    assert cli_support.DRIVER not in ended.out + ended.err


def test_the_command_does_not_erase_everybody(tables: Path) -> None:
    assert chargeapp("tokens", "erase", "*").status == 1


def test_erased_bytes_do_not_stay_in_the_files_of_the_database(runtime: Runtime, data_dir: Path) -> None:
    request_id = cli_support.end(runtime, Outcome.DELIVERED)
    before = the_request(runtime.database, request_id)
    traces = [before.token_sealed or b"", before.token_hash.encode(), before.token_masked.encode()]
    runtime.database.checkpoint()
    assert all(trace in (data_dir / "chargeapp.db").read_bytes() for trace in traces)

    assert chargeapp("tokens", "erase", "-", given=cli_support.DRIVER).status == 0
    runtime.database.close()

    left = b"".join(file.read_bytes() for file in data_dir.glob("chargeapp.db*"))
    assert [trace for trace in traces if trace in left] == []


def entry(token_hash: str) -> AccessListEntry:
    return AccessListEntry(token_hash=token_hash, station_id="*", token_masked="DRIV…6789", created_at=NOW)


def rows_of_access_list(database: Database) -> list[AccessListEntry]:
    with database.reading() as session:
        return list(session.query(AccessListEntry).all())
