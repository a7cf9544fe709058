"""Every setting, once: its type, its default and what it is for. The only reader of the environment."""

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, validate
from marshmallow import fields as kinds

from chargeapp.errors import MisconfiguredError

CONFIG_FILE = "chargeapp.toml"
ALIASES = {"KTOR_DEPLOYMENT_PORT": "PORT"}
ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?")
RATE_OFF = "off"
PRODUCTION_RATE = "6000/minute"
Sources = dict[str, str]


class Networks(kinds.Field[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]]):
    """Comma-separated CIDR networks, or a TOML list of them."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        try:
            return tuple(ipaddress.ip_network(item) for item in split(value))
        except ValueError as error:
            raise ValidationError(f"{error}. Example: 10.0.0.0/8,fd00::/8") from error


class Seconds(kinds.Field[tuple[int, ...]]):
    """Comma-separated whole seconds, or a TOML list of them."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        try:
            seconds = tuple(int(item) for item in split(value))
        except ValueError as error:
            raise ValidationError("Must be whole seconds, for example 30,120,600") from error
        if any(second < 1 for second in seconds):
            raise ValidationError("Each must be at least 1")
        return seconds


class Words(kinds.Field[tuple[str, ...]]):
    """Comma-separated words, or a TOML list of them."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return tuple(split(value))


class Origins(kinds.Field[tuple[str, ...]]):
    """Comma-separated web origins, or a TOML list of them; each exactly as a browser sends it."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        origins = tuple(item.lower() for item in split(value))
        if not all(ORIGIN.fullmatch(origin) for origin in origins):
            raise ValidationError("Must be exact origins without path, for example https://ops.example.com")
        return origins


def split(value: Any) -> list[str]:
    items = value if isinstance(value, list) else str(value).split(",")
    return [str(item).strip() for item in items if str(item).strip()]


def setting(default: Any, kind: kinds.Field[Any], help_: str, *, secret: bool = False) -> Any:
    return field(default=default, metadata={"kind": kind, "help": help_, "secret": secret}, repr=not secret)


def whole(at_least: int, at_most: int = 2**31 - 1) -> kinds.Integer:
    return kinds.Integer(validate=validate.Range(at_least, at_most))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Read once at start and passed on. Names in the environment and in chargeapp.toml are these in capitals."""

    chargeapp_env: str = setting(
        "development",
        kinds.String(validate=validate.OneOf(["development", "production"])),
        "`production` refuses to start with anything unsafe",
    )
    host: str = setting("127.0.0.1", kinds.String(), "address the API listens on")
    port: int = setting(8080, whole(1, 65535), "port of the API (`KTOR_DEPLOYMENT_PORT` is accepted too)")
    web_workers: int = setting(2, whole(1, 64), "gunicorn processes")
    web_threads: int = setting(8, whole(1, 256), "threads in each of them, for all but the POST of a request")
    chargeapp_data_dir: Path = setting(Path("var"), kinds.String(), "database, sockets and generated secrets")
    database_url: str | None = setting(
        None, kinds.String(), "`sqlite:////…` or `postgresql://…`; default: SQLite in the data directory", secret=True
    )
    redis_url: str | None = setting(
        None, kinds.String(), "Redis to use; default: `chargeapp up` starts its own on a private socket", secret=True
    )
    broker: str = setting(
        "rq", kinds.String(validate=validate.OneOf(["rq", "kafka"])), "what carries jobs: `rq` in Redis, or `kafka`"
    )
    kafka_bootstrap_servers: tuple[str, ...] = setting(
        (), Words(), "`host:port` of some brokers, for `BROKER=kafka`; needs `pip install chargeapp[kafka]`"
    )
    kafka_security_protocol: str = setting(
        "PLAINTEXT",
        kinds.String(validate=validate.OneOf(["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])),
        "how to connect to Kafka",
    )
    kafka_ssl_ca_location: str | None = setting(
        None, kinds.String(), "file of the authorities that sign Kafka's certificates; default: the system's"
    )
    kafka_sasl_mechanism: str | None = setting(
        None,
        kinds.String(validate=validate.OneOf(["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])),
        "how to log in to Kafka",
    )
    kafka_sasl_username: str | None = setting(None, kinds.String(), "who logs in to Kafka")
    kafka_sasl_password: str | None = setting(None, kinds.String(), "with this password", secret=True)

    authorization_service_url: str | None = setting(
        None, kinds.Url(require_tld=False, schemes={"http", "https"}), "who decides; default: the built-in access list"
    )
    authorization_timeout_millis: int = setting(30_000, whole(100), "deadline for a decision, all tries together")
    authorization_max_retries: int = setting(3, whole(0, 20), "further tries after the first")
    authorization_circuit_breaker_enabled: bool = setting(
        True, kinds.Boolean(), "answer `unknown` at once while the service is failing"
    )

    callback_timeout_millis: int = setting(10_000, whole(100), "total deadline of one callback attempt")
    callback_max_retries: int = setting(3, whole(0, 20), "further attempts in a round after the first")
    callback_retry_delay_millis: int = setting(1_000, whole(1), "pause before the first retry; doubles each time")
    callback_rounds_seconds: tuple[int, ...] = setting(
        (30, 120, 600), Seconds(), "pauses before further rounds; the last repeats until the request expires"
    )
    callback_allowed_networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = setting(
        (), Networks(), "private networks that callbacks may reach; `chargeapp up` in development: 127.0.0.0/8"
    )
    webhook_secret: str | None = setting(
        None, kinds.String(), "signs callbacks: `whsec_` and base64 of 24 to 64 bytes; default: generated", secret=True
    )
    driver_token_keys: tuple[str, ...] = setting(
        (), Words(), "seal driver tokens, newest first: urlsafe base64 of 32 bytes; default: generated", secret=True
    )
    driver_token_hash_key: str | None = setting(
        None, kinds.String(validate=validate.Length(min=32)), "finds a driver token again; never change it", secret=True
    )
    driver_token_min_length: int = setting(20, whole(1, 80), "lower it for short RFID uids")
    driver_token_retention_hours: int = setting(24, whole(0), "driver tokens are erased this long after the end")

    request_ttl_seconds: int = setting(900, whole(1, 86_400), "no callback is sent later than this after acceptance")
    queue_max_size: int = setting(10_000, whole(1), "undecided requests beyond which the API answers 503")
    queue_consumer_threads: int = setting(32, whole(1, 256), "calls at the same time in each worker")
    max_request_bytes: int = setting(16_384, whole(1_024), "a larger body is answered 413")
    retention_days: int = setting(30, whole(1), "ended requests are kept this long")
    rate_limit: str | None = setting(
        None,
        kinds.String(
            validate=validate.Regexp(
                rf"([1-9][0-9]{{0,8}}/(second|minute|hour|day)|{RATE_OFF})\Z",
                error=f"Must be such as 600/minute, or {RATE_OFF}",
            )
        ),
        f"requests of each API key, and of each address without; default: {PRODUCTION_RATE} in production, else `off`",
    )
    trusted_proxies: int = setting(0, whole(0, 9), "reverse proxies in front, believed about the client's address")
    cors_origins: tuple[str, ...] = setting((), Origins(), "origins that browsers may call the API from")

    monitoring_metrics_enabled: bool = setting(True, kinds.Boolean(), "serve /metrics")
    monitoring_health_check_enabled: bool = setting(True, kinds.Boolean(), "serve /health")
    otel_exporter_otlp_endpoint: str | None = setting(
        None,
        kinds.Url(require_tld=False, schemes={"http", "https"}),
        "collector of traces, such as http://127.0.0.1:4318; needs `pip install chargeapp[tracing]`",
    )
    log_format: str = setting(
        "auto", kinds.String(validate=validate.OneOf(["auto", "console", "json"])), "auto: console on a terminal"
    )
    log_level: str = setting(
        "info", kinds.String(validate=validate.OneOf(["debug", "info", "warning", "error"])), "least severe line logged"
    )

    @property
    def production(self) -> bool:
        return self.chargeapp_env == "production"

    @property
    def uses_kafka(self) -> bool:
        return self.broker == "kafka"

    @property
    def effective_rate_limit(self) -> str | None:
        limit = self.rate_limit or (PRODUCTION_RATE if self.production else RATE_OFF)
        return None if limit == RATE_OFF else limit

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.chargeapp_data_dir / 'chargeapp.db'}"

    @property
    def authorization_timeout_seconds(self) -> float:
        return self.authorization_timeout_millis / 1000

    @property
    def callback_timeout_seconds(self) -> float:
        return self.callback_timeout_millis / 1000


class SettingsSchema(Schema):
    class Meta:
        unknown = RAISE


def load_settings(environ: Mapping[str, str] | None = None, config_file: Path | None = None) -> Settings:
    """Environment over chargeapp.toml over defaults; raises MisconfiguredError naming every wrong value."""
    environ = os.environ if environ is None else environ
    config_file = config_file or _config_file(environ)
    names = {each.name.upper(): each for each in fields(Settings)}
    given = {ALIASES.get(name, name): value for name, value in _from_file(config_file).items()}
    given |= _from_environment(environ)
    schema = SettingsSchema.from_dict({name: each.metadata["kind"] for name, each in names.items()})()
    try:
        loaded: dict[str, Any] = schema.load(given)
    except ValidationError as error:
        raise MisconfiguredError(_explain(error, config_file)) from error
    values = {names[name].name: value for name, value in loaded.items()}
    values["chargeapp_data_dir"] = Path(values.get("chargeapp_data_dir", Settings.chargeapp_data_dir)).absolute()
    return Settings(**values)


def sources(settings: Settings, environ: Mapping[str, str] | None = None, config_file: Path | None = None) -> Sources:
    """Where each value comes from, by the setting's name; to be asked when the settings were just loaded."""
    environ = os.environ if environ is None else environ
    config_file = config_file or _config_file(environ)
    in_file = {ALIASES.get(name, name) for name in _from_file(config_file)}
    in_environment = _from_environment(environ)

    def source(name: str, default: Any) -> str:
        if name.upper() in in_environment:
            return "environment"
        if name.upper() in in_file:
            return config_file.name
        # `chargeapp up` sets some of what nobody else did.
        return "default" if getattr(settings, name) in (default, _absolute(default)) else "command"

    return {each.name: source(each.name, each.default) for each in fields(Settings)}


def _config_file(environ: Mapping[str, str]) -> Path:
    named = environ.get("CHARGEAPP_CONFIG")
    config_file = Path(named or CONFIG_FILE)
    if named and not config_file.exists():
        raise MisconfiguredError(f"CHARGEAPP_CONFIG: {config_file} does not exist")
    return config_file


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    names = {each.name.upper() for each in fields(Settings)}
    given = {ALIASES[name]: value for name, value in environ.items() if name in ALIASES and value != ""}
    return given | {name: value for name, value in environ.items() if name in names and value != ""}


def _absolute(default: Any) -> Any:
    return default.absolute() if isinstance(default, Path) else default


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MisconfiguredError(f"{path} cannot be read: {error}") from error


def _explain(error: ValidationError, config_file: Path) -> str:
    assert isinstance(error.messages, dict)
    lines = [f"{name}: {' '.join(str(each) for each in messages)}" for name, messages in error.messages.items()]
    return f"Wrong settings (environment or {config_file.name}):\n  " + "\n  ".join(lines)
