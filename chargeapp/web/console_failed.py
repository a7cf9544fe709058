"""The pages of what failed: which callers were never told, and having their callbacks sent again."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from marshmallow import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from chargeapp.clock import utcnow
from chargeapp.pipeline import CALLBACKS
from chargeapp.runtime import Runtime
from chargeapp.services.failed_requests import REASONS, Wanted, page_of_failed
from chargeapp.services.redeliveries import obstacles, redeliver_all
from chargeapp.storage.models import SessionRequest
from chargeapp.web.auth import for_operators
from chargeapp.web.bulk_redelivery import Count, go_through
from chargeapp.web.console_acts import note
from chargeapp.web.console_schemas import ROWS_SHOWN, FailedSchema, RedeliveredSchema


def add_failed_pages(routes: Blueprint, runtime: Runtime) -> None:
    schema = FailedSchema()

    @routes.get("/failed")
    @for_operators
    def failed() -> ResponseReturnValue:
        asked = schema.load(request.args)
        with runtime.database.reading() as session:
            page = page_of_failed(session, wanted(asked), asked["before"], ROWS_SHOWN)
            why_not = obstacles(session, [each.request for each in page.found])
        return render_template("failed.html", page=page, why_not=why_not, filter=filter_of(asked), reasons=REASONS)

    @routes.get("/failed/redelivery")
    @for_operators
    def ask_whether_to_send_again() -> ResponseReturnValue:
        asked = chosen(schema.load(request.args))
        if asked["which"] == "all":
            count = go_through(runtime, wanted(asked), asked["before"], dry_run=True)
        else:
            count = Count()
            with runtime.database.reading() as session:
                count.add(obstacles(session, selected(session, asked["id"])))
        return render_template("failed_question.html", count=count, asked=as_text(asked), filter=filter_of(asked))

    @routes.post("/failed/redelivery")
    @for_operators
    def send_failed_again() -> ResponseReturnValue:
        asked = chosen(schema.load(request.form))
        if asked["which"] == "all":
            count = go_through(runtime, wanted(asked), asked["before"], dry_run=False)
        else:
            count = Count()
            with runtime.database.writing() as session:
                requests = selected(session, asked["id"])
                count.add(redeliver_all(session, requests, runtime.settings.request_ttl_seconds, utcnow()))
        runtime.wakeups.ring(CALLBACKS.queue)
        done = asdict(count)
        note("Bulk redelivery requested", "bulk_redelivery_requested", **as_text(asked) | done)
        return redirect(url_for(".sent_again", **as_text(asked | {"id": []}) | done), 303)

    @routes.get("/failed/redelivered")
    @for_operators
    def sent_again() -> ResponseReturnValue:
        done = RedeliveredSchema().load(request.args)
        asked = schema.load(request.args)
        return render_template("failed_sent.html", done=done, asked=as_text(asked), filter=filter_of(asked))


def wanted(asked: dict[str, Any]) -> Wanted:
    return Wanted(asked["reason"], asked["station"], asked["since"], asked["until"])


def chosen(asked: dict[str, Any]) -> dict[str, Any]:
    """Raises ValidationError rather than take nothing for everything."""
    if asked["which"] == "selected" and not asked["id"]:
        raise ValidationError({"id": ["Select some requests first."]})
    return asked


def selected(session: Session, request_ids: list[str]) -> list[SessionRequest]:
    return list(session.scalars(select(SessionRequest).where(SessionRequest.id.in_(request_ids))))


def filter_of(asked: dict[str, Any]) -> dict[str, Any]:
    return as_text({name: asked[name] for name in ("reason", "station", "since", "until")})


def as_text(asked: dict[str, Any]) -> dict[str, Any]:
    """What was asked, for links and hidden fields; without what was left empty."""
    return {
        name: value.replace(tzinfo=None).isoformat(timespec="seconds") if isinstance(value, datetime) else value
        for name, value in asked.items()
        if value
    }
