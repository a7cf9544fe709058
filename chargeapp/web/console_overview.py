"""The overview: what is going on now, and what the last hour and the last day were like."""

from flask import Blueprint, render_template
from flask.typing import ResponseReturnValue

from chargeapp import reports
from chargeapp.clock import utcnow
from chargeapp.history import history, together
from chargeapp.runtime import Runtime
from chargeapp.web.auth import for_operators
from chargeapp.web.charts import millis, pictures

LATEST = 20


def add_overview(routes: Blueprint, runtime: Runtime) -> None:
    @routes.get("/")
    @for_operators
    def overview() -> ResponseReturnValue:
        now = utcnow()
        with runtime.database.reading() as session:
            recent = history(session, now)
            return render_template(
                "overview.html",
                figures=reports.figures(session, now),
                processes=reports.processes(session, now),
                last_hour=together(recent.hour),
                pictures=pictures(recent),
                millis=millis,
                queue_max_size=runtime.settings.queue_max_size,
                requests=reports.latest_requests(session, LATEST),
            )
