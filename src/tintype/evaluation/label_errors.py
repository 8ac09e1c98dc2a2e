"""Labels that are likely to be wrong: confident learning on probabilities that no image had a part in.

C. G. Northcutt, L. Jiang and I. L. Chuang, "Confident learning: estimating uncertainty in dataset labels", Journal of
Artificial Intelligence Research 70 (2021), as cleanlab implements it. How well it works on the images at hand is
measured: some labels are changed on purpose, and counted among those that it names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tintype.data.index import shown
from tintype.evaluation.stats import wilson
from tintype.records import Finding, Interval

PLANTED_SHARE = 0.05
"""Share of the labels that a trial changes."""

LEAST_PLANTED = 5
"""A trial that changes fewer labels says nothing."""

TRUSTED_RECALL, TRUSTED_PRECISION = 0.5, 0.3
"""Where a trial names a smaller share of its own changes, or they are a smaller share of what it names, the list is a
note: mostly hard images. What it names besides may be errors that the data had, but hardly where that is so much: with
5 % changed, 0.3 means that another tenth of all labels is named."""

_MOST_EVIDENCE = 24

OutOfFold = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""From labels (N,) to probabilities (N, K), each image's by a classifier that did not see the image."""


@dataclass(frozen=True)
class Suspect:
    """An image whose label is likely to be wrong.

    Attributes:
        path: Identifier of the image.
        split: Its split; empty where it is in none.
        given: Its label.
        likely: The class that the classifier gives it.
        quality: The probability of the given label for a classifier that did not see the image; low is suspicious.
        likely_probability: That of the likely label.
        place: Position among the images that were looked at.
    """

    path: str
    split: str
    given: str
    likely: str
    quality: float
    likely_probability: float
    place: int


@dataclass(frozen=True)
class Trial:
    """Labels changed on purpose, and what became of them.

    Attributes:
        planted: How many were changed, each to another class at random.
        found: How many of them were named.
        named: How many labels were named in all.
    """

    planted: int
    found: int
    named: int

    @property
    def recall(self) -> Interval:
        """Share of the changed labels that were named."""
        return wilson(self.found, self.planted)

    @property
    def precision(self) -> Interval:
        """Share of the named labels that were changed: too low by the errors that the data had already."""
        return wilson(self.found, self.named)


@dataclass(frozen=True)
class LabelErrors:
    """The labels that are likely to be wrong, the most suspicious first.

    Attributes:
        images: How many were looked at.
        features: What the classifier saw, in words.
        accuracy: Its share of answers that agree with the given label, on images that it did not see.
        suspects: What was found.
        trial: How well it finds labels that are known to be wrong; None where there are too few images.
        left_out: Images that were not judged, with the reason; empty where all were.
    """

    images: int
    features: str
    accuracy: Interval
    suspects: tuple[Suspect, ...]
    trial: Trial | None
    left_out: str


def find_label_errors(
    labels_N: NDArray[np.int64],
    out_of_fold: OutOfFold,
    classes: Sequence[str],
    images: Sequence[tuple[str, str]],
    features: str,
    left_out: str = "",
) -> LabelErrors:
    """Find the labels that are likely to be wrong, and measure how well that works on these images.

    Args:
        labels_N: Class ids, all of 0..K-1 among them.
        out_of_fold: Gives the probabilities for any labels of these images.
        classes: K names.
        images: Identifier and split of each image.
        features: What the classifier sees, in words.
        left_out: What was not looked at, and why.
    """
    probabilities_NK = out_of_fold(labels_N)
    agrees = probabilities_NK.argmax(axis=1) == labels_N
    found = tuple(
        Suspect(
            path=images[place][0],
            split=images[place][1],
            given=classes[labels_N[place]],
            likely=classes[probabilities_NK[place].argmax()],
            quality=float(probabilities_NK[place, labels_N[place]]),
            likely_probability=float(probabilities_NK[place].max()),
            place=place,
        )
        for place in suspicious(labels_N, probabilities_NK).tolist()
    )
    accuracy = wilson(int(agrees.sum()), len(labels_N))
    return LabelErrors(len(labels_N), features, accuracy, found, try_out(labels_N, out_of_fold), left_out)


def suspicious(labels_N: NDArray[np.int64], probabilities_NK: NDArray[np.float32]) -> NDArray[np.int64]:
    """Places of the labels that confident learning takes for wrong, the least probable first.

    How many labels of each class are wrong is estimated from the images whose probability of another class passes that
    class's threshold, its mean probability among the images labelled so; of each class the images least likely to be of
    it are named. Of 5 % changed labels this names 0.92 to 0.96 of which 0.90 to 0.98 were changed (digits, cats and
    dogs); cleanlab's default, by pairs of classes, names 0.87 of digits, and plain disagreement 0.99 at 0.75.

    Args:
        labels_N: Class ids, all of 0..K-1 among them.
        probabilities_NK: Out of fold; rows sum to 1.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    if probabilities_NK.shape[1] < 2:
        return np.empty(0, np.int64)
    exact_NK = probabilities_NK.astype(np.float64)
    # In one process: a pool of them costs a second, and would be forked from threads.
    is_named = find_label_issues(labels_N, exact_NK, filter_by="prune_by_class", n_jobs=1)
    quality_N = get_label_quality_scores(labels_N, exact_NK, method="self_confidence")
    named = np.flatnonzero(is_named & (probabilities_NK.argmax(axis=1) != labels_N)).astype(np.int64)
    return named[np.argsort(quality_N[named], kind="stable")]


def try_out(labels_N: NDArray[np.int64], out_of_fold: OutOfFold) -> Trial | None:
    """Change some labels at random and see whether they are named; None where too few can be changed.

    Args:
        labels_N: Class ids.
        out_of_fold: As for :func:`find_label_errors`.
    """
    changed_N, planted = plant(labels_N, PLANTED_SHARE, seed=0)
    if len(planted) < LEAST_PLANTED:
        return None
    named = suspicious(changed_N, out_of_fold(changed_N))
    return Trial(len(planted), int(np.isin(planted, named).sum()), len(named))


def plant(labels_N: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels of which a share was changed, each to another class at random, and the places of the changed ones.

    No class loses its last images: of each at most half of the labels change.
    """
    random = np.random.default_rng(seed)
    classes = int(labels_N.max()) + 1
    places = random.permutation(len(labels_N))
    of_class = labels_N[places]
    first = np.argsort(of_class, kind="stable")
    rank = np.empty(len(places), np.int64)
    counts = np.bincount(labels_N, minlength=classes)
    rank[first] = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
    may_change = places[rank < counts[of_class] // 2]
    planted = np.sort(may_change[: round(share * len(labels_N))]) if classes > 1 else places[:0]
    changed_N = labels_N.copy()
    changed_N[planted] = (labels_N[planted] + random.integers(1, max(2, classes), len(planted))) % classes
    return changed_N, planted


def label_findings(errors: LabelErrors) -> list[Finding]:
    """Say which labels are likely to be wrong, and how far that can be relied on."""
    if not errors.suspects:
        return []
    count, trial = len(errors.suspects), errors.trial
    is_trusted = (
        trial is not None and trial.recall.value >= TRUSTED_RECALL and trial.precision.value >= TRUSTED_PRECISION
    )
    evidence = (
        f"{shown(item.path)}: given {shown(item.given)}, looks like {shown(item.likely)} "
        f"({100 * item.likely_probability:.0f} % against {100 * item.quality:.2g} %)"
        for item in errors.suspects[:_MOST_EVIDENCE]
    )
    return [
        Finding(
            "likely-wrong-labels",
            "warning" if is_trusted else "info",
            f"{count:,} of {errors.images:,} labels ({100 * count / errors.images:.2g} %) "
            f"{'looks' if count == 1 else 'look'} wrong to a classifier that did not see the images",
            (trust(errors), *evidence),
            "Look at them, the first ones first, and mend the labels that are wrong. Hard images are among them; how "
            "many are wrong in truth, only looking can tell. Test labels that are changed because a network disagrees "
            "make the next result too good.",
        )
    ]


def trust(errors: LabelErrors) -> str:
    """How far the list can be relied on, in a sentence."""
    agreed = f"{100 * errors.accuracy.value:.1f} % of {errors.images:,} held-out labels were predicted"
    if errors.trial is None:
        return f"{agreed}; too few images to try out how many wrong labels are found"
    trial = errors.trial
    recall, precision = trial.recall, trial.precision
    named = (
        f"; of {trial.named:,} labels named then, {100 * precision.value:.0f} % [{100 * precision.low:.0f}, "
        f"{100 * precision.high:.0f}] were among the changed ones, the others hard or wrong before"
        if trial.named
        else ""
    )
    return (
        f"{agreed}; of {trial.planted:,} labels changed on purpose, {100 * recall.value:.0f} % "
        f"[{100 * recall.low:.0f}, {100 * recall.high:.0f}] were named{named}"
    )
