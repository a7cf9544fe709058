"""The console's pages: what they show, and that nothing a caller sent is more than text."""

from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from sqlalchemy import update
from support.builders import TOKEN, accept, attempt, change, decide, end, just_now, rows, seconds
from support.callers import api_of, bearer, make_key
from support.redis_server import RedisServer

from chargeapp.clock import utcnow
from chargeapp.domain.authorization import Answer
from chargeapp.domain.callback import Outcome, Reply
from chargeapp.domain.charging_session import Decision
from chargeapp.pipeline import AUTHORIZATION, STAGES
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope
from chargeapp.security.signatures import Kind
from chargeapp.services.access_list import ANY, Entry, put_entries
from chargeapp.services.webhook_secrets import rotate_secret
from chargeapp.storage.models import SessionRequest

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(1)>{{ 7*7 }}"""
HTML = {"Accept": "text/html"}
VOID = {"meta", "link", "input"}


class Page(HTMLParser):
    """Its tags, what it loads, and whether it is well formed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.unclosed: list[str] = []
        self.feed(page)
        assert self.unclosed == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.unclosed.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.tags if found == tag]


def request_on_its_way(runtime: Runtime, how_far: int, **changes: str) -> str:
    """0: accepted, 1: decided, 2: attempted, 3: ended."""
    now = utcnow() - seconds(10)
    (request_id,) = accept(runtime.database, now=now, **changes)
    for step in (decide, attempt, end)[:how_far]:
        step(runtime.database, now=now)
    return request_id


@pytest.mark.parametrize("how_far", range(4), ids=["accepted", "decided", "attempted", "ended"])
def test_a_request_is_shown_with_its_timeline_wherever_it_is(
    console: tuple[Runtime, FlaskClient], how_far: int
) -> None:
    runtime, client = console
    request_id = request_on_its_way(runtime, how_far)

    answer = client.get(f"/requests/{request_id}", headers=HTML)

    events = ["RequestAccepted", "AuthorizationDecided", "CallbackAttempted", "CallbackDeliverySucceeded"]
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    assert [event in answer.text for event in events] == [number <= how_far for number in range(4)]
    assert request_id in answer.text
    assert "DRIV…6789" in answer.text
    assert TOKEN not in answer.text


def test_a_request_is_followed_through_the_queues(console: tuple[Runtime, FlaskClient]) -> None:
    runtime, client = console
    request_id = request_on_its_way(runtime, 2)

    page = client.get(f"/requests/{request_id}").text
    ways = page.partition("Through the queues</h2>")[2]

    cells = [cell.partition("</td>")[0] for cell in ways.split('<td role="cell">')[1:]]
    queues = [cell for cell in cells if cell in ("authorization", "callbacks", "delivery-events")]
    assert queues == ["authorization", "callbacks", "delivery-events"]
    assert ways.count("<time") == 3 + 3 + 2  # the last one is stored and due


def test_failed_tries_of_the_authorization_are_in_the_timeline(console: tuple[Runtime, FlaskClient]) -> None:
    runtime, client = console
    accept(runtime.database, now=(now := just_now()))
    answer = Answer(Decision.ALLOWED, None, "authorization_service", 2, 7, ("The authorization service answered 500",))
    decide(runtime.database, answer, now)
    (request,) = rows(runtime.database, SessionRequest)

    assert "failures: The authorization service answered 500<" in client.get(f"/requests/{request.id}").text


def test_the_overview_leads_to_the_page_of_a_request(console: tuple[Runtime, FlaskClient]) -> None:
    runtime, client = console
    request_id = request_on_its_way(runtime, 3)

    links = [each["href"] for each in Page(client.get("/").text).all("a")]

    assert f"/requests/{request_id}" in links
    assert not [each for each in links if each and each.startswith("/api/")]


@pytest.mark.parametrize("how_far", range(4), ids=["accepted", "decided", "attempted", "ended"])
def test_only_an_ended_request_has_a_button_to_send_its_callback_again(
    console: tuple[Runtime, FlaskClient], how_far: int
) -> None:
    runtime, client = console
    request_id = request_on_its_way(runtime, how_far)

    page = client.get(f"/requests/{request_id}", headers=HTML).text

    assert ("Send the callback again" in page) is (how_far == 3)
    assert ("still on its way" in page) is (how_far < 3)


def test_without_its_driver_token_the_page_says_why_there_is_no_button(console: tuple[Runtime, FlaskClient]) -> None:
    runtime, client = console
    request_id = request_on_its_way(runtime, 3)
    change(runtime.database, lambda session: session.execute(update(SessionRequest).values(token_sealed=None)))

    page = client.get(f"/requests/{request_id}", headers=HTML).text

    assert "was erased" in page
    assert "Send the callback again" not in page


def test_a_redelivery_that_cannot_be_is_refused_in_words(console: tuple[Runtime, FlaskClient]) -> None:
    runtime, client = console
    request_id = request_on_its_way(runtime, 1)

    answer = client.post(f"/requests/{request_id}/redelivery", headers=HTML | bearer(make_key(runtime, Scope.OPERATE)))

    assert (answer.status_code, answer.mimetype) == (409, "text/html")
    assert "still on its way" in answer.text


def test_a_request_that_does_not_exist_is_a_page_for_people_and_json_for_programs(
    console: tuple[Runtime, FlaskClient],
) -> None:
    _, client = console

    assert client.get("/requests/req-1", headers=HTML).mimetype == "text/html"
    assert client.get("/requests/req-1").get_json()["status"] == "not_found"
    assert client.get("/requests/req-1", headers=HTML).status_code == 404


def fail_with_hostile_words(runtime: Runtime) -> None:
    """In every table that a page shows, but that of the keys: the first would close the console."""
    now = utcnow()
    accept(runtime.database, now=now, caller=HOSTILE, station_id=HOSTILE)
    with runtime.database.writing() as session:
        put_entries(session, [Entry(ANY, HOSTILE, ANY)], now)
        rotate_secret(
            session,
            runtime.secret_vault,
            caller=HOSTILE,
            configured=runtime.secrets.webhook_secret,
            kind=Kind.ED25519,
            overlap=seconds(9),
            now=now,
        )
        session.execute(update(SessionRequest).values(state="failed", ended_at=now))
        session.execute(
            update(AUTHORIZATION.outbox).values(dead_at=now, settled_at=None, last_error=HOSTILE, type=HOSTILE)
        )


def pages_of(runtime: Runtime, client: FlaskClient) -> dict[str, str]:
    request_id = request_on_its_way(
        runtime,
        3,
        caller=HOSTILE,
        station_id=HOSTILE,
        token_masked=HOSTILE,
        callback_url=f"https://caller.example/?{HOSTILE}",
    )
    values = {"reason": HOSTILE, "source": HOSTILE, "last_error": HOSTILE, "decision": "allowed"}
    change(runtime.database, lambda session: session.execute(update(SessionRequest).values(**values)))
    fail_with_hostile_words(runtime)
    paths = [
        "/",
        "/login",
        "/queues",
        "/requests",
        f"/requests/{request_id}",
        "/requests/no-such",
        "/failed",
        "/dead-letters",
    ]
    paths += [
        "/failed/redelivery?which=all",
        "/failed/redelivered",
        "/access-list",
        "/access-list/entry?driver=*&station=*",
    ]
    paths += ["/keys", "/secrets", "/settings"]
    return {path: client.get(path, headers=HTML).text for path in paths}


def test_what_a_caller_sent_is_text_on_every_page(console: tuple[Runtime, FlaskClient]) -> None:
    pages = pages_of(*console)

    for page in pages.values():
        parsed = Page(page)
        assert {"img", "style"}.isdisjoint(tag for tag, _ in parsed.tags)
        assert page.count("<script") == len(parsed.all("script")) <= 1
    shown = "".join(pages.values())
    assert "<script>alert(1)</script>" in unescape(shown)
    assert "{{ 7*7 }}" in unescape(shown)


def test_a_hostile_path_is_not_repeated(console: tuple[Runtime, FlaskClient]) -> None:
    _, client = console

    answer = client.get("/requests/%3Cscript%3Ealert(1)%3C/script%3E", headers=HTML)

    assert answer.status_code == 404
    assert "alert" not in answer.text


def test_every_page_keeps_to_its_policy(console: tuple[Runtime, FlaskClient]) -> None:
    runtime, client = console

    for path, text in pages_of(runtime, client).items():
        policy = client.get(path, headers=HTML).headers["Content-Security-Policy"]
        page = Page(text)
        loaded = [
            value for tag, given in page.tags for name in ("src", "href") if tag != "a" and (value := given.get(name))
        ]

        assert policy.startswith("default-src 'none'; style-src 'self'")
        assert "form-action 'self'" in policy
        assert "; script-src 'self'; connect-src 'self';" in policy
        assert not [name for _, given in page.tags for name in given if name == "style" or name.startswith("on")]
        assert loaded[:2] == ["/static/icon.svg", "/static/console.css"]
        assert loaded[2:] == (["/static/live.js"] if 'id="live"' in text else [])
        assert [set(each) - {"src", "defer"} for each in page.all("script")] in ([], [set()])
        assert all(str(form["action"]).startswith("/") for form in page.all("form"))


def test_every_page_can_be_used_without_seeing_it(console: tuple[Runtime, FlaskClient]) -> None:
    for text in pages_of(*console).values():
        page = Page(text)
        labelled = {each["for"] for each in page.all("label")}

        assert page.all("html") == [{"lang": "en"}]
        assert len(page.all("h1")) == len(page.all("main")) == page.all("title").count({}) == 1
        ids = [given["id"] for _, given in page.tags if "id" in given]
        named = {id_ for _, given in page.tags for id_ in str(given.get("aria-labelledby") or "").split()}

        assert len(ids) == len(set(ids))
        assert named <= set(ids)
        assert all(
            "hidden" in (*each, each.get("type")) or "aria-label" in each or each["id"] in labelled
            for tag in ("input", "select")
            for each in page.all(tag)
        )
        assert all(each.get("scope") for each in page.all("th"))
        assert all(
            each.get("tabindex") == "0" and each.get("aria-label") for each in page.all("div") if each.get("role")
        )


# Queues


def test_the_queues_are_shown_with_what_waits_in_the_database_and_in_redis(tmp_path: Path) -> None:
    with RedisServer() as redis, api_of(tmp_path, redis_url=redis.url) as (runtime, client):
        accept(runtime.database, 3, now=utcnow() - seconds(10))
        redis.client.rpush("rq:queue:authorization", "job-1", "job-2")
        redis.client.zadd("rq:failed:callbacks", {"<b>somebody's</b>": 9e9})
        keys = sorted(redis.client.keys("*"))

        page = client.get("/queues", headers=HTML).text

        assert sorted(redis.client.keys("*")) == keys
    cells = [line.strip() for line in page.splitlines() if line.strip().startswith("<t")]
    first = page.partition('<th scope="row">authorization</th>')[2].partition("</tr>")[0]
    assert [stage.queue for stage in STAGES if f'<th scope="row">{stage.queue}</th>' in page] == [
        stage.queue for stage in STAGES
    ]
    assert cells
    assert first.startswith("\n        <td>3</td>")
    assert "<td>2</td><td>0</td><td>0</td><td>0</td>" in first
    assert "somebody" not in page
    assert "Redis does not answer" not in page


def test_a_timeline_says_yes_and_no(console: tuple[Runtime, FlaskClient]) -> None:
    runtime, client = console
    (request_id,) = accept(runtime.database, now=utcnow())
    decide(runtime.database, now=utcnow())
    attempt(runtime.database, Reply(Outcome.FINAL, 5, 410, "answered 410"), now=utcnow())
    end(runtime.database, now=utcnow())

    page = client.get(f"/requests/{request_id}", headers=HTML).text

    assert "final: yes" in page
    assert "True" not in page


def test_without_redis_the_page_says_so_and_shows_the_rest(console: tuple[Runtime, FlaskClient]) -> None:
    runtime, client = console
    accept(runtime.database, 2)

    answer = client.get("/queues", headers=HTML)

    assert answer.status_code == 200
    assert "Redis does not answer" in answer.text
    assert "<td>2</td>" in answer.text


def test_nothing_can_be_changed_on_the_page_of_the_queues(console: tuple[Runtime, FlaskClient]) -> None:
    _, client = console
    page = Page(client.get("/queues").text)
    methods = {
        method
        for rule in client.application.url_map.iter_rules()
        if rule.rule.startswith("/queues")
        for method in rule.methods or ()
    }

    assert page.all("form") == []
    assert methods == {"GET", "HEAD", "OPTIONS"}
