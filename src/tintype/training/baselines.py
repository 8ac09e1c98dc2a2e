"""Shortcut baselines: classifiers that cannot see what a picture shows, trained beside a network in half a second.

A network that does no better than they do may have learnt what they have: the colour of a scanner, the letters at a
border. Nothing of the judged images is used to fit or to choose them.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray

from tintype.data.augment import uniform
from tintype.data.cache import ImageCache
from tintype.data.kept import kept_figures
from tintype.data.split import Split
from tintype.evaluation.baselines import MAJORITY, Answered, Baselines, judge_baselines
from tintype.records import OnProgress, Predictions, silent
from tintype.runtime import Runtime
from tintype.training.logistic import fit_logistic
from tintype.training.shortcut_features import (
    BLURRED_SIDE,
    LEAST_BLUR,
    Shortcut,
    see,
    shortcuts_for,
    without_equal_channels,
)

MOST_IMAGES = 5_000
"""Training images, and judged images, that are looked at; more change the figures by less than their intervals."""

MOST_LOGITS = 100_000
"""Training images times classes; a thousand classes on all images would take longer than many a network."""

SHORTCUTS_VERSION = 1
"""Raised whenever a shortcut would see the same images differently, or learn something else from them."""

LEAST_PER_CLASS = 10
"""Training images of a class below which a shortcut could not learn it, and would seem worse than it is."""


def shortcut_baselines(
    cache: ImageCache,
    split: Split,
    network_predictions: Predictions,
    runtime: Runtime,
    on_progress: OnProgress = silent,
) -> Baselines:
    """Fit the shortcuts on training images and hold a network against them.

    Args:
        cache: The decoded images.
        split: Whose training images are learnt from.
        network_predictions: Of the network, of the test images (or of the validation images, in a run without a test
            set), in the order of the split.
        runtime: Where the classifiers are fitted.
        on_progress: Told how many images have been looked at.
    """
    started = time.monotonic()
    judged_of = split.test if network_predictions.split == "test" else split.validation
    assert len(judged_of) == len(network_predictions) > 0, (len(judged_of), len(network_predictions))
    labels, classes = cache.index.labels, len(cache.index.classes)
    most = min(MOST_IMAGES, MOST_LOGITS // classes)
    train = split.train[stratified(labels[split.train], most)]
    places = stratified(labels[judged_of], MOST_IMAGES)
    judged, is_right = judged_of[places], (network_predictions.predicted == network_predictions.labels)[places]

    images_NHWC = without_equal_channels(cache.images, train)
    shortcuts, left_out = _worth_trying(cache, split, shortcuts_for(images_NHWC.shape[3]), most)

    def answer() -> dict[str, NDArray[np.int64]]:
        seen = see(shortcuts, images_NHWC, np.concatenate([train, judged]), on_progress)
        return {
            shortcut.name: _learn(features[: len(train)], labels[train], features[len(train) :], classes, runtime)
            for shortcut, features in zip(shortcuts, seen, strict=True)
        }

    answers = [_majority(labels, split.train, judged)]
    if shortcuts:
        # Nothing in them is random: the next run on these images would hear the same.
        what = f"shortcuts {SHORTCUTS_VERSION}, {[shortcut.name for shortcut in shortcuts]}, {classes} classes"
        kept = kept_figures(cache.fingerprint, what, answer, [train, labels[train], judged])
        answers += [
            Answered(shortcut.name, shortcut.description, np.equal(kept[shortcut.name], labels[judged]))
            for shortcut in shortcuts
        ]
    network, above, rows = judge_baselines(is_right, answers)
    return Baselines(
        network_predictions.split, network, above, rows, len(judged), len(judged_of), len(train), len(split.train),
        left_out, time.monotonic() - started,
    )  # fmt: skip


def stratified(labels_N: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many places, ascending, every class with its share; which ones is drawn once and for all.

    Args:
        labels_N: Class ids.
        most: How many are wanted; all places where there are no more.
    """
    n = len(labels_N)
    if n <= most:
        return np.arange(n, dtype=np.int64)
    keys = uniform(0, 0, np.arange(n), 1)[:, 0]
    by_class = np.lexsort((keys, labels_N))
    evenly = (np.arange(most) + 0.5) * (n / most)
    return np.sort(by_class[evenly.astype(np.int64)])


def _worth_trying(
    cache: ImageCache, split: Split, found: tuple[Shortcut, ...], most: int
) -> tuple[tuple[Shortcut, ...], tuple[str, ...]]:
    """The shortcuts that mean something on these images, and why others are left out."""
    classes = len(cache.index.classes)
    if min(most, len(split.train)) < LEAST_PER_CLASS * classes:
        images = f"{len(split.train):,} training images of {classes:,} classes"
        return (), (f"colours, blur and border were not tried: {images} are too few, or the classes too many",)
    # Small files that were scaled up hold no more than what they were.
    files = np.minimum(cache.widths, cache.heights)[split.train]
    side = min(cache.geometry.size, int(np.median(files)))
    if side >= LEAST_BLUR * BLURRED_SIDE:
        return found, ()
    kept = tuple(shortcut for shortcut in found if shortcut.name != "blurred")
    return kept, (f"the blur was not tried: {BLURRED_SIDE} x {BLURRED_SIDE} pixels are no blur of {side} px images",)


def _majority(labels: NDArray[np.int64], train: NDArray[np.int64], judged: NDArray[np.int64]) -> Answered:
    most_frequent = int(np.bincount(labels[train]).argmax())
    return Answered(MAJORITY, "nothing, and answers the most frequent class", labels[judged] == most_frequent)


def _learn(
    train_RF: NDArray[np.float32], labels_R: NDArray[np.int64], judged_JF: NDArray[np.float32], classes: int,
    runtime: Runtime,
) -> NDArray[np.int64]:  # fmt: skip
    """Answers of a logistic regression, (J,); its penalty is chosen by cross-validation of the training images."""
    none = np.zeros((0, train_RF.shape[1]), np.float32)
    head = fit_logistic(
        torch.from_numpy(train_RF).to(runtime.device), labels_R, none, np.zeros(0, np.int64), classes, "softmax"
    )
    logits_JK = torch.from_numpy(judged_JF).to(runtime.device) @ head.weight.T + head.bias
    answers: NDArray[np.int64] = logits_JK.argmax(1).cpu().numpy()
    return answers
