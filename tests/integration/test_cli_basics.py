"""What holds for every command: help that teaches, mistakes in one line, and what db, relay and secrets print."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import redis
from cli_support import accept, chargeapp, data_dir, running_redis, runtime, tables

import chargeapp as package
from chargeapp.commands import COMMANDS, cli
from chargeapp.config import load_settings
from chargeapp.security.driver_tokens import TokenVault
from chargeapp.security.signatures import Signer

__all__ = ["data_dir", "running_redis", "tables"]


def every_command(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("command", list(every_command()), ids=" ".join)
def test_help_of_every_command_has_examples(command: tuple[str, ...]) -> None:
    ended = chargeapp(*command, "--help")

    assert ended.status == 0
    examples = ended.out.partition("Example")[2]
    assert f"chargeapp {' '.join(command)}" in examples.partition("Options:")[0]


def test_help_lists_every_command_without_importing_any() -> None:
    program = "import sys; from chargeapp.commands import cli; cli(['--help'], standalone_mode=False);"
    heavy = "print([name for name in ('sqlalchemy', 'redis', 'flask', 'rich') if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program + heavy], capture_output=True, text=True, check=True)

    *help_, imported = ended.stdout.splitlines()
    assert imported == "[]"
    assert [name for name in COMMANDS if not any(line.split()[:1] == [name] for line in help_)] == []


@pytest.mark.parametrize("command", sorted({command[0] for command in every_command()}))
def test_help_of_a_group_answers_quickly(command: str) -> None:
    program = f"import sys; from chargeapp.commands import cli; cli(['{command}', '--help'], standalone_mode=False);"
    heavy = "print([name for name in ('sqlalchemy', 'redis', 'flask', 'rich') if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program + heavy], capture_output=True, text=True, check=True)

    assert ended.stdout.splitlines()[-1] == "[]"


# They run until they are stopped; what they have to say is the log, which has LOG_FORMAT=json.
WITHOUT_AN_ANSWER = {("up",), ("web",), ("worker",)}


@pytest.mark.parametrize("command", sorted(set(every_command()) - WITHOUT_AN_ANSWER), ids=" ".join)
def test_every_command_that_answers_has_json(command: tuple[str, ...]) -> None:
    assert "--json" in chargeapp(*command, "--help").out


def test_the_version_is_that_of_the_package() -> None:
    assert chargeapp("--version").out == f"chargeapp, version {package.__version__}\n"


def test_an_unknown_command_is_a_usage_error() -> None:
    ended = chargeapp("charge")

    assert ended.status == 2
    assert "No such command 'charge'" in ended.err


@pytest.mark.parametrize("command", [["db", "status"], ["acl", "list"], ["relay", "--once"], ["requests", "list"]])
def test_each_wrong_setting_is_one_line(data_dir: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.setenv("PORT", "99999")
    Path("chargeapp.toml").write_text('COLOUR = "red"\n')

    ended = chargeapp(*command)

    assert ended.status == 1
    assert ended.err.splitlines()[0] == "chargeapp: Wrong settings (environment or chargeapp.toml):"
    assert sorted(line.split(":")[0].strip() for line in ended.err.splitlines()[1:]) == ["COLOUR", "PORT"]


@pytest.mark.parametrize("command", [["acl", "list"], ["requests", "list"], ["dead-letters", "list"]])
def test_missing_tables_are_said_in_one_line_and_no_file_is_made(data_dir: Path, command: list[str]) -> None:
    ended = chargeapp(*command)

    assert ended.status == 1
    assert ended.err == (
        f"chargeapp: There is no database {data_dir / 'chargeapp.db'} yet. Make it: chargeapp db upgrade\n"
    )
    assert not (data_dir / "chargeapp.db").exists()


def test_tables_of_another_version_are_said_in_one_line(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "chargeapp.db").touch()

    ended = chargeapp("acl", "list")

    assert ended.status == 1
    assert "The tables are of version none" in ended.err
    assert ended.err.endswith("Run: chargeapp db upgrade\n")
    assert len(ended.err.splitlines()) == 1


def test_upgrade_makes_the_tables_and_may_be_repeated(data_dir: Path) -> None:
    before = chargeapp("db", "status", "--json")
    upgrades = [chargeapp("db", "upgrade").status for _ in range(2)]
    after = chargeapp("db", "status", "--json")

    assert (before.status, json.loads(before.out)["upToDate"]) == (1, False)
    assert upgrades == [0, 0]
    assert (after.status, json.loads(after.out)["upToDate"]) == (0, True)
    assert chargeapp("db", "status").out.startswith("Up to date (")


def test_the_relay_tells_what_one_pass_did(tables: Path, running_redis: str) -> None:
    with runtime() as app:
        accept(app)

    done = json.loads(chargeapp("relay", "--once", "--json").out)

    assert done["published"] == {"authorization": 1, "callbacks": 0, "delivery-events": 0}
    with redis.Redis.from_url(running_redis) as client:
        assert client.llen("rq:queue:authorization") == 1
    assert chargeapp("relay", "--once").out.startswith("Published 0 to authorization, ")


def test_the_relay_says_in_one_line_that_redis_is_down(tables: Path) -> None:
    ended = chargeapp("relay", "--once")

    assert ended.status == 1
    assert ended.err.startswith("chargeapp: Redis: ")
    assert len(ended.err.splitlines()) == 1


def test_generated_secrets_are_lines_of_an_env_file_that_work() -> None:
    lines = chargeapp("secrets", "generate").out.splitlines()
    environment = dict(line.split("=", 1) for line in lines) | {"CHARGEAPP_ENV": "production"}

    settings = load_settings(environment, Path("no.toml"))

    assert list(environment)[:3] == ["WEBHOOK_SECRET", "DRIVER_TOKEN_KEYS", "DRIVER_TOKEN_HASH_KEY"]
    assert settings.webhook_secret is not None
    assert settings.driver_token_hash_key is not None
    assert Signer(settings.webhook_secret)
    assert TokenVault(settings.driver_token_keys, settings.driver_token_hash_key)


def test_secrets_are_new_every_time() -> None:
    assert chargeapp("secrets", "generate").out != chargeapp("secrets", "generate").out
