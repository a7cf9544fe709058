"""The page at /docs: everything of the OpenAPI document, nothing from elsewhere, and lines that run as they stand."""

import json
import re
import shlex
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from support.callers import api_of, make_key

from chargeapp.security.api_keys import Scope


class Reader(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def values(self, attribute: str) -> list[str]:
        return [found for _, attributes in self.tags if (found := attributes.get(attribute))]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FlaskClient]:
    with api_of(tmp_path) as (_, api):
        yield api


@pytest.fixture
def page(api: FlaskClient) -> str:
    return api.get("/docs").get_data(as_text=True)


def curls(page: str) -> list[list[str]]:
    return [shlex.split(unescape(line)) for line in re.findall(r"<code>(curl .*?)</code>", page, re.DOTALL)]


def test_it_shows_every_operation_and_schema(api: FlaskClient, page: str) -> None:
    document = api.get("/openapi.json").get_json()

    ids = set(Reader(page).values("id"))
    text = unescape(page)
    for path, methods in document["paths"].items():
        assert f"<code>{path}</code>" in text
        assert {described["operationId"] for described in methods.values()} <= ids
    for name in document["components"]["schemas"]:
        assert f"<caption>{name}</caption>" in text


def test_every_link_leads_somewhere_on_this_machine(api: FlaskClient, page: str) -> None:
    reader = Reader(page)
    links = reader.values("href") + reader.values("src")

    for link in links:
        assert link.startswith(("#", "/")) and not link.startswith("//")
        if link.startswith("#"):
            assert link[1:] in reader.values("id")
        else:
            answer = api.get(link)
            assert answer.status_code == 200
            answer.close()
    assert len(links) > 12


def test_it_needs_neither_script_nor_inline_style(api: FlaskClient, page: str) -> None:
    policy = api.get("/docs").headers["Content-Security-Policy"]

    tags = Reader(page).tags
    assert not {"script", "style", "iframe", "form"} & {tag for tag, _ in tags}
    assert not [name for _, attributes in tags for name in attributes if name == "style" or name.startswith("on")]
    assert policy.startswith("default-src 'none'; style-src 'self';")
    assert "unsafe" not in policy


def test_ids_are_unique_and_headings_in_order(page: str) -> None:
    reader = Reader(page)
    levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)]

    assert len(set(reader.values("id"))) == len(reader.values("id"))
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_curls_run_as_they_stand(api: FlaskClient, page: str) -> None:
    found = curls(page)

    for words in found:
        options = dict(pairwise(words))
        (url,) = [word for word in words if word.startswith("http")]
        answer = api.open(
            url.removeprefix("http://localhost"),
            method=options.get("-X", "GET"),
            data=options.get("-d"),
            content_type="application/json" if "-d" in options else None,
        )
        assert answer.status_code == (404 if "req-" in url else 200), url
        if "-d" in options:
            assert json.loads(options["-d"])
    assert len(found) == 9


def test_a_hostile_host_name_stays_text(api: FlaskClient) -> None:
    page = api.get("/docs", headers={"Host": "x'\"><script>alert(1)</script>"}).get_data(as_text=True)

    assert "script" not in {tag for tag, _ in Reader(page).tags}


def test_nobody_needs_a_key_to_read_it(tmp_path: Path) -> None:
    with api_of(tmp_path) as (runtime, api):
        make_key(runtime, Scope.READ)
        answer = api.get("/docs")

    assert answer.status_code == 200
