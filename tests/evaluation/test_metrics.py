from __future__ import annotations

import json
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import ndtri, softmax
from sklearn import metrics as oracle
from sklearn.datasets import load_digits
from sklearn.naive_bayes import GaussianNB

from tintype.errors import DataError
from tintype.evaluation.metrics import evaluate
from tintype.evaluation.stats import wilson
from tintype.records import Predictions, to_plain


def predictions_of(labels: np.ndarray, probabilities_NK: np.ndarray) -> Predictions:
    return Predictions(
        split="test",
        classes=tuple(f"class {number}" for number in range(probabilities_NK.shape[1])),
        paths=tuple(f"image {number}" for number in range(len(labels))),
        labels=labels.astype(np.int64),
        probabilities=probabilities_NK.astype(np.float32),
    )


@st.composite
def any_predictions(draw: st.DrawFn, classes: st.SearchStrategy[int] = st.integers(2, 8)) -> Predictions:
    """Few images, coarse probabilities (ties, zeros and ones among them), classes without any image."""
    n, k = draw(st.integers(1, 40)), draw(classes)
    present = draw(st.lists(st.integers(0, k - 1), min_size=1, max_size=k, unique=True))
    labels = draw(arrays(np.int64, n, elements=st.sampled_from(present)))
    weights_NK = draw(arrays(np.int64, (n, k), elements=st.integers(0, 6))).astype(np.float64)
    weights_NK[weights_NK.sum(axis=1) == 0] = 1
    return predictions_of(labels, weights_NK / weights_NK.sum(axis=1, keepdims=True))


@pytest.fixture(autouse=True)
def ignore_warnings_of_the_oracle() -> Iterator[None]:
    """scikit-learn warns of absent classes and of float32 rows; what it then returns is what counts here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
        yield


@given(any_predictions())
@settings(deadline=None)
def test_counts_and_averages_agree_with_scikit_learn(predictions: Predictions) -> None:
    result = evaluate(predictions)
    labels, predicted, classes = predictions.labels, predictions.predicted, predictions.classes
    ids = list(range(len(classes)))
    value = {name: interval.value for name, interval in result.metrics.items()}
    assert value["accuracy"] == oracle.accuracy_score(labels, predicted)
    assert value["balanced_accuracy"] == pytest.approx(oracle.balanced_accuracy_score(labels, predicted))
    assert result.curves["confusion_matrix"] == oracle.confusion_matrix(labels, predicted, labels=ids).tolist()
    for average in ("macro", "micro", "weighted"):
        expected = oracle.precision_recall_fscore_support(labels, predicted, average=average, zero_division=0)
        for name, figure in zip(("precision", "recall", "f1"), expected[:3], strict=True):
            assert value[f"{average}_{name}"] == pytest.approx(figure), (average, name)
            assert result.metrics[f"{average}_{name}"].n == len(labels)

    expected = oracle.precision_recall_fscore_support(labels, predicted, labels=ids, zero_division=np.nan)
    rests_on = {
        "precision": [int((predicted == k).sum()) for k in ids],
        "recall": [int((labels == k).sum()) for k in ids],
        "f1": [int(((labels == k) | (predicted == k)).sum()) for k in ids],
    }
    for name, figures in zip(("precision", "recall", "f1"), expected[:3], strict=True):
        for k, figure in enumerate(figures):
            found = result.metrics.get(f"{name}/{classes[k]}")
            assert (found is None) == (rests_on[name][k] == 0) == bool(np.isnan(figure))
            if found is not None:
                assert found.value == pytest.approx(figure)
                assert found.n == rests_on[name][k]


@given(any_predictions())
@settings(deadline=None)
def test_losses_agree_with_scikit_learn(predictions: Predictions) -> None:
    result = evaluate(predictions)
    ids = list(range(len(predictions.classes)))
    probabilities, labels = predictions.probabilities, predictions.labels
    assert result.loss.value == pytest.approx(oracle.log_loss(labels, probabilities, labels=ids), rel=1e-5, abs=1e-6)
    if len(ids) == 2:
        expected = oracle.brier_score_loss(labels == 1, probabilities[:, 1])
    else:
        expected = ((probabilities - np.eye(len(ids))[labels]) ** 2).sum(axis=1).mean()
    assert result.metrics["brier"].value == pytest.approx(expected, abs=1e-6)
    assert result.loss.n == result.metrics["brier"].n == len(labels)


@given(any_predictions(st.integers(2, 8)))
@settings(deadline=None)
def test_top5_takes_the_first_five_of_the_ordered_classes(predictions: Predictions) -> None:
    result = evaluate(predictions)
    if len(predictions.classes) <= 5:
        assert "top5_accuracy" not in result.metrics
        return
    orders_NK = np.argsort(-predictions.probabilities, axis=1, kind="stable")
    expected = np.mean([label in order[:5] for label, order in zip(predictions.labels, orders_NK, strict=True)])
    assert result.metrics["top5_accuracy"].value == pytest.approx(expected)
    assert result.metrics["top5_accuracy"].value >= result.accuracy.value


def test_top5_agrees_with_scikit_learn_where_nothing_ties() -> None:
    predictions = draw_predictions(500, np.full((9, 9), 0.0) + 1.2 * np.eye(9), np.full(9, 1 / 9), seed=0)
    expected = oracle.top_k_accuracy_score(predictions.labels, predictions.probabilities, k=5, labels=range(9))
    assert evaluate(predictions).metrics["top5_accuracy"].value == pytest.approx(expected)


@given(any_predictions())
@settings(deadline=None)
def test_calibration_error_agrees_with_its_definition(predictions: Predictions) -> None:
    confidences = predictions.probabilities.max(axis=1).astype(np.float64)
    is_correct = predictions.predicted == predictions.labels
    expected, edges = 0.0, np.linspace(0, 1, 16)
    for low, high in pairwise(edges):
        inside = (confidences > low) & (confidences <= high)
        if inside.any():
            expected += inside.mean() * abs(is_correct[inside].mean() - confidences[inside].mean())
    assert evaluate(predictions).metrics["ece"].value == pytest.approx(expected)


@given(any_predictions(st.just(2)))
@settings(deadline=None)
def test_rankings_agree_with_scikit_learn(predictions: Predictions) -> None:
    result = evaluate(predictions)
    labels, scores = predictions.labels, predictions.probabilities[:, 1]
    if labels.min() == labels.max():
        assert not {"auc", "average_precision"} & result.metrics.keys()
        assert not {"roc", "precision_recall"} & result.curves.keys()
        return
    assert result.metrics["auc"].value == pytest.approx(oracle.roc_auc_score(labels, scores))
    expected = oracle.average_precision_score(labels, scores)
    assert result.metrics["average_precision"].value == pytest.approx(expected)
    assert result.metrics["auc"].n == result.metrics["average_precision"].n == len(labels)
    fallouts, recalls, _ = oracle.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(result.curves["roc"], [fallouts, recalls])
    precisions, recalls, _ = oracle.precision_recall_curve(labels, scores)
    x, y = result.curves["precision_recall"]
    full = np.flatnonzero(recalls == 1).max()
    np.testing.assert_allclose(x, recalls[full:-1][::-1])
    np.testing.assert_allclose(y, precisions[full:-1][::-1])


@given(any_predictions())
@settings(deadline=None)
def test_every_figure_lies_in_its_interval_and_can_be_written(predictions: Predictions) -> None:
    result = evaluate(predictions, leaked=np.arange(len(predictions)) % 3 == 0)
    most = {"loss": 16.0, "brier": 2.0}
    for name, interval in result.metrics.items():
        assert 0 <= interval.low <= interval.value <= interval.high <= most.get(name, 1.0), name
        assert all(type(end) is float for end in (interval.value, interval.low, interval.high)), name
        assert type(interval.n) is int
        assert interval.n > 0
    text = json.dumps(result.curves, allow_nan=False) + json.dumps(to_plain(result.metrics), allow_nan=False)
    assert "NaN" not in text
    assert sum(row["n"] for row in result.curves["reliability"]) == len(predictions)
    # The recall weighted by class is the accuracy by another road, through the general formula for averages.
    assert result.metrics["weighted_recall"].low == pytest.approx(result.accuracy.low)
    assert result.metrics["weighted_recall"].high == pytest.approx(result.accuracy.high)


def test_curves_are_thinned_but_keep_their_shape() -> None:
    predictions = draw_binary(4_000, 0.3, 1.2, seed=1)
    result = evaluate(predictions)
    for name in ("roc", "precision_recall"):
        x, y = result.curves[name]
        assert 150 < len(x) == len(y) <= 200
        assert x == sorted(x)
        assert x[-1] == 1.0
    x, y = result.curves["roc"]
    assert (x[0], y[0], y[-1]) == (0.0, 0.0, 1.0)
    assert np.trapezoid(y, x) == pytest.approx(result.metrics["auc"].value, abs=2e-3)


def test_unlabelled_images_are_left_out() -> None:
    predictions = draw_predictions(300, 2 * np.eye(4), np.full(4, 0.25), seed=4)
    hidden = np.where(np.arange(300) % 5 == 0, -1, predictions.labels)
    kept, leaked = hidden >= 0, np.arange(300) % 10 < 2
    result = evaluate(predictions_of(hidden, predictions.probabilities), leaked=leaked)
    alone = evaluate(predictions_of(hidden[kept], predictions.probabilities[kept]), leaked=leaked[kept])
    assert result == alone
    assert result.accuracy.n == 240
    assert result.split == "test"


def test_accuracy_with_and_without_leaked_images() -> None:
    labels = np.zeros(10)
    probabilities = np.array([[0.9, 0.1]] * 6 + [[0.2, 0.8]] * 4)
    leaked = np.array([True] * 4 + [False] * 6)
    result = evaluate(predictions_of(labels, probabilities), leaked=leaked)
    assert result.accuracy == wilson(6, 10)
    assert result.metrics["accuracy_leaked"] == wilson(4, 4)
    assert result.metrics["accuracy_without_leaked"] == wilson(2, 6)
    everything = evaluate(predictions_of(labels, probabilities), leaked=np.full(10, True)).metrics
    assert everything["accuracy_leaked"] == wilson(6, 10)
    assert "accuracy_without_leaked" not in everything
    nothing = evaluate(predictions_of(labels, probabilities), leaked=np.full(10, False)).metrics
    assert not any("leaked" in name for name in nothing)
    with pytest.raises(ValueError, match="leaked must have shape"):
        evaluate(predictions_of(labels, probabilities), leaked=leaked[:5])


def test_what_cannot_be_measured_is_an_error_in_one_line() -> None:
    probabilities = np.full((3, 2), 0.5)
    with pytest.raises(DataError, match=r"none of the 3 test images has a label.*tintype predict"):
        evaluate(predictions_of(np.full(3, -1), probabilities))
    probabilities[1] = np.nan
    with pytest.raises(DataError, match=r"not a finite number for 1 of 3 test images, first for image 1\."):
        evaluate(predictions_of(np.zeros(3), probabilities))


@pytest.mark.parametrize("classes", [2, 6])
def test_no_mistake_in_a_few_images_is_no_certainty(classes: int) -> None:
    labels = np.tile(np.arange(classes), 3)
    metrics = evaluate(predictions_of(labels, 0.99 * np.eye(classes)[labels] + 0.01 / classes)).metrics
    expected = wilson(len(labels), len(labels))
    names = [f"{kind}_{name}" for kind in ("macro", "micro", "weighted") for name in ("precision", "recall", "f1")]
    for name in ["accuracy", "balanced_accuracy", *names]:
        assert metrics[name].low == pytest.approx(expected.low), name
    assert metrics["recall/class 0"] == metrics["precision/class 0"] == wilson(3, 3)
    assert metrics["ece"].low == 0
    assert metrics["ece"].high > 0.1
    if classes == 2:
        assert metrics["auc"].low < 0.7
        assert metrics["average_precision"].low < 0.7


def test_a_perfect_class_of_two_images_widens_the_balanced_accuracy() -> None:
    labels = np.array([0] * 1_000 + [1] * 2)
    metrics = evaluate(predictions_of(labels, 0.98 * np.eye(2)[labels] + 0.01)).metrics
    assert metrics["accuracy"].low > 0.99
    assert metrics["balanced_accuracy"].low < 0.75
    assert metrics["macro_f1"].low < 0.75


def test_a_class_that_is_never_right_or_never_called() -> None:
    """All images of class 0 are called 2: recall and F1 of 0 are 0, nothing is known of class 1."""
    metrics = evaluate(predictions_of(np.zeros(5), np.tile([0.1, 0.2, 0.7], (5, 1)))).metrics
    assert metrics["recall/class 0"] == metrics["precision/class 2"] == wilson(0, 5)
    assert metrics["f1/class 0"].value == metrics["f1/class 2"].value == 0
    assert not any(name.endswith("class 1") for name in metrics)
    assert {"precision/class 0", "recall/class 2"}.isdisjoint(metrics)
    # No image was called by the only class there is, so its precision may be anything.
    assert (metrics["weighted_precision"].value, metrics["weighted_precision"].high) == (0.0, 1.0)


def draw_predictions(n: int, offsets_KK: np.ndarray, shares: np.ndarray, seed: int) -> Predictions:
    """Images of known class shares whose logits are normal around a row of ``offsets_KK``."""
    random = np.random.default_rng(seed)
    labels = random.choice(len(shares), size=n, p=shares)
    return predictions_of(labels, softmax(offsets_KK[labels] + random.normal(size=(n, len(shares))), axis=1))


def draw_binary(n: int, share: float, distance: float, seed: int) -> Predictions:
    """Two classes whose scores are normal, ``distance`` standard deviations apart."""
    random = np.random.default_rng(seed)
    labels = np.zeros(n, dtype=np.int64)
    labels[: round(n * share)] = 1
    scores = random.normal(size=n) + distance * labels - distance / 2
    return predictions_of(labels, np.stack([1 / (1 + np.exp(scores)), 1 / (1 + np.exp(-scores))], axis=1))


OFFSETS = np.array([[2.5, 0.0, 0.0], [0.0, 1.2, 0.8], [0.5, 0.0, 2.0]])
SHARES = np.array([0.6, 0.3, 0.1])


@pytest.mark.parametrize("n", [100, 600])
def test_intervals_of_averages_cover(n: int) -> None:
    """Over 300 test sets of an unbalanced, unevenly hard problem, the truth lies in about 95 % of the intervals."""
    true = evaluate(draw_predictions(300_000, OFFSETS, SHARES, seed=0)).metrics
    results = [evaluate(draw_predictions(n, OFFSETS, SHARES, seed)).metrics for seed in range(1, 301)]
    names = ["loss", "brier", "accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1"]
    names += ["weighted_precision", "weighted_recall", "weighted_f1", "recall/class 1", "precision/class 1"]
    for name in [*names, "f1/class 0", "f1/class 1", "f1/class 2"]:
        found = [metrics[name] for metrics in results if name in metrics]
        covered = np.mean([interval.low <= true[name].value <= interval.high for interval in found])
        assert 0.915 <= covered <= 0.99, (name, covered)


@pytest.mark.parametrize(("n", "share"), [(40, 0.5), (70, 0.15), (400, 0.3)])
@pytest.mark.parametrize("area", [0.7, 0.95])
def test_auc_intervals_cover(n: int, share: float, area: float) -> None:
    distance = float(ndtri(area)) * np.sqrt(2)
    true_ap = evaluate(draw_binary(200_000, share, distance, seed=0)).metrics["average_precision"].value
    results = [evaluate(draw_binary(n, share, distance, seed)).metrics for seed in range(1, 251)]
    covered = np.mean([metrics["auc"].low <= area <= metrics["auc"].high for metrics in results])
    assert 0.92 <= covered <= 0.995
    found = [metrics["average_precision"] for metrics in results]
    assert np.mean([interval.low <= true_ap <= interval.high for interval in found]) >= 0.92


def test_widths_agree_with_a_bootstrap_of_the_images() -> None:
    """Where there are images enough for a bootstrap to be right, it gives the same width."""
    random = np.random.default_rng(0)
    many = draw_predictions(1_200, OFFSETS, SHARES, seed=9)
    two = draw_binary(1_200, 0.4, 1.0, seed=9)
    losses = -np.log(many.probabilities[np.arange(1_200), many.labels])
    squares = (two.probabilities[:, 1] - two.labels) ** 2
    drawn: dict[str, list[float]] = defaultdict(list)
    for rows in random.integers(1_200, size=(400, 1_200)):
        labels, predicted = many.labels[rows], many.predicted[rows]
        *per_class, support = oracle.precision_recall_fscore_support(labels, predicted)
        for name, scores in zip(("precision", "recall", "f1"), per_class, strict=True):
            drawn[f"macro_{name}"].append(scores.mean())
            drawn[f"weighted_{name}"].append(np.average(scores, weights=support))
        drawn["loss"].append(losses[rows].mean())
        drawn["brier"].append(squares[rows].mean())
        labels, scores = two.labels[rows], two.probabilities[rows, 1]
        drawn["auc"].append(oracle.roc_auc_score(labels, scores))
        drawn["average_precision"].append(oracle.average_precision_score(labels, scores))
    metrics = evaluate(many).metrics | {
        name: interval
        for name, interval in evaluate(two).metrics.items()
        if name in ("auc", "average_precision", "brier")
    }
    for name, values in drawn.items():
        width = metrics[name].high - metrics[name].low
        # The classes that are called seldom are also the surer ones here, which the interval does not trust.
        widest = 1.2 if name == "macro_precision" else 1.1
        assert 0.9 < width / (2 * 1.96 * float(np.std(values))) < widest, name


def test_weights_that_vary_with_the_images_widen_a_weighted_average() -> None:
    """Two classes that do very differently: how many images of each there are matters as much as their F1."""
    confusion_KK = np.array([[600, 20], [150, 30]])
    labels, predicted = (np.repeat(ids, confusion_KK.ravel()) for ids in ([0, 0, 1, 1], [0, 1, 0, 1]))
    interval = evaluate(predictions_of(labels, np.eye(2)[predicted])).metrics["weighted_f1"]
    random = np.random.default_rng(0)
    drawn_BKK = random.multinomial(800, confusion_KK.ravel() / 800, size=4_000).reshape(-1, 2, 2)
    support_BK = drawn_BKK.sum(axis=2)
    f1_BK = 2 * np.einsum("bkk->bk", drawn_BKK) / (support_BK + drawn_BKK.sum(axis=1))
    width = 2 * 1.96 * (f1_BK * support_BK / 800).sum(axis=1).std()
    assert interval.high - interval.low == pytest.approx(width, rel=0.05)


@given(any_predictions(st.just(2)))
@settings(deadline=None)
def test_swapping_the_classes_mirrors_the_ranking(predictions: Predictions) -> None:
    assume(predictions.labels.min() != predictions.labels.max())
    area = evaluate(predictions).metrics["auc"]
    # The score of class 1 alone decides, so the mirrored one is its complement.
    mirrored = evaluate(predictions_of(1 - predictions.labels, predictions.probabilities)).metrics["auc"]
    assert mirrored.value == pytest.approx(1 - area.value)
    assert mirrored.low == pytest.approx(1 - area.high)
    assert mirrored.high == pytest.approx(1 - area.low)


def test_real_predictions_of_digits_agree_with_the_classification_report() -> None:
    images, labels = load_digits(return_X_y=True)
    model = GaussianNB(var_smoothing=1e-3).fit(images[:800], labels[:800])
    predictions = predictions_of(labels[800:], model.predict_proba(images[800:]))
    report = oracle.classification_report(predictions.labels, predictions.predicted, output_dict=True)
    metrics = evaluate(predictions).metrics
    assert metrics["accuracy"].value == pytest.approx(report["accuracy"])
    for digit in range(10):
        row = report[str(digit)]
        assert metrics[f"recall/class {digit}"].n == row["support"]
        for name, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert metrics[f"{name}/class {digit}"].value == pytest.approx(row[key])


def test_a_thousand_classes_are_evaluated_at_once() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(1_000, size=10_000)
    probabilities = random.random((10_000, 1_000), dtype=np.float32)
    probabilities[np.arange(10_000), labels] += 0.5
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predictions = predictions_of(labels, probabilities)
    start = time.perf_counter()
    result = evaluate(predictions)
    # 0.1 s on a free core; a loop over classes in Python or a bootstrap of images takes minutes.
    assert time.perf_counter() - start < 5
    assert len(result.metrics) > 2_900
