"""rq-dashboard's own views, of which only those answer that look. Imported only if they are asked for."""

import re
from secrets import token_urlsafe
from typing import Any

from flask import Flask, Response, g, request
from redis import Redis
from rq.exceptions import NoSuchJobError
from rq.serializers import JSONSerializer
from rq_dashboard import web
from werkzeug.exceptions import NotFound

from chargeapp.pipeline import STAGES
from chargeapp.transport.jobs_to_look_at import ReadingRedis, SeenJob, SeenQueue, SeenWorker

LOOKING = {
    f"rq_dashboard.{name}"
    for name in (
        "static",
        "queues_overview",
        "workers_overview",
        "jobs_overview",
        "job_view",
        "list_queues",
        "list_workers",
        "list_jobs",
        "job_info",
    )
}
REGISTRIES = ("queued", "scheduled", "deferred", "started", "finished", "failed", "canceled")
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
MOST_PER_PAGE = 200
LAST_PAGE = 100_000
# Its pages have a script in them and make functions of templates, all of it from its own files. Whatever Redis holds
# comes later and has no nonce, so it cannot be a script.
POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'nonce-{nonce}';"
    " style-src-attr 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


def create_dashboard(redis: Redis) -> Flask:
    web.config.serializer = JSONSerializer
    # It cannot be told which classes to use, and unpickles what a busy worker has in hand.
    web.Job, web.Queue, web.Worker = SeenJob, SeenQueue, SeenWorker
    connection = ReadingRedis(connection_pool=redis.connection_pool)
    web.from_url = lambda *_, **__: (None, web.current_app.redis_conn)
    # What goes wrong is told by the application around it.
    app = Flask("chargeapp.web", static_folder=None, template_folder="templates")
    app.config.update(TRAP_HTTP_EXCEPTIONS=True, PROPAGATE_EXCEPTIONS=True)
    app.config.update(RQ_DASHBOARD_REDIS_URL=("Redis of chargeapp",), RQ_DASHBOARD_DISABLE_DELETE=True)
    app.url_map.redirect_defaults = False
    app.redis_conn = connection  # type: ignore[attr-defined]

    @app.before_request
    def only_look() -> None:
        if request.endpoint not in LOOKING or not _is_sensible(request.view_args or {}):
            raise NotFound
        g.nonce = token_urlsafe(16)

    @app.context_processor
    def for_every_page() -> dict[str, str]:
        return {"nonce": g.nonce, "console": request.root_path.rpartition("/")[0]}

    @app.after_request
    def harden(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = POLICY.format(nonce=g.nonce)
        return response

    @app.errorhandler(NoSuchJobError)
    def gone(error: NoSuchJobError) -> Response:
        raise NotFound from error

    app.register_blueprint(web.blueprint)
    return app


def _is_sensible(asked: dict[str, Any]) -> bool:
    """What its addresses may name; it would fail otherwise."""
    if "queue_name" in asked and asked["queue_name"] is None:
        asked["queue_name"] = STAGES[0].queue
    return bool(
        asked.get("instance_number", 0) == 0
        and JOB_ID.fullmatch(asked.get("job_id", "any"))
        and asked.get("registry_name", "queued") in REGISTRIES
        and asked.get("order", "asc") in ("asc", "dsc")
        and _is_within(asked.get("per_page", 1), MOST_PER_PAGE)
        and _is_within(asked.get("page", 1), LAST_PAGE)
    )


def _is_within(given: Any, most: int) -> bool:
    text = str(given)
    return text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and 1 <= int(text) <= most
