"""A real browser: Debian's, from the packages chromium and chromium-driver."""

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")
DEADLINE_SECONDS = 15.0
TELEPHONE = 390

needs_chromium = pytest.mark.skipif(
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
        self.driver.save_screenshot(str(self._directory / f"{name}-{scheme}.png"))

    def whole_picture(self, name: str) -> None:
        """The page to its end, however far down that is."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        (self._directory / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))

    def background(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
