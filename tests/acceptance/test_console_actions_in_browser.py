"""What the console changes, in a real browser: every page that acts, every button, with the mouse and without."""

import re
from collections.abc import Iterator

import pytest
from browser import Browser, needs_chromium
from deployment import STATION
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from troubled_console import FAILED, TOKEN, Console

from chargeapp.app import create_app
from chargeapp.domain.charging_session import State
from chargeapp.security.driver_tokens import mask
from chargeapp.services.access_list import list_entries
from chargeapp.services.api_keys import list_keys

LISTED = "driver-token-of-the-list-0001"

# These are done in the other files: where somebody looks at requests.
ELSEWHERE = {"console.search_requests", "console.send_again", "console.log_out"}
POSTED: set[str] = set()

pytestmark = needs_chromium


@pytest.fixture
def browser(browser: Browser) -> Iterator[Browser]:
    yield browser
    POSTED.update(browser.posted())


def check(browser: Browser, *names: str) -> None:
    for name in names:
        browser.driver.find_element(By.CSS_SELECTOR, f"input[type=checkbox][value='{name}']").click()


def test_failed_requests_are_filtered_selected_counted_and_sent_again(console: Console, browser: Browser) -> None:
    browser.log_in(console.admin)
    browser.driver.find_element(By.LINK_TEXT, "Failed").click()
    browser.until(lambda: console.failed[0][:18] in browser.text, "the list is not shown")
    browser.picture("failed", "dark")
    browser.picture("failed")

    browser.fill(station="00000000-0000-4000-8000-000000000000")
    browser.press("Show", "There are none.")
    browser.open("/failed?reason=gone&station=" + STATION)
    check(browser, *console.failed[:2])
    browser.press("Send the selected ones again…", "Send 2 callbacks again?")
    assert console.count(State.FAILED) == FAILED
    browser.picture("failed-question")
    browser.press("Send them again", "2 callbacks are sent again")
    console.deployment.until(lambda: console.count(State.DELIVERED) == 1 + 2, "not delivered")

    browser.driver.find_element(By.LINK_TEXT, "Back to the list").click()
    browser.until(lambda: "Send all that match again…" in browser.text, "the list is not shown again")
    browser.press("Send all that match again…", f"Send {FAILED - 2} callbacks again?")
    browser.press("Send them again", f"{FAILED - 2} callbacks are sent again")
    browser.picture("failed-sent")
    console.deployment.until(lambda: console.count(State.FAILED) == 0, "not all delivered")
    browser.driver.find_element(By.LINK_TEXT, "Back to the list").click()
    browser.until(lambda: "There are none." in browser.text, "the list is not empty")
    assert browser.complaints() == []


def test_a_dead_letter_is_replayed(console: Console, browser: Browser) -> None:
    browser.log_in(console.operator)
    browser.driver.find_element(By.LINK_TEXT, "Dead letters").click()
    browser.until(lambda: "cannot be opened" in browser.text, "the dead letter is not shown")
    browser.picture("dead-letters", "dark")
    browser.picture("dead-letters")

    browser.driver.find_element(By.CSS_SELECTOR, "input[name=row]").click()
    browser.press("Replay the selected ones", "1 put on its way again.")
    assert not console.is_dead()
    console.bury()
    browser.open("/dead-letters")
    browser.press("Replay all 1", "1 put on its way again.")

    assert not console.is_dead()
    assert browser.complaints() == []


def test_an_access_list_entry_is_added_found_changed_and_removed(console: Console, browser: Browser) -> None:
    browser.log_in(console.admin)
    browser.driver.find_element(By.LINK_TEXT, "Access list").click()
    browser.until(lambda: "Add an entry" in browser.text, "the list is not shown")
    browser.fill(driver_token="no token", station="no station")
    browser.press("Add the entry", "Nothing was done.")
    browser.picture("access-list-mistakes", "dark")
    browser.picture("access-list-mistakes")
    assert browser.driver.find_element(By.ID, "driver_token").get_attribute("value") == ""
    assert ["400" in each for each in browser.complaints()] == [True]

    browser.fill(driver_token=LISTED, station=STATION)
    browser.press("Add the entry", "The entry is in the list.")
    assert mask(LISTED) in browser.text
    browser.open("/access-list")
    browser.fill(search=LISTED)
    browser.press("Find", "Entries of one driver")
    assert LISTED not in browser.driver.page_source + browser.path
    browser.picture("access-list")

    browser.driver.find_element(By.LINK_TEXT, "Change").click()
    browser.until(lambda: "Remove this entry" in browser.text, "the entry is not shown")
    browser.driver.find_element(By.ID, "blocked").click()
    browser.press("Save", "The entry was changed.")
    assert "blocked" in browser.text
    browser.driver.find_element(By.LINK_TEXT, "Change").click()
    browser.until(lambda: "Remove this entry" in browser.text, "the entry is not shown again")
    browser.driver.find_element(By.TAG_NAME, "summary").click()
    browser.picture("access-list-entry", "dark")
    browser.picture("access-list-entry")
    browser.press("Remove it", "The entry was removed.")

    with console.runtime.database.reading() as session:
        assert [each.token_masked for each in list_entries(session, 10)] == [mask(TOKEN)]
    assert browser.complaints() == []


def test_a_key_is_made_shown_once_and_revoked(console: Console, browser: Browser) -> None:
    browser.log_in(console.admin)
    browser.driver.find_element(By.LINK_TEXT, "API keys").click()
    browser.until(lambda: "Make a key" in browser.text, "the keys are not shown")
    browser.fill(name="hub, first key", caller="hub")
    browser.press("Make the key", "shown only this once")
    browser.picture("keys-made", "dark")
    browser.picture("keys-made")
    (key,) = re.findall(r"cak_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", browser.text)
    assert console.deployment.get("/api/v1/charging-session", headers={"Authorization": f"Bearer {key}"}).ok
    assert key not in browser.driver.current_url
    assert key not in str(browser.driver.get_cookies())

    browser.driver.find_element(By.PARTIAL_LINK_TEXT, "I have copied it").click()
    browser.until(lambda: "hub, first key" in browser.text, "the key is not in the list")
    assert key not in browser.driver.page_source
    browser.driver.find_element(By.CSS_SELECTOR, "summary[aria-label='Revoke hub, first key']").click()
    browser.picture("keys", "dark")
    browser.picture("keys")
    browser.press("Revoke for good", "Nobody gets in with it any more.")

    assert key not in console.deployment.output()
    refused = console.deployment.get("/api/v1/charging-session", headers={"Authorization": f"Bearer {key}"})
    assert refused.status_code == 401
    assert browser.complaints() == []


def test_a_webhook_secret_is_rotated_shown_once_and_the_old_one_retired(console: Console, browser: Browser) -> None:
    browser.log_in(console.admin)
    browser.driver.find_element(By.LINK_TEXT, "Webhook secrets").click()
    browser.until(lambda: "Make a new secret" in browser.text, "the secrets are not shown")
    browser.fill(caller="chief")
    browser.press("Make a new secret", "shown only this once")
    browser.picture("secrets-made")
    (secret,) = re.findall(r"whsec_[A-Za-z0-9+/=]{44}", browser.text)

    browser.driver.find_element(By.PARTIAL_LINK_TEXT, "I have copied it").click()
    browser.until(lambda: "Retire…" in browser.text, "the old one is not in the list")
    assert secret not in browser.driver.page_source
    browser.driver.find_element(By.XPATH, "//summary[text()='Retire…']").click()
    browser.picture("secrets", "dark")
    browser.picture("secrets")
    browser.press("Retire it now", "It signs nothing any more")

    assert secret not in console.deployment.output()
    assert browser.complaints() == []


def test_an_operator_sees_the_pages_without_the_forms_of_admins(console: Console, browser: Browser) -> None:
    browser.log_in(console.operator)

    for name in ("Access list", "API keys", "Webhook secrets"):
        browser.driver.find_element(By.LINK_TEXT, name).click()
        browser.until(lambda: "log in with a key that has the scope admin" in browser.text, f"{name} does not say so")
        assert browser.driver.find_elements(By.CSS_SELECTOR, "main form:not(.filter)") == []
    browser.driver.find_element(By.LINK_TEXT, "Settings").click()
    browser.until(lambda: "CHARGEAPP_DATA_DIR" in browser.text, "the settings are not shown")
    browser.picture("settings", "dark")
    browser.picture("settings")
    assert browser.complaints() == []


def test_everything_can_be_done_with_the_keyboard_alone(console: Console, browser: Browser) -> None:
    browser.log_in(console.admin)
    tab_to(browser, "API keys").send_keys(Keys.ENTER)
    browser.until(lambda: "Make a key" in browser.text, "the keys are not shown")
    tab_to(browser, "name").send_keys("by keyboard")
    tab_to(browser, "scope-operate").send_keys(Keys.SPACE)
    browser.picture("keyboard")
    tab_to(browser, "Make the key").send_keys(Keys.ENTER)
    browser.until(lambda: "shown only this once" in browser.text, "no key was made")
    tab_to(browser, "I have copied it; back to the keys").send_keys(Keys.ENTER)
    browser.until(lambda: "by keyboard" in browser.text, "the key is not in the list")
    tab_to(browser, "Revoke by keyboard").send_keys(Keys.ENTER)
    tab_to(browser, "Revoke for good").send_keys(Keys.ENTER)
    browser.until(lambda: "Nobody gets in with it any more." in browser.text, "the key was not revoked")

    with console.runtime.database.reading() as session:
        (made,) = [each for each in list_keys(session) if each.name == "by keyboard"]
    assert (made.scopes, made.revoked_at is not None) == ("submit read operate", True)


def tab_to(browser: Browser, name: str) -> WebElement:
    """The control that so many tabs lead to: by its words, its label for screen readers, or its id."""
    for _ in range(120):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        here = browser.driver.switch_to.active_element
        if name in (here.text, here.get_attribute("aria-label"), here.get_attribute("id")):
            assert here.value_of_css_property("outline-style") != "none", f"{name}: the focus cannot be seen"
            return here
    raise AssertionError(f"no tab leads to {name}")


def test_every_action_of_the_console_was_done_above(console: Console) -> None:
    app = create_app(console.runtime.settings)
    adapter = app.url_map.bind("127.0.0.1")
    actions = {
        rule.endpoint
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("console.") and "POST" in (rule.methods or ())
    }

    assert {adapter.match(path, method="POST")[0] for path in POSTED} == actions - ELSEWHERE
