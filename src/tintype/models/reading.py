"""A .safetensors file, open for reading. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tintype.errors import RunError


@contextmanager
def opened(path: Path, framework: str) -> Iterator[Any]:
    """A .safetensors file, open for reading; whatever is wrong with it becomes one line.

    Raises:
        RunError: It does not exist or cannot be read.
    """
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except FileNotFoundError:
        raise RunError(f"there is no weights file {path}.") from None
    except OSError as error:
        raise RunError(f"the weights file {path} cannot be read: {error.strerror or error}.") from None
    except (SafetensorError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise RunError(
            f"{path} is not a safetensors file, or a damaged one ({one_line(error)}); pickled weights (.pt, .pth) are "
            "read by `tintype import` alone."
        ) from None


def one_line(error: BaseException) -> str:
    """What an exception says, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
