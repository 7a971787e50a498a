"""Who may ask: the name of the host, where a request comes from, and the token. Headers of every answer.

A page of another site can send requests to this server from the user's browser. So the server answers only to its own
names (DNS rebinding), and only to its own pages.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "mcn_token"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# a page that leads on, and no redirect: after a click in a mail, browsers send a strict cookie only then
WELCOME = '<!doctype html><title>mcn</title><meta http-equiv="refresh" content="0;url=/"><a href="/">Go on</a>'
ASK = "This page needs its token. Open the link that `lightning app` printed at the terminal."


class Guard:
    """Refuses requests that do not come from a page of this server.

    Args:
        app: that answers the others.
        hosts: names of the server, without port.
        token: that is asked for; ``None`` for none.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], token: str | None = None) -> None:
        self.app, self.token = app, token
        self.hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no page of this server opens a web socket

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._refusal(scope) or self.app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _name(host) not in self.hosts:
            return PlainTextResponse("This server has another name. Open the address printed at the terminal.", 421)
        if not _own_page(headers, host, scope["method"]):
            return PlainTextResponse("Requests from other sites are refused.", 403)
        return self._without_token(scope, headers) if self.token is not None else None

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        assert self.token is not None
        if _same(_cookie(headers), self.token):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if not _same(given, self.token):
            return PlainTextResponse(ASK, 401)
        found = HTMLResponse(WELCOME)
        # strict: no page of another site can make a browser send it
        found.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
        return found


def make_token() -> str:
    """Return a new token."""
    return secrets.token_urlsafe(24)


def names_of(host: str, further: Iterable[str] = ()) -> set[str]:
    """Return the names that a browser may use for a server.

    Args:
        host: address that it listens on.
        further: names from the user.
    """
    names = {"127.0.0.1", "localhost", "[::1]", *further}
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return names | {host}
    if not address.is_unspecified:
        return names | {f"[{host}]" if address.version == 6 else host}
    own = {socket.gethostname(), socket.getfqdn()}
    try:  # all addresses of this machine: a name that an attacker's DNS gives is none of them
        own |= {str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        pass
    return names | {f"[{each}]" if ":" in each else each for each in own} | _outward()


def _outward() -> set[str]:
    """Return the address that other machines see; nothing is sent for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation, which no one has
            return {probe.getsockname()[0]}
        except OSError:
            return set()


def _name(host: str) -> str:
    """Return a Host header's name without its port, in lower case."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()


def _own_page(headers: Headers, host: str, method: str) -> bool:
    """Tell whether a request comes from a page of this server, from the address bar, or from a link to a page."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != host.lower():
        return False
    # old browsers do not send it; their requests have an Origin where it matters
    site = headers.get("sec-fetch-site", "none")
    if site in ("same-origin", "none"):
        return True
    link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest", "document") == "document"
    return link and method in ("GET", "HEAD")


def _cookie(headers: Headers) -> str:
    found: SimpleCookie = SimpleCookie()
    try:
        found.load(headers.get("cookie", ""))
    except CookieError:
        return ""
    return found[COOKIE].value if COOKIE in found else ""


def _same(given: str, token: str) -> bool:
    """Compare in a time that does not tell how much was right."""
    return hmac.compare_digest(given.encode(), token.encode())
