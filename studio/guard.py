"""What stands before every request: the page answers only its own address, and only to itself. An ASGI middleware; knows no screen.

A page elsewhere cannot read or drive the studio: a foreign Host is DNS rebinding, a foreign Origin or a cross-site write is another site's page.
With a token every visitor must bring it, once as `?token=`, then as a cookie that no other site can send.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OWN_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
COOKIE = "prunarium_token"
CSP = (
    # gr.HTML builds its template functions from strings and svelte styles inline: those two exceptions, and nothing from outside
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; "
    "form-action 'self'; base-uri 'self'; object-src 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", CSP.encode()),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_READING = ("GET", "HEAD", "OPTIONS")


class Guard:
    """`hosts`: names the studio answers to (empty: any, allowed only with a token). `token`: what each visitor must bring, or None.

    `start_up`: path of Gradio's own first call to itself, which comes from this machine and carries no token.
    """

    def __init__(
        self, app: App, hosts: frozenset[str] = OWN_HOSTS, token: str | None = None, start_up: str = "/gradio_api/startup-events"
    ):
        if not hosts and not token:
            raise ValueError("answering to any host name needs a token")
        self.app, self.hosts, self.token, self.start_up = app, hosts, token, start_up

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope.get("headers", ())}
        refused = self._foreign(scope, headers)
        if refused:
            return await _refuse(scope, send, refused)
        if not self.token or scope["path"] == self.start_up or self._start_probe(scope):
            return await self.app(scope, receive, _with_headers(send, ()))
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if _same(given, self.token):
            cookie = f"{COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Strict"
            return await self.app(scope, receive, _with_headers(send, ((b"set-cookie", cookie.encode()),)))
        if _same(_cookie(headers.get("cookie", "")), self.token):
            return await self.app(scope, receive, _with_headers(send, ()))
        return await _refuse(scope, send, "This studio asks for a token: open its address with ?token=... at the end.")

    def _start_probe(self, scope: Scope) -> bool:
        """Gradio asks for the head of its own page once before it says that it is up. A head has no content to protect."""
        return scope.get("method") == "HEAD" and scope["path"] == "/"

    def _foreign(self, scope: Scope, headers: dict[str, str]) -> str:
        """Why the request is not from our own page, or nothing."""
        host = headers.get("host", "")
        if self.hosts and _name(host) not in self.hosts:
            return "This studio does not answer to that host name."
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return "This studio takes no requests from other sites."
        writing = scope["type"] == "websocket" or scope.get("method", "GET") not in _READING
        if writing and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return "This studio takes no requests from other sites."
        return ""


def _name(host: str) -> str:
    """The name or address of a Host header, without its port; nothing where it is malformed."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _with_headers(send: Send, more: tuple[tuple[bytes, bytes], ...]) -> Send:
    async def guarded(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = {name for name, _ in HEADERS}
            kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in own]
            message = {**message, "headers": [*kept, *HEADERS, *more]}
        await send(message)

    return guarded


async def _refuse(scope: Scope, send: Send, why: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": why.encode()})
