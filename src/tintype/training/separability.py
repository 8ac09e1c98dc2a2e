"""How well a linear classifier tells classes apart by the features of a layer, judged on images it was not fitted on.

A map in two dimensions shows clusters where there are none and tears apart what belongs together; this is measured on
all features. It stands in this room because it uses the solver of the output layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from tintype.evaluation.stats import crossed_share
from tintype.models.network import output_kind
from tintype.records import Interval, OnProgress, silent
from tintype.training.logistic import STEPS_PER_DECADE, USUAL_STEP, fold_of_rows
from tintype.training.logistic_solver import Axes, Problems, principal_axes

SHUFFLES = 20
REPEATS = 5
"""Cross-validations, each with other folds: on 158 X-rays of two classes one gives 71 %, another 73 %."""
MOST_IMAGES = 2_000
MOST_PAIRS = 66
"""Pairs of 12 classes. With more classes the ones are looked at that are most often taken for each other."""
LEAST_OF_A_CLASS = 5
"""Images that a class needs: one in each fold."""
_TOLERANCE = 1e-5
_LEAST_DEVIATION = 1e-6


@dataclass(frozen=True)
class PairScore:
    """How well two classes are told apart.

    Attributes:
        one: A class.
        other: Another one.
        accuracy: Share of their images that is told right.
        largest: Share of the larger class, which is what naming it always would reach.
    """

    one: str
    other: str
    accuracy: Interval
    largest: float


@dataclass(frozen=True)
class Separability:
    """What a linear classifier reaches on features.

    Attributes:
        accuracy: Share of the images that is told right while held out: the mean over the repeats, with Wilson's
            interval at the number of images that has the variance of images and folds together.
        shuffled: The same with the labels shuffled among the images: the mean, and the range of 95 of 100 shuffles.
        largest: Share of the largest class.
        folds: Parts of a cross-validation.
        repeats: How many there were, with other folds each.
        shuffles: How many times the labels were shuffled.
        penalty: L2, on standardised features; fixed, not chosen by the images.
        left_out: Classes with too few images to hold some out.
        pairs: The same for two classes at a time, the closest first.
        pairs_in_all: How many pairs of classes there are.
    """

    accuracy: Interval
    shuffled: Interval
    largest: float
    folds: int
    repeats: int
    shuffles: int
    penalty: float
    left_out: tuple[str, ...]
    pairs: tuple[PairScore, ...]
    pairs_in_all: int


def separability(
    features_NF: NDArray[np.floating],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    seed: int,
    *,
    groups: NDArray[np.int64] | None = None,
    on_progress: OnProgress = silent,
) -> Separability | None:
    """Cross-validate a logistic regression on features, and on features whose labels are shuffled.

    Five stratified folds, five times; each image is judged by classifiers that have not seen it. The features must come
    from a network that has not learnt from these images, or the score is too good.

    Args:
        features_NF: Finite, shape (N, F). Of more than 2,000 images so many are taken, evenly.
        labels: Class ids, shape (N,); -1 leaves an image out.
        classes: Class names.
        seed: Of the shuffles.
        groups: What must be held out together, an id for each image, shape (N,).
        on_progress: Told how many shuffles are done.

    Returns:
        None where fewer than two classes have five images.
    """
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    used = np.flatnonzero(counts >= LEAST_OF_A_CLASS)
    if len(used) < 2:
        return None
    rows = np.flatnonzero(np.isin(labels, used))
    rows = rows[np.argsort(labels[rows], kind="stable")]
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_IMAGES)).astype(np.int64))]
    probe = _Probe(features_NF[rows], None if groups is None else groups[rows])
    places = np.searchsorted(used, labels[rows])
    random = np.random.default_rng(seed)
    predicted_SN = probe.repeatedly_held_out(places, len(used), random)
    null = []
    for number in range(SHUFFLES):
        shuffled = _shuffled(places, probe.groups, random)
        null.append(float(np.mean(probe.held_out(shuffled, len(used)) == shuffled)))
        on_progress("fitting shuffled labels", number + 1, SHUFFLES)
    low, high = np.quantile(null, (0.025, 0.975)).tolist()
    names = [classes[number] for number in used.tolist()]
    pairs = tuple(_score_pairs(probe, places, predicted_SN, names, random))
    return Separability(
        accuracy=crossed_share(predicted_SN == places),
        shuffled=Interval(float(np.mean(null)), low, high, len(places)),
        largest=float(np.bincount(places).max() / len(places)),
        folds=probe.folds_of(places),
        repeats=REPEATS,
        shuffles=SHUFFLES,
        penalty=probe.penalty,
        left_out=tuple(name for name, count in zip(classes, counts.tolist(), strict=True) if 0 < count < 5),
        pairs=tuple(sorted(pairs, key=lambda item: item.accuracy.value)),
        pairs_in_all=len(used) * (len(used) - 1) // 2,
    )


class _Probe:
    """Features of images, ready for many logistic regressions.

    Args:
        features_NF: Shape (N, F).
        groups: What is held out together, ids from 0 on, shape (N,); None: each image by itself.
    """

    def __init__(self, features_NF: NDArray[np.floating], groups: NDArray[np.int64] | None) -> None:
        rows_NF = torch.tensor(np.asarray(features_NF, dtype=np.float32))
        rows_NF = rows_NF / rows_NF.abs().amax(0).clamp_min(1e-30)
        deviation_F = rows_NF.std(0, correction=0)
        varies_F = deviation_F > _LEAST_DEVIATION
        standardised = (rows_NF - rows_NF.mean(0))[:, varies_F] / deviation_F[varies_F]
        self.axes = principal_axes(standardised)
        # The step on the path of penalties that suits features of photos; choosing one would look at the answer.
        self.penalty = max(1, int(varies_F.sum())) * 10 ** (-USUAL_STEP / STEPS_PER_DECADE)
        ids = np.arange(len(features_NF)) if groups is None else groups
        self.groups = np.unique(ids, return_inverse=True)[1].astype(np.int64)

    def folds_of(self, labels: NDArray[np.int64]) -> int:
        """How many folds these labels give."""
        return int(fold_of_rows(labels, self.groups, 0).max()) + 1

    def repeatedly_held_out(
        self,
        labels: NDArray[np.int64],
        classes: int,
        random: np.random.Generator,
        rows: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """:meth:`held_out` with other folds each time, shape (S, N)."""
        return np.stack([self.held_out(labels, classes, rows, random) for _ in range(REPEATS)])

    def held_out(
        self,
        labels: NDArray[np.int64],
        classes: int,
        rows: NDArray[np.int64] | None = None,
        random: np.random.Generator | None = None,
    ) -> NDArray[np.int64]:
        """The class that each image is told to be by a classifier fitted on the other folds, shape (N,).

        Args:
            labels: Class ids of the rows.
            classes: How many there are.
            rows: Positions of the images; None for all.
            random: Draws the folds; None for always the same.
        """
        axes = self.axes if rows is None else replace(self.axes, rows=self.axes.rows[torch.from_numpy(rows)])
        groups = self.groups if rows is None else self.groups[rows]
        if random is not None:  # folds are a function of the groups' numbers
            groups = random.permutation(int(self.groups.max()) + 1)[groups]
        fold_N = torch.from_numpy(fold_of_rows(labels, groups, 0))
        return _held_out(axes, torch.from_numpy(labels), fold_N, classes, self.penalty)


def _held_out(
    axes: Axes, labels_N: torch.Tensor, fold_N: torch.Tensor, classes: int, penalty: float
) -> NDArray[np.int64]:
    seen_NP = torch.ones(len(labels_N), int(fold_N.max()) + 1)
    seen_NP.scatter_(1, fold_N[:, None], 0.0)
    output = output_kind(classes, "auto")
    total = float(seen_NP.sum(0).mean())
    problems = Problems(axes, labels_N, seen_NP, total, classes, output)
    logits_NPC = problems.minimise(problems.zeros(), penalty, _TOLERANCE).logits
    logits_NC = logits_NPC[torch.arange(len(labels_N)), fold_N]
    told = (logits_NC[:, 0] > 0).long() if classes == 2 else logits_NC.argmax(1)
    return np.asarray(told.numpy(), dtype=np.int64)


def _score_pairs(
    probe: _Probe,
    labels: NDArray[np.int64],
    predicted_SN: NDArray[np.int64],
    names: Sequence[str],
    random: np.random.Generator,
) -> Iterator[PairScore]:
    """Two classes at a time; only the most confused ones where there are very many pairs."""
    count = len(names)
    confused = np.bincount((labels * count + predicted_SN).ravel(), minlength=count**2).reshape(count, count)
    pairs = sorted(combinations(range(count), 2), key=lambda pair: -(confused[pair] + confused[pair[::-1]]))
    for one, other in pairs[:MOST_PAIRS]:
        rows = np.flatnonzero((labels == one) | (labels == other))
        truth = (labels[rows] == other).astype(np.int64)
        told_SN = probe.repeatedly_held_out(truth, 2, random, rows)
        share = float(truth.mean())
        yield PairScore(names[one], names[other], crossed_share(told_SN == truth), max(share, 1 - share))


def _shuffled(labels: NDArray[np.int64], groups: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """The labels in another order; those of a group stay together, each group getting another one's label."""
    _, first, group_of_row = np.unique(groups, return_index=True, return_inverse=True)
    return np.asarray(random.permutation(labels[first])[group_of_row], dtype=np.int64)
