"""rq-dashboard at /rq, where the extra `dashboard` is installed: behind the console's login, and only to look at."""

from functools import cache
from importlib.util import find_spec

from flask import Blueprint, Flask, Response, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import ServiceUnavailable

from chargeapp.logs import get_logger
from chargeapp.runtime import Runtime
from chargeapp.transport.broker import BrokerUnavailable
from chargeapp.web.auth import for_operators
from chargeapp.web.console import HEADERS

log = get_logger()

PREFIX = "/rq"


def is_installed() -> bool:
    return find_spec("rq_dashboard") is not None


def job_dashboard(runtime: Runtime) -> Blueprint:
    """An application of its own inside one view of ours, so that nothing of it is reached but by this door."""
    routes = Blueprint("job_dashboard", __name__)

    @cache
    def inside() -> Flask:
        # Imported when first asked for: it would make every start slower.
        from chargeapp.web.job_dashboard_app import create_dashboard

        return create_dashboard(runtime.redis)

    @routes.get(f"{PREFIX}/", defaults={"path": ""})
    @routes.get(f"{PREFIX}/<path:path>")
    @for_operators
    def look(path: str) -> ResponseReturnValue:
        # WSGI wants its bytes as if they were Latin-1.
        inner_path = f"/{path}".encode().decode("latin-1")
        environ = {**request.environ, "SCRIPT_NAME": request.root_path + PREFIX, "PATH_INFO": inner_path}
        try:
            return Response.from_app(inside(), environ, buffered=True)
        except BrokerUnavailable as error:
            log.warning("Jobs cannot be shown", action="broker_unavailable", error=str(error))
            raise ServiceUnavailable("Redis does not answer, or does not let the API read its jobs.") from error

    @routes.after_request
    def harden(response: Response) -> Response:
        """Pages that say why there is nothing are the console's."""
        if "Content-Security-Policy" not in response.headers:
            response.headers.update(HEADERS)
        return response

    return routes
