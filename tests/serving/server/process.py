"""A server in a process of its own, and clients that behave badly on purpose."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

FAKE = Path(__file__).with_name("fake.py")
TESTS = FAKE.parents[2]


class Served:
    """A running server.

    Attributes:
        port: On 127.0.0.1.
        process: The server.
    """

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def connect(self, timeout: float = 20.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def ask(
        self, path: str, method: str = "GET", body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own: status, headers, body."""
        lines = [f"{method} {path} HTTP/1.1", "host: x", "connection: close", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        with self.connect() as connection:
            with suppress(OSError):  # it may have been refused before it was complete
                connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            return parse(read_all(connection))

    def metric(self, name: str) -> float:
        text = self.ask("/metrics")[2].decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def resident(self) -> float:
        """MiB of memory that the server has."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return float(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def health_seconds(self) -> float:
        """How long the server takes to say that it lives."""
        begin = time.perf_counter()
        status, _, body = self.ask("/v2/health/live")
        assert (status, json.loads(body)) == (200, {"live": True})
        return time.perf_counter() - begin

    def stop(self) -> tuple[str, str]:
        """SIGTERM; what it wrote on stdout and stderr."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=40)


@contextmanager
def served(*, check: bool = True, **settings: Any) -> Iterator[Served]:
    """Serve the classifier of :mod:`fake` with such limits.

    Args:
        check: At the end, it must stop by itself with exit code 0 and have written nothing on stderr.
        **settings: As :mod:`fake` takes them.
    """
    command = [sys.executable, str(FAKE), *(f"{name}={value}" for name, value in settings.items())]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        server = Served(process, int(line))
        yield server
        if check:
            if process.poll() is None:
                output, errors = server.stop()
                assert "drained" in output
                assert errors == ""
            assert process.returncode == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def read_all(connection: socket.socket) -> bytes:
    """What the server sends until it closes the connection or resets it."""
    chunks = []
    with suppress(ConnectionError):
        while chunk := connection.recv(65536):
            chunks.append(chunk)
    return b"".join(chunks)


def parse(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a complete answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head, "the connection was closed without an answer"
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert len(body) == int(headers.get("content-length", len(body))), "the answer is not complete"
    return int(first.split()[1]), headers, body


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed the connection; reads what it has sent."""
    while select.select([connection], [], [], 0)[0]:
        try:
            if not connection.recv(65536):
                return True
        except ConnectionError:
            return True
    return False
