"""The list of requests. What is typed is posted; the address that follows from it can be kept and shared."""

from urllib.parse import urlencode

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from marshmallow import ValidationError

from chargeapp.domain.charging_session import Decision, State
from chargeapp.request_search import LOOKED_THROUGH, find_requests
from chargeapp.runtime import Runtime
from chargeapp.web.auth import for_operators
from chargeapp.web.request_search_form import FormSchema, SearchSchema, query_of, search_of


def add_request_list(routes: Blueprint, runtime: Runtime) -> None:
    schema = SearchSchema()
    form_schema = FormSchema(runtime.vault, runtime.settings.driver_token_min_length)

    @routes.get("/requests")
    @for_operators
    def list_requests() -> ResponseReturnValue:
        try:
            given = schema.load(request.args)
        except ValidationError as error:
            return refused(error)
        query = query_of(given)
        with runtime.database.reading() as session:
            found = find_requests(session, search_of(given), before=given.get("before"))
        before = query.pop("before", None)
        return page(
            query,
            found=found,
            first=before is None,
            newest=address(query),
            older=address(query | {"before": found.older}) if found.older else None,
            looked_through=LOOKED_THROUGH,
        )

    @routes.post("/requests")
    @for_operators
    def search_requests() -> ResponseReturnValue:
        try:
            given = form_schema.load(request.form)
        except ValidationError as error:
            return refused(error)
        return redirect(address(query_of(given)), 303)

    def refused(error: ValidationError) -> ResponseReturnValue:
        """What was good is kept; what was not may be a driver token, and is not repeated."""
        good = error.valid_data if isinstance(error.valid_data, dict) else {}
        return page(query_of(good), errors=error.normalized_messages()), 400  # type: ignore[no-untyped-call]

    def address(query: dict[str, str]) -> str:
        return url_for(".list_requests") + (f"?{urlencode(query)}" if query else "")

    def page(query: dict[str, str], **more: object) -> str:
        return render_template("requests.html", query=query, states=list(State), decisions=list(Decision), **more)
