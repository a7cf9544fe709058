"""The page of the settings: every one with its value and where that comes from; no secret."""

import os
from dataclasses import fields
from pathlib import Path

import pytest
from support.builders import new_runtime
from support.console import Visitor, words

from chargeapp.config import Settings, load_settings, sources
from chargeapp.security.driver_tokens import new_key
from chargeapp.web.console_settings import HIDDEN, describe

SECRETS = {
    "DATABASE_URL": "postgresql://chargeapp:hunter-two@db.example/chargeapp",
    "REDIS_URL": "redis://:hunter-three@redis.example:6379/0",
    "WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "DRIVER_TOKEN_KEYS": new_key(),
    "DRIVER_TOKEN_HASH_KEY": "a key of the tests, long enough for it",
    "KAFKA_SASL_PASSWORD": "the-password-of-kafka",
}


def test_the_page_names_every_setting_with_its_description(tmp_path: Path) -> None:
    with new_runtime(tmp_path, queue_max_size=4321) as runtime:
        page = words(Visitor(runtime).get("/settings").text)

    for each in fields(Settings):
        assert f"{each.name.upper()} " in page
        assert " ".join(each.metadata["help"].replace("`", " ").split())[:20] in page.replace(" ,", ",")
    assert "QUEUE_MAX_SIZE 4321" in page


def test_each_value_is_shown_with_where_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "chargeapp.toml"
    file.write_text("WEB_WORKERS = 3\nPORT = 9001\n")
    environ = {"KTOR_DEPLOYMENT_PORT": "9002", "CALLBACK_ROUNDS_SECONDS": "5,10", "LOG_LEVEL": ""}
    settings = load_settings(environ, file)

    shown = {each.name: (each.value, each.source) for each in describe(settings, sources(settings, environ, file))}

    assert shown["PORT"] == ("9002", "environment")
    assert shown["WEB_WORKERS"] == ("3", "chargeapp.toml")
    assert shown["CALLBACK_ROUNDS_SECONDS"] == ("5,10", "environment")
    assert shown["LOG_LEVEL"] == ("info", "default")
    assert shown["CHARGEAPP_DATA_DIR"] == (str(Path("var").absolute()), "default")
    assert shown["MONITORING_METRICS_ENABLED"] == ("true", "default")
    assert shown["CORS_ORIGINS"] == ("", "default")


def test_what_a_command_set_is_not_called_a_default() -> None:
    settings = Settings(web_threads=3)

    assert sources(settings, {}, Path(os.devnull))["web_threads"] == "command"


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_said_to_be_set_and_not_shown(name: str) -> None:
    environ = {name: SECRETS[name]}
    settings = load_settings(environ, Path(os.devnull))

    (shown,) = [each for each in describe(settings, sources(settings, environ, Path(os.devnull))) if each.name == name]

    assert (shown.value, shown.source) == (HIDDEN, "environment")


def test_every_secret_setting_is_among_those_above() -> None:
    assert {each.name.upper() for each in fields(Settings) if each.metadata["secret"]} == set(SECRETS)


def test_a_key_in_the_query_of_the_authorization_service_is_not_shown() -> None:
    environ = {"AUTHORIZATION_SERVICE_URL": "https://who.example/ask?key=hunter-four"}
    settings = load_settings(environ, Path(os.devnull))

    shown = {each.name: each.value for each in describe(settings, sources(settings, environ, Path(os.devnull)))}

    assert shown["AUTHORIZATION_SERVICE_URL"] == "https://who.example/ask?…"
