"""Prose cannot drift: what the documents name exists, and what exists is named.

Run as a program, it prints the README's table of settings.
"""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from shutil import which
from typing import Any

import click
import pytest
from flask import Flask

from chargeapp.app import create_app
from chargeapp.commands import cli
from chargeapp.config import ALIASES, Settings, load_settings
from chargeapp.domain.charging_session import Decision, Reason, State
from chargeapp.pipeline import STAGES
from chargeapp.web.error_responses import WORDS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
README = (ROOT / "README.md").read_text()
UNITS = sorted((ROOT / "deploy" / "systemd").iterdir())

METHODS = "GET|POST|PUT|PATCH|DELETE"
SETTINGS = {field.name.upper() for field in fields(Settings)}
# Not a setting itself: it says where settings are.
CONFIG_FILE_VARIABLE = "CHARGEAPP_CONFIG"
# The product's own machine, and the standards it names.
HOSTS = {
    "127.0.0.1",
    "www.standardwebhooks.com",
    "keepachangelog.com",
    "semver.org",
    "www.conventionalcommits.org",
}
OUT_OF_PLACE = {
    "a path of somebody's machine": r"(?<![\w.])/(home|root|work|tmp|Users|mnt)/",
    "the number of an issue": r"(?<![\w/])#\d+|\b[Ii]ssue \d+",
    "a note to oneself": r"\b(TODO|FIXME|XXX|TBD)\b",
}


def configuration_table() -> str:
    rows = [
        f"| `{field.name.upper()}` | {_default(field.default)} | {field.metadata['help']} |"
        for field in fields(Settings)
    ]
    return "\n".join(["| Setting | Default | Meaning |", "|---|---|---|", *rows])


def _default(value: object) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{','.join(map(str, value))}`" if isinstance(value, tuple) else f"`{value}`"


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks: language and content."""
    return re.findall(r"^```(\S*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """What stands between backticks in the prose."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    return create_app(load_settings(environ={"CHARGEAPP_DATA_DIR": str(tmp_path_factory.mktemp("docs"))}))


def routes(app: Flask) -> set[str]:
    return {
        f"{method} {re.sub(r'<(?:[^:>]+:)?request_id>', '{requestId}', rule.rule)}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static"
    }


# Routes


def test_the_readme_names_every_route_and_no_other(app: Flask) -> None:
    named = {span for span in spans(README) if re.fullmatch(rf"({METHODS}) /\S*", span)}

    assert named == routes(app)


def test_the_other_documents_name_only_routes_that_exist(app: Flask) -> None:
    named = {span for path in DOCUMENTS for span in spans(path.read_text()) if re.fullmatch(rf"({METHODS}) /\S*", span)}

    assert named - routes(app) == set()


def test_every_address_of_the_api_in_an_example_exists(app: Flask) -> None:
    adapter = app.url_map.bind("127.0.0.1")
    paths = re.findall(r"http://127\.0\.0\.1:8080(/[^\s'\"?`>]*)", README)

    assert [path for path in paths if not adapter.allowed_methods(path)] == []
    assert len(paths) >= 3


def test_every_error_word_is_in_the_table() -> None:
    for code, (word, _) in WORDS.items():
        assert f"| {code} | `{word}` |" in README


def test_states_decisions_and_reasons_are_those_of_the_code() -> None:
    told_to_callers = {*State, *Decision, *Reason} - {Reason.GONE, Reason.UNDELIVERABLE}

    assert told_to_callers - set(spans(README)) == set()


# Commands


def leaves(command: click.Command, path: tuple[str, ...] = ("chargeapp",)) -> Iterator[tuple[str, ...]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from leaves(found, (*path, name))
    else:
        yield path


def unknown_words(line: str) -> list[str]:
    """What the command line does not know of `chargeapp …`: a command, or an option."""
    words = iter(shlex.split(line, comments=True)[1:])
    command: click.Command = cli
    for word in words:
        if isinstance(command, click.Group) and not word.startswith("-"):
            found = command.get_command(click.Context(command), word)
            if found is None:
                return [word]
            command = found
        elif word.startswith("--") and word.partition("=")[0] not in options_of(command):
            return [word]
    return []


def options_of(command: click.Command) -> set[str]:
    return {"--help"} | {option for parameter in command.params for option in parameter.opts}


def named_commands(text: str) -> set[str]:
    in_prose = {span for span in spans(text) if span.startswith("chargeapp ")}
    in_blocks = {
        found
        for language, content in blocks(text)
        if language == "bash"
        for found in re.findall(r"(?:^|[|;&(]\s*)(chargeapp [^|;&)\n]*)", content, re.MULTILINE)
    }
    return in_prose | in_blocks


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_named_exists(path: Path) -> None:
    named = named_commands(path.read_text())

    assert {line: unknown for line in named if (unknown := unknown_words(line.replace("…", "")))} == {}


def test_every_command_is_in_the_readme() -> None:
    assert {" ".join(path) for path in leaves(cli)} - set(spans(README)) == set()


def test_every_queue_is_in_the_readme() -> None:
    assert {stage.queue for stage in STAGES} <= set(spans(README))


@pytest.mark.parametrize("path", [ROOT / "Procfile", *UNITS], ids=lambda path: path.name)
def test_what_supervisors_start_exists(path: Path) -> None:
    for command in re.findall(r"-m (chargeapp .*)", path.read_text()):
        assert unknown_words(command) == []


def test_a_worker_for_each_queue_is_started() -> None:
    target = (ROOT / "deploy" / "systemd" / "chargeapp.target").read_text()
    procfile = (ROOT / "Procfile").read_text()

    assert set(re.findall(r"chargeapp-worker@(\S+)\.service", target)) == {stage.queue for stage in STAGES}
    assert set(re.findall(r"chargeapp worker (\S+)", procfile)) == {stage.queue for stage in STAGES}


@pytest.mark.skipif(which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        # The programs are where an operator will have put them, not here.
        text = re.sub(r"^(Exec\w+)=\S+", r"\1=/bin/true", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name.replace("@.", "@callbacks.")).write_text(text)

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *tmp_path.iterdir()],
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert (done.returncode, [line for line in done.stderr.splitlines() if "chargeapp" in line]) == (0, [])


@pytest.mark.skipif(which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("path", [unit for unit in UNITS if unit.suffix == ".service"], ids=lambda path: path.name)
def test_a_unit_may_do_little(path: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", path],
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.returncode == 0, done.stdout.splitlines()[-1] + done.stderr


# Settings


def test_the_table_of_settings_is_that_of_the_settings() -> None:
    assert configuration_table() in README, "print it anew: .venv/bin/python tests/integration/test_docs.py"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_setting_named_exists(path: Path) -> None:
    named = {
        found
        for span in spans(path.read_text())
        for found in re.findall(r"^([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=.*)?$", span)
    }

    assert named - SETTINGS - set(ALIASES) - {CONFIG_FILE_VARIABLE} == set()


def test_the_units_set_only_what_exists() -> None:
    named = {name for unit in UNITS for name in re.findall(r"^Environment=(\w+)=", unit.read_text(), re.MULTILINE)}

    assert named <= SETTINGS


def test_the_example_of_a_configuration_file_can_be_loaded(tmp_path: Path) -> None:
    (example,) = [content for language, content in blocks(README) if language == "toml"]
    file = tmp_path / "chargeapp.toml"
    file.write_text(example)

    settings = load_settings(environ={}, config_file=file)

    assert {name: _as_text(getattr(settings, name.lower())) for name in tomllib.loads(example)} == {
        name: _as_text(value) for name, value in tomllib.loads(example).items()
    }


def _as_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# Everything else


def test_the_picture_shows_every_outbox_and_queue() -> None:
    (picture,) = [content for language, content in blocks(README) if language == "mermaid"]

    for stage in STAGES:
        assert f"({stage.outbox.__tablename__})" in picture
        assert f"queue {stage.queue}:" in picture


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_resolve(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text())

    assert [link for link in links if not link.startswith("http") and not resolves(path, link)] == []


def resolves(path: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = path.parent / name if name else path
    return target.exists() and (not anchor or anchor in anchors(target.read_text()))


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [*DOCUMENTS, *UNITS], ids=lambda path: path.name)
def test_documents_speak_of_the_product_alone(path: Path) -> None:
    text = path.read_text()

    found = {what: lines for what, pattern in OUT_OF_PLACE.items() if (lines := _lines_with(pattern, text))}
    hosts = set(re.findall(r"https?://([\w.-]+)", text))
    assert found == {}
    assert hosts - HOSTS == set()


def _lines_with(pattern: str, text: str) -> list[str]:
    return [line for line in text.splitlines() if re.search(pattern, line)]


if __name__ == "__main__":
    print(configuration_table())
