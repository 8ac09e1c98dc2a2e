"""What the server takes on, and how it says no: sizes, deadlines and memory for what clients send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.requests import Request

MIB = 2**20
CPU_BATCH = 4
"""Images a call on a CPU, where more gain nothing: MobileNetV2 by two calls at a time on two cores sees 240 a second in
batches of 4, 217 in batches of 8 (medians of 3 rounds, 2026-11-22)."""

CPU_LANES = 2
"""Calls at a time on a CPU: where one waits for its threads, the other fills the cores."""


@dataclass(frozen=True)
class Limits:
    """What the server takes on; what goes beyond it is refused with a status that says so.

    Attributes:
        body_bytes: Of one request.
        text_bytes: Of one request whose tensor is written as JSON. It is less, because one such number becomes a Python
            object, and reading them lets nothing else run.
        images: In one request.
        queue: Images that are accepted and not answered yet, of all clients together.
        connections: At a time. At the limit a new one takes the place of the one that has been silent longest.
        buffered_bytes: Of requests that are being received or decoded, of all clients together.
        head_seconds: From the beginning of a connection, or the last answer on it, to the end of a request's headers.
        body_seconds: From there to the end of its body.
        answer_seconds: From there to its answer.
        drain_seconds: For requests that were accepted before the server was told to stop.
        batch: Images that the network sees at once, at most.
        lanes: Batches that are computed at a time.
        wait_seconds: How long the network waits for images that are being decoded, so as to see them at once.
        decoders: Images that are decoded at a time.
    """

    body_bytes: int = 20 * MIB
    text_bytes: int = 4 * MIB
    images: int = 64
    queue: int = 256
    connections: int = 512
    buffered_bytes: int = 256 * MIB
    head_seconds: float = 10.0
    body_seconds: float = 20.0
    answer_seconds: float = 30.0
    drain_seconds: int = 30
    batch: int = 16
    lanes: int = 1
    wait_seconds: float = 0.003
    decoders: int = 2


class Refusal(Exception):  # noqa: N818  (nothing went wrong)
    """A request is not answered; the message is one line for the client.

    Attributes:
        status: Of the response.
        retry_after: Seconds after which it may be sent again; None where that would not help.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete; nobody is left to answer."""


class Intake:
    """Reads the bodies of requests, within the limits for each and for all together."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes that are in memory now."""
        return self._held

    @asynccontextmanager
    async def body(self, request: Request, most: int) -> AsyncIterator[bytes]:
        """The body of a request, counted as held until the context is left.

        Args:
            request: Not read yet.
            most: Bytes.

        Raises:
            Refusal: 413 where it is larger, or says that it will be; 408 where it comes too slowly; 503 where the
                bodies of all clients together are too large.
            ClientGoneError: The connection was closed before the end.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > most:
            raise _too_large(most)
        chunks: list[bytes] = []
        size = 0
        try:
            try:
                async with asyncio.timeout(self._limits.body_seconds):
                    is_complete = False
                    while not is_complete:
                        message = await request.receive()
                        if message["type"] == "http.disconnect":
                            raise ClientGoneError
                        chunk: bytes = message.get("body", b"")
                        is_complete = not message.get("more_body", False)
                        if size + len(chunk) > most:
                            raise _too_large(most)
                        if self._held + len(chunk) > self._limits.buffered_bytes:
                            raise Refusal(503, "the server receives too much at once; try again.", 1)
                        size += len(chunk)
                        self._held += len(chunk)
                        chunks.append(chunk)
            except TimeoutError:
                seconds = self._limits.body_seconds
                raise Refusal(408, f"the request did not arrive within {seconds:g} seconds.") from None
            body = b"".join(chunks)
            chunks.clear()  # or it would be in memory twice
            yield body
        finally:
            self._held -= size


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the request is larger than {most / MIB:g} MiB.")
