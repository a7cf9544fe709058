"""Pages of the console that keep themselves fresh, the list of requests and its search, in a real browser."""

from collections.abc import Callable
from typing import Any

import pytest
from browser import Browser, needs_chromium
from deployment import STATION, Deployment
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from servers import Receiver
from support.callers import make_key

from chargeapp.security.api_keys import Scope

TOKEN = "driver-token-of-the-live-pages-1"
MASKED = "driv…es-1"
# The page's own clock runs faster, and what it has running can be seen.
QUICK = """
    window.ticking = new Set();
    const begin = window.setInterval, end = window.clearInterval;
    window.setInterval = (work, pause) => { const id = begin(work, pause / 20); window.ticking.add(id); return id; };
    window.clearInterval = (id) => { window.ticking.delete(id); end(id); };
"""
# At once: with the next refresh a row is new no more.
OBSERVE_ROWS = """
    window.moves = [];
    new MutationObserver((changes) => changes.forEach((change) => change.addedNodes.forEach((node) => {
        if (node.nodeName === "TR") window.moves.push(getComputedStyle(node).animationName);
    }))).observe(document.getElementById("found"), {childList: true, subtree: true});
"""
pytestmark = needs_chromium


@pytest.fixture
def browser(browser: Browser) -> Browser:
    browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": QUICK})
    return browser


@pytest.fixture
def submit(deployment: Deployment, receiver: Receiver) -> Callable[[], str]:
    """A request that is delivered; returns its id."""

    def submit() -> str:
        request_id = deployment.submit(TOKEN, receiver.url(receiver.path()))
        deployment.wait_until(request_id, state="delivered")
        return request_id

    return submit


def run(browser: Browser, script: str) -> Any:
    return browser.driver.execute_script(script)


def open_and_mark(browser: Browser, path: str) -> None:
    """A page that is loaded anew loses the mark."""
    browser.open(path)
    run(browser, "window.mark = true")


def said(browser: Browser) -> str:
    return browser.driver.find_element(By.CSS_SELECTOR, "#live [role=status]").text


def is_ticking(browser: Browser) -> bool:
    return bool(run(browser, "return window.ticking.size > 0"))


def telephone(browser: Browser) -> None:
    browser.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )


@pytest.mark.parametrize("path", ["/", "/requests"])
def test_what_is_new_appears_by_itself_and_nobody_loses_focus_or_place(
    browser: Browser, submit: Callable[[], str], path: str
) -> None:
    for _ in range(3):
        first = submit()
    open_and_mark(browser, path)
    run(browser, f"document.querySelector('a[href=\"/requests/{first}\"]').focus({{preventScroll: true}})")
    run(browser, "document.querySelector('.scroll').scrollLeft = 20; document.querySelector('.scroll').kept = true")
    for details in browser.driver.find_elements(By.TAG_NAME, "details"):
        run(browser, "document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert details.get_attribute("open")

    new = submit()
    browser.until(lambda: new in browser.driver.page_source, "the new request does not appear")

    rows = [row.get_attribute("id") for row in browser.driver.find_elements(By.CSS_SELECTOR, "tr[id^=req-]")]
    assert rows[:2] == [new, first]
    assert run(browser, "return window.mark && document.querySelector('.scroll').kept")
    assert run(browser, "return document.activeElement.getAttribute('href')") == f"/requests/{first}"
    assert all(each.get_attribute("open") for each in browser.driver.find_elements(By.TAG_NAME, "details"))
    assert browser.complaints() == []


def test_the_charts_say_in_words_what_they_show(browser: Browser, submit: Callable[[], str]) -> None:
    submit()
    browser.open("/")

    charts = browser.driver.find_elements(By.CSS_SELECTOR, "svg[role=img]")
    words = [chart.accessible_name for chart in charts]
    assert len(charts) == 8
    assert any("Decisions, last hour" in each and "allowed" in each for each in words)
    # A bar that somebody can see, though the chart is stretched to its place.
    bars = browser.driver.find_element(By.CSS_SELECTOR, "path.decisions_allowed")
    assert bars.size["height"] > 50
    browser.picture("charts", "dark")
    browser.picture("charts")
    for summary in browser.driver.find_elements(By.TAG_NAME, "summary"):
        summary.send_keys(Keys.ENTER)
    tables = browser.driver.find_elements(By.CSS_SELECTOR, "details[open] table")
    assert [len(table.find_elements(By.CSS_SELECTOR, "tbody tr")) for table in tables] == [12, 24]
    assert browser.complaints() == []


def test_a_timeline_grows_while_somebody_looks(
    deployment: Deployment, browser: Browser, submit: Callable[[], str]
) -> None:
    request_id = submit()
    open_and_mark(browser, f"/requests/{request_id}")
    button = browser.button("Send the callback again")
    assert button.is_displayed()

    assert deployment.post(f"/{request_id}/redelivery").status_code == 202
    browser.until(lambda: browser.text.count("CallbackDeliverySucceeded") == 2, "the timeline stays as it was")

    assert "RedeliveryRequested" in browser.text
    assert run(browser, "return window.mark")
    # The button went while the callback was on its way; it is back, and works.
    browser.until(lambda: browser.driver.find_elements(By.CSS_SELECTOR, "#facts form button"), "no button")
    browser.button("Send the callback again").click()
    browser.until(lambda: browser.text.count("CallbackDeliverySucceeded") == 3, "not sent again")
    browser.picture("timeline")
    assert browser.complaints() == []


def test_somebody_who_pauses_is_left_in_peace_until_he_goes_on(browser: Browser, submit: Callable[[], str]) -> None:
    open_and_mark(browser, "/requests")
    assert is_ticking(browser)

    browser.button("Pause").click()
    assert (said(browser), is_ticking(browser)) == ("Paused.", False)
    assert browser.button("Pause").get_attribute("aria-pressed") == "true"
    new = submit()
    assert new not in browser.driver.page_source

    browser.button("Pause").click()
    browser.until(lambda: new in browser.driver.page_source, "does not go on")
    assert is_ticking(browser)
    assert browser.button("Pause").get_attribute("aria-pressed") == "false"
    assert browser.complaints() == []


def test_a_hidden_page_asks_for_nothing_and_is_fresh_when_it_is_looked_at_again(
    browser: Browser, submit: Callable[[], str]
) -> None:
    open_and_mark(browser, "/requests")
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    turn = "document.dispatchEvent(new Event('visibilitychange'));"

    run(browser, hide % "true" + turn)
    assert not is_ticking(browser)
    new = submit()
    assert new not in browser.driver.page_source
    run(browser, hide % "false" + turn)

    browser.until(lambda: new in browser.driver.page_source, "not fresh")
    assert is_ticking(browser)


def test_the_page_says_when_the_server_cannot_be_reached_and_when_it_can_again(browser: Browser) -> None:
    open_and_mark(browser, "/")
    before = said(browser)
    conditions = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.driver.execute_cdp_cmd("Network.enable", {})

    browser.driver.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)
    browser.until(lambda: "cannot be reached" in said(browser), "nothing is said")
    assert "UTC or older" in said(browser)
    browser.picture("unreachable")
    browser.driver.execute_cdp_cmd("Network.emulateNetworkConditions", conditions | {"offline": False})

    browser.until(lambda: said(browser) == before, "not back")
    assert run(browser, "return window.mark")
    assert all("ERR_INTERNET_DISCONNECTED" in each for each in browser.complaints())


@pytest.mark.parametrize(("wish", "animation"), [("reduce", "none"), ("no-preference", "fresh")])
def test_new_rows_move_only_for_those_who_like_it(
    browser: Browser, submit: Callable[[], str], wish: str, animation: str
) -> None:
    submit()
    feature = {"name": "prefers-reduced-motion", "value": wish}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.open("/requests")
    run(browser, OBSERVE_ROWS)

    submit()
    browser.until(lambda: run(browser, "return window.moves.length"), "no new row appears")

    assert run(browser, "return window.moves") == [animation]


def test_a_whole_token_is_searched_for_and_gets_into_no_address(
    deployment: Deployment, browser: Browser, submit: Callable[[], str]
) -> None:
    request_id = submit()
    browser.open("/requests")

    browser.driver.find_element(By.ID, "driver").send_keys(TOKEN + Keys.ENTER)
    browser.until(lambda: "driver=" in browser.path, "nothing is searched for")

    assert request_id in browser.driver.page_source
    assert browser.driver.find_element(By.ID, "driver").get_attribute("value").startswith(f"{MASKED}~")
    addresses = run(browser, "return performance.getEntries().map((each) => each.name).join()") + browser.path
    assert TOKEN not in browser.driver.page_source + addresses + deployment.output()
    browser.picture("search")
    browser.picture("search", "dark")

    browser.driver.find_element(By.ID, "state").send_keys("failed")
    browser.button("Search").click()
    browser.until(lambda: "There are none." in browser.text, "state is no filter")
    browser.driver.find_element(By.LINK_TEXT, "Show all").click()
    browser.until(lambda: browser.path == "/requests", "not all")
    assert browser.complaints() == []


def test_what_cannot_be_searched_for_is_said(browser: Browser) -> None:
    browser.open("/requests")

    browser.driver.find_element(By.ID, "station").send_keys("nowhere" + Keys.ENTER)
    browser.until(lambda: browser.driver.find_elements(By.CSS_SELECTOR, "[role=alert]"), "nothing is said")

    station = browser.driver.find_element(By.ID, "station")
    assert station.get_attribute("aria-invalid") == "true"
    assert browser.driver.find_element(By.ID, "station-wrong").text == "A station id is a UUID."
    browser.picture("search-refused")
    # The answer to the form is a 400, which the browser notes; nothing else.
    assert all("400 (BAD REQUEST)" in each for each in browser.complaints())


def test_the_list_is_used_with_the_keyboard_alone(browser: Browser, submit: Callable[[], str]) -> None:
    request_id = submit()
    browser.open(f"/requests?station={STATION}")
    seen = []

    for _ in range(40):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        focused = browser.driver.switch_to.active_element
        seen.append(focused.get_attribute("id") or focused.text)
        outline = run(browser, "return getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", f"the focus cannot be seen: {seen}"
        if focused.get_attribute("href") and request_id in str(focused.get_attribute("href")):
            focused.send_keys(Keys.ENTER)
            break

    browser.until(lambda: browser.path == f"/requests/{request_id}", f"not found by TAB: {seen}")
    fields = ["request", "station", "driver", "state", "decision", "since", "until"]
    assert [each for each in dict.fromkeys(seen) if each in fields] == fields
    assert browser.complaints() == []


def test_everything_works_without_the_script(browser: Browser, submit: Callable[[], str]) -> None:
    request_id = submit()
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})

    browser.open("/requests")
    assert not browser.driver.find_element(By.ID, "live").is_displayed()
    browser.driver.find_element(By.ID, "driver").send_keys(TOKEN)
    browser.button("Search").click()
    browser.until(lambda: "driver=" in browser.path, "nothing is searched for")
    browser.driver.find_element(By.CSS_SELECTOR, f"a[href='/requests/{request_id}']").click()
    browser.until(lambda: browser.path == f"/requests/{request_id}", "not shown")
    browser.open("/")
    assert len(browser.driver.find_elements(By.CSS_SELECTOR, "svg[role=img]")) == 8


def test_pages_with_rows_and_charts_fit_on_a_telephone(browser: Browser, submit: Callable[[], str]) -> None:
    request_id = submit()
    telephone(browser)

    for path, name in (("/", "overview"), ("/requests", "requests"), (f"/requests/{request_id}", "request")):
        browser.open(path)
        assert run(browser, "return document.documentElement.scrollWidth") <= 390
        for region in browser.driver.find_elements(By.CSS_SELECTOR, ".scroll:has(.stacking)"):
            assert run_on(browser, "return arguments[0].scrollWidth - arguments[0].clientWidth", region) <= 0
        browser.picture(f"telephone-{name}")
        browser.picture(f"telephone-{name}", "dark")
    assert browser.complaints() == []


def run_on(browser: Browser, script: str, element: Any) -> Any:
    return browser.driver.execute_script(script, element)


def test_a_page_whose_session_has_ended_says_so_until_somebody_logs_in_again(
    deployment: Deployment, browser: Browser
) -> None:
    # The last test here: once there is a key, nobody gets in without.
    browser.open("/login")
    browser.driver.find_element(By.ID, "key").send_keys(make_key(deployment.runtime, Scope.OPERATE))
    browser.button("Log in").click()
    browser.until(lambda: browser.path == "/", "not logged in")
    browser.until(lambda: is_ticking(browser), "not live")

    cookies = browser.driver.get_cookies()
    browser.driver.delete_all_cookies()

    browser.until(lambda: "The session has ended." in said(browser), "nothing is said")
    browser.until(lambda: not is_ticking(browser), "it goes on asking")
    assert browser.path == "/"

    for cookie in cookies:
        browser.driver.add_cookie(cookie)
    run(browser, "document.dispatchEvent(new Event('visibilitychange'))")

    browser.until(lambda: is_ticking(browser), "it does not go on")
    assert "The session has ended." not in said(browser)
    assert browser.complaints() == []
