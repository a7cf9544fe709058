"""The page of the settings: what this process runs with, and where each value comes from."""

from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, render_template
from flask.typing import ResponseReturnValue

from chargeapp.config import Settings, sources
from chargeapp.runtime import Runtime
from chargeapp.web.auth import for_operators

HIDDEN = "set, not shown"


@dataclass(frozen=True)
class SettingShown:
    name: str
    value: str
    source: str
    description: str


def add_settings_page(routes: Blueprint, runtime: Runtime) -> None:
    # Now, while the file and the environment are those that were read.
    shown = describe(runtime.settings, sources(runtime.settings))

    @routes.get("/settings")
    @for_operators
    def settings() -> ResponseReturnValue:
        return render_template("settings.html", shown=shown)


def describe(settings: Settings, source: dict[str, str]) -> list[SettingShown]:
    return [
        SettingShown(
            each.name.upper(),
            value_shown(getattr(settings, each.name), secret=each.metadata["secret"]),
            source[each.name],
            each.metadata["help"],
        )
        for each in fields(settings)
    ]


def value_shown(value: Any, *, secret: bool) -> str:
    if value is None or value == ():
        return ""
    if secret:
        return HIDDEN
    if isinstance(value, bool):
        return str(value).lower()
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    # Some services take their key in the query.
    return text.partition("?")[0] + "?…" if "?" in text and urlsplit(text).query else text
