"""Classes that can be told from the file alone, as where each comes from a source of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tintype.data.cache import ImageCache
from tintype.data.formats import extension
from tintype.data.index import shown
from tintype.records import Finding

LEAST_ACCURACY = 0.75
"""Share of right guesses, where chance is a half, from which on a property is said to tell a class."""
_LEAST_IMAGES = 10
_LEAST_DEVIATIONS = 4.0
_BINS = 10
_MOST_EVIDENCE = 24


@dataclass(frozen=True)
class _Property:
    """Something about files: its name, a number for every value, shape (M,), and words for a set of files."""

    name: str
    values: NDArray[np.int64]
    describe: Callable[[NDArray[np.bool_]], str]


def shortcuts(cache: ImageCache, rows: NDArray[np.int64]) -> list[Finding]:
    """Say which properties of the files tell a class from all others together.

    Args:
        cache: The images.
        rows: Those to look at, without copies of each other, shape (M,).
    """
    labels = cache.index.labels[rows]
    found = [
        (float(accuracy[label]), label, item)
        for item in _properties(cache, rows)
        for accuracy in [_share_guessed(item.values, labels)]
        for label in np.flatnonzero(accuracy >= LEAST_ACCURACY).tolist()
    ]
    if len(cache.index.classes) == 2:
        found = [told for told in found if told[1] == 0]  # what tells one of two classes tells the other
    if not found:
        return []
    found.sort(key=lambda told: -told[0])
    accuracy, label, best = found[0]
    evidence = (
        f"{shown(cache.index.classes[label])} by {item.name} ({100 * share:.0f} %): {item.describe(labels == label)}; "
        f"the others: {item.describe(labels != label)}"
        for share, label, item in found[:_MOST_EVIDENCE]
    )
    return [
        Finding(
            "shortcut-risk",
            "warning",
            f"the {best.name} of the file alone tells {shown(cache.index.classes[label])} from the others in "
            f"{100 * accuracy:.0f} % of cases, where chance is 50 %",
            tuple(evidence),
            "The classes seem to come from different sources, and a network may learn the source instead of the "
            "content. Add images until every source has every class, and test on a source that was not trained on.",
        )
    ]


def _share_guessed(values: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """How well a value tells each class from the rest, shape (K,); 0 where that may be chance.

    Each image is guessed from the other images of the same value, the class and the rest weighing the same; the
    figure is the mean of the two shares of right guesses. A tie is a wrong guess.
    """
    table = np.zeros((int(values.max()) + 1, int(labels.max()) + 1))
    np.add.at(table, (values, labels), 1)
    rest = table.sum(axis=1, keepdims=True) - table
    images, others = table.sum(axis=0), rest.sum(axis=0)
    n, m = np.maximum(images, 1), np.maximum(others, 1)
    # An image must not speak for itself.
    of_class = (table * ((table - 1) / n > rest / m)).sum(axis=0) / n
    of_rest = (rest * ((rest - 1) / m > table / n)).sum(axis=0) / m
    accuracy = (of_class + of_rest) / 2
    deviation = np.sqrt(0.25 / n + 0.25 / m) / 2
    is_sure = (np.minimum(images, others) >= _LEAST_IMAGES) & (accuracy - 0.5 >= _LEAST_DEVIATIONS * deviation)
    return np.asarray(np.where(is_sure, accuracy, 0.0))


def _properties(cache: ImageCache, rows: NDArray[np.int64]) -> list[_Property]:
    widths, heights = cache.widths[rows].astype(float), np.maximum(1, cache.heights[rows]).astype(float)
    modes = np.array([cache.modes[row] for row in rows.tolist()])

    def shape(which: NDArray[np.bool_]) -> str:
        low, high = np.quantile((widths / heights)[which], (0.1, 0.9))
        return f"width over height {low:.2f} to {high:.2f}"

    def size(which: NDArray[np.bool_]) -> str:
        return f"{np.median(widths[which]):.0f}x{np.median(heights[which]):.0f} in the middle"

    found = [
        _Property("pixel mode", _numbered(modes), lambda which: _shares(modes[which])),
        _Property("shape", _binned(widths / heights), shape),
        _Property("size", _binned(widths * heights), size),
    ]
    if cache.index.arrays is None:
        kinds = np.array([extension(cache.index.paths[row]).lstrip(".") for row in rows.tolist()])
        kinds[kinds == "jpg"] = "jpeg"
        found.append(_Property("file type", _numbered(kinds), lambda which: _shares(kinds[which])))
    return found


def _numbered(values: NDArray[np.str_]) -> NDArray[np.int64]:
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _binned(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Numbers of bins that hold about equally many values; equal values share one."""
    edges = np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS))
    return np.searchsorted(edges, values, side="right").astype(np.int64)


def _shares(values: NDArray[np.str_]) -> str:
    names, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:3]
    return ", ".join(f"{100 * counts[at] / len(values):.0f} % {shown(names[at]) or 'without'}" for at in order)
