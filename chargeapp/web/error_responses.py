"""Every error has one shape: status, message, timestamp, and errors where fields are at fault."""

from typing import Any

from flask import Flask, Response, jsonify, make_response, redirect, render_template, request, url_for
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException

from chargeapp.clock import epoch_millis, utcnow
from chargeapp.domain.charging_session import is_request_id
from chargeapp.errors import RequestRefused, TemporaryFailure
from chargeapp.logs import get_logger
from chargeapp.services.redeliveries import RedeliveryRefused
from chargeapp.services.session_requests import IdempotencyKeyReused, QueueFull
from chargeapp.web.auth import NotAllowed, NotAuthenticated, view_is
from chargeapp.web.forms import FormRefused, session_cookie

log = get_logger()

RETRY_AFTER_SECONDS = 2
WORDS = {
    400: ("validation_error", "The request body must be a JSON object."),
    401: ("unauthorized", "An API key is needed."),
    403: ("forbidden", "This API key may not do this."),
    404: ("not_found", "There is nothing here. See the README for the addresses."),
    405: ("method_not_allowed", "This address does not answer to this method."),
    413: ("payload_too_large", "The request body is too large."),
    415: ("unsupported_media_type", "Send the body as JSON, with the header Content-Type: application/json."),
    429: ("rate_limited", "Too many requests."),
    500: ("internal_error", "Something went wrong here; it is in the log. Trying again may help."),
}


def error_response(
    code: int, status: str, message: str, errors: dict[str, Any] | None = None, retry_after: int | None = None
) -> Response:
    if for_people():
        response = make_response(render_template("error.html", code=code, message=message))
    else:
        body: dict[str, Any] = {"status": status, "message": message, "timestamp": epoch_millis(utcnow())}
        if errors:
            body["errors"] = errors
        response = jsonify(body)
    response.status_code = code
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


def for_people() -> bool:
    """A browser asked for a page of the console."""
    of_console = request.blueprint == "console" or view_is("heeds_session")
    return of_console and "text/html" in request.headers.get("Accept", "")


def validation_error(messages: dict[str, list[str]]) -> Response:
    """The first message speaks for all; `errors` has them all by field."""
    first = next(iter(messages.values()))[0]
    return error_response(400, "validation_error", first, messages)


def install_error_responses(app: Flask) -> None:
    @app.before_request
    def readable_query() -> None:
        """Werkzeug would fail when somebody looks at it; clients that percent-encode never meet this."""
        try:
            request.query_string.decode()
        except UnicodeDecodeError:
            raise ValidationError({"query": ["The query must be percent-encoded UTF-8."]}) from None

    @app.errorhandler(ValidationError)
    def invalid(error: ValidationError) -> Response:
        return validation_error(error.normalized_messages())  # type: ignore[no-untyped-call]

    @app.errorhandler(QueueFull)
    def queue_full(error: QueueFull) -> Response:
        return error_response(503, "queue_full", str(error), retry_after=RETRY_AFTER_SECONDS)

    @app.errorhandler(TemporaryFailure)
    def unavailable(error: TemporaryFailure) -> Response:
        log.warning("Cannot serve just now", action="unavailable", error=str(error), **named_request())
        message = "The request could not be stored just now. Nothing was accepted; try again."
        return error_response(503, "unavailable", message, retry_after=RETRY_AFTER_SECONDS)

    @app.errorhandler(IdempotencyKeyReused)
    def key_reused(error: IdempotencyKeyReused) -> Response:
        return error_response(422, "idempotency_key_reused", str(error))

    @app.errorhandler(RedeliveryRefused)
    def in_flight(error: RedeliveryRefused) -> Response:
        return error_response(409, "conflict", str(error))

    @app.errorhandler(NotAuthenticated)
    def not_authenticated(error: NotAuthenticated) -> Response:
        if not for_people():
            return challenged(401, error)
        if view_is("takes_key_from_form"):
            return make_response(render_template("login.html", message=str(error)), 401)
        ended = 1 if session_cookie() else None
        return make_response(redirect(url_for("console.login_page", ended=ended), 303))

    @app.errorhandler(NotAllowed)
    def not_allowed(error: NotAllowed) -> Response:
        return challenged(403, error)

    def challenged(code: int, error: NotAuthenticated | NotAllowed) -> Response:
        response = error_response(code, WORDS[code][0], str(error))
        response.headers["WWW-Authenticate"] = error.challenge
        return response

    @app.errorhandler(FormRefused)
    def form_refused(error: FormRefused) -> Response:
        return error_response(403, "forbidden", str(error))

    @app.errorhandler(RequestRefused)
    def refused(error: RequestRefused) -> Response:
        return error_response(400, "validation_error", str(error), error.errors)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        code = error.code or 500
        status, message = WORDS.get(code, ("error", error.description or "The request was refused."))
        response = error_response(code, status, message)
        for name, value in error.get_headers():
            if name in ("Allow", "Retry-After"):
                response.headers[name] = value
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        log.error("Request failed", action="request_failed", exc_info=error, **named_request())
        return error_response(500, *WORDS[500])


def named_request() -> dict[str, str]:
    """For the log: the request that the address names. Whatever else stands there, it may be a driver token."""
    named = (request.view_args or {}).get("request_id", "")
    return {"request_id": named} if is_request_id(named) else {}
