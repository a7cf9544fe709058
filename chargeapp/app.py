"""The web process."""

from flask import Flask, Response

from chargeapp.config import Settings, load_settings
from chargeapp.runtime import Runtime
from chargeapp.web.authorize import authorize
from chargeapp.web.charging_sessions import charging_sessions
from chargeapp.web.console import console
from chargeapp.web.error_responses import install_error_responses
from chargeapp.web.operations import operations


def create_app(settings: Settings | None = None) -> Flask:
    """A WSGI application; connects to the database when the first request needs it."""
    runtime = Runtime(settings or load_settings())
    app = Flask("chargeapp.web", static_folder="static", template_folder="templates")
    app.config["MAX_CONTENT_LENGTH"] = runtime.settings.max_request_bytes
    app.url_map.strict_slashes = False
    install_error_responses(app)
    app.register_blueprint(charging_sessions(runtime))
    app.register_blueprint(authorize(runtime))
    app.register_blueprint(operations(runtime))
    app.register_blueprint(console(runtime))

    @app.after_request
    def harden(response: Response) -> Response:
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return app
