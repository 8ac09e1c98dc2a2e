"""Which images train, which choose, which test: stratified, grouped, and stable as data grows.

Every image has a number in [0, 1), the hash of its path or of its group, that depends on nothing else. Images
below ``test_fraction`` are the test set, those below ``test_fraction + validation_fraction`` validation, the rest
training. So an image that joins the data later leaves all others where they are.

The one exception keeps small classes honest: where the hash leaves a class without any image in one of the splits,
the image whose hash is nearest to that split goes there (the lowest one, for a test set). It may go back once a
newcomer's hash falls into the split. Likewise a group that grows to more than half of a class is not held out.

``data.fraction`` and ``data.train_images`` use fewer training images and leave the other splits alone. The fraction
goes by a hash too, so every run uses the same images; ``train_images`` draws them by the run's seed, so that a learning
curve over seeds also sees what the choice of images changes. A smaller number's images are among a larger number's.

Splits that the source names are kept. What is missing of test and validation is held out of training; an image
without a named split follows its group, else the hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from tintype.config import DataConfig
from tintype.data.index import SPLIT_IDS, ImageIndex, counted, listed, shown
from tintype.data.split_notes import (
    Used,
    describe_split,
    notes_on_classes,
    notes_on_few_images,
    notes_on_groups,
    notes_on_unlabelled,
)
from tintype.errors import ConfigError, DataError
from tintype.records import Finding

TRAIN, VALIDATION, TEST = SPLIT_IDS["train"], SPLIT_IDS["validation"], SPLIT_IDS["test"]
_FREE = -1


@dataclass(frozen=True)
class Split:
    """Positions of the images of each split in the index, ascending.

    Attributes:
        train: int64.
        validation: int64; empty where nothing is held out for it.
        test: int64; empty where nothing is held out for it.
        description: One line: how many, and how they were chosen.
        findings: What its user should know about the split.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    description: str
    findings: tuple[Finding, ...]


def make_split(index: ImageIndex, usable: NDArray[np.bool_], config: DataConfig, seed: int = 0) -> Split:
    """Divide the usable, labelled images into training, validation and test.

    Args:
        index: The images.
        usable: Which of them can be read, shape (N,).
        config: ``validation_fraction``, ``test_fraction``, ``fraction``, ``train_images`` and ``allow_small`` are used.
        seed: Of the run; draws which images ``train_images`` takes, and nothing else.

    Raises:
        DataError: No image is left for training, a class has too few images to hold some out, or there are fewer
            training images than ``train_images`` asks for.
        ConfigError: The fractions leave nothing for training.
    """
    rows = np.flatnonzero(usable & (index.labels >= 0)).astype(np.int64)
    if not len(rows):
        raise DataError(f"none of {counted(len(index), 'image')} is readable and labelled: there is nothing to train.")
    given, labels = index.given_split[rows], index.labels[rows]
    shares = _shares_to_hold_out(given, config)
    unit, names = _units(index, rows)
    is_open = (given == TRAIN) | (given == _FREE)
    incidence = _Incidence.of(unit[is_open], labels[is_open], len(names), len(index.classes))

    # A group that the source holds out takes its images without a split along and gives up no training image.
    fixed = np.full(len(names), _FREE, dtype=np.int8)
    np.maximum.at(fixed, unit, np.where(is_open, _FREE, given))
    is_followed = fixed > TRAIN
    dominant = incidence.dominant(~is_followed) if shares and index.groups is not None else []
    fixed[[group for group, _ in dominant]] = TRAIN
    small = _small_classes(incidence, labels, ~is_followed, 1 + len(shares))
    if len(small) and not config.allow_small:
        raise DataError(_too_small(index, incidence, small, 1 + len(shares)))
    of_small = incidence.unit[np.isin(incidence.label, small)]
    fixed[of_small[fixed[of_small] == _FREE]] = TRAIN

    placed = _hold_out(names, fixed, incidence, shares)
    stays = ~is_open | ((given == TRAIN) & is_followed[unit])
    place = np.where(stays, given, placed[unit])
    train, validation, test = (rows[place == part] for part in (TRAIN, VALIDATION, TEST))
    if not len(train):
        raise DataError(
            f"no image is left for training: {len(validation):,} are validation and {len(test):,} are test. "
            "Add images to train on."
        )
    kept = _nested_subset(index, train, config.fraction)
    if config.train_images is not None:
        kept = _drawn_subset(index, kept, config.train_images, seed)
    drawn_by = seed if config.train_images is not None else None
    findings = (
        *notes_on_classes(index, (kept, validation, test), small),
        *(notes_on_few_images(len(kept), len(validation)) if drawn_by is not None else ()),
        *notes_on_groups(index, rows, unit, names, dominant),
        *notes_on_unlabelled(index, usable),
    )
    description = describe_split(index, (train, validation, test), Used(len(kept), drawn_by), shares)
    return Split(kept, validation, test, description, findings)


def hash_fractions(names: Sequence[str], purpose: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each name: the first 53 bits of its BLAKE2b hash, over 2^53.

    Args:
        names: Any unicode, the undecodable bytes of file names included.
        purpose: Up to 16 ASCII characters; another purpose gives independent numbers.
    """
    person = purpose.encode("ascii")
    digests = b"".join(
        blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, person=person).digest() for name in names
    )
    return (np.frombuffer(digests, dtype=">u8") >> np.uint64(11)).astype(np.float64) / 2.0**53


@dataclass(frozen=True)
class _Incidence:
    """Which units (groups, or single images) have images of which class: the distinct pairs, ordered by class.

    Attributes:
        unit: Unit of each pair.
        label: Class of each pair, ascending.
        images: Images of each pair.
        by_unit: Order that sorts the pairs by unit.
        units: Number of units.
        classes: Number of classes.
    """

    unit: NDArray[np.int64]
    label: NDArray[np.int64]
    images: NDArray[np.int64]
    by_unit: NDArray[np.int64]
    units: int
    classes: int

    @classmethod
    def of(cls, unit: NDArray[np.int64], labels: NDArray[np.int64], units: int, classes: int) -> _Incidence:
        pairs, images = np.unique(labels * units + unit, return_counts=True)
        pair_unit = pairs % units
        return cls(pair_unit, pairs // units, images, np.argsort(pair_unit, kind="stable"), units, classes)

    def units_of(self, label: int) -> NDArray[np.int64]:
        start, end = np.searchsorted(self.label, [label, label + 1])
        return self.unit[start:end]

    def labels_of(self, unit: int) -> NDArray[np.int64]:
        start, end = np.searchsorted(self.unit, [unit, unit + 1], sorter=self.by_unit)
        return self.label[self.by_unit[start:end]]

    def count_units(self, which: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many of the given units (a mask, shape (units,)) have images of each class, shape (classes,)."""
        return np.bincount(self.label[which[self.unit]], minlength=self.classes)

    def dominant(self, which: NDArray[np.bool_]) -> list[tuple[int, int]]:
        """Those of the given units that hold more than half of a class that others hold too, with that class."""
        of_class = np.bincount(self.label, weights=self.images, minlength=self.classes)[self.label]
        is_dominant = (2 * self.images > of_class) & (self.images < of_class) & which[self.unit]
        return [(int(self.unit[pair]), int(self.label[pair])) for pair in np.flatnonzero(is_dominant)]


def _shares_to_hold_out(given: NDArray[np.int8], config: DataConfig) -> dict[int, float]:
    wanted = {TEST: config.test_fraction, VALIDATION: config.validation_fraction}
    shares = {part: share for part, share in wanted.items() if share > 0 and not (given == part).any()}
    if sum(shares.values()) >= 1:
        raise ConfigError(
            f"data.test_fraction {config.test_fraction:g} and data.validation_fraction "
            f"{config.validation_fraction:g} leave nothing for training; their sum must be less than 1."
        )
    return shares


def _units(index: ImageIndex, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[str]]:
    """Number the units of the rows, shape (M,), and name them: groups, or single images where there are none."""
    if index.groups is None:
        return np.arange(len(rows), dtype=np.int64), [index.paths[row] for row in rows.tolist()]
    numbers: dict[str, int] = {}
    unit = [numbers.setdefault(index.groups[row] or index.paths[row], len(numbers)) for row in rows.tolist()]
    return np.array(unit, dtype=np.int64), list(numbers)


def _small_classes(
    incidence: _Incidence, labels: NDArray[np.int64], is_divisible: NDArray[np.bool_], needed: int
) -> NDArray[np.int64]:
    """Classes with fewer units to divide than there are parts, or with no usable image at all."""
    units = incidence.count_units(is_divisible)
    has_images = np.bincount(labels, minlength=incidence.classes) > 0
    # A class that stands only in a given test set is no matter of size; notes_on_classes speaks of it.
    return np.flatnonzero(((units > 0) & (units < needed)) | ~has_images).astype(np.int64)


def _hold_out(
    names: list[str], fixed: NDArray[np.int8], incidence: _Incidence, shares: dict[int, float]
) -> NDArray[np.int8]:
    """Place every unit by its hash, then see to it that no class lacks a part that it could have."""
    if not shares:
        return np.where(fixed == _FREE, TRAIN, fixed).astype(np.int8)
    hashes = hash_fractions(names, "tintype-split")
    end_of_test = shares.get(TEST, 0.0)
    end_of_validation = end_of_test + shares.get(VALIDATION, 0.0)
    drawn = np.select([hashes < end_of_test, hashes < end_of_validation], [TEST, VALIDATION], TRAIN)
    place = np.where(fixed == _FREE, drawn, fixed).astype(np.int8)

    interval = {TEST: (0.0, end_of_test), VALIDATION: (end_of_test, end_of_validation), TRAIN: (end_of_validation, 1.0)}
    counts = np.stack([incidence.count_units(place == part) for part in range(3)], axis=1)
    units_of_class = counts.sum(axis=1)
    for part in (*shares, TRAIN):
        lacking = np.flatnonzero((counts[:, part] == 0) & (units_of_class > 0))
        # Classes with the fewest units choose first, as they have the least choice.
        for label in lacking[np.argsort(units_of_class[lacking], kind="stable")].tolist():
            units = incidence.units_of(label)
            units = units[(fixed[units] == _FREE) & (place[units] != part)]
            low, high = interval[part]
            distance = np.maximum(low - hashes[units], hashes[units] - high)
            _move_first(units[np.argsort(distance, kind="stable")], label, part, place, counts, incidence)
    return place


def _move_first(
    units: NDArray[np.int64],
    label: int,
    part: int,
    place: NDArray[np.int8],
    counts: NDArray[np.int64],
    incidence: _Incidence,
) -> None:
    """Move the first unit into ``part`` that no class of its old part misses; ``place`` and ``counts`` follow."""
    if counts[label, part]:
        return  # an earlier class's group brought images of this one along
    for unit in units.tolist():
        labels, source = incidence.labels_of(unit), int(place[unit])
        if (counts[labels, source] > 1).all():
            counts[labels, source] -= 1
            counts[labels, part] += 1
            place[unit] = part
            return


def _nested_subset(index: ImageIndex, train: NDArray[np.int64], fraction: float) -> NDArray[np.int64]:
    """The share of each class with the lowest hashes, so that a smaller fraction is a part of a larger one."""
    if fraction >= 1:
        return train
    hashes = hash_fractions([index.paths[row] for row in train.tolist()], "tintype-fraction")
    labels = index.labels[train]
    by_class = np.lexsort((hashes, labels))
    wanted = np.maximum(1, np.rint(np.bincount(labels) * fraction))
    return np.sort(train[by_class[_rank_in_class(labels) < wanted[labels[by_class]]]])


def _drawn_subset(index: ImageIndex, train: NDArray[np.int64], wanted: int, seed: int) -> NDArray[np.int64]:
    """``wanted`` training images: every class at least one where that is possible, then classes in proportion.

    All images are put into one order, of which the first are taken, so that fewer are always a part of more. Inside
    a class the order is drawn by the seed. Between classes it is the order of seats in a parliament: one each, then
    by Sainte-Lague's divisors, a method under which more seats never cost a party one (M. L. Balinski and
    H. P. Young, "Fair Representation", 1982).
    """
    if wanted > len(train):
        raise DataError(
            f"data.train_images asks for {wanted:,} training images, and there are {len(train):,}. Ask for fewer, or "
            "hold less out with data.validation_fraction and data.test_fraction."
        )
    hashes = hash_fractions([f"{seed}/{index.paths[row]}" for row in train.tolist()], "tintype-images")
    labels = index.labels[train]
    by_class = np.lexsort((hashes, labels))
    rank, images = _rank_in_class(labels), np.bincount(labels)[labels[by_class]]
    place = np.where(rank == 0, -images, (2 * rank + 1) / images)
    return np.sort(train[by_class[np.lexsort((hashes[by_class], place))[:wanted]]])


def _rank_in_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2, ... within each class, for images that are ordered by class; ``labels`` may be in any order."""
    images = np.bincount(labels)
    return np.arange(len(labels)) - np.repeat(np.cumsum(images) - images, images)


def _too_small(index: ImageIndex, incidence: _Incidence, small: NDArray[np.int64], needed: int) -> str:
    noun = "image" if index.groups is None else "group"
    units = incidence.count_units(np.ones(incidence.units, dtype=np.bool_))
    named = [f"{shown(index.classes[label])} ({counted(int(units[label]), noun)})" for label in small]
    return (
        f"too few usable {noun}s to divide: {listed(named, 8)}. A class needs at least {needed}, one for each of "
        "training, validation and test that is not given. Add images, or keep such classes in training only with "
        "--allow-small."
    )
