"""The console's first page: what happened last, and how it goes."""

from flask import Blueprint, render_template
from flask.typing import ResponseReturnValue

from chargeapp import reports
from chargeapp.clock import utcnow
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope
from chargeapp.web.auth import requires

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def console(runtime: Runtime) -> Blueprint:
    routes = Blueprint("console", __name__)

    @routes.get("/")
    @requires(Scope.OPERATE)
    def overview() -> ResponseReturnValue:
        now = utcnow()
        with runtime.database.reading() as session:
            page = render_template(
                "overview.html",
                figures=reports.figures(session, now),
                processes=reports.processes(session, now),
                requests=reports.page_of_requests(session, limit=20),
                now=now,
            )
        return page, {"Content-Security-Policy": POLICY, "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}

    return routes
