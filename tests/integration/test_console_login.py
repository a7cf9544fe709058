"""Logging in to the console: what the cookie is good for, how long, and which forms are heeded."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from support.builders import accept, attempt, decide, end, facts
from support.callers import API, api_of, bearer, make_expired_key, make_key, open_api, revoke
from werkzeug.test import TestResponse

from chargeapp import clock
from chargeapp.domain.charging_session import Event
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope, new_key
from chargeapp.security.console_sessions import form_token, hash_of
from chargeapp.services.console_sessions import LONGEST, LONGEST_IDLE
from chargeapp.storage.database import Database
from chargeapp.storage.models import ConsoleSession
from chargeapp.web.rate_limits import FAILED_ATTEMPTS

SUBMIT, READ, OPERATE, ADMIN = Scope
BROWSER = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Site": "same-origin"}
ATTEMPTS = int(FAILED_ATTEMPTS.partition("/")[0])
MINUTE = timedelta(minutes=1)


class Clock:
    """What time the web process believes it is."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return clock.utcnow() + self.ahead


class Browser:
    """Sends what browsers send, to one process of the API."""

    def __init__(self, runtime: Runtime, scheme: str = "http") -> None:
        self.runtime = runtime
        self.client: FlaskClient = open_api(runtime)
        self._base = f"{scheme}://localhost"

    def get(self, path: str, **headers: str) -> TestResponse:
        return self.client.get(path, base_url=self._base, headers=BROWSER | headers)

    def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> TestResponse:
        return self.client.post(path, base_url=self._base, headers=BROWSER if headers is None else headers, data=fields)

    def log_in(self, key: str | None = None) -> TestResponse:
        return self.post("/login", key=key or make_key(self.runtime, OPERATE, caller="staff"))

    @property
    def session_id(self) -> str:
        for name in ("chargeapp", "__Host-chargeapp"):
            if cookie := self.client.get_cookie(name):
                return cookie.value
        return ""

    @property
    def form_token(self) -> str:
        """As the page has it."""
        found = re.search(r'name="form_token" value="([0-9a-f]{64})"', self.get("/").text)
        assert found
        return found[1]


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    """Its API has a key, so that nobody gets in without."""
    with api_of(tmp_path) as (runtime, _):
        make_key(runtime, READ)
        yield runtime


@pytest.fixture
def browser(runtime: Runtime) -> Browser:
    return Browser(runtime)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    for read in ("auth.utcnow", "auth.wall_clock", "console.utcnow"):
        monkeypatch.setattr(f"chargeapp.web.{read}", moved)
    return moved


def is_in(browser: Browser) -> bool:
    answer = browser.get("/")
    if answer.status_code == 303:
        assert answer.location == ("/login?ended=1" if browser.session_id else "/login")
    return answer.status_code == 200


def ended_request(database: Database) -> str:
    """A delivered one, long enough ago for every row to be due."""
    now = clock.utcnow() - timedelta(seconds=10)
    (request_id,) = accept(database, now=now)
    decide(database, now=now)
    attempt(database, now=now)
    end(database, now=now)
    return request_id


def redeliveries(runtime: Runtime, request_id: str) -> int:
    return len(facts(runtime.database, request_id, Event.REDELIVERY_REQUESTED))


# In and out


def test_a_key_with_the_scope_operate_lets_a_browser_in(browser: Browser) -> None:
    before = browser.get("/")
    answer = browser.log_in()

    assert (before.status_code, before.location) == (303, "/login")
    assert (answer.status_code, answer.location) == (303, "/")
    assert is_in(browser)


def test_white_space_around_a_pasted_key_does_not_matter(browser: Browser) -> None:
    assert browser.log_in(f" {make_key(browser.runtime, OPERATE)}\r\n").status_code == 303


REFUSED: dict[str, tuple[Callable[[Runtime], str], int, str]] = {
    "unknown": (lambda _: new_key(), 401, "not a valid API key"),
    "empty": (lambda _: "", 401, "not a valid API key"),
    "nonsense": (lambda _: "é\x00'\"<b>", 401, "not a valid API key"),
    "expired": (lambda runtime: make_expired_key(runtime, OPERATE), 401, "has expired"),
    "of another scope": (lambda runtime: make_key(runtime, SUBMIT, READ), 403, "scope operate"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_any_other_key_is_refused_in_words_and_not_shown(browser: Browser, case: str) -> None:
    make, code, words = REFUSED[case]
    key = make(browser.runtime)

    answer = browser.post("/login", key=key)

    assert (answer.status_code, answer.mimetype) == (code, "text/html")
    assert words in answer.text
    assert not key or key not in answer.text
    assert "Set-Cookie" not in answer.headers
    assert rows_of_sessions(browser.runtime) == []


def rows_of_sessions(runtime: Runtime) -> list[ConsoleSession]:
    with runtime.database.reading() as session:
        return list(session.query(ConsoleSession))


def test_without_any_key_this_machine_needs_no_login(tmp_path: Path) -> None:
    with api_of(tmp_path) as (runtime, _):
        browser = Browser(runtime)
        request_id = ended_request(runtime.database)

        token = re.search(r'name="form_token" value="(\w+)"', browser.get(f"/requests/{request_id}").text)
        assert token
        codes = [
            browser.post(f"/requests/{request_id}/redelivery").status_code,
            browser.post(f"/requests/{request_id}/redelivery", form_token=token[1]).status_code,
        ]

        assert codes == [403, 303]
        assert "Log out" not in browser.get("/").text
        assert browser.post("/login").status_code == 303


@pytest.mark.parametrize(
    "host", ["attacker.example", "attacker.example:8080", "192.0.2.1", "localhost.attacker.example"]
)
def test_without_any_key_a_name_that_was_pointed_here_does_not_get_in(tmp_path: Path, host: str) -> None:
    with api_of(tmp_path) as (_, api):
        rebound = api.get(API, headers={"Host": host})
        here = [api.get(API, headers={"Host": each}).status_code for each in ("127.0.0.1:8080", "[::1]:8080")]

    assert (rebound.status_code, here) == (401, [200, 200])


def test_logging_out_ends_the_session_for_whoever_has_its_id(browser: Browser) -> None:
    browser.log_in()
    session_id = browser.session_id

    answer = browser.post("/logout", form_token=browser.form_token)
    browser_says = browser.session_id
    browser.client.set_cookie("chargeapp", session_id)

    assert (answer.status_code, answer.location) == (303, "/login")
    assert browser_says == ""
    assert not is_in(browser)
    assert rows_of_sessions(browser.runtime) == []


# The cookie


@pytest.mark.parametrize(("scheme", "name"), [("http", "chargeapp"), ("https", "__Host-chargeapp")])
def test_the_cookie_is_for_this_site_and_for_no_script(runtime: Runtime, scheme: str, name: str) -> None:
    browser = Browser(runtime, scheme)

    named, *rest = browser.log_in().headers["Set-Cookie"].split("; ")

    assert named.startswith(f"{name}=")
    assert len(named.partition("=")[2]) == 43
    assert set(rest) == {"HttpOnly", "SameSite=Strict", "Path=/"} | ({"Secure"} if scheme == "https" else set())
    assert is_in(browser)


def test_only_the_hash_of_a_session_is_stored(browser: Browser) -> None:
    browser.log_in()

    (stored,) = rows_of_sessions(browser.runtime)
    assert stored.id_hash == hash_of(browser.session_id)
    files = b"".join(path.read_bytes() for path in browser.runtime.settings.chargeapp_data_dir.glob("chargeapp.db*"))
    assert browser.session_id.encode() not in files


def test_logging_in_makes_a_new_id_and_ends_the_one_before(browser: Browser) -> None:
    browser.client.set_cookie("chargeapp", "planted-by-somebody")
    browser.log_in()
    first = browser.session_id
    browser.log_in()
    second = browser.session_id
    browser.client.set_cookie("chargeapp", first)

    assert len({"planted-by-somebody", first, second}) == 3
    assert not is_in(browser)
    assert len(rows_of_sessions(browser.runtime)) == 1


def test_the_cookie_is_no_good_for_the_api(browser: Browser) -> None:
    browser.log_in()
    request_id = ended_request(browser.runtime.database)
    token = browser.form_token

    assert browser.get(API).status_code == 401
    assert browser.get(f"{API}/{request_id}").status_code == 401
    assert browser.post(f"{API}/{request_id}/redelivery", form_token=token).status_code == 401
    assert browser.post("/internal/v1/authorize", form_token=token).status_code == 401
    assert browser.get("/metrics").status_code == 200


# How long


@pytest.mark.parametrize(
    ("steps", "still_in"),
    [
        ([LONGEST_IDLE - 2 * MINUTE], True),
        ([LONGEST_IDLE], False),
        ([LONGEST_IDLE - 2 * MINUTE] * 2, True),
        ([LONGEST_IDLE / 2] * 23, True),
        ([LONGEST_IDLE / 2] * 24, False),
        ([LONGEST], False),
    ],
    ids=["used in time", "idle", "used again", "nearly the longest", "the longest", "both"],
)
def test_a_session_ends_when_idle_and_at_the_latest_after_its_longest(
    browser: Browser, time: Clock, steps: list[timedelta], still_in: bool
) -> None:
    browser.log_in()

    for step in steps:
        time.ahead += step
        found = is_in(browser)

    assert found is still_in
    assert still_in or "The session has ended." in browser.client.get(browser.get("/").location or "").text


def test_a_page_that_refreshes_itself_keeps_no_session_alive(browser: Browser, time: Clock) -> None:
    browser.log_in()
    codes = []

    for _ in range(7):
        time.ahead += timedelta(minutes=10)
        codes.append(browser.get("/", **{"Live-Refresh": "1"}).status_code)

    assert codes == [200] * 5 + [303] * 2


def test_sessions_that_ended_are_removed_with_the_next_login(browser: Browser, time: Clock) -> None:
    browser.log_in()
    time.ahead = LONGEST_IDLE
    other = Browser(browser.runtime)
    other.log_in()

    assert [each.id_hash for each in rows_of_sessions(browser.runtime)] == [hash_of(other.session_id)]


def test_a_session_ends_with_its_key_at_once_in_every_process(browser: Browser) -> None:
    key = make_key(browser.runtime, OPERATE)
    browser.log_in(key)
    other = Browser(browser.runtime)
    other.client.set_cookie("chargeapp", browser.session_id)
    before = [is_in(browser), is_in(other)]

    revoke(browser.runtime, key)

    assert (before, [is_in(browser), is_in(other)]) == ([True, True], [False, False])


def test_a_session_ends_when_its_key_expires(browser: Browser, time: Clock) -> None:
    browser.log_in(make_key(browser.runtime, OPERATE, expires_at=clock.utcnow() + 10 * MINUTE))
    before = is_in(browser)
    time.ahead = 10 * MINUTE

    assert (before, is_in(browser)) == (True, False)


def test_the_console_can_be_looked_at_while_nothing_can_be_written(
    browser: Browser, time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser.log_in()
    time.ahead = 2 * MINUTE
    monkeypatch.setattr(Database, "writing", cannot_write)

    assert is_in(browser)


def cannot_write(*_: Any, **__: Any) -> Any:
    from chargeapp.errors import TemporaryFailure

    raise TemporaryFailure("The disk is full")


# Forms

Sent = tuple[dict[str, str], Callable[[Browser], dict[str, str]]]
GOOD: Callable[[Browser], dict[str, str]] = lambda browser: {"form_token": browser.form_token}  # noqa: E731
HTML = {"Accept": "text/html"}
FORGED: dict[str, Sent] = {
    "no token": (BROWSER, lambda _: {}),
    "empty token": (BROWSER, lambda _: {"form_token": ""}),
    "wrong token": (BROWSER, lambda _: {"form_token": "0" * 64}),
    "not even ASCII": (BROWSER, lambda _: {"form_token": "é" * 64}),
    "another session's token": (BROWSER, lambda browser: {"form_token": token_of_another(browser)}),
    "token of what is public": (BROWSER, lambda browser: {"form_token": form_token(hash_of(browser.session_id))}),
    "another site": (HTML | {"Sec-Fetch-Site": "cross-site"}, GOOD),
    "a neighbouring host": (HTML | {"Sec-Fetch-Site": "same-site"}, GOOD),
    "typed into the address bar": (HTML | {"Sec-Fetch-Site": "none"}, GOOD),
    "another origin": (HTML | {"Origin": "https://attacker.example"}, GOOD),
    "another port": (HTML | {"Origin": "http://localhost:8081"}, GOOD),
    "another scheme": (HTML | {"Origin": "https://localhost"}, GOOD),
    "hidden origin": (HTML | {"Origin": "null"}, GOOD),
    "neither origin nor site": (HTML, GOOD),
    "own origin, but another site": (HTML | {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"}, GOOD),
}


def token_of_another(browser: Browser) -> str:
    other = Browser(browser.runtime)
    other.log_in()
    return other.form_token


@pytest.mark.parametrize("case", FORGED)
def test_a_form_that_is_not_of_this_session_and_site_does_nothing(browser: Browser, case: str) -> None:
    headers, fields = FORGED[case]
    browser.log_in()
    request_id = ended_request(browser.runtime.database)
    sent = fields(browser)

    for path in (f"/requests/{request_id}/redelivery", "/logout"):
        answer = browser.post(path, headers, **sent)

        assert (answer.status_code, answer.mimetype) == (403, "text/html")
        assert "Nothing was done" in answer.text
    assert redeliveries(browser.runtime, request_id) == 0
    assert is_in(browser)


@pytest.mark.parametrize("headers", [BROWSER, HTML | {"Origin": "http://localhost"}], ids=["site", "origin"])
def test_a_form_of_this_session_and_site_is_heeded(browser: Browser, headers: dict[str, str]) -> None:
    browser.log_in()
    request_id = ended_request(browser.runtime.database)

    answer = browser.post(f"/requests/{request_id}/redelivery", headers, form_token=browser.form_token)

    assert (answer.status_code, answer.location) == (303, f"/requests/{request_id}")
    assert redeliveries(browser.runtime, request_id) == 1


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
def test_another_site_cannot_log_anybody_in(browser: Browser, site: str) -> None:
    answer = browser.post("/login", HTML | {"Sec-Fetch-Site": site}, key=make_key(browser.runtime, OPERATE))

    assert (answer.status_code, "Set-Cookie" in answer.headers) == (403, False)


def test_whoever_sends_a_key_with_the_request_needs_no_token(browser: Browser) -> None:
    request_id = ended_request(browser.runtime.database)

    answer = browser.client.post(
        f"/requests/{request_id}/redelivery", headers=bearer(make_key(browser.runtime, OPERATE))
    )

    assert answer.status_code == 303
    assert redeliveries(browser.runtime, request_id) == 1


def test_a_form_after_the_session_leads_to_the_login(browser: Browser, time: Clock) -> None:
    browser.log_in()
    request_id = ended_request(browser.runtime.database)
    token = browser.form_token
    time.ahead = LONGEST

    answer = browser.post(f"/requests/{request_id}/redelivery", form_token=token)

    assert (answer.status_code, answer.location) == (303, "/login?ended=1")
    assert redeliveries(browser.runtime, request_id) == 0


# Guessing


def test_failed_logins_of_an_address_are_throttled_together_with_other_failed_attempts(browser: Browser) -> None:
    codes = [browser.post("/login", key=new_key()).status_code for _ in range(ATTEMPTS - 1)]
    codes.append(browser.client.get(API, headers=bearer(new_key())).status_code)
    beyond = browser.post("/login", key=new_key())

    assert set(codes) == {401}
    assert (beyond.status_code, beyond.mimetype) == (429, "text/html")
    assert "Too many attempts" in beyond.text
    assert 0 < int(beyond.headers["Retry-After"]) <= 60
    assert browser.client.get(API, headers=bearer(new_key())).status_code == 429


def test_a_good_key_gets_in_whoever_else_fails_from_that_address(browser: Browser) -> None:
    for _ in range(ATTEMPTS + 1):
        browser.post("/login", key=new_key())

    assert browser.log_in().status_code == 303
    assert is_in(browser)


def test_another_site_cannot_use_up_the_attempts(browser: Browser) -> None:
    for _ in range(ATTEMPTS + 1):
        browser.post("/login", HTML | {"Sec-Fetch-Site": "cross-site"}, key=new_key())

    assert browser.post("/login", key=new_key()).status_code == 401


def test_a_failed_login_is_logged_without_the_key(browser: Browser, capfd: pytest.CaptureFixture[str]) -> None:
    key = new_key()
    browser.post("/login", key=key)

    told = "".join(capfd.readouterr())
    assert key.split("_", 2)[2] not in told
