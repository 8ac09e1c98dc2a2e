"""The list of images and labels that every source becomes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tintype.records import SPLITS, SplitName

if TYPE_CHECKING:
    from tintype.config import SourceKind  # pydantic takes longer to import than an image to label

UNLABELLED = -1
NO_SPLIT = -1
SPLIT_IDS: dict[SplitName, int] = {name: number for number, name in enumerate(SPLITS)}

_SPLIT_SYNONYMS: dict[str, SplitName] = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class ImageIndex:
    """Which images there are, and what is known about each; no pixel of a file has been read.

    Attributes:
        kind: ``folder``, ``manifest``, ``idx`` or ``npz``.
        root: The folder that ``paths`` are relative to (the file itself for an ``.npz``).
        classes: Class names; a label is a position in it.
        paths: Unique identifiers that do not depend on the content, length N: a path relative to ``root`` with
            ``/``, or ``train/00042`` for images that come as an array.
        labels: Class ids, shape (N,), int64; -1 where unknown.
        given_split: 0 train, 1 validation, 2 test, -1 where the source names none; shape (N,), int8.
        groups: What must not be torn apart by a split (a patient, a scene), length N, or None.
        arrays: The pixels, where the source holds them itself: uint8, shape (N, H, W) or (N, H, W, C).
        description: One line on how the source was understood.
    """

    kind: SourceKind
    root: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    given_split: NDArray[np.int8]
    groups: tuple[str, ...] | None
    arrays: NDArray[np.uint8] | None
    description: str

    def __post_init__(self) -> None:
        n = len(self.paths)
        assert self.labels.shape == (n,), (self.labels.shape, n)
        assert self.given_split.shape == (n,), (self.given_split.shape, n)
        assert self.groups is None or len(self.groups) == n
        assert self.arrays is None or len(self.arrays) == n

    def __len__(self) -> int:
        return len(self.paths)

    def source(self, position: int) -> Path | NDArray[np.uint8]:
        """What :func:`tintype.data.decode.decode_image` takes: the file, or the pixels of an array source."""
        if self.arrays is not None:
            return np.asarray(self.arrays[position])
        return self.root / self.paths[position]


def split_named(text: str) -> SplitName | None:
    """The split that a folder name or a manifest entry means (``Valid`` is validation), or None."""
    return _SPLIT_SYNONYMS.get(text.strip().lower())


def natural_key(text: str) -> tuple[tuple[str, int, str], ...]:
    """Sort key that puts ``img2`` before ``img10`` and ignores case; equal keys mean equal texts."""
    parts = re.split(r"([0-9]+)", text)
    folded = []
    for place, part in enumerate(parts):
        digits = part.lstrip("0") if place % 2 else ""
        # A longer number is a larger one; comparing lengths first spares int() on numbers of any length.
        folded.append(("" if place % 2 else part.casefold(), len(digits), digits))
    return (*folded, (text, 0, ""))


def natural_sorted(names: Iterable[str]) -> list[str]:
    """Sort as people do: ``2`` before ``10``."""
    return sorted(names, key=natural_key)


def shown(name: object) -> str:
    """A name fit for one line of a message: control characters and undecodable bytes are escaped."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in str(name)
    )


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first few names and how many more there are, for a message."""
    text = ", ".join(shown(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most:,} more"


def counted(number: int, noun: str) -> str:
    """``1 image``, ``2,000 images``, ``3 classes``."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"
