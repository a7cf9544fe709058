"""Every page of the console for everybody: nothing serious in the way of a screen reader, and good on a telephone."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import axe
import pytest
from browser import Browser, needs_chromium, open_browser
from selenium.webdriver.common.by import By
from servers import Answer, Receiver
from support.builders import accept
from troubled_console import TOKEN, Console

from chargeapp.app import create_app
from chargeapp.clock import utcnow
from chargeapp.security.driver_tokens import mask

BUSY_SECONDS = 8.0

pytestmark = needs_chromium

PAGES = {
    "login": "/login",
    "overview": "/",
    "requests": "/requests",
    "failed": "/failed",
    "question": "/failed/redelivery?which=all",
    "redelivered": "/failed/redelivered?which=all&sent=3&before=req-" + "f" * 32,
    "queues": "/queues",
    "dead letters": "/dead-letters",
    "access list": "/access-list",
    "keys": "/keys",
    "secrets": "/secrets",
    "settings": "/settings",
    "timeline": "a request",
    "entry": "an entry",
    "error": "/requests/none",
    "docs": "/docs",
}


@pytest.fixture(scope="module")
def browser(console: Console) -> Iterator[Browser]:
    """One for all pages, logged in as an admin, who sees most."""
    with open_browser(console.deployment.url, __name__) as browser:
        browser.log_in(console.admin)
        yield browser


@pytest.fixture(scope="module")
def checker(request: pytest.FixtureRequest) -> str:
    """axe-core, kept in the cache of pytest."""
    cache = request.config.cache
    assert cache is not None
    return axe.source(cache.mkdir("axe"))


def path_of(console: Console, name: str) -> str:
    if name == "timeline":
        return f"/requests/{console.failed[0]}"
    if name == "entry":
        return f"/access-list/entry?driver={console.runtime.vault.hash(TOKEN)}&station=*"
    return PAGES[name]


@pytest.mark.parametrize("name", PAGES)
def test_nothing_serious_is_in_anybody_s_way(console: Console, browser: Browser, checker: str, name: str) -> None:
    browser.be_a_desk()
    browser.open(path_of(console, name))
    browser.unfold()

    found = []
    for scheme in ("light", "dark"):
        browser.picture(f"desk-{name.replace(' ', '-')}", scheme)
        found += [f"{scheme}: {each}" for each in axe.findings(browser.driver, checker)]

    assert found == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_on_a_telephone(console: Console, browser: Browser, name: str) -> None:
    browser.be_a_telephone()
    browser.open(path_of(console, name))
    browser.unfold()
    browser.whole_picture(f"telephone-{name.replace(' ', '-')}")

    assert not browser.is_wider_than_its_window()


def test_every_page_of_the_console_is_among_these(console: Console) -> None:
    app = create_app(console.runtime.settings)
    adapter = app.url_map.bind("127.0.0.1")
    visited = {adapter.match(urlsplit(path_of(console, name)).path)[0] for name in PAGES}
    pages = {rule.endpoint for rule in app.url_map.iter_rules() if "GET" in (rule.methods or ())}

    of_console = {each for each in pages if each.startswith("console.")}
    assert of_console | {"api_docs.docs"} == visited


def test_the_browser_complained_of_nothing_but_the_page_that_is_not_there(console: Console, browser: Browser) -> None:
    for name in PAGES:
        browser.open(path_of(console, name))

    assert [each for each in browser.complaints() if "/requests/none" not in each] == []


@pytest.mark.only_on("rq", reason="RQ's own dashboard")
def test_jobs_are_looked_at_while_a_worker_is_busy(console: Console, receiver: Receiver, browser: Browser) -> None:
    browser.be_a_desk()
    browser.complaints()
    runtime, path = console.runtime, receiver.path(Answer(delay_seconds=BUSY_SECONDS))
    url = receiver.url(path)
    accept(
        runtime.database, now=utcnow(), vault=runtime.vault, callback_url=url, destination=f"127.0.0.1:{receiver.port}"
    )
    receiver.wait_for(path)

    browser.open("/queues")
    browser.driver.find_element(By.PARTIAL_LINK_TEXT, "as RQ sees them").click()
    browser.until(lambda: "delivery-events" in browser.text, "no queues")
    browser.picture("rq-queues")
    browser.driver.find_element(By.LINK_TEXT, "Workers").click()
    browser.until(lambda: "callbacks: 1 rows" in browser.text, "no busy worker")
    browser.picture("rq-workers")
    browser.driver.find_element(By.LINK_TEXT, "callbacks: 1 rows").click()
    browser.until(lambda: "Origin queue" in browser.text, "no job")
    browser.picture("rq-job")
    browser.open("/rq/0/view/jobs/callbacks/started/8/asc/1")
    browser.until(lambda: "callbacks: 1 rows" in browser.text, "no jobs")
    browser.picture("rq-jobs")
    browser.open("/rq/0/view/jobs/callbacks/failed/8/asc/1")
    browser.until(lambda: "No jobs." in browser.text, "no list")

    acting = browser.driver.find_elements(By.CSS_SELECTOR, ".btn")
    assert [each.text for each in acting if each.is_displayed()] == []
    assert browser.complaints() == []


@pytest.mark.only_on("rq", reason="RQ's own dashboard")
def test_a_script_that_somebody_put_into_redis_does_not_run(console: Console, browser: Browser) -> None:
    redis = console.runtime.redis
    name = "<b>planted</b><img src=x onerror=window.ran=1><script>window.ran=1</script>"
    redis.hset(f"rq:worker:{name}", mapping={"state": "idle", "queues": "callbacks"})
    redis.sadd("rq:workers", f"rq:worker:{name}")

    browser.open("/rq/0/view/workers")
    browser.until(lambda: "planted" in browser.text, "not shown")
    browser.until(lambda: "inline event handler" in "".join(browser.complaints()), "nothing was refused")

    redis.srem("rq:workers", f"rq:worker:{name}")
    assert browser.driver.execute_script("return window.ran") is None


def test_the_checker_finds_what_is_wrong(browser: Browser, checker: str) -> None:
    browser.open("/login")
    browser.driver.execute_script(
        "document.querySelector('main').insertAdjacentHTML('beforeend', '<img src=/static/icon.svg>')"
    )

    assert [each.split(":")[0] for each in axe.findings(browser.driver, checker)] == ["critical image-alt"]


def test_a_page_that_is_too_wide_would_be_noticed(browser: Browser) -> None:
    browser.be_a_telephone()
    browser.open("/login")
    browser.driver.execute_script("document.querySelector('main').textContent = 'x'.repeat(500)")

    assert browser.is_wider_than_its_window()


def test_no_page_shows_a_driver_token(console: Console, browser: Browser) -> None:
    for name in PAGES:
        browser.open(path_of(console, name))
        assert TOKEN not in browser.driver.page_source
    browser.open("/access-list")
    assert mask(TOKEN) in browser.text
