"""The pages of the built-in access list. Drivers are shown masked; links name them by keyed hash."""

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from marshmallow import ValidationError

from chargeapp.domain.identifiers import DRIVER_TOKEN_MAX_LENGTH, is_driver_token
from chargeapp.runtime import Runtime
from chargeapp.security.driver_tokens import mask
from chargeapp.services.access_list import ANY, Entry, list_entries
from chargeapp.web.auth import for_admins, for_operators
from chargeapp.web.console_entry import as_entry, put
from chargeapp.web.console_schemas import ROWS_SHOWN, AccessListSchema, EntrySchema

DONE = {
    "added": "The entry is in the list.",
    "changed": "The entry was changed.",
    "removed": "The entry was removed.",
}


def add_access_list_pages(routes: Blueprint, runtime: Runtime) -> None:
    settings, vault = runtime.settings, runtime.vault
    schema = EntrySchema()

    def page(errors: dict[str, list[str]] | None = None) -> ResponseReturnValue:
        asked = AccessListSchema().load(request.args)
        driver, _, station = (asked["after"] or "").partition(":")
        after = (driver, station) if driver else None
        with runtime.database.reading() as session:
            found = list_entries(session, ROWS_SHOWN, after, asked["driver"])
        content = render_template(
            "access_list.html",
            found=found,
            asked=asked,
            full=len(found) == ROWS_SHOWN,
            given=request.form,
            errors=errors or {},
            done=DONE.get(asked["done"]),
            elsewhere=settings.authorization_service_url is not None,
        )
        return content, 400 if errors else 200

    def given_token() -> str:
        """From the form, never from an address; raises ValidationError, which does not repeat it."""
        token = request.form.get("driver_token", "").strip()
        if token == ANY or is_driver_token(token, settings.driver_token_min_length):
            return token
        rule = f"{settings.driver_token_min_length} to {DRIVER_TOKEN_MAX_LENGTH} characters out of A-Z a-z 0-9 - . _ ~"
        raise ValidationError(f"Must be {rule}, or {ANY} for every driver.", "driver_token")

    @routes.get("/access-list")
    @for_operators
    def access_list() -> ResponseReturnValue:
        return page()

    @routes.post("/access-list/search")
    @for_operators
    def find_driver() -> ResponseReturnValue:
        try:
            token = given_token()
        except ValidationError as error:
            return page({"search": error.normalized_messages()["driver_token"]})  # type: ignore[no-untyped-call]
        return redirect(url_for(".access_list", driver=hash_of(token)), 303)

    @routes.post("/access-list")
    @for_admins
    def add_entry() -> ResponseReturnValue:
        errors: dict[str, list[str]] = {}
        token, fields = "", {}
        try:
            token = given_token()
        except ValidationError as error:
            errors |= error.normalized_messages()  # type: ignore[no-untyped-call]
        try:
            fields = schema.load(request.form)
        except ValidationError as error:
            errors |= error.normalized_messages()  # type: ignore[no-untyped-call]
        if errors:
            return page(errors)
        put(runtime, Entry(hash_of(token), token if token == ANY else mask(token), **as_entry(fields)), "added")
        return redirect(url_for(".access_list", driver=hash_of(token), done="added"), 303)

    def hash_of(token: str) -> str:
        return ANY if token == ANY else vault.hash(token)
