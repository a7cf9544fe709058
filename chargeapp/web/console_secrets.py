"""The page of the webhook secrets: which sign callbacks, making a new one, and ending the overlap of an old one."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from marshmallow import ValidationError
from sqlalchemy.orm import Session
from werkzeug.exceptions import NotFound

from chargeapp.clock import wall_clock
from chargeapp.runtime import Runtime
from chargeapp.security.signatures import Kind, fingerprint, kind_of, verification_key
from chargeapp.services.webhook_secrets import has_api_key, retire_secret, rotate_secret
from chargeapp.storage.turns import take_turn
from chargeapp.storage.webhook_secrets import EVERYBODY, in_force
from chargeapp.web.auth import for_admins, for_operators
from chargeapp.web.console_acts import note
from chargeapp.web.console_schemas import RetirementSchema, RotationSchema

SENT_TWICE = (
    "A secret was made since this page was loaded, maybe by this very form. Look at the list before you send it."
)


@dataclass(frozen=True)
class SecretShown:
    """`id` is None for the configured one. Only a public key is shown."""

    id: int | None
    caller: str
    kind: Kind
    fingerprint: str
    public_key: str | None
    created_at: datetime | None
    retires_at: datetime | None


def add_secret_pages(routes: Blueprint, runtime: Runtime) -> None:
    schema = RotationSchema()

    def page(errors: dict[str, list[str]] | None = None) -> ResponseReturnValue:
        with runtime.database.reading() as session:
            found = signing(session)
        content = render_template(
            "secrets.html",
            found=found,
            latest=latest_of(found),
            given=request.form,
            errors=errors or {},
            retired="retired" in request.args,
        )
        return content, 400 if errors else 200

    def signing(session: Session) -> list[SecretShown]:
        stored = [
            shown(each.id, each.caller, runtime.secret_vault.open(each.secret_sealed), each.created_at, each.retires_at)
            for each in in_force(session, wall_clock())
        ]
        if any(each.caller == EVERYBODY for each in stored):
            return stored
        return [shown(None, EVERYBODY, runtime.secrets.webhook_secret, None, None), *stored]

    @routes.get("/secrets")
    @for_operators
    def secrets() -> ResponseReturnValue:
        return page()

    @routes.post("/secrets")
    @for_admins
    def rotate() -> ResponseReturnValue:
        try:
            asked = schema.load(request.form)
        except ValidationError as error:
            return page(error.normalized_messages())  # type: ignore[no-untyped-call]
        now, caller, overlap = wall_clock(), asked["caller"], timedelta(hours=asked["overlap"])
        with runtime.database.writing() as session:
            take_turn(session, "webhook secrets")
            # Loading the answer again sends the form again.
            sent_twice = latest_of(signing(session)) != asked["latest"]
            secret = "" if sent_twice else rotated(session, asked, now)
            known = not caller or has_api_key(session, caller)
        if sent_twice:
            return page({"latest": [SENT_TWICE]})
        note(
            "Webhook secret rotated",
            "webhook_secret_rotated",
            caller=caller,
            kind=asked["kind"],
            fingerprint=fingerprint(secret),
            overlap_hours=asked["overlap"],
        )
        return render_template(
            "secrets_made.html",
            secret=verification_key(secret),
            public=asked["kind"] is Kind.ED25519,
            caller=caller,
            known=known,
            until=now + overlap if overlap else None,
        )

    def rotated(session: Session, asked: dict[str, Any], now: datetime) -> str:
        return rotate_secret(
            session,
            runtime.secret_vault,
            caller=asked["caller"],
            configured=runtime.secrets.webhook_secret,
            kind=asked["kind"],
            overlap=timedelta(hours=asked["overlap"]),
            now=now,
        )

    @routes.post("/secrets/retirement")
    @for_admins
    def retire() -> ResponseReturnValue:
        secret_id = RetirementSchema().load(request.form)["id"]
        with runtime.database.writing() as session:
            found = retire_secret(session, secret_id, wall_clock())
            if found is None:
                raise NotFound
            mark = fingerprint(runtime.secret_vault.open(found.secret_sealed))
        note("Webhook secret retired", "webhook_secret_retired", caller=found.caller, fingerprint=mark)
        return redirect(url_for(".secrets", retired=1), 303)


def shown(
    id_: int | None, caller: str, secret: str, created_at: datetime | None, retires_at: datetime | None
) -> SecretShown:
    kind = kind_of(secret)
    public_key = verification_key(secret) if kind is Kind.ED25519 else None
    return SecretShown(id_, caller, kind, fingerprint(secret), public_key, created_at, retires_at)


def latest_of(found: list[SecretShown]) -> int:
    return max((each.id or 0 for each in found), default=0)
