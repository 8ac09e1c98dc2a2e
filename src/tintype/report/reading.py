"""Reading the JSON files that reports are made from: one line for a file that this version cannot read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tintype.errors import RunError
from tintype.report.text import printable
from tintype.rundir import RunDir

T = TypeVar("T")


@contextmanager
def of_this_version(file: str) -> Iterator[None]:
    """Say what a file's content lacks, or has in another form, in one line.

    Raises:
        RunError: It is from another version.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise RunError(f"{file} is from another version of tintype ({type(error).__name__}: {error}).") from None


def read_table(folder: Path, file: str, version: int, kind: str, make: Callable[[dict[str, Any]], T]) -> T:
    """Read a table that names its ``format``; what no text file can hold, as control characters, comes back replaced.

    Args:
        folder: Where it lies.
        file: Its name.
        version: The format that can be read.
        kind: What it is of: ``study`` or ``comparison``.
        make: Turns its content into records.

    Raises:
        RunError: There is none, it is damaged, or it is from another version.
    """
    if not (folder / file).is_file():
        raise RunError(f"{folder} is not a {kind}'s directory: it holds no {file}.")
    content = printable(RunDir(folder).read_json(file))
    if not isinstance(content, dict) or content.get("format") != version:
        raise RunError(f"{folder / file} is no table of a {kind} that this version of tintype can read.")
    try:
        return make(content)
    except (TypeError, KeyError) as error:
        raise RunError(f"{folder / file} is damaged: {error}.") from None
