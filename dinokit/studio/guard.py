"""Who may ask the studio what: the door in front of all its answers.

A page of another site must neither read what is here nor make the studio work. The name in the Host header must be one
that is served, for a foreign name may have been pointed at this machine (DNS rebinding); addresses of digits cannot be.
What changes something must come from the studio's own page (Origin), and so must what is asked by another page's
elements (Sec-Fetch-Site). With a token, every request brings it: in the address once, then as a cookie; or in a header.
"""

import re
import secrets
import socket
from ipaddress import ip_address
from typing import final
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dinokit.core.messages import UserError

TOKEN = 16  # letters, at least: fewer could be guessed
AT_ONCE = 128  # requests
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # images may be private
}
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")


def check_host(host: str, token: str | None) -> None:
    """Refuse to serve other machines without a token, and a token that could be guessed.

    Raises:
        UserError: with a token that would do.
    """
    if token is None and not is_loopback(host):
        raise UserError(
            f"--host {host} shows the images to other machines; give a token too, such as --token "
            f"{secrets.token_urlsafe(TOKEN)}, or leave --host out and forward the port with ssh -L"
        )
    if token is not None and not re.fullmatch(f"[A-Za-z0-9_-]{{{TOKEN},}}", token):
        raise UserError(
            f"expected a --token of {TOKEN} or more of A-Z a-z 0-9 _ -, such as {secrets.token_urlsafe(TOKEN)}"
        )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine is served."""
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def refused(status: int, line: str) -> Response:
    """Return an answer that says in one line why there is no other."""
    return JSONResponse({"error": line}, status, {"Retry-After": "1"} if status == 503 else None)


@final
class Guard:
    """Asks every request for its papers, and puts the headers on every answer that keep a page where it belongs."""

    def __init__(self, app: ASGIApp, *, host: str, token: str | None) -> None:
        """Put the door in front of an application that serves a host."""
        self._app, self._token = app, token
        self._names = {host.lower()} | ({"localhost", "127.0.0.1", "::1"} if is_loopback(host) else set())
        self._everywhere = _is_address(host) and ip_address(host).is_unspecified
        if self._everywhere:
            self._names |= {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http", "served without websockets and lifespan"

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        answer: ASGIApp = self._refusal(Request(scope)) or self._app
        self._running += 1
        try:
            await answer(scope, receive, protected)
        finally:
            self._running -= 1

    def _refusal(self, request: Request) -> Response | None:
        hosts = request.headers.getlist("host")
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None or not self._serves(found[1].strip("[]").lower()):
            return refused(421, f"expected one of the hosts {', '.join(sorted(self._names))}, got {hosts[:2]}"[:300])
        if not self._is_own(request, hosts[0].lower()):
            return refused(
                403, "expected a request of the studio's own page, got one of another; open the studio itself"
            )
        if self._token is not None and not self._is_known(request):
            given = parse_qs(request.url.query).get("token", [""])[0] if request.url.path == "/" else ""
            if not _same(given, self._token):
                return refused(401, "expected the token; open the address that was printed, with its token")
            entered = RedirectResponse("/", 303)
            entered.set_cookie(self._cookie(request), self._token, httponly=True, samesite="strict")
            return entered
        if self._running >= AT_ONCE:
            return refused(503, f"{AT_ONCE} requests are being answered already; ask again in a moment")
        return None

    def _serves(self, name: str) -> bool:
        return name in self._names or (self._everywhere and _is_address(name))

    def _is_own(self, request: Request, host: str) -> bool:
        """Tell whether a request is the page's or a person's; what is no browser says neither where it comes from."""
        origin = request.headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
            return False
        followed = request.method in ("GET", "HEAD") and request.url.path == "/"  # a link to the page
        return followed or request.headers.get("sec-fetch-site", "none") in ("same-origin", "none")

    def _is_known(self, request: Request) -> bool:
        assert self._token is not None
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        by_header = kind.lower() == "bearer" and _same(given.strip(), self._token)
        return by_header or _same(request.cookies.get(self._cookie(request), ""), self._token)

    def _cookie(self, request: Request) -> str:
        """Return a name of its own for every port: cookies know hosts alone."""
        return f"dinokit-studio-{request.scope['server'][1]}"


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(errors="replace"), token.encode())


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
