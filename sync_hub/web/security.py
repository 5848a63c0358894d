"""Who may ask: token, host names, and protection against requests that another web page makes (`reliability.md` E).

One layer around the whole application, so that no route can forget it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sync_hub.settings import LOOPBACK, Http

COOKIE = "sync_hub_session"
CSRF_HEADER = "x-csrf-token"
SESSION_SECONDS = 12 * 3600
MAX_BODY_BYTES = 64 * 1024

LIVE = "/health/live"
LOGIN = "/login"

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to

RESPONSE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # without any, browsers send `Origin: null` with the login form
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}


class Gate:
    """What it takes to be let in. `csrf` is what the console's own scripts send along with a change."""

    def __init__(self, http: Http, clock: Callable[[], float] = time.time) -> None:
        self._token = http.token.encode()
        self._clock = clock
        self._any_address = http.host in _WILDCARDS
        names = {*LOOPBACK, *http.hosts, http.host, socket.gethostname()}
        self._names = {name.lower() for name in names}
        self.csrf = secrets.token_urlsafe(32)

    @property
    def token_required(self) -> bool:
        """Whether anything but liveness is behind a token."""
        return bool(self._token)

    def host_allowed(self, host: str) -> bool:
        """Whether the Host header names this hub. An address cannot be rebound by a foreign name server; names can."""
        name = _host_name(host)
        return name in self._names or (self._any_address and _is_address(name))

    def token_valid(self, given: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(given.encode(), self._token)

    def session(self) -> str:
        """A cookie for who has shown the token: when it ends, signed. It says the same on every node of the hub."""
        ends = str(int(self._clock()) + SESSION_SECONDS)
        return f"{ends}.{self._signature(ends)}"

    def session_valid(self, cookie: str) -> bool:
        """Whether this hub has given that cookie and it has not ended."""
        ends, _, signature = cookie.partition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(ends).encode()):
            return False
        return ends.isdecimal() and int(ends) > self._clock()

    def _signature(self, ends: str) -> str:
        return hmac.new(self._token, f"sync-hub session {ends}".encode(), hashlib.sha256).hexdigest()


class Guard:
    """The ASGI layer: refuses in this order host, body size, login, foreign origin; then adds the headers."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        refused = self._refusal(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in RESPONSE_HEADERS.items():
                    headers.setdefault(name, value)
                if not scope["path"].startswith("/static/"):
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        await (refused or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        path, headers = scope["path"], Headers(scope=scope)
        if path == LIVE and scope["method"] in _SAFE_METHODS:
            return None
        if not self._gate.host_allowed(headers.get("host", "")):
            return refusal(421, "unknown_host", "this hub is not known by that name", "add the name to http.hosts")
        changes = scope["method"] not in _SAFE_METHODS
        if changes and not _small(headers):
            return refusal(413, "body_too_large", f"a request has at most {MAX_BODY_BYTES} bytes, and says how many")
        by_token, by_cookie = self._shown(headers)
        open_to_all = path == LOGIN or path.startswith("/static/")
        if self._gate.token_required and not (by_token or by_cookie or open_to_all):
            return _login_needed(path, headers)
        if changes and not by_token:
            return self._foreign(path, headers)
        return None

    def _shown(self, headers: Headers) -> tuple[bool, bool]:
        if not self._gate.token_required:
            return False, False
        scheme, _, given = headers.get("authorization", "").partition(" ")
        by_token = scheme.lower() == "bearer" and self._gate.token_valid(given.strip())
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        return by_token, bool(cookie) and self._gate.session_valid(cookie)

    def _foreign(self, path: str, headers: Headers) -> Response | None:
        """Refuse changes that a browser was led to by another page."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if (origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()) or (
            site not in (None, "same-origin", "none")
        ):
            return refusal(403, "foreign_origin", "changes are taken only from this hub's own pages")
        if path == LOGIN:
            return None
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return refusal(415, "not_json", "changes are sent as application/json")
        browser = origin is not None or site is not None or "cookie" in headers
        if browser and not hmac.compare_digest(headers.get(CSRF_HEADER, "").encode(), self._gate.csrf.encode()):
            return refusal(403, "csrf", "the page is older than this hub's process", "load the page again")
        return None


def refusal(status: int, code: str, message: str, hint: str = "") -> JSONResponse:
    """An answer that says in one line why not."""
    return JSONResponse({"code": code, "message": message, "hint": hint}, status)


def _login_needed(path: str, headers: Headers) -> Response:
    if path == "/" and "text/html" in headers.get("accept", ""):
        return RedirectResponse(LOGIN, 303)
    answer = refusal(401, "token_needed", "this hub wants its token", "send Authorization: Bearer <http.token>")
    answer.headers["www-authenticate"] = "Bearer"
    return answer


def _small(headers: Headers) -> bool:
    length = headers.get("content-length", "")
    return length.isdecimal() and int(length) <= MAX_BODY_BYTES and "transfer-encoding" not in headers


def _host_name(host: str) -> str:
    """The Host header without its port, in small letters; addresses of version 6 without brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and ":" in host else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def cookie_settings(scheme: str) -> dict[str, Any]:
    """How the session cookie is set: not for scripts, not sent along from other sites."""
    return {
        "max_age": SESSION_SECONDS,
        "httponly": True,
        "samesite": "strict",
        "secure": scheme == "https",
        "path": "/",
    }
