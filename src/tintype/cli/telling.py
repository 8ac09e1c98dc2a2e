"""What verbs say: JSON on stdout, or one line for a mistake."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from tintype.records import Finding


def worth_showing(findings: tuple[Finding, ...]) -> list[Finding]:
    """Findings that ask for something to be done."""
    return [finding for finding in findings if finding.severity != "info"]


def comma_separated(text: str | None) -> list[str] | None:
    """The names in ``a,b``."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def print_json(content: Any) -> None:
    """Write one JSON object on stdout."""
    from tintype.records import to_plain

    typer.echo(json.dumps(to_plain(content), ensure_ascii=False, allow_nan=False, default=str))


def fail(line: str) -> NoReturn:
    """End with one line that says what is wrong."""
    from tintype.errors import TintypeError

    raise TintypeError(line)
