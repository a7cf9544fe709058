"""Every setting in one place: where it may come from, and what is said of a wrong one.

`python tests/unit/test_settings.py` writes the two example files anew.
"""

import ipaddress
import re
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from chargeapp.config import Settings, load_settings
from chargeapp.errors import MisconfiguredError
from chargeapp.security.driver_tokens import new_key
from chargeapp.security.secrets_file import load_secrets, new_secrets
from chargeapp.security.signatures import new_secret

ROOT = Path(__file__).resolve().parents[2]
ENV_EXAMPLE, TOML_EXAMPLE = ROOT / ".env.example", ROOT / "chargeapp.toml.example"
HEADS = {
    ENV_EXAMPLE: "# Every setting with its default. Copy to .env and remove the # where you want another value.",
    TOML_EXAMPLE: "# Every setting with its default. Copy to chargeapp.toml and remove the # where you want another"
    " value.\n# Environment variables of the same names win. Secrets belong in the environment.",
}


def render(path: Path) -> str:
    lines = [HEADS[path]]
    for each in fields(Settings):
        value = as_toml(each.default) if path == TOML_EXAMPLE else as_text(each.default)
        equals = " = " if path == TOML_EXAMPLE else "="
        lines += ["", f"# {each.metadata['help']}", f"#{each.name.upper()}{equals}{value}"]
    return "\n".join(lines) + "\n"


def as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def as_toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(as_toml, value))}]"
    return as_text(value) if isinstance(value, bool | int) else f'"{as_text(value)}"'


def uncommented(path: Path) -> dict[str, str]:
    found = re.findall(r"^#([A-Z_]+) ?= ?(.*)$", path.read_text(), re.MULTILINE)
    return dict(found)


def load(tmp_path: Path, environ: dict[str, str] | None = None, toml: str | None = None) -> Settings:
    file = tmp_path / "chargeapp.toml"
    if toml is not None:
        file.write_text(toml)
    return load_settings(environ or {}, file)


@pytest.mark.parametrize("path", [ENV_EXAMPLE, TOML_EXAMPLE], ids=lambda path: path.name)
def test_an_example_names_every_setting_once_with_its_help_and_default(path: Path) -> None:
    assert path.read_text() == render(path), f"run: python {Path(__file__).relative_to(ROOT)}"
    assert list(uncommented(path)) == [each.name.upper() for each in fields(Settings)]


def test_the_example_of_an_environment_can_be_read_and_says_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, uncommented(ENV_EXAMPLE)) == load(tmp_path)


def test_the_example_of_a_file_can_be_read_and_says_the_defaults(tmp_path: Path) -> None:
    toml = "".join(f"{name} = {value}\n" for name, value in uncommented(TOML_EXAMPLE).items() if value != '""')

    assert set(tomllib.loads(toml)) <= {each.name.upper() for each in fields(Settings)}
    assert load(tmp_path, toml=toml) == load(tmp_path)


@pytest.mark.parametrize("path", [ENV_EXAMPLE, TOML_EXAMPLE], ids=lambda path: path.name)
def test_an_example_is_safe_to_copy_as_it_is(tmp_path: Path, path: Path) -> None:
    assert [line for line in path.read_text().splitlines() if line and not line.startswith("#")] == []


def test_every_setting_has_a_default_and_a_help() -> None:
    assert all(each.default is not MISSING and each.metadata["help"] for each in fields(Settings))


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    toml = "PORT = 9001\nQUEUE_MAX_SIZE = 5\n"

    settings = load(tmp_path, {"PORT": "9002"}, toml)

    assert (settings.port, settings.queue_max_size, settings.web_threads) == (9002, 5, 8)


def test_an_empty_variable_is_as_good_as_none(tmp_path: Path) -> None:
    assert load(tmp_path, {"PORT": ""}, "PORT = 9001\n").port == 9001


def test_variables_of_others_are_ignored(tmp_path: Path) -> None:
    assert load(tmp_path, {"PATH": "/bin", "port": "1"}) == load(tmp_path)


@pytest.mark.parametrize(
    ("environ", "port"),
    [
        ({"KTOR_DEPLOYMENT_PORT": "9003"}, 9003),
        ({"KTOR_DEPLOYMENT_PORT": "9003", "PORT": "9004"}, 9004),
        ({"KTOR_DEPLOYMENT_PORT": ""}, 8080),
    ],
)
def test_the_port_has_a_second_name(tmp_path: Path, environ: dict[str, str], port: int) -> None:
    assert load(tmp_path, environ).port == port


def test_the_second_name_of_the_port_is_known_in_the_file_too(tmp_path: Path) -> None:
    assert load(tmp_path, toml="KTOR_DEPLOYMENT_PORT = 9005\n").port == 9005


def test_lists_are_written_with_commas_or_as_toml_lists(tmp_path: Path) -> None:
    networks = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
    environ = {"CALLBACK_ALLOWED_NETWORKS": "10.0.0.0/8, fd00::/8", "CALLBACK_ROUNDS_SECONDS": "1,2"}
    toml = 'CALLBACK_ALLOWED_NETWORKS = ["10.0.0.0/8", "fd00::/8"]\nCALLBACK_ROUNDS_SECONDS = [1, 2]\n'

    for settings in (load(tmp_path, environ), load(tmp_path, toml=toml)):
        assert settings.callback_allowed_networks == networks
        assert settings.callback_rounds_seconds == (1, 2)


WRONG = {
    "PORT": ["0", "65536", "http", "8080.5"],
    "CHARGEAPP_ENV": ["test"],
    "BROKER": ["rabbitmq"],
    "AUTHORIZATION_SERVICE_URL": ["localhost", "ftp://host/"],
    "AUTHORIZATION_CIRCUIT_BREAKER_ENABLED": ["perhaps"],
    "CALLBACK_MAX_RETRIES": ["-1", "21"],
    "CALLBACK_ROUNDS_SECONDS": ["30,x", "0"],
    "CALLBACK_ALLOWED_NETWORKS": ["10.0.0.0/33", "10.0.0.1/8"],
    "DRIVER_TOKEN_HASH_KEY": ["short"],
    "DRIVER_TOKEN_MIN_LENGTH": ["0", "81"],
    "MAX_REQUEST_BYTES": ["1"],
    "LOG_LEVEL": ["loud"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_named(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(MisconfiguredError, match=rf"\n  {name}: \S"):
        load(tmp_path, {name: value})


def test_all_wrong_values_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError) as raised:
        load(tmp_path, {"PORT": "x", "LOG_LEVEL": "loud"})

    assert "PORT: " in str(raised.value)
    assert "LOG_LEVEL: " in str(raised.value)


def test_a_name_in_the_file_that_is_no_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match=r"PROT: Unknown field"):
        load(tmp_path, toml="PROT = 1\n")


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match=r"chargeapp\.toml cannot be read"):
        load(tmp_path, toml="PORT 8080")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "chargeapp.toml").write_bytes(b"PORT = 8080 # \xff")

    with pytest.raises(MisconfiguredError, match=r"chargeapp\.toml cannot be read"):
        load(tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "chargeapp.toml").mkdir()

    with pytest.raises(MisconfiguredError, match=r"chargeapp\.toml cannot be read"):
        load(tmp_path)


def test_another_file_may_be_named_in_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text("PORT = 9006\n")

    assert load_settings({"CHARGEAPP_CONFIG": str(file)}).port == 9006


def test_the_process_environment_is_read_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9007")
    (tmp_path / "empty.toml").touch()
    monkeypatch.setenv("CHARGEAPP_CONFIG", str(tmp_path / "empty.toml"))

    assert load_settings().port == 9007


def test_a_named_file_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match="CHARGEAPP_CONFIG"):
        load_settings({"CHARGEAPP_CONFIG": str(tmp_path / "typo.toml")})


def test_the_database_lies_in_the_data_directory_unless_told_otherwise(tmp_path: Path) -> None:
    settings = load(tmp_path, {"CHARGEAPP_DATA_DIR": str(tmp_path)})

    assert settings.resolved_database_url == f"sqlite:///{tmp_path}/chargeapp.db"
    assert load(tmp_path, {"DATABASE_URL": "sqlite:////srv/c.db"}).resolved_database_url == "sqlite:////srv/c.db"


def test_the_data_directory_is_made_absolute(tmp_path: Path) -> None:
    assert load(tmp_path, {"CHARGEAPP_DATA_DIR": "data"}).chargeapp_data_dir == Path.cwd() / "data"


def test_secrets_are_not_shown() -> None:
    hidden = {
        "webhook_secret": "whsec_visible",
        "driver_token_keys": ("visible",),
        "driver_token_hash_key": "visible",
        "database_url": "visible",
        "redis_url": "visible",
    }

    assert "visible" not in repr(Settings(**hidden))


def test_production_without_secrets_refuses_and_says_what_to_do(tmp_path: Path) -> None:
    settings = load(tmp_path, {"CHARGEAPP_ENV": "production", "CHARGEAPP_DATA_DIR": str(tmp_path)})

    with pytest.raises(MisconfiguredError) as raised:
        load_secrets(settings)

    message = str(raised.value)
    assert "WEBHOOK_SECRET, DRIVER_TOKEN_KEYS, DRIVER_TOKEN_HASH_KEY must be set in production" in message
    assert "chargeapp secrets generate" in message
    assert list(tmp_path.iterdir()) == []


def test_production_with_all_secrets_makes_none(tmp_path: Path) -> None:
    secrets = new_secrets()
    environ = {"CHARGEAPP_ENV": "production", "CHARGEAPP_DATA_DIR": str(tmp_path), **secrets}

    loaded = load_secrets(load(tmp_path, environ))

    assert loaded.webhook_secret == secrets["WEBHOOK_SECRET"]
    assert loaded.driver_token_keys == (secrets["DRIVER_TOKEN_KEYS"],)
    assert list(tmp_path.iterdir()) == []


def test_development_makes_its_secrets_once_for_their_owner_only(tmp_path: Path) -> None:
    settings = Settings(chargeapp_data_dir=tmp_path / "var")

    first, second = load_secrets(settings), load_secrets(settings)

    (file,) = (tmp_path / "var").iterdir()
    assert first == second
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_a_secret_that_is_set_is_used_beside_those_that_were_made(tmp_path: Path) -> None:
    secret, key = new_secret(), new_key()
    made = load_secrets(Settings(chargeapp_data_dir=tmp_path))

    mixed = load_secrets(Settings(chargeapp_data_dir=tmp_path, webhook_secret=secret, driver_token_keys=(key,)))

    assert (mixed.webhook_secret, mixed.driver_token_keys) == (secret, (key,))
    assert mixed.driver_token_hash_key == made.driver_token_hash_key


def test_of_two_processes_that_make_secrets_at_once_the_first_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_secrets(Settings(chargeapp_data_dir=tmp_path))
    # As the other saw it a moment before.
    monkeypatch.setattr(Path, "exists", lambda self: False)

    assert load_secrets(Settings(chargeapp_data_dir=tmp_path)) == first
    assert [path.name for path in tmp_path.iterdir()] == ["secrets.json"]


@pytest.mark.parametrize("content", ["{", None])
def test_a_file_of_secrets_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "secrets.json"
    file.mkdir() if content is None else file.write_text(content)

    with pytest.raises(MisconfiguredError, match=r"secrets\.json cannot be read or made"):
        load_secrets(Settings(chargeapp_data_dir=tmp_path))


if __name__ == "__main__":
    for path in HEADS:
        path.write_text(render(path))
