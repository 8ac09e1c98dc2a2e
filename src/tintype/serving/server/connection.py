"""A connection that does not wait for ever, and a limit on how many there are.

uvicorn has a deadline for the next request on a connection (5 s), but none for a first one, for headers that come
letter by letter, or for a client that does not read. One task looks at all connections every second, which costs
nothing per request. The deadline of a body is in :mod:`tintype.serving.server.limits`, where an answer can be given.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tintype.serving.server.limits import Limits

SLICE = 4096
THIN = 16 * 1024
"""Bytes of a chunked body from which on it is looked at; of those, a quarter must be body and not frames."""


def _last_words(status: str, error: str, *headers: str) -> bytes:
    """An answer that ends its connection, as it goes over the wire."""
    body = json.dumps({"error": error})
    head = (f"HTTP/1.1 {status}", *headers, "connection: close", "content-type: application/json")
    return "\r\n".join((*head, f"content-length: {len(body)}", "", body)).encode()


FULL = _last_words("503 Service Unavailable", "there are too many connections.", "retry-after: 1")
BAD = _last_words("400 Bad Request", "this is not HTTP.")


class Connection(H11Protocol):
    """One client's connection."""

    def __init__(self, *, limits: Limits, **given: Any) -> None:
        super().__init__(**given)
        self._limits = limits
        self._longest = 2 * (limits.head_seconds + limits.body_seconds + limits.answer_seconds)
        self._idle_since = self.loop.time()
        self._closing_since: float | None = None
        self._unsent_since: float | None = None
        self._busy_since: float | None = None
        self._framed = self._body = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; at the limit in place of another, or not at all."""
        is_full = len(self.connections) >= self._limits.connections and not self._take_a_place()
        super().connection_made(transport)
        if is_full:
            self.connections.discard(self)
            transport.write(FULL)
            transport.close()

    def _take_a_place(self) -> bool:
        """Close the connection that has been idle longest, if there is one."""
        idle = [other for other in self.connections if isinstance(other, Connection) and other._is_idle()]
        if not idle:
            return False
        longest = min(idle, key=lambda other: other._idle_since)
        longest.transport.abort()
        self.connections.discard(longest)
        return True

    def _is_idle(self) -> bool:
        """Whether it has no request whose headers are complete and which is not answered."""
        return self.cycle is None or self.cycle.response_complete

    def on_response_complete(self) -> None:
        """The time for the next request's headers begins."""
        self._idle_since = self.loop.time()
        self._busy_since = None
        self._framed = self._body = 0
        super().on_response_complete()

    def resume_writing(self) -> None:
        """The client has read some of its answer."""
        self._unsent_since = None
        super().resume_writing()

    def close_if_overdue(self) -> None:
        """Close it where its client has had its time; called every second."""
        now, patience = self.loop.time(), self._limits.head_seconds
        self._busy_since = None if self._is_idle() else self._busy_since or now
        if self.transport.is_closing():
            self._closing_since = self._closing_since or now
            if now - self._closing_since > patience:
                self.transport.abort()  # it waits for a client that does not read
        elif self._busy_since is None and now - self._idle_since > patience:
            self.transport.close()
        elif self._busy_since is not None and now - self._busy_since > self._longest:
            self.transport.abort()  # each step of a request has its own end; this is for whatever they miss
        elif self.transport.get_write_buffer_size() == 0:
            self._unsent_since = None
        else:
            self._unsent_since = self._unsent_since or now
            if now - self._unsent_since > patience:
                self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request.

        A chunked body whose chunks are single bytes costs h11 a quarter of a second for what is read at once (256 KiB),
        in which nobody else is answered. So they come in slices, and such a body is the end of the connection.
        """
        for begin in range(0, len(data), SLICE):
            if self.transport.is_closing():
                return
            if begin and not self._is_chunked():
                super().data_received(data[begin:])
                return
            piece = data[begin : begin + SLICE]
            held = len(self.cycle.body) if self.cycle else 0
            super().data_received(piece)
            if self._is_chunked():
                self._framed += len(piece)
                self._body += max(0, len(self.cycle.body) - held)
                if self._framed > THIN and 4 * self._body < self._framed:
                    self.transport.abort()

    def _is_chunked(self) -> bool:
        """Whether a chunked body is being received."""
        return not self._is_idle() and self.cycle.more_body and (b"transfer-encoding", b"chunked") in self.headers

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has sent everything. It may still read: then the connection ends with the answer, not before."""
        if self._is_idle() or self.cycle.more_body:
            return False
        self.cycle.keep_alive = False
        return True

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words, where ours are JSON
        """Say that this is no HTTP, unless an answer has begun; whoever works on the request is told that it is over.

        Not through h11, which refuses in states that an error in the middle of a request leaves behind.
        """
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(BAD)
        self.transport.close()
        if not self._is_idle():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
