"""Faults of the data and of the evidence, planted in small real images, with the settings of a run that has the fault.

The images are scikit-learn's handwritten digits, 8 by 8 pixels, in an ``.npz`` with the splits that the fault needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUICK = {"device": "cpu", "precision": "fp32"}
SMALL = "conv 16 3 pad=same relu\npool 2\nflatten\ndense 64 relu"
LARGE = "flatten\ndense 256 relu\ndense 256 relu"
"""Learns a few hundred images by heart."""

Images = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (N, 8, 8) and their labels (N,)."""


@dataclass(frozen=True)
class Plant:
    """A fault to plant.

    Attributes:
        name: Short, for the name of a test.
        fault: In words.
        code: Of the finding that has to come first.
        splits: Draws the images of ``train``, and of ``val`` and ``test`` where these are given.
        layers: The network.
        epochs: How long it trains.
        settings: Further settings.
    """

    name: str
    fault: str
    code: str
    splits: Callable[[np.random.Generator], dict[str, Images]]
    layers: str = SMALL
    epochs: int = 8
    settings: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, seed: int = 0) -> tuple[Path, dict[str, Any]]:
        """Write the images; gives their file and the options of :func:`tintype.train`."""
        arrays: dict[str, NDArray[Any]] = {}
        for split, (images, labels) in self.splits(np.random.default_rng(seed)).items():
            arrays |= {f"x_{split}": images, f"y_{split}": labels}
        path = folder / f"{self.name}.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]
        settings = {"threads": 1, "model.layers": self.layers, "augment.policy": "none", **self.settings}
        return path, {**QUICK, "epochs": self.epochs, "settings": settings}


@cache
def _digits() -> Images:
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.round(found.images * (255 / 16)).astype(np.uint8), found.target.astype(np.int64)


def draw(random: np.random.Generator, classes: tuple[int, ...], noise: float = 0.0) -> Images:
    """The digits of some classes, numbered from 0, shuffled, with noise of so many grey levels."""
    images, labels = _digits()
    rows = random.permutation(np.flatnonzero(np.isin(labels, classes)))
    noisy = images[rows] + random.normal(0, noise, (len(rows), 8, 8)) if noise else images[rows]
    return np.clip(noisy, 0, 255).astype(np.uint8), np.searchsorted(classes, labels[rows])


def cut(images: Images, *sizes: int) -> list[Images]:
    """Parts of these sizes, one after the other; -1 is all the rest."""
    pixels, labels = images
    ends = np.cumsum([size if size >= 0 else len(labels) - sum(sizes) - 1 for size in sizes])
    return [
        (pixels[end - size : end], labels[end - size : end])
        for end, size in zip(ends, np.diff(ends, prepend=0), strict=True)
    ]


def of(images: Images, *classes: int) -> Images:
    """The images of these classes alone."""
    chosen = np.isin(images[1], classes)
    return images[0][chosen], images[1][chosen]


def joined(*parts: Images) -> Images:
    """Several sets as one."""
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _shuffled(random: np.random.Generator) -> dict[str, Images]:
    images, labels = draw(random, (0, 1, 2, 3))
    return {"train": (images, random.permutation(labels))}


def _one_class(split: str) -> Callable[[np.random.Generator], dict[str, Images]]:
    def splits(random: np.random.Generator) -> dict[str, Images]:
        train, validation, test = cut(draw(random, (0, 1, 2, 3)), 350, 120, -1)
        found = {"train": train, "val": validation, "test": test}
        found[split] = of(found[split], 2)
        return found

    return splits


def _missing(split: str) -> Callable[[np.random.Generator], dict[str, Images]]:
    def splits(random: np.random.Generator) -> dict[str, Images]:
        train, validation, test = cut(draw(random, (0, 1, 2, 3)), 350, 120, -1)
        found = {"train": train, "val": validation, "test": test}
        found[split] = of(found[split], 0, 1, 3)
        return found

    return splits


def _sorted_tail(split: str) -> Callable[[np.random.Generator], dict[str, Images]]:
    def splits(random: np.random.Generator) -> dict[str, Images]:
        others, (images, labels) = cut(draw(random, (0, 1, 2, 3, 4)), 200, -1)
        order = np.argsort(labels, kind="stable")
        kept, tail = cut((images[order], labels[order]), len(order) - 200, 200)
        return {"train": kept, split: tail, "test" if split == "val" else "val": others}

    return splits


def _unbalanced(random: np.random.Generator) -> dict[str, Images]:
    images, labels = draw(random, tuple(range(10)), 60)  # an eight or another digit, nine others to each
    train, test = cut((images, (labels == 8).astype(np.int64)), 900, -1)
    return {"train": train, "test": test}


def _leak(random: np.random.Generator) -> dict[str, Images]:
    train, validation, test = cut(draw(random, (3, 5, 8, 9), 90), 300, 60, 150)
    return {"train": train, "val": validation, "test": joined(test, cut(train, 150)[0])}


def _copied_validation(random: np.random.Generator) -> dict[str, Images]:
    train, test = cut(draw(random, (3, 5, 8, 9), 90), 300, 200)
    return {"train": train, "val": cut(train, 120)[0], "test": test}


def _eighteen(random: np.random.Generator) -> dict[str, Images]:
    zeros, ones = draw(random, (0,))[0], draw(random, (1,))[0]
    test = joined((zeros[:9], np.zeros(9, np.int64)), (ones[:9], np.ones(9, np.int64)))
    train = joined((zeros[9:], np.zeros(len(zeros) - 9, np.int64)), (ones[9:], np.ones(len(ones) - 9, np.int64)))
    return {"train": train, "test": test}


def _other_source(random: np.random.Generator) -> dict[str, Images]:
    train, (images, labels) = cut(draw(random, (0, 1, 2, 3)), 500, -1)
    rolled = np.roll(images, 2, axis=2)  # a camera that looks two pixels further to the side
    return {"train": train, "test": (rolled, labels)}


def _other_mix(random: np.random.Generator) -> dict[str, Images]:
    train, test = cut(draw(random, (0, 1, 2, 3)), 400, -1)
    few = [cut(of(train, label), 30)[0] for label in (2, 3)]
    rare = [cut(of(test, label), 15)[0] for label in (0, 1)]
    return {"train": joined(of(train, 0, 1), *few), "test": joined(*rare, of(test, 2, 3))}


PLANTS = (
    Plant("shuffled", "labels shuffled against the images", "labels-do-not-fit", _shuffled, LARGE, 60),
    Plant("one_validated", "validation images of one class alone", "one-class-split", _one_class("val")),
    Plant("one_tested", "test images of one class alone", "one-class-split", _one_class("test")),
    Plant("untested", "a class without a test image", "class-without-test", _missing("test")),
    Plant("unvalidated", "a class without a validation image", "class-without-validation", _missing("val")),
    Plant("untrained", "a class without a training image", "class-without-training", _missing("train")),
    Plant("tail_validates", "validation is the tail of a sorted list", "cut-from-sorted-list", _sorted_tail("val")),
    Plant("tail_tests", "the test is the tail of a sorted list", "cut-from-sorted-list", _sorted_tail("test")),
    Plant(
        "unbalanced", "nine to one, and the small class not recognised", "class-imbalance", _unbalanced, "flatten", 3
    ),
    Plant("leak", "half of the test images stand in training", "leakage", _leak, LARGE, 40),
    Plant("copies", "validation images copied from training", "validation-leakage", _copied_validation, LARGE, 40),
    Plant("eighteen", "a claim on 18 test images", "small-test-set", _eighteen),
    Plant("other_source", "test images from another source", "validation-above-test", _other_source),
    Plant("other_mix", "a test with another class mix", "class-mix-differs", _other_mix),
)
"""What has to be found in the data and in the figures."""
