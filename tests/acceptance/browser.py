"""A real browser: Debian's, from the packages chromium and chromium-driver. Its pictures are kept."""

import base64
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")
DEADLINE_SECONDS = 15.0
TELEPHONE = 390

# Of each file of tests the pictures of its last run.
PICTURES = Path(__file__).resolve().parents[2] / "test-artifacts" / "screenshots"

needs_chromium = pytest.mark.skipif(
    not (CHROMIUM.exists() and DRIVER.exists()), reason=f"{CHROMIUM} or {DRIVER} is not installed"
)


class Browser:
    def __init__(self, profile: Path, url: str, pictures: Path) -> None:
        self._pictures = pictures
        self._url = url
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for argument in (
            "headless=new",
            "window-size=1200,900",
            "no-proxy-server",
            f"user-data-dir={profile}",
        ):
            options.add_argument(f"--{argument}")
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))

    def open(self, path: str) -> None:
        self.driver.get(self._url + path)

    @property
    def path(self) -> str:
        return self.driver.current_url.removeprefix(self._url)

    @property
    def text(self) -> str:
        try:
            return self.driver.find_element(By.TAG_NAME, "body").text
        except WebDriverException as error:
            # Chromium's driver has two ways to say that the page has been replaced meanwhile.
            if "does not belong to the document" in str(error.msg):
                raise StaleElementReferenceException(error.msg) from error
            raise

    def button(self, words: str) -> WebElement:
        """The one to be seen: others of the same name may be folded away."""
        found = self.driver.find_elements(By.XPATH, f"//button[normalize-space()='{words}']")
        return next(each for each in found if each.is_displayed())

    def until(self, condition: Callable[[], Any], what: str) -> None:
        # A look may fall into the moment between two pages.
        between_pages = (StaleElementReferenceException, NoSuchElementException)
        WebDriverWait(self.driver, DEADLINE_SECONDS, 0.1, between_pages).until(lambda _: condition(), what)

    def press(self, words: str, then: str) -> None:
        """A button, and wait until the page that follows says `then`."""
        self.button(words).click()
        self.until(lambda: then in self.text, f"{words}: {then!r} is not to be read")

    def fill(self, **fields: str) -> None:
        for name, value in fields.items():
            field = self.driver.find_element(By.ID, name)
            field.clear()
            field.send_keys(value)

    def log_in(self, key: str) -> None:
        self.open("/login")
        self.fill(key=key)
        self.button("Log in").click()
        self.until(lambda: self.path == "/", "not logged in")

    def complaints(self) -> list[str]:
        """What the console of the browser has, violations of the policy too."""
        return [each["message"] for each in self.driver.get_log("browser")]

    def posted(self) -> set[str]:
        """Paths to which forms were sent."""
        told = [json.loads(each["message"])["message"] for each in self.driver.get_log("performance")]
        sent = [each["params"]["request"] for each in told if each["method"] == "Network.requestWillBeSent"]
        return {urlsplit(each["url"]).path for each in sent if each["method"] == "POST"}

    def prefer(self, scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def be_a_telephone(self, width: int = TELEPHONE) -> None:
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def be_a_desk(self) -> None:
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def unfold(self) -> None:
        self.driver.execute_script("document.querySelectorAll('details').forEach(each => { each.open = true })")

    def is_wider_than_its_window(self) -> bool:
        return bool(
            self.driver.execute_script(
                "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
            )
        )

    def picture(self, name: str, scheme: str = "light") -> None:
        self.prefer(scheme)
        self.driver.save_screenshot(str(self._pictures / f"{name}-{scheme}.png"))

    def whole_picture(self, name: str) -> None:
        """The page to its end, however far down that is."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        (self._pictures / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))

    def background(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")


@contextmanager
def open_browser(url: str, tests: str) -> Iterator[Browser]:
    """`tests` is the name of their file."""
    pictures = PICTURES / tests.removeprefix("test_")
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "localhost,127.0.0.1")
        browser = Browser(Path(profile), url, pictures)
        try:
            yield browser
        finally:
            browser.driver.quit()
