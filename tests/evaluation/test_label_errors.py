"""Likely wrong labels: planted ones are found, right ones left alone, and it is said how well that goes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from tintype.evaluation.label_errors import (
    LabelErrors,
    OutOfFold,
    find_label_errors,
    label_findings,
    plant,
    suspicious,
    trust,
    try_out,
)

CLASSES = ("ant", "bee", "cow")


def clusters(n: int, distance: float, seed: int = 0) -> tuple[NDArray[np.int64], OutOfFold]:
    """Labels, and scikit-learn's out-of-fold probabilities on points about a centre for each class."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % len(CLASSES)
    points = random.normal(size=(n, 4)) + distance * np.eye(len(CLASSES), 4)[labels]

    def out_of_fold(given: NDArray[np.int64]) -> NDArray[np.float32]:
        found = cross_val_predict(LogisticRegression(), points, given, cv=5, method="predict_proba")
        return np.asarray(found, dtype=np.float32)

    return labels.astype(np.int64), out_of_fold


def found_in(labels: NDArray[np.int64], out_of_fold: OutOfFold, left_out: str = "") -> LabelErrors:
    images = [(f"photo {place}", "train") for place in range(len(labels))]
    return find_label_errors(labels, out_of_fold, CLASSES, images, "points", left_out)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=200), st.floats(0.01, 0.5), st.integers(0, 99))
def test_planted_labels_are_other_ones_and_leave_half_of_each_class(given: list[int], share: float, seed: int) -> None:
    labels = np.array(given, np.int64)
    changed, planted = plant(labels, share, seed)
    np.testing.assert_array_equal(np.flatnonzero(changed != labels), planted)
    assert len(planted) <= round(share * len(labels))
    assert changed.max() <= labels.max()
    lost = np.bincount(labels[planted], minlength=4)
    assert (lost <= np.bincount(labels, minlength=4) // 2).all()


def test_the_wanted_share_is_planted() -> None:
    _, planted = plant(np.arange(1000) % 5, 0.05, 0)
    assert len(planted) == 50


def test_planted_labels_are_found() -> None:
    labels, out_of_fold = clusters(900, 6.0)
    changed, planted = plant(labels, 0.05, seed=3)
    errors = found_in(changed, out_of_fold)
    places = [item.place for item in errors.suspects]
    recall = np.isin(planted, places).mean()
    precision = np.isin(places, planted).mean()
    assert recall >= 0.9
    assert precision >= 0.95
    first = errors.suspects[0]
    assert first.path == f"photo {first.place}"
    assert first.likely == CLASSES[labels[first.place]]
    assert first.given == CLASSES[changed[first.place]]
    assert [item.quality for item in errors.suspects] == sorted(item.quality for item in errors.suspects)
    assert all(item.quality < item.likely_probability for item in errors.suspects)


def test_right_labels_that_are_easily_told_are_left_alone() -> None:
    labels, out_of_fold = clusters(600, 10.0)
    errors = found_in(labels, out_of_fold)
    assert errors.suspects == ()
    assert label_findings(errors) == []
    assert errors.accuracy.value == 1.0
    assert errors.trial is not None
    assert errors.trial.recall.value >= 0.9


def test_the_trial_says_how_hard_it_is() -> None:
    easy, hard = (found_in(*clusters(600, distance)).trial for distance in (6.0, 0.3))
    assert easy is not None
    assert hard is not None
    assert easy.planted == hard.planted == 30
    assert easy.precision.value > 0.9
    assert hard.precision.value < 0.3  # points that hardly differ: what is named is noise
    assert try_out(*clusters(60, 6.0)) is None


def test_the_finding_is_a_warning_where_the_trial_worked_and_a_note_where_not() -> None:
    labels, out_of_fold = clusters(600, 6.0)
    changed, _ = plant(labels, 0.05, seed=3)
    (sure,) = label_findings(found_in(changed, out_of_fold))
    assert (sure.code, sure.severity) == ("likely-wrong-labels", "warning")
    assert "of 600 labels" in sure.title
    assert "were named" in sure.evidence[0]
    assert "given" in sure.evidence[1]
    assert "looks like" in sure.evidence[1]
    few = found_in(*clusters(60, 1.0))
    assert few.trial is None
    (note,) = label_findings(few)
    assert note.severity == "info"
    assert "too few images" in trust(few)


def test_errors_that_the_data_have_do_not_make_the_finding_a_note() -> None:
    labels, out_of_fold = clusters(900, 6.0)
    changed, _ = plant(labels, 0.08, seed=5)
    errors = found_in(changed, out_of_fold)
    assert errors.trial is not None
    assert errors.trial.precision.value < 0.6  # what was wrong before is named besides
    assert label_findings(errors)[0].severity == "warning"


def test_images_that_cannot_be_told_are_a_note() -> None:
    assert label_findings(found_in(*clusters(600, 0.3)))[0].severity == "info"


def test_one_class_has_no_other_to_be_taken_for() -> None:
    assert len(suspicious(np.zeros(5, np.int64), np.ones((5, 1), np.float32))) == 0


@pytest.mark.parametrize("seed", range(3))
def test_order_of_the_images_does_not_matter(seed: int) -> None:
    labels, out_of_fold = clusters(300, 3.0, seed)
    chances = out_of_fold(labels)
    order = np.random.default_rng(seed).permutation(300)
    assert set(order[suspicious(labels[order], chances[order])]) == set(suspicious(labels, chances))
