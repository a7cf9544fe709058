"""The callers' API: request a charging session, look at it, have its callback sent again."""

import json
from typing import Any

from flask import Blueprint, Response, jsonify, request
from marshmallow import ValidationError
from werkzeug.exceptions import BadRequest, NotFound, RequestEntityTooLarge

from chargeapp import reports
from chargeapp.clock import epoch_millis, utcnow
from chargeapp.logs import get_logger
from chargeapp.pipeline import CALLBACKS
from chargeapp.request_search import Search, find_requests
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope
from chargeapp.security.callback_url import CallbackUrlRefused
from chargeapp.security.driver_tokens import mask
from chargeapp.services.redeliveries import redeliver
from chargeapp.services.session_requests import NewRequest
from chargeapp.storage import requests
from chargeapp.web.auth import confirmed_as_it_stores, current_caller, requires, seen
from chargeapp.web.intake import Intake
from chargeapp.web.loop import Loop
from chargeapp.web.schemas import PageSchema, SessionRequestSchema

log = get_logger()

# A shorter driver token may be in a host name by chance.
TELLING_LENGTH = 8
URL_PREFIX = "/api/v1/charging-session"


def charging_sessions(runtime: Runtime, loop: Loop) -> Blueprint:
    routes = Blueprint("charging_sessions", __name__, url_prefix=URL_PREFIX)
    settings = runtime.settings
    schema = SessionRequestSchema(settings.driver_token_min_length)
    page_schema = PageSchema()
    intake = Intake(runtime, loop)

    @routes.post("")
    @confirmed_as_it_stores
    @requires(Scope.SUBMIT)
    def accept() -> Response:
        began = utcnow()
        body = json_object()
        fields = schema.load(body)
        target = runtime.address_policy.parse(fields["callback_url"])
        caller = current_caller()
        caller.check_callback_host(target)
        token = fields["driver_token"]
        if len(token) >= TELLING_LENGTH and token.lower() in target.host:
            raise CallbackUrlRefused("driver_token")
        new = NewRequest(
            caller=caller.name,
            station_id=fields["station_id"],
            token_sealed=runtime.vault.seal(token),
            token_hash=runtime.vault.hash(token),
            token_masked=mask(token),
            callback_url=fields["callback_url"],
            destination=f"{target.host}:{target.port}",
            ttl_seconds=fields["ttl_seconds"] or settings.request_ttl_seconds,
            decide_within_seconds=settings.authorization_timeout_seconds,
            idempotency_key=runtime.vault.hash(key) if (key := idempotency_key()) is not None else None,
            body_hash=runtime.vault.hash(fingerprint(fields)),
        )
        taken = intake.store(new, seen())
        runtime.tracing.accepted(
            taken.request_id, began, replayed=taken.replayed, traceparent=request.headers.get("traceparent")
        )
        response = jsonify(
            status="accepted",
            message="Request queued for async processing.",
            requestId=taken.request_id,
            timestamp=epoch_millis(taken.accepted_at),
        )
        if taken.replayed:
            log.info("Request answered again", action="request_answered_again", request_id=taken.request_id)
            response.headers["Idempotency-Replayed"] = "true"
        return response

    @routes.get("/<request_id>")
    @requires(Scope.READ, Scope.OPERATE)
    def show(request_id: str) -> Response:
        with runtime.database.reading() as session:
            found = requests.by_id(session, request_id)
            if found is None or not current_caller().may_see(found.caller):
                raise NotFound
            return jsonify(reports.summary(found) | {"timeline": reports.timeline(session, request_id)})

    @routes.get("")
    @requires(Scope.READ, Scope.OPERATE)
    def page() -> Response:
        wanted = page_schema.load(request.args)
        search = Search(caller=current_caller().sees, state=wanted["state"], station=wanted["stationId"])
        with runtime.database.reading() as session:
            found = find_requests(session, search, wanted["cursor"], wanted["limit"])
        return jsonify(requests=[reports.summary(each) for each in found.requests], cursor=found.older)

    @routes.post("/<request_id>/redelivery")
    @requires(Scope.SUBMIT, Scope.OPERATE)
    def send_again(request_id: str) -> tuple[Response, int]:
        with runtime.database.writing() as session:
            found = requests.by_id(session, request_id)
            if found is None or not current_caller().may_see(found.caller):
                raise NotFound
            redeliver(session, found, settings.request_ttl_seconds, utcnow())
        runtime.wakeups.ring(CALLBACKS.queue)
        return jsonify(status="accepted", message="The callback will be sent again.", requestId=request_id), 202

    return routes


def json_object() -> dict[str, Any]:
    """The body; raises 415, 413 or 400."""
    if len(request.get_data()) >= (request.max_content_length or 0):
        raise RequestEntityTooLarge
    try:
        body = request.get_json()
    except RecursionError:
        raise BadRequest from None
    if not isinstance(body, dict):
        raise ValidationError({"body": ["The request body must be a JSON object."]})
    return body


def idempotency_key() -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= 255 and key.isprintable()):
        raise ValidationError({"Idempotency-Key": ["Idempotency-Key must have 1 to 255 printable characters."]})
    return key


def fingerprint(fields: dict[str, Any]) -> str:
    """The same for the same request, however its JSON was written. Contains the driver token: to be hashed."""
    return json.dumps(fields, sort_keys=True)
