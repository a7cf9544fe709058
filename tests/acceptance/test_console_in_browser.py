"""The console in a real browser: logging in, looking, and having a callback sent again."""

from browser import Browser, needs_chromium
from deployment import STATION, Deployment
from selenium.webdriver.common.by import By
from servers import Receiver
from support.callers import make_key

from chargeapp.security.api_keys import Scope

TOKEN = "driver-token-of-the-browser-1"

pytestmark = needs_chromium


def test_somebody_logs_in_looks_at_a_request_and_has_its_callback_sent_again(
    deployment: Deployment, receiver: Receiver, browser: Browser
) -> None:
    path = receiver.path()
    request_id = deployment.submit(TOKEN, receiver.url(path))
    deployment.wait_until(request_id, state="delivered")
    key = make_key(deployment.runtime, Scope.OPERATE)

    # Nobody gets in without a key any more.
    browser.open("/")
    assert browser.path == "/login"
    assert browser.driver.switch_to.active_element.get_attribute("id") == "key"
    assert browser.driver.find_element(By.ID, "key").get_attribute("type") == "password"
    browser.picture("login", "dark")
    dark = browser.background()
    browser.picture("login", "light")
    assert browser.background() != dark

    browser.driver.find_element(By.ID, "key").send_keys(key)
    browser.button("Log in").click()
    browser.until(lambda: browser.path == "/", "not logged in")
    cookie = browser.driver.get_cookie("chargeapp")
    assert cookie is not None
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    assert browser.driver.execute_script("return document.cookie") == ""
    browser.picture("overview")

    browser.driver.find_element(By.CSS_SELECTOR, f"a[href='/requests/{request_id}']").click()
    browser.until(lambda: browser.path == f"/requests/{request_id}", "the request is not shown")
    for words in (request_id, STATION, "delivered", "allowed", "RequestAccepted", "CallbackDeliverySucceeded"):
        assert words in browser.text
    assert TOKEN not in browser.driver.page_source
    browser.picture("request", "dark")
    browser.picture("request")

    browser.button("Send the callback again").click()
    browser.until(lambda: "RedeliveryRequested" in browser.text, "not sent again")
    deployment.until(lambda: len(receiver.at(path)) == 2, "no second callback")

    browser.open("/queues")
    assert all(name in browser.text for name in ("authorization", "callbacks", "delivery-events"))
    browser.picture("queues")

    browser.button("Log out").click()
    browser.until(lambda: browser.path == "/login", "not logged out")
    browser.open(f"/requests/{request_id}")
    assert browser.path == "/login"
    assert browser.complaints() == []


def test_the_browser_would_complain_of_a_script_in_a_page(browser: Browser) -> None:
    browser.open("/login")

    browser.driver.execute_script("document.body.insertAdjacentHTML('beforeend', '<i style=\"color: red\">x</i>')")

    assert "Content Security Policy" in "".join(browser.complaints())


def test_pages_fit_on_a_telephone(deployment: Deployment, browser: Browser) -> None:
    browser.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    )
    browser.open("/login")
    browser.driver.find_element(By.ID, "key").send_keys(make_key(deployment.runtime, Scope.OPERATE))
    browser.button("Log in").click()
    browser.until(lambda: browser.path == "/", "not logged in")

    for path in ("/", "/queues"):
        browser.open(path)
        browser.picture(f"telephone{path.replace('/', '-')}")
        assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= 360
