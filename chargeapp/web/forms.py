"""Forms of the console: nobody else's page can send them, and the cookie that says whose they are."""

from flask import Response, g, request

from chargeapp.errors import RequestRefused
from chargeapp.security.console_sessions import form_token, is_form_token

FIELD = "form_token"


class FormRefused(RequestRefused):
    """This form did not come from a page of this console. Nothing was done."""


def check_same_site() -> None:
    """Raises FormRefused. Browsers say where a form comes from, and pages cannot make them lie."""
    site = request.headers.get("Sec-Fetch-Site")
    # Over plain http only this machine is told the site; others are told the origin.
    if site != "same-origin" if site is not None else request.origin != request.host_url.rstrip("/"):
        raise FormRefused("This form was sent by another site, or by no browser. Nothing was done.")


def check_form_token(secret: str) -> None:
    """Raises FormRefused."""
    if not is_form_token(request.form.get(FIELD, ""), secret):
        raise FormRefused("This form is not of this session. Nothing was done; load the page again.")


def token_for_forms() -> str:
    """For the page that is being made; empty for whoever sends a key with every request and so needs none."""
    return form_token(g.form_secret) if "form_secret" in g else ""


def session_cookie() -> str | None:
    return request.cookies.get(cookie_name())


def set_session_cookie(response: Response, session_id: str) -> None:
    response.set_cookie(cookie_name(), session_id, path="/", httponly=True, samesite="Strict", secure=request.is_secure)


def clear_session_cookie(response: Response) -> None:
    response.delete_cookie(cookie_name(), path="/", httponly=True, samesite="Strict", secure=request.is_secure)


def cookie_name() -> str:
    """Under TLS one that neither a neighbouring host nor plain http can set."""
    return "__Host-chargeapp" if request.is_secure else "chargeapp"
