"""Who calls, and what that caller may do. A route that does not say what it requires is for operators only."""

import ipaddress
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar
from urllib.parse import urlsplit

from flask import current_app, g, request
from sqlalchemy import Connection

from chargeapp.clock import utcnow, wall_clock
from chargeapp.config import Settings
from chargeapp.errors import DatabaseUnavailable, MisconfiguredError, RequestRefused, TemporaryFailure
from chargeapp.logs import get_logger
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope, host_allowed, take_apart
from chargeapp.security.callback_url import CallbackTarget, CallbackUrlRefused
from chargeapp.services.console_sessions import NOTED_EVERY, find_session, note_use
from chargeapp.storage import api_keys
from chargeapp.storage.api_keys import Seen
from chargeapp.web.forms import check_form_token, check_same_site, session_cookie
from chargeapp.web.loop import Beside

log = get_logger()

View = TypeVar("View", bound=Callable[..., object])
Answer = TypeVar("Answer")

OPEN: frozenset[Scope] = frozenset()
HOW = "Send a key in the header Authorization: Bearer cak_..."
NO_KEY = f"This is not a valid API key. {HOW}"
HOW_TO_MAKE = "chargeapp keys create --name NAME"


class NotAuthenticated(RequestRefused):
    """The request carries no usable API key; `attempt` says whether it carried anything."""

    def __init__(self, message: str, *, attempt: bool = True, key_id: str | None = None) -> None:
        super().__init__(message)
        self.attempt = attempt
        self.key_id = key_id
        self.challenge = 'Bearer realm="chargeapp"' + (', error="invalid_token"' if attempt else "")


class NotAllowed(RequestRefused):
    """The API key is good, but not for this."""

    def __init__(self, required: frozenset[Scope]) -> None:
        scopes = [scope for scope in Scope if scope in required]
        super().__init__(f"This API key may not do this: it needs the scope {' or '.join(scopes)}.")
        self.challenge = f'Bearer realm="chargeapp", error="insufficient_scope", scope="{" ".join(scopes)}"'


@dataclass(frozen=True, slots=True)
class Caller:
    """`key_id` is None where no key is needed. No `callback_hosts` means any."""

    name: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    key_name: str = ""
    callback_hosts: tuple[str, ...] = ()

    @property
    def sees(self) -> str | None:
        """The caller whose requests this one may see; None stands for all."""
        return None if Scope.OPERATE in self.scopes else self.name

    def may_see(self, owner: str) -> bool:
        return self.sees in (None, owner)

    def check_callback_host(self, target: CallbackTarget) -> None:
        """Raises CallbackUrlRefused."""
        if self.callback_hosts and not host_allowed(target.host, self.callback_hosts):
            raise CallbackUrlRefused("callback_hosts")


EVERYBODY = Caller("", frozenset(Scope))


def requires(*scopes: Scope) -> Callable[[View], View]:
    """Any one of these scopes."""
    return _mark(frozenset(scopes))


def open_to_everybody(view: View) -> View:
    return _mark(OPEN)(view)


def for_operators(view: View) -> View:
    """Those with such a key, and people whom it logged in: the only views that heed the cookie of a session."""
    return _heeding_session(requires(Scope.OPERATE)(view))


def for_admins(view: View) -> View:
    """Of those, whoever may say who may call and charge."""
    return _heeding_session(requires(Scope.ADMIN)(view))


def confirmed_as_it_stores(view: Callable[[], Answer]) -> Callable[[], Answer]:
    """Lets in whom it let in before. The view fails if the transaction that stores something finds other than `seen()`.

    Then, and whenever it fails, the caller's key is looked at again before anything is told.
    """

    @wraps(view)
    def confirmed() -> Answer:
        before = seen()
        try:
            return view()
        except DatabaseUnavailable:
            raise
        except Exception:
            g.doorkeeper.look_again()
            if seen() == before:
                raise
        return view()

    confirmed.remembers_keys = True  # type: ignore[attr-defined]
    return confirmed


def _heeding_session(view: View) -> View:
    view.heeds_session = True  # type: ignore[attr-defined]
    return view


def for_logging_in(view: View) -> View:
    """The key may be in the form."""
    marked = requires(Scope.OPERATE)(view)
    marked.takes_key_from_form = True  # type: ignore[attr-defined]
    return marked


def _mark(scopes: frozenset[Scope]) -> Callable[[View], View]:
    def mark(view: View) -> View:
        view.required_scopes = scopes  # type: ignore[attr-defined]
        return view

    return mark


def current_caller() -> Caller:
    """Of a request that was let in."""
    caller: Caller = g.caller
    return caller


def seen() -> Seen:
    """What the caller was let in for."""
    found: Seen = g.seen
    return found


def known_caller() -> Caller | None:
    """None before anybody was recognised, and on open routes."""
    found: Caller | None = g.get("caller")
    return found


def failed_attempt() -> bool:
    """Whether this request brought a key that is not good."""
    return "refusal" in g and g.refusal.attempt


class Doorkeeper:
    def __init__(self, runtime: Runtime, beside: Beside) -> None:
        self._runtime = runtime
        self._beside = beside
        self._may_be_open = may_be_open(runtime.settings)
        self._keys_exist = False
        self._keys: dict[str, Any] = {}

    def recognise(self) -> None:
        """Find out who calls; a refusal waits for `admit`, so that refused attempts are counted before it."""
        if request.endpoint is None or request.method == "OPTIONS" or not required_scopes():
            return
        g.doorkeeper = self
        try:
            g.caller = self._caller()
        except NotAuthenticated as refusal:
            g.refusal = refusal

    def admit(self) -> None:
        """Raises NotAuthenticated or NotAllowed."""
        refusal: NotAuthenticated | None = g.get("refusal")
        if refusal is not None:
            if refusal.attempt:
                log.warning(
                    "API key refused",
                    action="api_key_refused",
                    reason=str(refusal),
                    key=refusal.key_id,
                    address=request.remote_addr,
                )
            raise refusal
        caller = known_caller()
        if caller is not None and not caller.scopes & required_scopes():
            raise NotAllowed(required_scopes())
        if "form_secret" in g and request.method not in ("GET", "HEAD"):
            check_same_site()
            check_form_token(g.form_secret)

    def look_again(self) -> None:
        """Raises NotAuthenticated or NotAllowed if the caller may not do this any more."""
        g.looked_again = True
        self.recognise()
        self.admit()

    def _caller(self) -> Caller:
        credentials = request.authorization
        if credentials is not None and credentials.type == "bearer":
            return self._by_key(credentials.token or "")
        if view_is("takes_key_from_form") and "key" in request.form:
            check_same_site()
            return self._by_key(request.form["key"].strip())
        if self._open():
            if view_is("heeds_session"):
                # There is no session; what other sites cannot know will do.
                g.form_secret = self._runtime.vault.hash("forms of the open console")
            g.seen = Seen(None)
            return EVERYBODY
        if view_is("heeds_session") and (session_id := session_cookie()):
            return self._by_session(session_id)
        raise NotAuthenticated(f"An API key is needed. {HOW}", attempt=False)

    def _by_session(self, session_id: str) -> Caller:
        now = utcnow()
        with self._runtime.database.reading() as session:
            found = find_session(session, session_id, now)
            key = api_keys.find(session.connection(), found.key_id) if found is not None else None
        if found is None or key is None or why_unusable(key) is not None:
            raise NotAuthenticated("This session has ended. Log in again.", attempt=False)
        # A page that refreshes itself says nothing about anybody sitting before it.
        if now - found.last_seen_at >= NOTED_EVERY and "Live-Refresh" not in request.headers:
            # Whoever looks what is wrong with the database is not to be kept out by it.
            with suppress(TemporaryFailure), self._runtime.database.writing() as session:
                note_use(session, session_id, now)
        g.form_secret = g.session_id = session_id
        return caller_with(key)

    def _by_key(self, given: str) -> Caller:
        parts = take_apart(given)
        if parts is None:
            raise NotAuthenticated(NO_KEY)
        found = self._keys.get(parts.id) if remembers_keys() else None
        # Only what would let the caller in is confirmed later.
        if found is None or not parts.matches(found.secret_hash) or why_unusable(found) or not allows(found):
            found = self._beside.run(self._glance, lambda connection: api_keys.find(connection, parts.id))
            if found is None or not parts.matches(found.secret_hash):
                self._keys.pop(parts.id, None)
                raise NotAuthenticated(NO_KEY, key_id=parts.id)
            self._keys[parts.id] = found
        # Whoever has the secret may know why it does not work any more.
        if reason := why_unusable(found):
            raise NotAuthenticated(reason, key_id=parts.id)
        g.seen = Seen(found)
        return caller_with(found)

    def _glance(self, look: Callable[[Connection], Any]) -> Any:
        with self._runtime.database.glancing() as connection:
            return look(connection)

    def _open(self) -> bool:
        """Nobody has made a key yet, and only this machine can call."""
        if not self._may_be_open or self._keys_exist or not is_loopback(request.remote_addr or ""):
            return False
        # A name that somebody has pointed here would make his page one of ours.
        if not is_loopback(host_asked_for()):
            return False
        if not remembers_keys():
            self._keys_exist = self._beside.run(self._glance, api_keys.any_exist)
        return not self._keys_exist


def required_scopes() -> frozenset[Scope]:
    """Of the route that was asked for."""
    if request.endpoint == "static":
        return OPEN
    view = current_app.view_functions[request.endpoint or ""]
    required: frozenset[Scope] = getattr(view, "required_scopes", frozenset({Scope.OPERATE}))
    return required


def view_is(mark: str) -> bool:
    """Whether the view that was asked for is marked so."""
    return getattr(current_app.view_functions.get(request.endpoint or ""), mark, False)


def remembers_keys() -> bool:
    """Whether what was found before will do, because it is confirmed later."""
    return view_is("remembers_keys") and "looked_again" not in g


def why_unusable(key: Any) -> str | None:
    if key.revoked_at is not None:
        return "This API key was revoked."
    if key.expires_at is not None and key.expires_at <= wall_clock():
        return "This API key has expired."
    return None


def allows(key: Any) -> bool:
    return bool(caller_with(key).scopes & required_scopes())


def caller_with(key: Any) -> Caller:
    scopes = frozenset(map(Scope, key.scopes.split()))
    if Scope.ADMIN in scopes:
        scopes |= {Scope.OPERATE}
    return Caller(key.caller, scopes, key.id, key.name, tuple(key.callback_hosts.split()))


def host_asked_for() -> str:
    try:
        return urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        return ""


def check_keys_exist(runtime: Runtime) -> None:
    """Raises MisconfiguredError where the API would be open to others, or closed to all. Leaves no connection open."""
    settings = runtime.settings
    if may_be_open(settings):
        return
    try:
        with runtime.database.glancing() as connection:
            exist = api_keys.any_exist(connection)
    finally:
        runtime.database.close()
    if not exist:
        where = "in production" if settings.production else f"on {settings.host}, where others may reach it,"
        raise MisconfiguredError(f"The API does not start {where} without an API key. Make one: {HOW_TO_MAKE}")


def may_be_open(settings: Settings) -> bool:
    return not settings.production and is_loopback(settings.host)


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
