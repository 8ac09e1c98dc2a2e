"""The winner's curse: how much of the best candidate's validation accuracy is owed to its having been the best.

The best of many figures is the best partly by luck with the images, so it is too high as an estimate for other images,
the more so the more candidates there were, the closer they lie together and the fewer the images. The estimate here is
the bootstrap of a whole selection (BBC-CV: I. Tsamardinos, E. Greasidou and G. Borboudakis, "Bootstrapping the
out-of-sample predictions for efficient and accurate cross-validation", Machine Learning 107, 2018): images are drawn
with replacement, the best candidate on those is looked at on the images that were not drawn, and so on many times. No
candidate is trained again, and candidates that err on the same images are treated as such.

A draw holds 63 % of the images, so its choice is a little worse than the real one: the estimate errs on the careful
side, by less than the optimism itself. It speaks of networks as they were trained. One that is trained anew also loses
what it owed to its seed, which shows only where a candidate was trained with several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tintype.evaluation.bootstrap import draws
from tintype.evaluation.stats import score_interval

RESAMPLES = 300
_TIE = 1e-9  # share of the images; means over seeds that are equal differ by rounding


@dataclass(frozen=True)
class Selection:
    """What the validation accuracy of the best of several candidates is worth.

    Attributes:
        n: Validation images.
        candidates: How many were chosen from.
        observed: Validation accuracy of the one that was chosen, the mean over its seeds.
        optimism: How much of it is owed to the choice, at least 0; ``observed - optimism`` is expected on other images.
        low: Lower end of the 95 % interval of that expectation.
        high: Upper end.
    """

    n: int
    candidates: int
    observed: float
    optimism: float
    low: float
    high: float

    @property
    def expected(self) -> float:
        """Accuracy of the chosen candidate that is expected on other images."""
        return self.observed - self.optimism


def judge_selection(
    right: NDArray[np.bool_],
    candidates: Sequence[int] | None = None,
    *,
    chosen: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Selection:
    """Estimate the optimism of the accuracy by which one of several candidates was chosen.

    The interval is Wilson's about the corrected accuracy, with the variance between the candidates that could have been
    chosen added twice: once since the one that was chosen is not their mean, once since the estimate is on the careful
    side by up to as much. In simulations (40 to 100 candidates, alike or apart, 400 to 6,000 images, errors shared or
    not, 120 to 300 searches of each) it held the truth in 92.5 to 100 % of the searches, Wilson's alone in 83 to 100 %.

    Args:
        right: Shape (T, V), whether training t got validation image v right.
        candidates: Which candidate each training is of, shape (T,): several trainings of one, with other seeds, count
            as one by their mean. None: each is a candidate of its own.
        chosen: The candidate that was chosen; None takes the most accurate.
        resamples: How often to draw the images.
        seed: Of the draws.

    Raises:
        ValueError: There are no trainings or fewer than two images, or ``candidates`` does not fit or lacks ``chosen``.
    """
    if right.ndim != 2 or len(right) == 0 or right.shape[1] < 2:
        raise ValueError(f"right must have shape (T, V) with T >= 1 and V >= 2. Got {right.shape} instead.")
    names, scores_CV = _by_candidate(right, candidates)
    accuracies = scores_CV.mean(axis=1)
    if chosen is not None and chosen not in names:
        raise ValueError(f"chosen must be one of the {len(names)} candidates. Got {chosen} instead.")
    observed = float(accuracies.max() if chosen is None else accuracies[names.index(chosen)])
    expected, of_choice = observed, 0.0
    if len(names) > 1:
        estimate, of_choice = _out_of_sample(scores_CV, resamples, np.random.default_rng(seed))
        expected = min(observed, estimate)
    n = right.shape[1]
    interval = score_interval(expected, expected * (1 - expected) / n + 2 * of_choice, most=n, n=n)
    return Selection(n, len(names), observed, observed - expected, interval.low, interval.high)


def _by_candidate(right: NDArray[np.bool_], candidates: Sequence[int] | None) -> tuple[list[int], NDArray[np.float64]]:
    """The candidates and, of each, the share of its trainings that got an image right, shape (C, V)."""
    if candidates is None:
        return list(range(len(right))), right.astype(np.float64)
    if len(candidates) != len(right):
        raise ValueError(f"candidates must name one for each of {len(right)} trainings. Got {len(candidates)} instead.")
    names, place = np.unique(np.asarray(candidates), return_inverse=True)
    belongs_CT = place == np.arange(len(names))[:, None]
    return names.tolist(), belongs_CT @ right.astype(np.float64) / belongs_CT.sum(axis=1, keepdims=True)


def _out_of_sample(scores_CV: NDArray[np.float64], resamples: int, random: np.random.Generator) -> tuple[float, float]:
    """What the best candidate on the drawn images reaches on those that were not drawn.

    Of several best ones, which the order must not decide between, each counts for its part. Everything is counted from
    the mean candidate, image by image: that changes no choice, and what is common to all does not scatter.

    Returns:
        Mean over the draws; and the variance of the accuracy, on all images, of the candidate that was best in a draw.
    """
    candidates, images = scores_CV.shape
    common_V = scores_CV.mean(axis=0)
    scores_CV = scores_CV - common_V
    times, reached = np.zeros(candidates), 0.0
    for weights_VB in draws(images, resamples, random):
        usable_VB = weights_VB[:, (weights_VB == 0).any(axis=0)]
        left_out_VB = (usable_VB == 0).astype(np.float64)
        drawn_CB = scores_CV @ usable_VB
        parts_CB = (drawn_CB >= drawn_CB.max(axis=0) - _TIE * images).astype(np.float64)
        parts_CB /= parts_CB.sum(axis=0)
        times += parts_CB.sum(axis=1)
        reached += float((scores_CV @ left_out_VB / left_out_VB.sum(axis=0) * parts_CB).sum())
    estimate = float(common_V.mean() + reached / times.sum())
    shares, accuracies = times / times.sum(), scores_CV.mean(axis=1)
    return estimate, float(shares @ (accuracies - shares @ accuracies) ** 2)
