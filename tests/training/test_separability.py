"""The linear score beside a map: against scikit-learn, and against labels that mean nothing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from tintype.evaluation.stats import wilson
from tintype.training import separability as module
from tintype.training.logistic import fold_of_rows
from tintype.training.separability import separability

NAMES = ("a", "b", "c", "d")


def clouds(each: int, apart: float, classes: int = 3, width: int = 12) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Overlapping clouds along the axes."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    features = random.normal(size=(len(labels), width))
    features[np.arange(len(labels)), labels] += apart
    return (features * random.uniform(0.1, 50, width)).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 3])
def test_score_is_scikit_learn_s_on_the_same_folds(classes: int) -> None:
    features, labels = clouds(40, 2.0, classes)
    probe = module._Probe(features, None)
    told = probe.held_out(labels, classes)
    rows = (features - features.mean(0)) / features.std(0)
    folds = fold_of_rows(labels, None, 0)
    theirs = np.empty_like(labels)
    for fold in range(5):
        seen = folds != fold
        # Our penalty is one on the mean over the rows that a fold is fitted on.
        model = LogisticRegression(C=1 / (probe.penalty * seen.sum()), tol=1e-8, max_iter=5000)
        theirs[~seen] = model.fit(rows[seen], labels[seen]).predict(rows[~seen])
    assert (told != theirs).sum() <= 1  # an image on the boundary may fall either way
    assert 0.6 < np.mean(told == labels) < 0.99
    assert probe.folds_of(labels) == 5


def test_the_mean_over_other_folds_counts_what_the_folds_add() -> None:
    features, labels = clouds(40, 1.0, 2)
    found = separability(features, labels, NAMES[:2], 0)
    assert found is not None
    probe, random = module._Probe(features, None), np.random.default_rng(0)
    right_SN = probe.repeatedly_held_out(labels, 2, random) == labels
    assert len({row.tobytes() for row in right_SN}) > 1, "other folds each time"
    assert found.accuracy.value == pytest.approx(right_SN.mean())
    one = wilson(round(found.accuracy.value * 80), 80)
    assert found.accuracy.low <= one.low + 0.02
    assert found.accuracy.n == 80


def test_what_can_be_told_apart_is_and_shuffled_labels_are_chance() -> None:
    features, labels = clouds(30, 12.0)
    found = separability(features, labels, NAMES[:3], 0)
    assert found is not None
    assert found.accuracy.value == 1
    assert found.shuffled.low < 0.5
    assert found.shuffled.value == pytest.approx(1 / 3, abs=0.08)
    assert found.largest == pytest.approx(1 / 3)
    assert found.left_out == ()


def test_labels_that_mean_nothing_score_like_shuffled_ones() -> None:
    features, labels = clouds(60, 0.0, classes=2)
    found = separability(features, labels, NAMES[:2], 1)
    assert found is not None
    assert found.shuffled.low - 0.1 < found.accuracy.value < found.shuffled.high + 0.1
    assert found.accuracy.low < 0.5 < found.accuracy.high


def test_pairs_name_the_classes_that_overlap() -> None:
    features, labels = clouds(40, 8.0)
    features[labels == 2, :3] = features[labels == 1, :3] + 0.01
    found = separability(features, labels, NAMES[:3], 0)
    assert found is not None
    assert (found.pairs[0].one, found.pairs[0].other) == ("b", "c")
    assert found.pairs[0].accuracy.low < 0.5
    assert [pair.accuracy.value for pair in found.pairs[1:]] == [1, 1]
    assert found.pairs_in_all == 3


def test_of_very_many_pairs_the_confused_ones_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clouds(20, 8.0, classes=4)
    features[labels == 3, :4] = features[labels == 1, :4]
    monkeypatch.setattr(module, "MOST_PAIRS", 1)
    found = separability(features, labels, NAMES, 0)
    assert found is not None
    assert [(pair.one, pair.other) for pair in found.pairs] == [("b", "d")]
    assert found.pairs_in_all == 6


def test_small_classes_and_unlabelled_images_are_left_out() -> None:
    features, labels = clouds(20, 8.0)
    labels[labels == 2] = -1
    labels[-4:] = 2
    found = separability(features, labels, NAMES[:3], 0)
    assert found is not None
    assert found.accuracy.n == 40
    assert found.left_out == ("c",)
    assert separability(features[:20], labels[:20], NAMES[:3], 0) is None


def test_a_group_is_held_out_together() -> None:
    # Ten copies of each of 12 images whose features are noise: torn apart, copies would give their labels away.
    random = np.random.default_rng(0)
    features = np.repeat(random.normal(size=(12, 40)), 10, axis=0).astype(np.float32)
    labels = np.repeat(np.arange(12) % 2, 10)
    together = separability(features, labels, NAMES[:2], 0, groups=np.repeat(np.arange(12), 10))
    torn = separability(features, labels, NAMES[:2], 0)
    assert together is not None
    assert torn is not None
    assert torn.accuracy.value == 1
    assert together.accuracy.value < 0.85


def test_more_images_than_needed_are_sampled_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clouds(60, 8.0, classes=2)
    monkeypatch.setattr(module, "MOST_IMAGES", 50)
    found = separability(features, labels, NAMES[:2], 0)
    assert found is not None
    assert found.accuracy.n == 50
    assert found.largest == 0.5
