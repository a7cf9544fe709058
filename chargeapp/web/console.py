"""The console: pages for people, made here. A script of ours keeps them fresh; all of it works without."""

from flask import Blueprint, Response, current_app, g, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import NotFound

from chargeapp import reports
from chargeapp.clock import utcnow
from chargeapp.logs import get_logger
from chargeapp.pipeline import CALLBACKS
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope
from chargeapp.services.console_sessions import begin_session, end_session
from chargeapp.services.redeliveries import redeliver, why_not
from chargeapp.storage import requests
from chargeapp.transport.broker import BrokerUnavailable
from chargeapp.web.auth import current_caller, for_logging_in, for_operators, known_caller, open_to_everybody
from chargeapp.web.console_acts import note
from chargeapp.web.console_overview import add_overview
from chargeapp.web.console_requests import add_request_list
from chargeapp.web.forms import clear_session_cookie, session_cookie, set_session_cookie, token_for_forms

log = get_logger()

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'"
)
# With no referrer at all, browsers would hide the origin of our own forms too.
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}


def console(runtime: Runtime) -> Blueprint:
    routes = Blueprint("console", __name__)
    settings = runtime.settings

    @routes.app_context_processor
    def for_every_page() -> dict[str, object]:
        caller = known_caller()
        return {
            "form_token": token_for_forms(),
            "logged_in": "session_id" in g,
            "has_job_dashboard": "job_dashboard" in current_app.blueprints,
            "is_admin": caller is not None and Scope.ADMIN in caller.scopes,
        }

    @routes.after_request
    def harden(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response

    add_overview(routes, runtime)
    add_request_list(routes, runtime)

    @routes.get("/requests/<request_id>")
    @for_operators
    def show(request_id: str) -> ResponseReturnValue:
        with runtime.database.reading() as session:
            found = requests.by_id(session, request_id)
            if found is None:
                raise NotFound
            return render_template(
                "request.html",
                each=found,
                facts=reports.timeline(session, request_id),
                ways=reports.ways_through_queues(session, request_id),
                why_not=why_not(session, found),
            )

    @routes.post("/requests/<request_id>/redelivery")
    @for_operators
    def send_again(request_id: str) -> ResponseReturnValue:
        with runtime.database.writing() as session:
            found = requests.by_id(session, request_id)
            if found is None:
                raise NotFound
            redeliver(session, found, settings.request_ttl_seconds, utcnow())
        runtime.wakeups.ring(CALLBACKS.queue)
        note("One redelivery requested", "single_redelivery_requested", request_id=request_id)
        return redirect(url_for(".show", request_id=request_id), 303)

    @routes.get("/queues")
    @for_operators
    def queues() -> ResponseReturnValue:
        now = utcnow()
        with runtime.database.reading() as session:
            rows = reports.backlogs(session, now)
            processes = reports.processes(session, now)
        broker = None
        try:
            broker = runtime.transport.count_jobs()
        except BrokerUnavailable as error:
            log.warning("Queues cannot be shown", action="broker_unavailable", error=str(error))
        return render_template("queues.html", rows=rows, broker=broker, processes=processes, kafka=settings.uses_kafka)

    @routes.get("/login")
    @open_to_everybody
    def login_page() -> ResponseReturnValue:
        return render_template("login.html", message="The session has ended." if "ended" in request.args else "")

    @routes.post("/login")
    @for_logging_in
    def log_in() -> ResponseReturnValue:
        key_id = current_caller().key_id
        response = make_response(redirect(url_for(".overview"), 303))
        if key_id is not None:
            with runtime.database.writing() as session:
                if before := session_cookie():
                    end_session(session, before)
                session_id = begin_session(session, key_id, utcnow())
            set_session_cookie(response, session_id)
            log.info("Logged in", action="console_login", key=key_id, address=request.remote_addr)
        return response

    @routes.post("/logout")
    @for_operators
    def log_out() -> ResponseReturnValue:
        response = make_response(redirect(url_for(".login_page"), 303))
        if "session_id" in g:
            with runtime.database.writing() as session:
                end_session(session, g.session_id)
            clear_session_cookie(response)
            log.info("Logged out", action="console_logout", key=current_caller().key_id)
        return response

    return routes
