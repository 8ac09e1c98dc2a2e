"""The server process: its socket, its signals, and an end at which nothing that was accepted is lost."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import uvicorn

from tintype.errors import ConfigError
from tintype.serving.server.app import make_app
from tintype.serving.server.connection import Connection
from tintype.serving.server.limits import Limits
from tintype.serving.server.service import Service

SPARE_FILES = 64
"""Open files that are not connections: libraries, pipes, the model."""
MOST_PORT = 65535
GRACE_SECONDS = 1.0
"""For requests that are on their way when the server is told to stop."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that clients can connect to.

    Args:
        host: A name or an address of this machine.
        port: 0 for any that is free.

    Raises:
        ConfigError: There is no such address here, or the port is taken or forbidden.
    """
    if not 0 <= port <= MOST_PORT:  # getaddrinfo would take the rest of a division
        raise ConfigError(f"port must be from 0 to {MOST_PORT}. Got {port}.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family)
    except PermissionError:
        raise ConfigError(f"port {port} needs more rights than you have; choose one from 1024 with --port.") from None
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # Python adds the address, which we have
        raise ConfigError(
            f"{host}:{port} cannot be listened on: {reason}. Choose others with --host and --port."
        ) from None
    listener.setblocking(False)
    return listener


def run_server(
    service: Service, listener: socket.socket, on_ready: Callable[[], None], *, access_log: bool = False
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; then answer what was accepted, and return.

    Args:
        service: Not started yet.
        listener: From :func:`listen`; closed here.
        on_ready: Called when requests are answered.
        access_log: Write a line for each request on stderr.
    """
    _log(access_log)
    limits = _within_open_files(service.limits)
    config = uvicorn.Config(
        make_app(service), http=cast(Any, partial(Connection, limits=limits)), ws="none", lifespan="on",
        log_config=None, access_log=access_log, proxy_headers=False, server_header=False,
        timeout_graceful_shutdown=limits.drain_seconds,
    )  # fmt: skip
    server = _Server(config, service, listener, on_ready)
    with _signals_end_quietly():
        server.run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, service: Service, listener: socket.socket, on_ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._service = service
        self._listener = listener
        self._on_ready = on_ready
        connections = self.server_state.connections
        service.metrics.gauge("connections", "Open connections.", lambda: len(connections))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._watch = asyncio.create_task(self._watch_connections())
            self._on_ready()

    async def _watch_connections(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            for connection in list(self.server_state.connections):
                cast(Connection, connection).close_if_overdue()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but clients are told first.

        uvicorn closes connections between two requests at once. A client that has just sent its next one would get a
        reset. From here on every answer says that its connection ends with it, and connections without a request have
        a moment to bring theirs.
        """
        self._service.is_draining = True
        accepted = list(self._accept_rest())
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        for client in accepted:
            await loop.connect_accepted_socket(self._connection, client)
        end = loop.time() + GRACE_SECONDS
        while self.server_state.connections and loop.time() < end:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)
        self._watch.cancel()

    def _accept_rest(self) -> Iterator[socket.socket]:
        """Connections that the system has made and this process has not seen; closing the socket would reset them."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setblocking(False)
            yield client

    def _connection(self) -> asyncio.Protocol:
        make = cast(Callable[..., asyncio.Protocol], self.config.http_protocol_class)
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def _within_open_files(limits: Limits) -> Limits:
    """Limits whose connections the system's limit on open files allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = limits.connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        limits = replace(limits, connections=max(1, min(limits.connections, soft - SPARE_FILES)))
    return limits


def _log(access_log: bool) -> None:
    """Errors of the server's own on stderr; clients' mistakes are their answers, and would fill a log."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    for name, level in (
        ("uvicorn.error", logging.ERROR),
        ("uvicorn.access", logging.INFO if access_log else logging.CRITICAL),
        ("python_multipart", logging.CRITICAL),
    ):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False


@contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """At its end uvicorn sends itself the signal once more; here a clean end is no death by a signal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
