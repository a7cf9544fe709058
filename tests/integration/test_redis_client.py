"""Which URLs connect to which Redis, and what is said where one does not answer."""

from pathlib import Path

import pytest
import redis
from cli_support import data_dir, tables
from redis.sentinel import MasterNotFoundError
from support.certificates import Authority
from support.ports import free_port
from support.redis_elsewhere import PASSWORD, Watched, plain_server, tls_server
from test_cli_doctor import check

from chargeapp.errors import MisconfiguredError
from chargeapp.transport.redis_client import WORKER_RETRIES, connect, connect_worker

__all__ = ["data_dir", "tables"]


def doctor_says(url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("REDIS_URL", url)
    found = check("redis")
    assert PASSWORD not in str(found)
    return found


def test_a_wrong_password_is_told_as_that(tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with plain_server(tmp_path / "server", free_port()) as server:
        for credentials in ("", ":wrong@", "nobody:wrong@"):
            found = doctor_says(f"redis://{credentials}127.0.0.1:{server.port}", monkeypatch)

            assert found["advice"] == "correct the user and the password in REDIS_URL"


def test_a_certificate_of_somebody_else_is_told_as_that(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    with tls_server(tmp_path / "server", free_port(), authority) as server:
        at = f"rediss://chargeapp:{PASSWORD}@localhost:{server.port}"
        trusted = doctor_says(f"{at}?ssl_ca_certs={authority.certificate}", monkeypatch)
        distrusted = [doctor_says(url, monkeypatch) for url in (at, f"{at}?ssl_ca_certs={other.certificate}")]

    assert trusted["status"] == "ok"
    for each in distrusted:
        assert "CERTIFICATE_VERIFY_FAILED" in each["found"]
        assert "rediss://…?ssl_ca_certs=FILE" in each["advice"]


def test_an_authority_that_is_no_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match=r"REDIS_URL: ssl_ca_certs: /nowhere\.crt is no file"):
        connect("rediss://localhost:6379/0?ssl_ca_certs=/nowhere.crt")


def test_sentinels_without_a_master_are_told_as_that(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Watched(tmp_path, free_port) as watched:
        working = doctor_says(watched.url, monkeypatch)
        unknown = doctor_says(watched.url.replace("/chargeapp/", "/other/"), monkeypatch)
        wrong = doctor_says(watched.url.replace(PASSWORD, "wrong"), monkeypatch)
    nobody = doctor_says(watched.url, monkeypatch)

    assert working["found"].startswith("master chargeapp, version ")
    for each, name in ((unknown, "other"), (nobody, "chargeapp")):
        assert f"No Sentinel of {watched.hosts.replace(',', ', ')} names a master '{name}' that works" in each["found"]
        assert "SENTINEL MASTERS" in each["advice"]
    assert wrong["advice"] == "correct the user and the password in REDIS_URL"


@pytest.mark.parametrize("url", ["redis+sentinel://host:26379", "redis+sentinel://host:26379/", "redis+sentinel:///x"])
def test_a_url_of_sentinels_needs_hosts_and_a_service(url: str) -> None:
    with pytest.raises(MisconfiguredError, match=r"REDIS_URL: Must be such as redis\+sentinel://"):
        connect(url)


def test_every_part_of_a_url_of_sentinels_is_used(tmp_path: Path) -> None:
    authority = Authority(tmp_path).certificate
    url = (
        "rediss+sentinel://user:p%40ss@one,[::1]:5000/service/3"
        f"?ssl_ca_certs={authority}&sentinel_username=watcher&sentinel_password=word"
    )

    pool = connect(url).connection_pool
    options = pool.connection_kwargs
    sentinels = pool.sentinel_manager.sentinels  # type: ignore[attr-defined]
    asked = [each.connection_pool.connection_kwargs for each in sentinels]

    assert (options["username"], options["password"], options["db"]) == ("user", "p@ss", 3)
    assert [(each["host"], each["port"]) for each in asked] == [("one", 26379), ("::1", 5000)]
    assert {(each["username"], each["password"], each["ssl_ca_certs"]) for each in asked} == {
        ("watcher", "word", str(authority))
    }
    assert options["ssl_ca_certs"] == str(authority)
    assert "SSL" in pool.connection_class.__name__


def test_only_the_worker_repeats_what_it_asks() -> None:
    for url in ("redis://127.0.0.1:1", "unix:///nowhere.sock", "redis+sentinel://127.0.0.1:1/chargeapp"):
        retries = [client.connection_pool.connection_kwargs["retry"] for client in (connect(url), connect_worker(url))]

        assert [each.get_retries() for each in retries] == [0, WORKER_RETRIES]


def test_a_master_that_is_away_is_an_error_of_redis() -> None:
    with connect("redis+sentinel://127.0.0.1:1/chargeapp") as client, pytest.raises(MasterNotFoundError):
        client.ping()
    assert issubclass(MasterNotFoundError, redis.ConnectionError)
