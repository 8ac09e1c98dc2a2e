"""Several networks on the same images: which of them is better, and whether that can be told from chance.

A recipe is judged by one network or by several that were trained with different seeds. With one network on each side
the answer holds for these two networks (McNemar's exact test); with several it holds for the recipes, since both the
choice of test images and the choice of seeds are counted. Comparing many with one reference raises the chance that
one of them looks better by luck, so p-values are adjusted (Holm).

Figures that are no shares of images (macro F1, the loss, the area under the ROC curve) are compared between single
networks, by drawing the same images for both again and again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tintype.errors import DataError
from tintype.evaluation.bootstrap import paired_intervals
from tintype.evaluation.metrics import SMALLEST_PROBABILITY
from tintype.evaluation.stats import crossed_mean, crossed_share, holm, paired_difference
from tintype.evaluation.weighted import LOWER_IS_BETTER, image_values, metrics_of
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
        difference: By how much its figure is above the reference's, with its 95 % interval (not adjusted).
        p: Two-sided p-value of no difference.
        adjusted_p: The same, adjusted for the number of comparisons.
        covers_seeds: Whether the choice of seeds is counted; else the answer holds for these networks only.
        lower_is_better: Whether the figure is one of errors, such as a loss; an accuracy is not.
    """

    name: str
    difference: Interval
    p: float
    adjusted_p: float
    covers_seeds: bool
    lower_is_better: bool = False

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``cannot be told apart``."""
        if self.adjusted_p >= SIGNIFICANT:
            return "cannot be told apart"
        return "better" if (self.difference.value > 0) != self.lower_is_better else "worse"


def answers_of(predictions: Predictions) -> Answers:
    """Judge the predictions of the images that have a label.

    Raises:
        DataError: None of the images has a label.
    """
    known = np.flatnonzero(predictions.labels >= 0)
    if not len(known):
        raise DataError(f"none of the {len(predictions)} {predictions.split} images has a label: nothing to compare.")
    chosen = _rows(predictions, sorted(known.tolist(), key=lambda number: predictions.paths[number]))
    return Answers(
        images=tuple(
            (path, chosen.classes[label]) for path, label in zip(chosen.paths, chosen.labels.tolist(), strict=True)
        ),
        is_right=chosen.predicted == chosen.labels,
        losses=image_values("loss", chosen),
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


def align(predictions: Mapping[str, Predictions], *, common: bool = False) -> dict[str, Predictions]:
    """Bring single networks' predictions to the same labelled images in the order of their paths, and the same classes.

    Images are the same where path and label are.

    Args:
        predictions: Name of each network to what it said; the first is the one that the others are held against.
        common: Leave out what not all of them hold, instead of refusing it.

    Raises:
        DataError: The classes differ, an image stands twice in one of them, or the images differ.
    """
    first_name, first = next(iter(predictions.items()))
    places = {name: _places(name, item) for name, item in predictions.items()}
    for name, item in predictions.items():
        if apart := sorted(set(item.classes) ^ set(first.classes)):
            only = name if apart[0] in item.classes else first_name
            raise DataError(
                f"{first_name} and {name} cannot be compared: their classes differ (only {only} has {apart[0]}). "
                "Compare runs of the same classes."
            )
        if not common and places[name].keys() != places[first_name].keys():
            raise DataError(_different_images(first_name, places[first_name], name, places[name]))
    shared = sorted(set.intersection(*(set(item) for item in places.values())))
    if not shared:
        raise DataError(f"{', '.join(predictions)} have no labelled image in common. Compare runs on the same data.")
    return {
        name: _with_classes(_rows(item, [places[name][image] for image in shared]), first.classes)
        for name, item in predictions.items()
    }


def compare_metrics(
    reference: str, predictions: Mapping[str, Predictions], metrics: Collection[str] | None = None
) -> dict[str, tuple[Comparison, ...]]:
    """Compare single networks with a reference by several metrics, on the same images.

    The accuracy is compared by McNemar's test (:func:`compare_accuracy`), everything else by paired draws and a
    swapping test (:func:`tintype.evaluation.bootstrap.paired_intervals`). P-values are adjusted for the number of
    networks, not for the number of metrics.

    Args:
        reference: One of the names.
        predictions: Name of each network to its predictions, as :func:`align` gives them.
        metrics: Some of :func:`tintype.evaluation.weighted.metrics_of`; None for all of them.

    Returns:
        Metric to a comparison for each name but the reference, in the order given.
    """
    base = predictions[reference]
    wanted = tuple(metrics_of(base) if metrics is None else metrics)
    drawn = tuple(metric for metric in wanted if metric != "accuracy")
    others = [name for name in predictions if name != reference]
    pairs = {name: paired_intervals(predictions[name], base, drawn) if drawn else {} for name in others}
    found = {}
    for metric in wanted:
        if metric == "accuracy":
            answers = {name: [answers_of(item)] for name, item in predictions.items()}
            found[metric] = compare_accuracy(reference, answers)
            continue
        adjusted = holm([pairs[name][metric][1] for name in others]).tolist()
        found[metric] = tuple(
            Comparison(name, *pairs[name][metric], adjusted_p, False, metric in LOWER_IS_BETTER)
            for name, adjusted_p in zip(others, adjusted, strict=True)
        )
    return found


def _places(name: str, predictions: Predictions) -> dict[tuple[str, str], int]:
    """Row of each labelled image by its path and class."""
    places: dict[tuple[str, str], int] = {}
    for row, (path, label) in enumerate(zip(predictions.paths, predictions.labels.tolist(), strict=True)):
        if label < 0:
            continue
        image = (path, predictions.classes[label])
        if image in places:
            raise DataError(f"{name} cannot be compared: it holds {path} twice. Give every image a name of its own.")
        places[image] = row
    if not places:
        raise DataError(
            f"none of the {len(predictions)} {predictions.split} images of {name} has a label: nothing to compare."
        )
    return places


def _different_images(
    first_name: str, first: Mapping[tuple[str, str], int], name: str, other: Mapping[tuple[str, str], int]
) -> str:
    both = len(first.keys() & other.keys())
    path, label = min(first.keys() ^ other.keys())
    only = name if (path, label) in other else first_name
    remedy = "Compare runs on the same data" + (f", or the {both:,} images of both with --common." if both else ".")
    return (
        f"{first_name} and {name} cannot be compared: their test images or labels differ ({len(first):,} and "
        f"{len(other):,} images, {both:,} of them in both; only {only} has {path} as {label}). {remedy}"
    )


def _rows(predictions: Predictions, rows: Sequence[int]) -> Predictions:
    chosen = np.array(rows, dtype=np.int64)
    paths = tuple(predictions.paths[row] for row in rows)
    return replace(
        predictions, paths=paths, labels=predictions.labels[chosen], probabilities=predictions.probabilities[chosen]
    )


def _with_classes(predictions: Predictions, classes: tuple[str, ...]) -> Predictions:
    """The same with the classes in another order; all labelled."""
    if predictions.classes == classes:
        return predictions
    columns = [predictions.classes.index(name) for name in classes]
    return replace(
        predictions,
        classes=classes,
        labels=np.argsort(columns)[predictions.labels],
        probabilities=predictions.probabilities[:, columns],
    )


def _stack_right(answers: Sequence[Answers]) -> NDArray[np.bool_]:
    return np.stack([item.is_right for item in answers])
