"""The page of the API keys: who may call, making a key, which is shown once, and revoking one."""

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from marshmallow import ValidationError
from werkzeug.exceptions import NotFound

from chargeapp.clock import wall_clock
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope, take_apart
from chargeapp.services.api_keys import NewKey, create_key, list_keys, revoke_key, state_of
from chargeapp.storage.models import ApiKey
from chargeapp.storage.turns import take_turn
from chargeapp.web.auth import current_caller, for_admins, for_operators
from chargeapp.web.console_acts import note
from chargeapp.web.console_schemas import NewKeySchema, RevocationSchema

SENT_TWICE = "A key was made since this page was loaded, maybe by this very form. Look at the list before you send it."


def add_key_pages(routes: Blueprint, runtime: Runtime) -> None:
    schema = NewKeySchema()

    def page(errors: dict[str, list[str]] | None = None) -> ResponseReturnValue:
        with runtime.database.reading() as session:
            found = list_keys(session)
        now = wall_clock()
        content = render_template(
            "keys.html",
            found=[(each, state_of(each, now)) for each in found],
            latest=latest_of(found),
            mine=current_caller().key_id,
            scopes=Scope,
            given=request.form,
            chosen=request.form.getlist("scope") or [Scope.SUBMIT, Scope.READ],
            errors=errors or {},
            revoked=request.args.get("revoked"),
        )
        return content, 400 if errors else 200

    @routes.get("/keys")
    @for_operators
    def keys() -> ResponseReturnValue:
        return page()

    @routes.post("/keys")
    @for_admins
    def make_key() -> ResponseReturnValue:
        now = wall_clock()
        try:
            asked = schema.load(request.form)
            if asked["expires_at"] is not None and asked["expires_at"] <= now:
                raise ValidationError("Must lie in the future.", "expires_at")
        except ValidationError as error:
            return page(error.normalized_messages())  # type: ignore[no-untyped-call]
        scopes = [Scope(each) for each in asked["scope"]]
        new = NewKey(asked["name"], asked["caller"] or asked["name"], scopes, asked["expires_at"], asked["hosts"])
        with runtime.database.writing() as session:
            take_turn(session, "api keys")
            # Loading the answer again sends the form again.
            sent_twice = latest_of(list_keys(session)) != asked["latest"]
            key = "" if sent_twice else create_key(session, new, now)
        if sent_twice:
            return page({"latest": [SENT_TWICE]})
        parts = take_apart(key)
        note(
            "API key made",
            "api_key_made",
            made=parts and parts.id,
            name=new.name,
            caller=new.caller,
            scopes=asked["scope"],
            expires_at=new.expires_at and new.expires_at.isoformat(),
        )
        return render_template("keys_made.html", key=key, new=new)

    @routes.post("/keys/revocation")
    @for_admins
    def revoke() -> ResponseReturnValue:
        key_id = RevocationSchema().load(request.form)["id"]
        with runtime.database.writing() as session:
            found = revoke_key(session, key_id, wall_clock())
        if found is None:
            raise NotFound
        note("API key revoked", "api_key_revoked", revoked=found.id, name=found.name, caller=found.caller)
        return redirect(url_for(".keys", revoked=found.id), 303)


def latest_of(keys: list[ApiKey]) -> str:
    return keys[-1].id if keys else ""
