"""Logits of rows that were held out, against scikit-learn fitted fold by fold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tintype.training.logistic import fit_logistic, fold_of_rows


@pytest.mark.parametrize("classes", [2, 4])
def test_each_row_is_judged_by_the_fold_that_did_not_see_it(classes: int) -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, classes, 240)
    groups = np.arange(240) // 2
    labels = labels[groups * 2]
    rows = (random.normal(size=(240, 12)) + random.normal(size=(classes, 12))[labels]).astype(np.float32)
    head = fit_logistic(
        rows, labels, np.zeros((0, 12), np.float32), np.zeros(0, np.int64), classes, "softmax", groups=groups
    )
    assert head.held_out is not None
    assert head.held_out.shape == (240, classes)
    found = torch.softmax(head.held_out, 1).numpy()
    # The standardisation is that of all rows, and a penalty the same for all folds, as it is in the fit.
    scaled = (rows - rows.mean(0)) / rows.std(0)
    folds = fold_of_rows(labels, groups, 0)
    for fold in range(5):
        out = folds == fold
        assert not set(groups[out]) & set(groups[~out])
        # Of two classes scikit-learn has one weight vector, which is the difference of our two: half its penalty.
        penalty = head.penalty / 2 if classes == 2 else head.penalty
        theirs = LogisticRegression(C=1 / (penalty * len(rows)), tol=1e-8, max_iter=10_000)
        theirs.fit(scaled[~out], labels[~out])
        np.testing.assert_allclose(found[out], theirs.predict_proba(scaled[out]), atol=0.02)
    assert (found.argmax(1) == labels).mean() == pytest.approx(head.chosen.held_out_accuracy)


def test_validation_rows_leave_nothing_held_out() -> None:
    random = np.random.default_rng(0)
    rows, labels = random.normal(size=(2100, 3)).astype(np.float32), np.arange(2100) % 2
    head = fit_logistic(rows[:2000], labels[:2000], rows[2000:], labels[2000:], 2, "sigmoid")
    assert head.held_out is None
