"""Health and metrics, as probes and Prometheus read them."""

from typing import Any

from flask import Blueprint, Response, jsonify, request

from chargeapp.clock import epoch_millis, utcnow
from chargeapp.errors import TemporaryFailure
from chargeapp.runtime import Runtime
from chargeapp.web.auth import for_operators, open_to_everybody
from chargeapp.web.health import examine, prove_commit
from chargeapp.web.metrics import as_json, as_prometheus


def operations(runtime: Runtime) -> Blueprint:
    routes = Blueprint("operations", __name__)

    if runtime.settings.monitoring_health_check_enabled:

        @routes.get("/health")
        @open_to_everybody
        def health() -> tuple[Response, int]:
            status, components = examine(runtime)
            body: dict[str, Any] = {
                "status": status,
                "timestamp": epoch_millis(utcnow()),
                "components": components,
            }
            return jsonify(body), 503 if status == "DOWN" else 200

        @routes.get("/health/live")
        @open_to_everybody
        def live() -> Response:
            return jsonify(status="UP", timestamp=epoch_millis(utcnow()))

        @routes.get("/health/ready")
        @open_to_everybody
        def ready() -> tuple[Response, int]:
            # Redis has no say: without it requests are still accepted.
            try:
                prove_commit(runtime)
            except TemporaryFailure:
                return jsonify(status="DOWN", timestamp=epoch_millis(utcnow())), 503
            return jsonify(status="UP", timestamp=epoch_millis(utcnow())), 200

    if runtime.settings.monitoring_metrics_enabled:

        @routes.get("/metrics")
        @for_operators
        def metrics() -> Response:
            if wants_prometheus():
                content, content_type = as_prometheus(runtime)
                return Response(content, content_type=content_type)
            return jsonify(as_json(runtime))

    return routes


def wants_prometheus() -> bool:
    """Prometheus asks for OpenMetrics or for versioned plain text; a person's browser or curl gets JSON."""
    accept = request.headers.get("Accept", "")
    asked = "application/openmetrics-text" in accept or ("text/plain" in accept and "version=" in accept)
    return asked or request.args.get("format") == "prometheus"
