"""Several networks on the same images: which of them is better, and whether that can be told from chance.

A recipe is judged by one network or by several that were trained with different seeds. With one network on each side
the answer holds for these two networks (McNemar's exact test); with several it holds for the recipes, since both the
choice of test images and the choice of seeds are counted. Comparing many with one reference raises the chance that
one of them looks better by luck, so p-values are adjusted (Holm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tintype.errors import DataError
from tintype.evaluation.metrics import SMALLEST_PROBABILITY
from tintype.evaluation.stats import crossed_mean, crossed_share, holm, paired_difference
from tintype.records import Interval, Predictions

SIGNIFICANT = 0.05
"""Adjusted p-values below this tell two recipes apart."""

MOST_LOSS = -float(np.log(SMALLEST_PROBABILITY))


@dataclass(frozen=True)
class Answers:
    """What one network made of the labelled images of a split, in the order of their paths.

    Attributes:
        images: (path, true class) of each image, length N.
        is_right: Shape (N,).
        losses: Cross-entropy in nats, shape (N,), float64.
    """

    images: tuple[tuple[str, str], ...]
    is_right: NDArray[np.bool_]
    losses: NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """A recipe beside the reference.

    Attributes:
        name: The recipe.
        difference: By how much its accuracy is above the reference's, with its 95 % interval (not adjusted).
        p: Two-sided p-value of no difference.
        adjusted_p: The same, adjusted for the number of comparisons.
        covers_seeds: Whether the choice of seeds is counted; else the answer holds for these networks only.
    """

    name: str
    difference: Interval
    p: float
    adjusted_p: float
    covers_seeds: bool

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``cannot be told apart``."""
        if self.adjusted_p >= SIGNIFICANT:
            return "cannot be told apart"
        return "better" if self.difference.value > 0 else "worse"


def answers_of(predictions: Predictions) -> Answers:
    """Judge the predictions of the images that have a label.

    Raises:
        DataError: None of the images has a label.
    """
    known = np.flatnonzero(predictions.labels >= 0)
    if not len(known):
        raise DataError(f"none of the {len(predictions)} {predictions.split} images has a label: nothing to compare.")
    known = np.array(sorted(known.tolist(), key=lambda number: predictions.paths[number]), dtype=np.int64)
    labels, probabilities_NK = predictions.labels[known], predictions.probabilities[known]
    of_truth = np.take_along_axis(probabilities_NK, labels[:, None], axis=1)[:, 0].astype(np.float64)
    return Answers(
        images=tuple(
            (predictions.paths[number], predictions.classes[label])
            for number, label in zip(known.tolist(), labels.tolist(), strict=True)
        ),
        is_right=probabilities_NK.argmax(axis=1) == labels,
        losses=-np.log(np.clip(of_truth, SMALLEST_PROBABILITY, 1)),
    )


def accuracy_over_seeds(answers: Sequence[Answers]) -> Interval:
    """Mean accuracy of networks of one recipe, with an interval for other images and other seeds.

    Raises:
        DataError: Their images differ.
    """
    require_same_images({f"network {number}": item for number, item in enumerate(answers, 1)})
    return crossed_share(_stack_right(answers))


def loss_over_seeds(answers: Sequence[Answers]) -> Interval:
    """Mean cross-entropy of networks of one recipe in nats, with an interval for other images and other seeds.

    Raises:
        DataError: Their images differ.
    """
    require_same_images({f"network {number}": item for number, item in enumerate(answers, 1)})
    return crossed_mean(np.stack([item.losses for item in answers]), 0.0, MOST_LOSS)


def compare_accuracy(
    reference: str, answers: Mapping[str, Sequence[Answers]], *, adjust: bool = True
) -> tuple[Comparison, ...]:
    """Compare recipes with a reference on the same images.

    Args:
        reference: One of the names.
        answers: Name of each recipe to its networks, a network a seed.
        adjust: Adjust the p-values for the number of comparisons.

    Returns:
        A comparison for each name but the reference, in the order given.

    Raises:
        DataError: The images of two networks differ.
    """
    require_same_images({name: item for name, items in answers.items() for item in items[:1]})
    for name, items in answers.items():
        require_same_images({f"{name}, network {number}": item for number, item in enumerate(items, 1)})
    base_SN = _stack_right(answers[reference])
    others = {name: _stack_right(items) for name, items in answers.items() if name != reference}
    found = [paired_difference(right_SN, base_SN) for right_SN in others.values()]
    p_values = [p for _, p in found]
    adjusted = holm(p_values).tolist() if adjust else p_values
    return tuple(
        Comparison(name, difference, p, adjusted_p, min(len(right_SN), len(base_SN)) > 1)
        for (name, right_SN), (difference, p), adjusted_p in zip(others.items(), found, adjusted, strict=True)
    )


def require_same_images(answers: Mapping[str, Answers]) -> None:
    """Refuse networks that were judged on different images.

    Raises:
        DataError: In one line, with the first two that differ and an image that tells them apart.
    """
    named = iter(answers.items())
    first_name, first = next(named)
    for name, item in named:
        if item.images == first.images:
            continue
        apart = sorted(set(item.images) ^ set(first.images))
        raise DataError(
            f"{first_name} and {name} cannot be compared: their images or labels differ ({len(first.images):,} and "
            f"{len(item.images):,} images, only one has {apart[0][0]} as {apart[0][1]}). Compare runs on the same data."
            if apart
            else f"{first_name} and {name} cannot be compared: one of them holds an image twice."
        )


def _stack_right(answers: Sequence[Answers]) -> NDArray[np.bool_]:
    return np.stack([item.is_right for item in answers])
