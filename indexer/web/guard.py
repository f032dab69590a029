"""Who may ask, and what a page may do: the Host check, the token, and the security headers of every response.

Datasette checks none of it. Without the Host check any web page could read the index through a name of its own that
it lets point to 127.0.0.1 (DNS rebinding).
"""

from __future__ import annotations

import hmac
import html
import ipaddress
import os
import re
import secrets
import socket
from contextvars import ContextVar
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from jinja2.ext import Extension

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping
    from typing import Any

    from datasette.app import Datasette

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

# The environment's name of the token that everybody who asks must know.
TOKEN = "CM_TOKEN"
LOGIN = "/-/cm/login"
OWN = "/-/cm/"

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_COOKIE = "cm_session"
_MAX_FORM = 4096

# Nothing comes from elsewhere, nothing goes elsewhere, and no other site may show the page in a frame of its own.
_POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
OWN_POLICY = _POLICY.format(script="'self'", style="'self'")
# Datasette's templates have scripts and styles in the page. Its scripts carry a nonce that they get when the template
# is read, before any data is in it; one handler stands in an attribute, and is allowed by its hash. Its styles stand
# in attributes that scripts write, too, where no nonce reaches: but with all of the above they can load nothing.
HANDLERS = ("openColumnChooser()",)
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

_nonce: ContextVar[str] = ContextVar("nonce", default="")


def nonce() -> str:
    """The nonce of the scripts in the response that is being made."""
    return _nonce.get()


class Nonces(Extension):
    """Gives each script of a template the nonce: of its source, so that no script in the data gets one."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return re.sub(r"<script\b", '<script nonce="{{ csp_nonce() }}"', source, flags=re.IGNORECASE)


def datasette_policy(of: str) -> str:
    """The policy of Datasette's own pages, with the nonce of its scripts."""
    hashes = " ".join(f"'sha256-{_sha256(handler)}'" for handler in HANDLERS)
    return _POLICY.format(script=f"'self' 'nonce-{of}' 'unsafe-hashes' {hashes}", style="'self' 'unsafe-inline'")


def _sha256(text: str) -> str:
    import base64
    import hashlib

    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that is bound to the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def wrap(datasette: Datasette, app: App) -> App:
    """The app behind the guard, as the plugin's configuration has it: `hosts`, a list of names, and `token`."""
    config = datasette.plugin_config("cm") or {}
    token = str(config.get("token") or os.environ.get(TOKEN) or "").strip()
    return Guard(app, config.get("hosts") or (), token, str(datasette.setting("base_url")))


class Guard:
    """An ASGI app before another one, which it lets answer those who may ask."""

    def __init__(self, app: App, hosts: Iterable[str] = (), token: str = "", base: str = "/") -> None:
        self._app = app
        self._hosts = _LOOPBACK | {host.lower() for host in hosts}
        if token:
            self._hosts |= {socket.gethostname().lower()}
        self._token = token.encode()
        # A session ends with the server: a cookie that somebody copied is worth nothing after it.
        self._session = secrets.token_urlsafe(24)
        self._base = base.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":  # a WebSocket gets no answer: there is none
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"]).removeprefix(self._base) or "/"
        send = self._with_headers(path, send)
        if not self._is_ours(_values(scope, b"host")):
            await _answer(send, 403, "403: this server does not go by that name; open it at http://127.0.0.1\n")
        elif not self._token or self._is_known(scope):
            await self._app(scope, receive, send)
        elif path == LOGIN and scope["method"] == "POST":
            await self._log_in(receive, send)
        else:
            await self._ask(scope, send)

    def _with_headers(self, path: str, send: Send) -> Send:
        is_own = path == "/" or path.startswith(OWN)
        fresh = secrets.token_urlsafe(18)
        _nonce.set(fresh)
        policy = OWN_POLICY if is_own else datasette_policy(fresh)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *HEADERS, (b"content-security-policy", policy.encode())]
                message = {**message, "headers": headers}
            await send(message)

        return send_with_headers

    def _is_ours(self, hosts: list[str]) -> bool:
        """A name must be known. With a token an address will do: to point a name elsewhere takes a name."""
        if len(hosts) != 1:
            return False
        found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+))(?::\d+)?", hosts[0])
        if found is None:
            return False
        host = (found[1] or found[2]).lower()
        return host in self._hosts or bool(self._token and _is_address(host))

    def _is_known(self, scope: Scope) -> bool:
        for value in _values(scope, b"authorization"):
            scheme, _, given = value.partition(" ")
            if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token):
                return True
        return any(hmac.compare_digest(given.encode(), self._session.encode()) for given in _sessions(scope))

    async def _log_in(self, receive: Receive, send: Send) -> None:
        form = parse_qs((await _body(receive)).decode("utf-8", "replace"))
        given, after = form.get("token", [""])[0].strip(), form.get("next", ["/"])[0]
        if not hmac.compare_digest(given.encode(), self._token):
            await _answer(send, 401, self._form(after, "That is not the token."), "text/html; charset=utf-8")
            return
        # Only a path of ours: //elsewhere would be another host.
        where = after if re.fullmatch(r"/(?![/\\])[\x21-\x7e]*", after) else self._base + "/"
        cookie = f"{_COOKIE}={self._session}; Path={self._base}/; HttpOnly; SameSite=Strict"
        await _answer(send, 303, "", headers=((b"location", where.encode()), (b"set-cookie", cookie.encode())))

    async def _ask(self, scope: Scope, send: Send) -> None:
        """What a browser gets is a form, and what a program gets says how it is done."""
        challenge = ((b"www-authenticate", b'Bearer realm="cm"'),)
        if any("text/html" in value for value in _values(scope, b"accept")):
            query = scope.get("query_string", b"").decode("latin-1")
            asked = scope.get("raw_path", scope["path"].encode()).decode("latin-1").partition("?")[0]
            after = "/" if asked == self._base + LOGIN else asked + (f"?{query}" if query else "")
            await _answer(send, 401, self._form(after), "text/html; charset=utf-8", challenge)
        else:
            await _answer(send, 401, "401: send the token as `Authorization: Bearer TOKEN`\n", headers=challenge)

    def _form(self, after: str, problem: str = "") -> str:
        return _FORM.format(action=html.escape(self._base + LOGIN), after=html.escape(after), problem=problem)


_FORM = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>cm</title>
</head>
<body>
<h1>cm</h1>
<form method="post" action="{action}">
<p role="alert">{problem}</p>
<p><label>Token <input type="password" name="token" autocomplete="current-password" required autofocus></label>
<input type="hidden" name="next" value="{after}">
<button>Log in</button></p>
</form>
</body>
</html>
"""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _sessions(scope: Scope) -> list[str]:
    found = []
    for value in _values(scope, b"cookie"):
        try:
            cookies = SimpleCookie(value)
        except CookieError:
            continue
        if _COOKIE in cookies:
            found.append(cookies[_COOKIE].value)
    return found


async def _body(receive: Receive) -> bytes:
    body, has_more = b"", True
    while has_more and len(body) <= _MAX_FORM:
        message = await receive()
        body += message.get("body", b"")
        has_more = message.get("more_body", False)
    return body[:_MAX_FORM]


async def _answer(
    send: Send,
    status: int,
    text: str,
    kind: str = "text/plain; charset=utf-8",
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    start = [(b"content-type", kind.encode()), (b"cache-control", b"no-store"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": text.encode()})
