"""Somebody who is logged in to the console and sends the forms of its pages."""

import re
from html import unescape

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope
from support.callers import make_key, open_api

BROWSER = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Site": "same-origin"}


class Visitor:
    def __init__(self, runtime: Runtime, scope: Scope = Scope.ADMIN) -> None:
        self.runtime = runtime
        self.key = make_key(runtime, scope, caller="staff")
        self.client: FlaskClient = open_api(runtime)
        assert self.client.post("/login", data={"key": self.key}, headers=BROWSER).status_code == 303
        self.form_token = self.hidden("/", "form_token")

    def get(self, path: str) -> TestResponse:
        return self.client.get(path, headers=BROWSER)

    def post(self, path: str, token: str | None = None, **fields: str | list[str]) -> TestResponse:
        form = {"form_token": self.form_token if token is None else token, **fields}
        return self.client.post(path, headers=BROWSER, data=form)

    def follow(self, answer: TestResponse) -> str:
        """The page that a form led to."""
        assert answer.status_code == 303
        return self.get(str(answer.location)).text

    def hidden(self, path: str, name: str) -> str:
        """What a hidden field of a page holds."""
        return hidden(self.get(path).text, name)


def hidden(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, page
    return unescape(found[1])


def words(page: str) -> str:
    """What is to be read on a page."""
    return unescape(" ".join(re.sub(r"<[^>]*>", " ", page).split()))
