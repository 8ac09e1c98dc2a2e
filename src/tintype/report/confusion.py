"""The confusion matrix: as a table that can be read and copied, or as a picture where classes are many."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tintype.report import text

MOST_IN_A_TABLE = 30
LEVELS = 10
_MOST_PAIRS = 25
_RIGHT = (15, 95, 115)
_WRONG = (164, 60, 31)
_PAPER = (255, 255, 255)


@dataclass(frozen=True)
class MatrixCell:
    """What a cell says and how it is coloured: ``right``, ``wrong`` or empty, with a level of 0 to 10."""

    shown: str
    style: str
    hint: str


@dataclass(frozen=True)
class Pair:
    """Two classes that are confused: how often, out of how many images of the true class."""

    label: str
    predicted: str
    count: str
    share: str
    n: str


@dataclass(frozen=True)
class Confusion:
    """The views of one confusion matrix.

    Attributes:
        classes: Class names, rows and columns alike.
        n: Images in all.
        raw: Rows of counts; empty where the classes are too many for a table.
        normalised: Rows of percentages of the true class; empty likewise.
        picture: A PNG as base64 where the classes are too many for a table, else empty.
        side: Width of the picture in pixels of the screen.
        pairs: The most frequent confusions.
        wrong: Wrong answers in all.
        pairs_in_all: How many different confusions there are.
    """

    classes: tuple[str, ...]
    n: int
    raw: tuple[tuple[MatrixCell, ...], ...]
    normalised: tuple[tuple[MatrixCell, ...], ...]
    picture: str
    side: int
    pairs: tuple[Pair, ...]
    wrong: int
    pairs_in_all: int


def confusion_views(matrix: Sequence[Sequence[float]], classes: Sequence[str]) -> Confusion | None:
    """Make the tables or the picture, and the list of the most confused pairs.

    Args:
        matrix: K x K counts, rows are the true classes.
        classes: K names.
    """
    counts_KK = np.asarray(matrix, dtype=np.int64)
    if counts_KK.size == 0:
        return None
    totals_K = counts_KK.sum(axis=1)
    shares_KK = counts_KK / np.maximum(totals_K, 1)[:, None]
    small = len(classes) <= MOST_IN_A_TABLE
    pairs, pairs_in_all = _pairs(counts_KK, classes)
    return Confusion(
        classes=tuple(classes),
        n=int(counts_KK.sum()),
        raw=_cells(counts_KK, shares_KK, totals_K, classes, normalised=False) if small else (),
        normalised=_cells(counts_KK, shares_KK, totals_K, classes, normalised=True) if small else (),
        picture="" if small else _picture(shares_KK),
        side=max(480, len(classes)),
        pairs=pairs,
        wrong=int(counts_KK.sum() - np.trace(counts_KK)),
        pairs_in_all=pairs_in_all,
    )


def heat_level(share: float, *, right: bool) -> int:
    """How strongly a cell is coloured, 0 to 10; mistakes by the square root, so that 1 % is seen."""
    if share <= 0:
        return 0
    return max(1, round(LEVELS * (share if right else math.sqrt(share))))


def _cells(
    counts_KK: NDArray[np.int64],
    shares_KK: NDArray[np.float64],
    totals_K: NDArray[np.int64],
    classes: Sequence[str],
    *,
    normalised: bool,
) -> tuple[tuple[MatrixCell, ...], ...]:
    decimals = 1 if len(classes) <= 12 else 0
    rows = []
    for i, (counts, shares) in enumerate(zip(counts_KK.tolist(), shares_KK.tolist(), strict=True)):
        row = []
        for j, (amount, share) in enumerate(zip(counts, shares, strict=True)):
            kind = "right" if i == j else "wrong"
            level = heat_level(share, right=i == j)
            shown = _share_text(share, decimals) if normalised else text.count(amount)
            hint = f"{classes[i]} taken for {classes[j]}: {amount} of {totals_K[i]}" if amount and i != j else ""
            row.append(MatrixCell(shown, f"{kind} h{level}" if level else "none", hint))
        rows.append(tuple(row))
    return tuple(rows)


def _share_text(share: float, decimals: int) -> str:
    if share in (0, 1):
        return f"{share * 100:.0f}"
    shown = f"{share * 100:.{decimals}f}"
    if float(shown) == 0:
        return "<1" if decimals == 0 else "<0.1"
    return shown if float(shown) < 100 else f">{100 - 10.0**-decimals:.{decimals}f}"


def _pairs(counts_KK: NDArray[np.int64], classes: Sequence[str]) -> tuple[tuple[Pair, ...], int]:
    off_KK = counts_KK.copy()
    np.fill_diagonal(off_KK, 0)
    order = np.argsort(-off_KK, axis=None, kind="stable")[:_MOST_PAIRS]
    totals_K = counts_KK.sum(axis=1)
    pairs = []
    for position in order.tolist():
        i, j = divmod(position, len(classes))
        if off_KK[i, j]:
            share = float(off_KK[i, j] / totals_K[i])
            n = int(totals_K[i])
            pairs.append(Pair(classes[i], classes[j], text.count(off_KK[i, j]), text.percent(share), text.count(n)))
    return tuple(pairs), int(np.count_nonzero(off_KK))


def _picture(shares_KK: NDArray[np.float64]) -> str:
    """A pixel a cell in the tables' colours, as a PNG with a palette, base64."""
    levels_KK = np.ceil(LEVELS * np.sqrt(shares_KK)).astype(np.uint8) + (LEVELS + 1)
    np.fill_diagonal(levels_KK, np.ceil(LEVELS * np.diag(shares_KK)).astype(np.uint8))
    palette = [
        round(paper + (ink - paper) * level / LEVELS)
        for color in (_RIGHT, _WRONG)
        for level in range(LEVELS + 1)
        for ink, paper in zip(color, _PAPER, strict=True)
    ]
    image = Image.frombytes("P", levels_KK.shape[::-1], levels_KK.tobytes())
    image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
