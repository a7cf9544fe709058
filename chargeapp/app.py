"""The web process."""

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from chargeapp.config import Settings, load_settings
from chargeapp.runtime import Runtime
from chargeapp.web.api_docs import api_docs
from chargeapp.web.auth import Doorkeeper, check_keys_exist
from chargeapp.web.authorize import authorize
from chargeapp.web.charging_sessions import URL_PREFIX, charging_sessions
from chargeapp.web.console import console
from chargeapp.web.console_pages import add_pages
from chargeapp.web.error_responses import install_error_responses
from chargeapp.web.headers import install_cors, install_headers
from chargeapp.web.job_dashboard import is_installed, job_dashboard
from chargeapp.web.loop import Beside, Loop, Served
from chargeapp.web.operations import operations
from chargeapp.web.rate_limits import install_rate_limits

# Threads in which a key is looked up and a rate limit counted, where that has to be asked for.
LOOKS = 4


def create_app(settings: Settings | None = None) -> Flask:
    """A WSGI application; connects to the database when a request needs it, and to see that keys exist."""
    settings = settings or load_settings()
    runtime = Runtime(settings).verify()
    check_keys_exist(runtime)
    app = Flask("chargeapp.web", static_folder="static", template_folder="templates")
    # One more than allowed: a chunked body is cut there without an error, so that its length tells.
    app.config["MAX_CONTENT_LENGTH"] = body_bytes = settings.max_request_bytes + 1
    app.url_map.strict_slashes = False
    if settings.trusted_proxies:
        hops = settings.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops)  # type: ignore[method-assign]
    app.extensions["loop"] = loop = Loop()
    # Pages may take all theirs for long; callers do not wait for them.
    looks, pages = Beside(loop, LOOKS), Beside(loop, settings.web_threads)
    app.wsgi_app = Served(app.wsgi_app, loop, pages, URL_PREFIX, body_bytes)  # type: ignore[method-assign]
    install_error_responses(app)
    install_headers(app)
    install_cors(app, settings)
    doorkeeper = Doorkeeper(runtime, looks)
    app.before_request(doorkeeper.recognise)
    install_rate_limits(app, runtime, looks)
    app.before_request(doorkeeper.admit)
    app.extensions["tracing"] = runtime.tracing
    app.register_blueprint(charging_sessions(runtime, loop))
    app.register_blueprint(authorize(runtime))
    app.register_blueprint(operations(runtime))
    app.register_blueprint(api_docs(runtime))
    console_pages = console(runtime)
    add_pages(console_pages, runtime)
    app.register_blueprint(console_pages)
    if is_installed() and not runtime.settings.uses_kafka:
        app.register_blueprint(job_dashboard(runtime))
    return app
