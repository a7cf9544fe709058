"""The console in a real browser: Debian's, from the packages chromium and chromium-driver."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deployment import STATION, Deployment
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from servers import Receiver

from chargeapp.clock import utcnow
from chargeapp.security.api_keys import Scope
from chargeapp.services.api_keys import NewKey, create_key

CHROMIUM = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")
TOKEN = "driver-token-of-the-browser-1"
DEADLINE_SECONDS = 15.0

pytestmark = pytest.mark.skipif(
    not (CHROMIUM.exists() and DRIVER.exists()), reason=f"{CHROMIUM} or {DRIVER} is not installed"
)


class Browser:
    def __init__(self, directory: Path, url: str) -> None:
        self._directory = directory
        self._url = url
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for argument in (
            "headless=new",
            "window-size=1200,900",
            "no-proxy-server",
            f"user-data-dir={directory}/profile",
        ):
            options.add_argument(f"--{argument}")
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))

    def open(self, path: str) -> None:
        self.driver.get(self._url + path)

    @property
    def path(self) -> str:
        return self.driver.current_url.removeprefix(self._url)

    @property
    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def button(self, words: str) -> WebElement:
        return self.driver.find_element(By.XPATH, f"//button[normalize-space()='{words}']")

    def until(self, condition: Callable[[], Any], what: str) -> None:
        WebDriverWait(self.driver, DEADLINE_SECONDS, poll_frequency=0.1).until(lambda _: condition(), what)

    def complaints(self) -> list[str]:
        """What the console of the browser has, violations of the policy too."""
        return [each["message"] for each in self.driver.get_log("browser")]

    def picture(self, name: str, scheme: str = "light") -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        self.driver.save_screenshot(str(self._directory / f"{name}-{scheme}.png"))

    def background(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")


@pytest.fixture(scope="module")
def deployment(data_dir: Callable[[], Path]) -> Iterator[Deployment]:
    with Deployment(data_dir()) as deployment:
        deployment.allow(TOKEN)
        yield deployment.up()


@pytest.fixture
def browser(deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    browser = Browser(tmp_path, deployment.url)
    yield browser
    browser.driver.quit()


def make_key(deployment: Deployment) -> str:
    with deployment.runtime.database.writing() as session:
        return create_key(session, NewKey("browser", "staff", [Scope.OPERATE]), utcnow())


def test_somebody_logs_in_looks_at_a_request_and_has_its_callback_sent_again(
    deployment: Deployment, receiver: Receiver, browser: Browser
) -> None:
    path = receiver.path()
    request_id = deployment.submit(TOKEN, receiver.url(path))
    deployment.wait_until(request_id, state="delivered")
    key = make_key(deployment)

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
    browser.driver.find_element(By.ID, "key").send_keys(make_key(deployment))
    browser.button("Log in").click()
    browser.until(lambda: browser.path == "/", "not logged in")

    for path in ("/", "/queues"):
        browser.open(path)
        browser.picture(f"telephone{path.replace('/', '-')}")
        assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= 360
