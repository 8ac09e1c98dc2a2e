"""A PostgreSQL server for tests: in a temporary folder, on loopback and a socket, gone afterwards.

Needs the Debian package ``postgresql`` (or ``initdb`` on the path); tests skip where it is absent. The server refuses
to run as root, so root starts it as the user ``postgres`` of that package.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path

OWNER = "postgres"
PASSWORD = "s3cret/@:{%}"
"""Of the owner over loopback, with what must be quoted in a URL; over the socket none is asked for."""

_QUOTED_PASSWORD = "s3cret%2F%40%3A%7B%25%7D"


class PostgresError(RuntimeError):
    """The server could not be made or started."""


@dataclass
class PostgresServer:
    """A running server.

    Attributes:
        port: On 127.0.0.1.
        folder: Holds its data, its log and its socket.
    """

    port: int
    folder: Path
    _names: Iterator[int] = field(default_factory=count, repr=False)

    def url(self, database: str = OWNER, password: str = _QUOTED_PASSWORD, user: str = OWNER) -> str:
        """URL over loopback, which asks for the password (percent-encoded here)."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def socket_url(self, database: str = OWNER) -> str:
        """URL over the socket, without a password."""
        return f"postgresql://{OWNER}@/{database}?host={self.folder}&port={self.port}"

    def new_database(self) -> str:
        """Make an empty database; its URL over loopback."""
        name = f"search_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, command: str, database: str = OWNER) -> str:
        """What ``psql`` prints for one SQL command."""
        return _run(
            ["psql", f"--host={self.folder}", f"--port={self.port}", f"--username={OWNER}", f"--dbname={database}",
             "--set=ON_ERROR_STOP=1", "--quiet", "--no-align", "--tuples-only", f"--command={command}"]
        )  # fmt: skip

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-F -k {self.folder} -h 127.0.0.1 -p {self.port}"
        _run(["pg_ctl", "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-o", options, "-w", "start"])

    def stop(self) -> None:
        """Stop it at once; whoever is connected loses the connection."""
        _run(["pg_ctl", "-D", str(self.folder / "data"), "-m", "fast", "-w", "stop"])


@cache
def why_no_postgres() -> str:
    """Why no server can be started here; empty where one can."""
    if _binaries() is None:
        return "PostgreSQL's server is not installed"
    if os.geteuid() != 0:
        return ""
    try:
        pwd.getpwnam(OWNER)
    except KeyError:
        return f"PostgreSQL does not run as root, and there is no user {OWNER}"
    return "" if shutil.which("setpriv") else "PostgreSQL does not run as root, and there is no setpriv"


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Start a server with nothing in it; stop it and remove its folder afterwards.

    Raises:
        PostgresError: It cannot be started; see ``why_no_postgres``.
    """
    folder = Path(tempfile.mkdtemp(prefix="tintype-pg-"))  # short: a socket's path has 107 bytes at most
    try:
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            owner = pwd.getpwnam(OWNER)
            for path in (folder, secret):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        _run(
            ["initdb", f"--pgdata={folder / 'data'}", f"--username={OWNER}", "--encoding=UTF8", "--locale=C",
             "--no-sync", "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}"]
        )  # fmt: skip
        server = PostgresServer(_free_port(), folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@cache
def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


def _run(command: Sequence[str]) -> str:
    binaries = _binaries()
    if binaries is None:
        raise PostgresError(why_no_postgres())
    words = [str(binaries / command[0]), *command[1:]]
    if os.geteuid() == 0:
        words = ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--init-groups", *words]
    # pg_ctl's server keeps what it is given as output: a file, not a pipe that would never end.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", timeout=60)
        output.seek(0)
        said = output.read()
    if done.returncode != 0:
        raise PostgresError(f"{command[0]}: {said.strip()}")
    return said.strip()
