"""What there is to say about a split: its one-line description and its findings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from tintype.data.index import SPLIT_IDS, ImageIndex, counted, shown
from tintype.records import Finding, Severity, SplitName

MOST_EVIDENCE = 24

Parts = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Positions of the training, validation and test images."""


@dataclass(frozen=True)
class Used:
    """How many of the training images are used, and the seed that drew them; None where a hash did."""

    images: int
    drawn_by: int | None = None


def describe_split(index: ImageIndex, parts: Parts, used: Used, shares: Mapping[int, float]) -> str:
    """One line: how many images each split has, and how they were chosen.

    Args:
        index: The images.
        parts: The splits, with all training images.
        used: How many of the training images are used.
        shares: The share of each split (by id) that was held out by hash.
    """
    train, validation, test = (len(part) for part in parts)
    text = f"{used.images:,} for training, {validation:,} for validation, {test:,} for test"
    if used.images < train:
        text += f"; training uses {used.images:,} of {train:,} images"
        if used.drawn_by is not None:
            text += f", classes in proportion, drawn by seed {used.drawn_by}"
    wanted: tuple[tuple[SplitName, int], ...] = (("test", test), ("validation", validation))
    given = [name for name, images in wanted if images and SPLIT_IDS[name] not in shares]
    held_out = [name for name, _ in wanted if SPLIT_IDS[name] in shares]
    if given:
        text += f"; {' and '.join(given)} as given"
    if held_out:
        source = " of the training images" if given else ""
        key = "image number" if index.arrays is not None else "file name"
        if index.groups is not None:
            key = "group, so that no group is torn apart"
        percent = " and ".join(f"{100 * shares[SPLIT_IDS[name]]:g} %" for name in held_out)
        text += f"; {' and '.join(held_out)} held out{source} by a hash of the {key}, {percent} of each class"
    return text


def notes_on_classes(index: ImageIndex, parts: Parts, small: NDArray[np.int64]) -> list[Finding]:
    """Classes that are missing from a split.

    Args:
        index: The images.
        parts: The splits, with the training images that are used.
        small: Classes that were kept in training because they are too small to divide.
    """
    classes = len(index.classes)
    train, validation, test = (np.bincount(index.labels[part], minlength=classes) for part in parts)
    is_small = np.isin(np.arange(classes), small)
    findings = []

    def note(code: str, severity: Severity, which: NDArray[np.bool_], fact: str, remedy: str) -> None:
        if which.any():
            ids = np.flatnonzero(which)
            evidence = _first(f"{shown(index.classes[label])}: {int(train[label]):,} for training" for label in ids)
            findings.append(Finding(code, severity, f"{counted(len(ids), 'class')} {fact}", evidence, remedy))

    note(
        "small-classes",
        "warning",
        is_small,
        "too small to divide, in training only",
        "Add images of these classes; until then no figure says how well they are recognised.",
    )
    note(
        "class-without-training",
        "warning",
        (train == 0) & (validation + test > 0),
        "without any training image",
        "Every image of such a class will be counted as wrong: add training images or take the class out.",
    )
    note(
        "class-without-test",
        "warning",
        (test == 0) & (train > 0) & ~is_small & (test.sum() > 0),
        "without any test image, though others have some",
        "The test figures say nothing about these classes: add test images of them.",
    )
    note(
        "class-without-validation",
        "info",
        (validation == 0) & (train > 0) & ~is_small & (validation.sum() > 0),
        "without any validation image, though others have some",
        "The best epoch is chosen without these classes: add validation images of them.",
    )
    return findings


def notes_on_few_images(used: int, validation: int) -> list[Finding]:
    """That choosing by many validation images is no training on few labels.

    Args:
        used: Training images that are used.
        validation: Validation images.
    """
    if validation <= used:
        return []
    return [
        Finding(
            "validation-outweighs-training",
            "info",
            f"{counted(used, 'training image')} beside {counted(validation, 'validation image')}",
            (),
            "An epoch that is chosen by the validation images uses their labels too, more than training does. For a "
            'curve of accuracy against training images set fit.keep = "last" and a fixed number of steps, or '
            "data.validation_fraction = 0.",
        )
    ]


def notes_on_groups(
    index: ImageIndex,
    rows: NDArray[np.int64],
    unit: NDArray[np.int64],
    names: list[str],
    dominant: list[tuple[int, int]],
) -> list[Finding]:
    """Groups that the source tears apart, and groups that were kept in training because of their size.

    Args:
        index: The images.
        rows: Positions of the usable, labelled images, shape (M,).
        unit: Group of each of them, shape (M,).
        names: Names of the groups.
        dominant: Pairs of a group and the class that it is more than half of.
    """
    findings = []
    if dominant:
        labels = index.labels[rows]
        findings.append(
            Finding(
                "dominant-groups",
                "info",
                f"{counted(len(dominant), 'group')} with more than half of a class, kept in training",
                _first(
                    f"{shown(names[group])}: {int(((unit == group) & (labels == label)).sum()):,} of "
                    f"{int((labels == label).sum()):,} images of {shown(index.classes[label])}"
                    for group, label in dominant[:MOST_EVIDENCE]
                ),
                "What is learned of such a class is mostly learned from one group: add images of other groups.",
            )
        )
    given = index.given_split[rows]
    is_in = np.zeros((len(names), len(SPLIT_IDS)), dtype=np.bool_)
    is_in[unit[given >= 0], given[given >= 0]] = True
    torn = np.flatnonzero(is_in.sum(axis=1) > 1)
    if len(torn):
        findings.append(
            Finding(
                "groups-across-splits",
                "warning",
                f"{counted(len(torn), 'group')} in more than one of the given splits",
                _first(shown(names[group]) for group in torn),
                "Figures on images of a group that was trained on are too good. Put each group into one split, or "
                "leave the splits to tintype.",
            )
        )
    return findings


def notes_on_unlabelled(index: ImageIndex, usable: NDArray[np.bool_]) -> list[Finding]:
    """Readable images without a label, which are in no split."""
    rows = np.flatnonzero(usable & (index.labels < 0))
    if not len(rows):
        return []
    return [
        Finding(
            "unlabelled-images",
            "info",
            f"{counted(len(rows), 'image')} without a label, in no split",
            _first(shown(index.paths[row]) for row in rows),
            "Label them to use them.",
        )
    ]


def _first(evidence: Iterable[str]) -> tuple[str, ...]:
    return tuple(islice(evidence, MOST_EVIDENCE))
