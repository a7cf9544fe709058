"""The pages of what failed: which callers were never told, and having their callbacks sent again."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from marshmallow import ValidationError

from chargeapp.runtime import Runtime
from chargeapp.services.failed_requests import REASONS, page_of_failed
from chargeapp.services.redeliveries import obstacles
from chargeapp.web.auth import for_operators
from chargeapp.web.console_acts import note
from chargeapp.web.console_schemas import ROWS_SHOWN, FailedSchema, RedeliveredSchema
from chargeapp.web.failed_redelivery import count_failed, send_failed, wanted


def add_failed_pages(routes: Blueprint, runtime: Runtime) -> None:
    schema = FailedSchema()

    @routes.get("/failed")
    @for_operators
    def failed() -> ResponseReturnValue:
        asked = schema.load(request.args)
        with runtime.database.reading() as session:
            page = page_of_failed(session, wanted(asked), asked["before"], ROWS_SHOWN)
            why_not = obstacles(session, [each.request.id for each in page.found])
        return render_template("failed.html", page=page, why_not=why_not, filter=filter_of(asked), reasons=REASONS)

    @routes.get("/failed/redelivery")
    @for_operators
    def ask_whether_to_send_again() -> ResponseReturnValue:
        asked = chosen(schema.load(request.args))
        count = count_failed(runtime, asked)
        return render_template("failed_question.html", count=count, asked=as_text(asked), filter=filter_of(asked))

    @routes.post("/failed/redelivery")
    @for_operators
    def send_failed_again() -> ResponseReturnValue:
        asked = chosen(schema.load(request.form))
        done = asdict(send_failed(runtime, asked))
        note("Bulk redelivery requested", "bulk_redelivery_requested", **as_text(asked) | done)
        return redirect(url_for(".sent_again", **as_text(asked | {"id": []}) | done), 303)

    @routes.get("/failed/redelivered")
    @for_operators
    def sent_again() -> ResponseReturnValue:
        done = RedeliveredSchema().load(request.args)
        asked = schema.load(request.args)
        return render_template("failed_sent.html", done=done, asked=as_text(asked), filter=filter_of(asked))


def chosen(asked: dict[str, Any]) -> dict[str, Any]:
    """Raises ValidationError rather than take nothing for everything."""
    if asked["which"] == "selected" and not asked["id"]:
        raise ValidationError({"id": ["Select some requests first."]})
    return asked


def filter_of(asked: dict[str, Any]) -> dict[str, Any]:
    return as_text({name: asked[name] for name in ("reason", "station", "since", "until")})


def as_text(asked: dict[str, Any]) -> dict[str, Any]:
    """What was asked, for links and hidden fields; without what was left empty."""
    return {
        name: value.replace(tzinfo=None).isoformat(timespec="seconds") if isinstance(value, datetime) else value
        for name, value in asked.items()
        if value
    }
