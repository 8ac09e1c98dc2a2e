"""When a model should rather not answer: a confidence below which it says that it is not sure.

The threshold is chosen on validation images. Of all thresholds whose answered images would have at most the wanted
share of mistakes if one more of them were wrong, ``(mistakes + 1) / (answered + 1)``, it takes the one that answers
most images. The image more pays for having picked the best of many thresholds on the same images: without it the
share of mistakes on other images lies above the wanted one on average, with it at about that or below (the tests
simulate it). It is the correction of conformal risk control (A. N. Angelopoulos and others, "Conformal risk
control", ICLR 2024), which for the share of mistakes among the answered is a rule, no theorem. For the same reason a
threshold has to answer so many images that two mistakes would be within the wanted share: a good share of few
images is mostly luck.

It holds on average over models, not for each. A bound that holds for 95 models of 100 (Y. Geifman and R. El-Yaniv,
"Selective classification for deep neural networks", NIPS 2017) needs about 100 images without a mistake before it
allows 5 %, so with few validation images it would answer nothing. What a threshold is worth is measured on the
test images, with intervals; those are the figures to quote.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tintype.evaluation.stats import wilson
from tintype.records import Interval, Predictions

LEAST_IMAGES = 50
"""Fewer labelled images than this choose no threshold."""
LEAST_MISTAKES = 2
"""So many mistakes have to be within the wanted share of the answered images."""
CURVE_POINTS = 200


@dataclass(frozen=True)
class RiskPoint:
    """What one threshold would give.

    Attributes:
        threshold: The least confidence that is answered.
        coverage: Share of the images that are answered.
        error_rate: Share of mistakes among those.
    """

    threshold: float
    coverage: float
    error_rate: float


@dataclass(frozen=True)
class Abstention:
    """A threshold, and what it gives on one split.

    Attributes:
        threshold: An image whose most probable class is less probable than this is not answered; 0 answers all.
        wanted_error_rate: The share of mistakes that was wanted among the answered.
        coverage: Share of the images that are answered.
        error_rate: Share of mistakes among the answered; ``n`` is how many these are.
        n: Labelled images.
        curve: The thresholds that make a difference, at most 200 of them, from the surest answers alone to all.
        reason: Why no threshold was chosen; empty where one was, or where answering everything is good enough.
    """

    threshold: float
    wanted_error_rate: float
    coverage: Interval
    error_rate: Interval
    n: int
    curve: tuple[RiskPoint, ...]
    reason: str = ""


@dataclass(frozen=True)
class _Ranked:
    """Labelled images by falling confidence, at the places where one confidence ends and a lower one begins.

    Attributes:
        confidences: The distinct confidences, falling, shape (M,).
        answered: How many images have that confidence or a higher one, shape (M,).
        mistakes: How many of those are wrong, shape (M,).
    """

    confidences: NDArray[np.float64]
    answered: NDArray[np.int64]
    mistakes: NDArray[np.int64]

    @property
    def n(self) -> int:
        """Labelled images."""
        return int(self.answered[-1]) if len(self.answered) else 0


def choose_threshold(validation: Predictions, error_rate: float) -> Abstention:
    """The threshold that answers most images with at most the wanted share of mistakes; see this module's head.

    Args:
        validation: Calibrated predictions of images that the network was not trained on; never the test images.
        error_rate: The wanted share of mistakes among the answered, above 0 and below 1.

    Returns:
        The threshold with what it gives on these same images, which flatters it. The threshold is 0 where everything
        may be answered, and also, with a reason, where there are too few images or none is good enough.
    """
    if not 0 < error_rate < 1:
        raise ValueError(f"error_rate must be between 0 and 1. Got {error_rate} instead.")
    ranked = _rank(validation)
    n = ranked.n
    needed = max(LEAST_IMAGES, math.ceil(LEAST_MISTAKES / error_rate))
    if n < needed:
        reason = f"{n:,} labelled validation images are too few to choose one; {needed:,} are needed"
        return _measure(0.0, error_rate, ranked, reason)
    is_good = (ranked.mistakes + 1) / (ranked.answered + 1) <= error_rate
    good = np.flatnonzero(is_good & (ranked.answered * error_rate >= LEAST_MISTAKES))
    if not len(good):
        reason = f"none keeps mistakes that rare on the {n:,} validation images, however few of them are answered"
        return _measure(0.0, error_rate, ranked, reason)
    last = int(good[-1])
    if ranked.answered[last] == n:
        return _measure(0.0, error_rate, ranked)
    # Half way to the next confidence: the same image may come out a little different on another machine.
    return _measure(float(ranked.confidences[last : last + 2].mean()), error_rate, ranked)


def judge_threshold(abstention: Abstention, test: Predictions) -> Abstention:
    """What a chosen threshold gives on other images.

    Args:
        abstention: From :func:`choose_threshold`.
        test: Predictions calibrated with the same temperature; images without a label are left out.
    """
    return _measure(abstention.threshold, abstention.wanted_error_rate, _rank(test), abstention.reason)


def _rank(predictions: Predictions) -> _Ranked:
    known = predictions.labels >= 0
    confidences = predictions.probabilities[known].max(axis=1).astype(np.float64) if known.any() else np.zeros(0)
    is_wrong = (predictions.predicted != predictions.labels)[known]
    order = np.argsort(-confidences, kind="stable")
    confidences = confidences[order]
    # Images of one confidence are answered together or not at all.
    ends = np.flatnonzero(np.append(confidences[1:] < confidences[:-1], True)) if len(confidences) else np.zeros(0, int)
    return _Ranked(confidences[ends], ends + 1, np.cumsum(is_wrong[order])[ends])


def _measure(threshold: float, error_rate: float, ranked: _Ranked, reason: str = "") -> Abstention:
    groups = int((ranked.confidences >= threshold).sum())
    answered = int(ranked.answered[groups - 1]) if groups else 0
    mistakes = int(ranked.mistakes[groups - 1]) if groups else 0
    return Abstention(
        threshold=threshold,
        wanted_error_rate=error_rate,
        coverage=wilson(answered, ranked.n),
        error_rate=wilson(mistakes, answered),
        n=ranked.n,
        curve=_curve(ranked),
        reason=reason,
    )


def _curve(ranked: _Ranked) -> tuple[RiskPoint, ...]:
    count = len(ranked.answered)
    if count == 0:
        return ()
    shown = np.unique(np.linspace(0, count - 1, min(count, CURVE_POINTS)).astype(np.int64))
    confidences, answered, mistakes = ranked.confidences[shown], ranked.answered[shown], ranked.mistakes[shown]
    rows = zip(confidences.tolist(), (answered / ranked.n).tolist(), (mistakes / answered).tolist(), strict=True)
    return tuple(RiskPoint(*row) for row in rows)
