"""Who may use the server: those who know its token, where it has one."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from starlette.requests import HTTPConnection
from starlette.types import Scope

from tintype.errors import ConfigError

COOKIE = "tintype"
"""Name of the cookie that the page gets for the token."""
OPEN_PATHS = frozenset({"/", "/page.js", "/page.css", "/session", "/v2/health/live", "/v2/health/ready"})
"""What anybody may ask for: whether the server works, and the page that asks for the token."""
LEAST_TOKEN = 16
"""Characters; anybody may guess as often as the server answers."""


class Guard:
    """Admits requests that carry the token.

    The page cannot put a header on the links that it shows, so it gets a cookie for the token once: its value is
    derived from the token and does not reveal it, scripts cannot read it, and no other site can make a browser send it.

    Args:
        token: None admits everybody.
    """

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()
        self.cookie = "" if token is None else hmac.new(token.encode(), b"tintype page", hashlib.sha256).hexdigest()

    @property
    def is_needed(self) -> bool:
        """Whether there is a token."""
        return self._token is not None

    def admits(self, scope: Scope) -> bool:
        """Whether a request may pass."""
        if self._token is None or scope["path"] in OPEN_PATHS:
            return True
        connection = HTTPConnection(scope)
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.knows(given.strip())
        return _same(connection.cookies.get(COOKIE, "").encode(), self.cookie.encode())

    def knows(self, token: str) -> bool:
        """Whether this is the token; takes as long for every wrong one."""
        return self._token is not None and _same(token.encode("utf-8", "surrogatepass"), self._token)


def _same(given: bytes, expected: bytes) -> bool:
    # Of digests, since comparing the bytes themselves would tell how long the token is.
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(expected).digest())


def read_token(file: Path | None) -> str | None:
    """The token in a file, or else in the variable TINTYPE_TOKEN; None where neither is given.

    Raises:
        ConfigError: The file cannot be read, or the token is too short or holds something else than visible ASCII.
    """
    if file is not None:
        try:
            token, where = file.read_text(encoding="utf-8").strip(), str(file)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigError(f"the token cannot be read from {file}: {reason}.") from None
    else:
        given = os.environ.get("TINTYPE_TOKEN")
        if given is None:
            return None
        token, where = given.strip(), "TINTYPE_TOKEN"
    if len(token) < LEAST_TOKEN or not all("!" <= character <= "~" for character in token):
        raise ConfigError(
            f"{where} must hold one token of at least {LEAST_TOKEN} visible ASCII characters. "
            f"Make one: openssl rand -hex 32 > token"
        )
    return token
