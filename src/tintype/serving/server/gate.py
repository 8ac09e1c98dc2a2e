"""What every request and every answer passes: the token, headers that protect browsers, a polite end, counting."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from tintype.serving.server.service import Service

LINGER_SECONDS = 2.0
LINGER_BYTES = 64 * 2**20
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", PAGE_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class Gate:
    """ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event of the server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._service)
        begin = time.perf_counter()
        try:
            if self._service.guard.admits(scope):
                await self._app(scope, exchange.receive, exchange.send)
            else:
                refused = JSONResponse(
                    {"error": "this server needs its token: Authorization: Bearer TOKEN."},
                    401,
                    {"www-authenticate": "Bearer"},
                )
                await refused(scope, exchange.receive, exchange.send)
        finally:
            # The route as it is written in the program: a path of the client's own would be a new time series each.
            route = getattr(scope.get("route"), "path", "other")
            self._service.metrics.answered(route, exchange.status, time.perf_counter() - begin)


class _Exchange:
    """One request and its answer.

    An answer may come before its request has been read to the end (413, 401, 404, ...). Closing the connection then
    makes the system send a reset, at which most clients drop the answer. So the rest is received and thrown away for a
    moment after the answer has been sent (RFC 9112, 9.6).
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, service: Service) -> None:
        headers = Headers(scope=scope)
        self.status = 500
        self._receive = receive
        self._send = send
        self._service = service
        self._unread = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"

    async def receive(self) -> Message:
        message = await self._receive()
        if not message.get("more_body", False):  # the last piece, or a connection that is closed
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            given += [header for header in HEADERS if header[0] not in names]
            if self._unread or self._service.is_draining:
                given.append((b"connection", b"close"))
            await self._send({**message, "headers": given})
        elif self._unread and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await self._send(message)

    async def _linger(self) -> None:
        left = LINGER_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while self._unread and left > 0:
                    left -= len((await self.receive()).get("body", b""))
