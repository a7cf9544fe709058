"""The page of one entry of the access list: changing and removing it. Forms name the driver by keyed hash."""

from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from marshmallow import ValidationError
from werkzeug.exceptions import NotFound

from chargeapp.clock import wall_clock
from chargeapp.runtime import Runtime
from chargeapp.services.access_list import Entry, find_entry, put_entries, remove_entry
from chargeapp.storage.models import AccessListEntry
from chargeapp.web.auth import for_admins
from chargeapp.web.console_acts import note
from chargeapp.web.console_schemas import EntrySchema, KnownEntrySchema


def add_entry_pages(routes: Blueprint, runtime: Runtime) -> None:
    schema, known = EntrySchema(), KnownEntrySchema()

    def page(each: AccessListEntry, errors: dict[str, list[str]] | None = None) -> ResponseReturnValue:
        content = render_template("access_list_entry.html", each=each, errors=errors or {}, given=request.form)
        return content, 400 if errors else 200

    @routes.get("/access-list/entry")
    @for_admins
    def entry() -> ResponseReturnValue:
        return page(found_entry(request.args))

    @routes.post("/access-list/entry")
    @for_admins
    def change_entry() -> ResponseReturnValue:
        before = found_entry(request.form)
        try:
            fields = schema.load(request.form)
        except ValidationError as error:
            return page(before, error.normalized_messages())  # type: ignore[no-untyped-call]
        put(runtime, Entry(before.token_hash, before.token_masked, **as_entry(fields)), "changed")
        return redirect(url_for(".access_list", driver=before.token_hash, done="changed"), 303)

    @routes.post("/access-list/removal")
    @for_admins
    def remove() -> ResponseReturnValue:
        before = found_entry(request.form)
        with runtime.database.writing() as session:
            remove_entry(session, before.token_hash, before.station_id)
        note(
            "Access list entry removed",
            "access_list_entry_removed",
            driver=before.token_masked,
            station_id=before.station_id,
        )
        return redirect(url_for(".access_list", driver=before.token_hash, done="removed"), 303)

    def found_entry(asked: Any) -> AccessListEntry:
        wanted = known.load(asked)
        with runtime.database.reading() as session:
            found = find_entry(session, wanted["driver"], wanted["station"])
        if found is None:
            raise NotFound
        return found


def put(runtime: Runtime, entry: Entry, how: str) -> None:
    with runtime.database.writing() as session:
        put_entries(session, [entry], wall_clock())
    note(
        f"Access list entry {how}",
        f"access_list_entry_{how}",
        driver=entry.token_masked,
        station_id=entry.station_id,
        blocked=entry.blocked,
        valid_from=entry.valid_from and entry.valid_from.isoformat(),
        valid_until=entry.valid_until and entry.valid_until.isoformat(),
    )


def as_entry(fields: dict[str, Any]) -> dict[str, Any]:
    return {"station_id": fields["station"]} | {each: fields[each] for each in ("blocked", "valid_from", "valid_until")}
