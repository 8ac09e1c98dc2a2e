"""Predictions to figures: every metric with its interval and the number of images behind it.

Definitions follow scikit-learn; the tests hold them to it.

Metrics:

- ``loss``: mean cross-entropy in nats, probabilities clipped at 1.2e-7;
- ``accuracy``, and ``top5_accuracy`` for more than five classes;
- ``accuracy_leaked`` and ``accuracy_without_leaked``, where images also stand in training;
- ``balanced_accuracy``: mean recall of the classes that occur among the labels;
- ``macro_``, ``weighted_`` and ``micro_`` ``precision``, ``recall`` and ``f1`` over the classes that occur among
  labels or predictions, where 0/0 counts as 0;
- ``ece``: expected calibration error over 15 bins;
- ``brier``: mean squared distance of the probabilities from the truth, summed over the classes (0 to 2), and half
  of it for two classes (0 to 1);
- ``auc`` and ``average_precision`` of the second of two classes, left out where one of the two has no image;
- ``precision/CLASS`` (n: images predicted as it), ``recall/CLASS`` (n: images of it) and ``f1/CLASS`` (n: images of
  it or predicted as it), each left out where n is 0.

Curves:

- ``confusion_matrix``: K x K counts, rows are true classes;
- ``reliability``: a row a bin with ``confidence``, ``accuracy``, ``low``, ``high`` and ``n``;
- ``roc``: [false-positive rates, true-positive rates] and ``precision_recall``: [recalls, precisions] for two
  classes, at most 200 points each.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tintype.errors import DataError
from tintype.evaluation.calibration import measure_reliability
from tintype.evaluation.stats import influence_interval, mean_interval, score_interval, wilson, wilson_bounds
from tintype.records import Evaluation, Interval, Predictions

# Where float32 stops telling 1 - p from 1; scikit-learn clips at the same value.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)
CURVE_POINTS = 200


def evaluate(predictions: Predictions, *, leaked: NDArray[np.bool_] | None = None) -> Evaluation:
    """Compute the metrics and curves of one split from its labelled images; this module's head lists them.

    Args:
        predictions: Of N images and K classes; a label of -1 leaves an image out.
        leaked: Shape (N,), true for images that also stand in training.

    Raises:
        DataError: No image has a label, or a probability is not finite.
        ValueError: ``leaked`` is not one value an image.
    """
    if leaked is not None and leaked.shape != predictions.labels.shape:
        raise ValueError(f"leaked must have shape {predictions.labels.shape}. Got {leaked.shape} instead.")
    known = _usable(predictions)
    labels, probabilities_NK = predictions.labels, predictions.probabilities
    if not known.all():
        labels, probabilities_NK = labels[known], probabilities_NK[known]
    classes = len(predictions.classes)
    predicted = probabilities_NK.argmax(axis=1)
    is_correct = predicted == labels
    confusion_KK = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    reliability = measure_reliability(probabilities_NK.max(axis=1), is_correct)
    of_truth = np.take_along_axis(probabilities_NK, labels[:, None], axis=1)[:, 0].astype(np.float64)

    metrics = {"loss": _loss(of_truth), "accuracy": _share(is_correct)}
    if leaked is not None and leaked[known].any():
        metrics |= _accuracy_by_leak(is_correct, leaked[known])
    if classes > 5:
        metrics["top5_accuracy"] = _share(_ranks(probabilities_NK, labels) < 5)
    metrics |= _averages(confusion_KK)
    metrics["ece"] = reliability.interval()
    metrics["brier"] = _brier(probabilities_NK, of_truth)
    curves: dict[str, Any] = {"confusion_matrix": confusion_KK.tolist(), "reliability": reliability.curve()}
    if classes == 2 and 0 < labels.sum() < len(labels):
        positives, negatives = _ranking(probabilities_NK[:, 1], labels)
        metrics["auc"] = _auc(positives, negatives)
        metrics["average_precision"] = _average_precision(positives, negatives)
        curves["roc"], curves["precision_recall"] = _binary_curves(positives, negatives)
    metrics |= _per_class(confusion_KK, predictions.classes)
    return Evaluation(predictions.split, metrics, curves)


def _usable(predictions: Predictions) -> NDArray[np.bool_]:
    """Which images have a label; an error where none has one or the network gave no proper answer."""
    known: NDArray[np.bool_] = predictions.labels >= 0
    if not known.any():
        raise DataError(
            f"none of the {len(predictions)} {predictions.split} images has a label, so nothing can be measured."
            " `tintype predict` labels images without one."
        )
    broken = np.flatnonzero(~np.isfinite(predictions.probabilities).all(axis=1))
    if len(broken):
        raise DataError(
            f"the network's answer is not a finite number for {len(broken)} of {len(predictions)}"
            f" {predictions.split} images, first for {predictions.paths[broken[0]]}. Train it again with a lower"
            " learning rate."
        )
    return known


def _share(is_so: NDArray[np.bool_]) -> Interval:
    return wilson(int(is_so.sum()), len(is_so))


def _accuracy_by_leak(is_correct: NDArray[np.bool_], leaked: NDArray[np.bool_]) -> dict[str, Interval]:
    """Accuracy on the images that also stand in training, and on the others where there are any."""
    found = {"accuracy_leaked": _share(is_correct[leaked])}
    if not leaked.all():
        found["accuracy_without_leaked"] = _share(is_correct[~leaked])
    return found


def _loss(of_truth: NDArray[np.float64]) -> Interval:
    """Mean cross-entropy in nats from the probabilities of the true classes."""
    losses = -np.log(np.clip(of_truth, SMALLEST_PROBABILITY, 1))
    return mean_interval(losses, 0.0, -math.log(SMALLEST_PROBABILITY))


def _ranks(probabilities_NK: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes are put before the true one, shape (N,); equals stand in the order of the classes."""
    of_truth_N1 = np.take_along_axis(probabilities_NK, labels[:, None], axis=1)
    ahead = (probabilities_NK > of_truth_N1).sum(axis=1)
    stands_earlier_NK = np.arange(probabilities_NK.shape[1]) < labels[:, None]
    return np.asarray(ahead + ((probabilities_NK == of_truth_N1) & stands_earlier_NK).sum(axis=1))


def _brier(probabilities_NK: NDArray[np.float32], of_truth: NDArray[np.float64]) -> Interval:
    """Brier score: G. W. Brier, "Verification of forecasts expressed in terms of probability" (1950)."""
    squares = np.einsum("nk,nk->n", probabilities_NK, probabilities_NK, dtype=np.float64, casting="same_kind")
    most = 1.0 if probabilities_NK.shape[1] == 2 else 2.0
    return mean_interval(np.maximum(squares - 2 * of_truth + 1, 0) * (most / 2), 0.0, most)


def _ratio(numerators: NDArray[Any], denominators: NDArray[Any]) -> NDArray[np.float64]:
    """Quotients, 0 where the denominator is 0."""
    quotients = np.zeros(len(numerators))
    np.divide(numerators, denominators, out=quotients, where=denominators > 0)
    return quotients


def _averages(confusion_KK: NDArray[np.int64]) -> dict[str, Interval]:
    """Figures averaged over the classes."""
    n = int(confusion_KK.sum())
    support = confusion_KK.sum(axis=1)
    seen = support > 0
    occurs = seen | (confusion_KK.sum(axis=0) > 0)
    found = {"balanced_accuracy": _class_average(confusion_KK, 1.0, seen / seen.sum())}
    for kind, weights in (("macro", occurs / occurs.sum()), ("weighted", support / n)):
        # The weights of a weighted average are measured on the same images and vary with them.
        measured = kind == "weighted"
        found[f"{kind}_precision"] = _class_average(confusion_KK, 0.0, weights, measured=measured)
        found[f"{kind}_recall"] = _class_average(confusion_KK, 1.0, weights, measured=measured)
        found[f"{kind}_f1"] = _class_average(confusion_KK, 0.5, weights, measured=measured)
    # With one label an image, every wrong prediction is one false positive and one false negative: all three are
    # the accuracy.
    accuracy = wilson(int(np.trace(confusion_KK)), n)
    return found | {f"micro_{name}": accuracy for name in ("precision", "recall", "f1")}


def _class_average(
    confusion_KK: NDArray[np.int64], truth_share: float, weights: NDArray[np.float64], *, measured: bool = False
) -> Interval:
    """Weighted mean over classes of TP / (a * labelled + (1 - a) * predicted), with an interval.

    a = 1 is recall, a = 0 precision, a = 1/2 F1. The variance is the sum over images of their squared influence on
    the mean (the delta method; for F1 as in K. Takahashi and others, "Confidence interval for micro-averaged F1 and
    macro-averaged F1 scores", Applied Intelligence 52, 2022).

    Args:
        confusion_KK: Counts, rows are true classes.
        truth_share: The a above.
        weights: Shape (K,), sums to 1.
        measured: Whether the weights are the shares of the classes among these images.
    """
    n = int(confusion_KK.sum())
    hits = np.diag(confusion_KK)
    bases = truth_share * confusion_KK.sum(axis=1) + (1 - truth_share) * confusion_KK.sum(axis=0)
    scores = _ratio(hits, bases)
    average = float(weights @ scores)
    true, predicted = np.nonzero(confusion_KK)
    per_image = _ratio(weights, bases)
    influence = per_image[true] * ((true == predicted) - truth_share * scores[true])
    influence -= per_image[predicted] * (1 - truth_share) * scores[predicted]
    if measured:
        influence += (scores[true] - average) / n
    variance = float(confusion_KK[true, predicted] @ influence**2)
    largest_variance = float(weights @ per_image)
    return score_interval(average, variance, most=1 / largest_variance if largest_variance else 0.0, n=n)


def _per_class(confusion_KK: NDArray[np.int64], classes: tuple[str, ...]) -> dict[str, Interval]:
    """Precision, recall and F1 of every class for which they are defined.

    Precision and recall are shares of images and have Wilson's interval. F1 is 2J / (1 + J) of the share J of right
    images among those of the class or predicted as it, so the ends of J's Wilson interval carry over (the "Wilson
    indirect" method of K. F. Lam and others, "Confidence intervals for the F1 score", arXiv:2309.14621, 2023).
    """
    hits = np.diag(confusion_KK)
    support, predicted = confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)
    found: dict[str, Interval] = {}
    for name, counts in (("precision", predicted), ("recall", support), ("f1", support + predicted - hits)):
        shares = _ratio(hits, counts)
        columns = np.stack([shares, *wilson_bounds(shares, counts)])
        if name == "f1":
            columns = 2 * columns / (1 + columns)
        for label, (value, low, high), n in zip(classes, columns.T.tolist(), counts.tolist(), strict=True):
            if n:
                found[f"{name}/{label}"] = Interval(value, low, high, n)
    return found


def _ranking(
    scores: NDArray[np.float32], is_positive: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of positive and of negative images at every distinct score, the highest score first."""
    distinct, place = np.unique(-scores, return_inverse=True)
    positives = np.bincount(place[is_positive == 1], minlength=len(distinct))
    negatives = np.bincount(place[is_positive == 0], minlength=len(distinct))
    return positives, negatives


def _auc(positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> Interval:
    """Area under the ROC curve: the chance that a positive image is ranked before a negative one, ties counting half.

    Variance by E. R. DeLong and others, "Comparing the areas under two or more correlated receiver operating
    characteristic curves", Biometrics 44 (1988), moderated by that of R. G. Newcombe, "Confidence intervals for an
    effect size measure based on the Mann-Whitney statistic, part 2", Statistics in Medicine 25 (2006), method 5.
    """
    m, n = int(positives.sum()), int(negatives.sum())
    ahead_of_negatives = 1 - (np.cumsum(negatives) - negatives / 2) / n
    behind_positives = (np.cumsum(positives) - positives / 2) / m
    area = float(positives @ ahead_of_negatives) / m
    of_positives = (ahead_of_negatives - area) / math.sqrt(m * max(m - 1, 1))
    of_negatives = (behind_positives - area) / math.sqrt(n * max(n - 1, 1))
    influences = np.concatenate([of_positives, of_negatives])
    counts = np.concatenate([positives, negatives])
    per_pair = 1 + ((m + n) / 2 - 1) * ((1 - area) / (2 - area) + area / (1 + area))
    return influence_interval(area, influences, counts, most=m * n / per_pair, n=m + n)


def _average_precision(positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> Interval:
    """Mean precision at the scores of the positive images (scikit-learn's ``average_precision_score``).

    Variance from the images' influence, moderated by that of a share of the positive images, as in K. Boyd and
    others, "Area under the precision-recall curve: point estimates and confidence intervals", 2013.
    """
    m = int(positives.sum())
    ranked = np.cumsum(positives + negatives)
    precisions = np.cumsum(positives) / ranked
    average = float(positives @ precisions) / m
    # One more image of a score changes the precision at that score and at all lower ones.
    gain = np.cumsum((positives / ranked)[::-1])[::-1]
    loss = np.cumsum((positives * precisions / ranked)[::-1])[::-1]
    of_positives, of_negatives = (precisions - average + gain - loss) / m, -loss / m
    influences, counts = np.concatenate([of_positives, of_negatives]), np.concatenate([positives, negatives])
    return influence_interval(average, influences, counts, most=m, n=int(ranked[-1]))


def _binary_curves(
    positives: NDArray[np.int64], negatives: NDArray[np.int64]
) -> tuple[list[list[float]], list[list[float]]]:
    """The ROC and the precision-recall curve as [x, y], thinned to at most 200 points, both ends kept.

    The latter ends where it first reaches full recall.
    """
    true_positives, false_positives = np.cumsum(positives), np.cumsum(negatives)
    precisions = true_positives / (true_positives + false_positives)
    recalls = true_positives / true_positives[-1]
    fallouts = false_positives / false_positives[-1]
    roc_x, roc_y = np.concatenate([[0.0], fallouts]), np.concatenate([[0.0], recalls])
    end = int(np.searchsorted(recalls, 1.0)) + 1
    return _thin(roc_x, roc_y, roc_x + roc_y), _thin(recalls[:end], precisions[:end], recalls[:end])


def _thin(x: NDArray[np.float64], y: NDArray[np.float64], along: NDArray[np.float64]) -> list[list[float]]:
    """At most ``CURVE_POINTS`` points, evenly spaced ``along`` a value that never falls."""
    if len(x) > CURVE_POINTS:
        wanted = np.linspace(along[0], along[-1], CURVE_POINTS)
        kept = np.unique(np.searchsorted(along, wanted))
        x, y = x[kept], y[kept]
    return [x.tolist(), y.tolist()]
