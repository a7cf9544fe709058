"""The description of the API: for programs at /openapi.json, for people at /docs."""

import json
from functools import cache
from typing import Any

from flask import Blueprint, Response, current_app, jsonify, render_template, request

from chargeapp.runtime import Runtime
from chargeapp.web.auth import open_to_everybody

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def api_docs(runtime: Runtime) -> Blueprint:
    routes = Blueprint("api_docs", __name__)

    @cache
    def described() -> dict[str, Any]:
        # Imported when first asked for: it would make every start slower.
        from chargeapp.web.openapi import document

        return document(current_app, runtime.settings.driver_token_min_length)

    @routes.get("/openapi.json")
    @open_to_everybody
    def openapi() -> Response:
        return jsonify(described())

    @routes.get("/docs")
    @open_to_everybody
    def docs() -> tuple[str, dict[str, str]]:
        from chargeapp.web import docs_page, openapi_examples

        api = described()
        page = render_template(
            "docs.html",
            api=api,
            operations=docs_page.operations_of(api, request.host_url.rstrip("/")),
            callback=docs_page.callback_of(api),
            callback_example=json.dumps(openapi_examples.CALLBACK, indent=2),
            schemas=[(name, docs_page.rows(each)) for name, each in api["components"]["schemas"].items()],
        )
        return page, {"Content-Security-Policy": POLICY}

    return routes
