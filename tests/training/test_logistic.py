"""The logistic head against scikit-learn, its choice of penalty against a plain loop, and inputs that go wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tintype.errors import DataError, RunInterrupted
from tintype.training import logistic
from tintype.training.logistic import LogisticHead, fit_logistic, fold_of_rows
from tintype.training.losses import balanced_class_weights


def made(rows: int, features: int, classes: int, seed: int = 0, distance: float = 0.5) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    labels[:classes] = np.arange(classes)
    centres = np.random.default_rng(99).normal(size=(classes, features))
    return (random.normal(size=(rows, features)) + distance * centres[labels]).astype(np.float32), labels


def probabilities(head: LogisticHead, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    logits = torch.from_numpy(rows).double() @ head.weight.double().T + head.bias.double()
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    return np.asarray(logits.softmax(1).numpy())


def without_validation(features: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return np.zeros((0, features), np.float32), np.zeros(0, np.int64)


@pytest.mark.parametrize(("rows", "features", "classes"), [(300, 20, 2), (300, 20, 5), (40, 150, 2), (40, 150, 3)])
def test_it_is_sklearns_solution(rows: int, features: int, classes: int) -> None:
    train, labels = made(rows, features, classes)
    other, _ = made(100, features, classes, seed=5)
    train, other = (given * np.linspace(0.1, 50, features, dtype=np.float32) + 3 for given in (train, other))
    head = fit_logistic(train, labels, *without_validation(features), classes, "sigmoid" if classes == 2 else "softmax")
    scaler = StandardScaler().fit(train.astype(np.float64))
    theirs = LogisticRegression(C=1 / (head.penalty * rows), tol=1e-8, max_iter=10_000)
    theirs.fit(scaler.transform(train.astype(np.float64)), labels)
    assert head.weight.shape == ((1 if classes == 2 else classes), features)
    # Where the penalty is weak the minimum is flat: what fp32 cannot tell apart there is a hundredth of a weight.
    ours = head.weight.numpy() * scaler.scale_
    np.testing.assert_allclose(ours, theirs.coef_, atol=0.02 * abs(theirs.coef_).max())
    ours_value, their_value = (
        head.penalty / 2 * (weights**2).sum() - np.log(chances[np.arange(rows), labels]).mean()
        for weights, chances in (
            (ours, probabilities(head, train)),
            (theirs.coef_, theirs.predict_proba(scaler.transform(train.astype(np.float64)))),
        )
    )
    assert ours_value == pytest.approx(their_value, abs=1e-6)
    expected = theirs.predict_proba(scaler.transform(other.astype(np.float64)))
    np.testing.assert_allclose(probabilities(head, other), expected, atol=2e-3)


def test_class_weights_are_sklearns() -> None:
    train, labels = made(400, 8, 3)
    kept = (labels != 2) | (np.arange(400) % 6 == 0)
    train, labels = train[kept], labels[kept]
    weights = balanced_class_weights(labels, 3)
    head = fit_logistic(train, labels, *without_validation(8), 3, "softmax", class_weights=weights)
    total = weights[labels].sum()
    theirs = LogisticRegression(
        C=1 / (head.penalty * total), tol=1e-8, max_iter=10_000, class_weight=dict(enumerate(weights.tolist()))
    )
    scaler = StandardScaler().fit(train.astype(np.float64))
    theirs.fit(scaler.transform(train.astype(np.float64)), labels)
    np.testing.assert_allclose(
        probabilities(head, train), theirs.predict_proba(scaler.transform(train.astype(np.float64))), atol=2e-3
    )


def test_two_classes_by_softmax_are_those_by_sigmoid_with_half_the_penalty() -> None:
    train, labels = made(200, 10, 2)
    softmax = fit_logistic(train, labels, *without_validation(10), 2, "softmax")
    theirs = LogisticRegression(C=2 / (softmax.penalty * 200), tol=1e-8, max_iter=10_000)
    scaler = StandardScaler().fit(train.astype(np.float64))
    theirs.fit(scaler.transform(train.astype(np.float64)), labels)
    expected = theirs.predict_proba(scaler.transform(train.astype(np.float64)))
    np.testing.assert_allclose(probabilities(softmax, train), expected, atol=2e-3)


def test_held_out_losses_are_those_of_a_plain_loop_over_folds() -> None:
    train, labels = made(70, 12, 3)
    head = fit_logistic(train, labels, *without_validation(12), 3, "softmax")
    folds = fold_of_rows(labels, None, 0)
    scaled = StandardScaler().fit_transform(train.astype(np.float64))
    assert head.folds == 5
    for trial in (head.trials[3], head.chosen):
        losses = np.empty(70)
        for fold in range(5):
            out = folds == fold
            theirs = LogisticRegression(C=1 / (trial.penalty * 70), tol=1e-8, max_iter=10_000)
            theirs.fit(scaled[~out], labels[~out])
            losses[out] = -np.log(theirs.predict_proba(scaled[out])[np.arange(out.sum()), labels[out]])
        assert trial.held_out_loss == pytest.approx(losses.mean(), abs=2e-3)


def test_the_chosen_penalty_has_the_lowest_score_and_the_path_ends_soon_after() -> None:
    train, labels = made(120, 30, 2, distance=0.2)
    head = fit_logistic(train, labels, *made(50, 30, 2, seed=1, distance=0.2), 2, "sigmoid")
    scores = [trial.score for trial in head.trials]
    assert head.chosen.score == min(score for score in scores if score is not None)
    assert len(scores) - 1 - scores.index(head.chosen.score) == logistic.WAIT
    assert len(scores) < logistic.STEPS_PER_DECADE * logistic.DECADES + 1
    assert head.trials[0].penalty == 30
    assert [trial.train_loss for trial in head.trials] == sorted((t.train_loss for t in head.trials), reverse=True)


def test_many_images_are_judged_by_the_validation_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "MANY_IMAGES", 100)
    train, labels = made(100, 5, 2)
    validation, validation_labels = made(logistic.LEAST_VALIDATION, 5, 2, seed=1)
    head = fit_logistic(train, labels, validation, validation_labels, 2, "sigmoid")
    assert head.folds == 0
    assert head.chosen.held_out_loss is None
    chances = probabilities(head, validation)[np.arange(len(validation)), validation_labels]
    assert head.chosen.validation_loss == pytest.approx(-np.log(chances).mean(), abs=1e-3)
    # One validation image fewer, or one training image fewer, and it is cross-validation.
    assert fit_logistic(train, labels, validation[1:], validation_labels[1:], 2, "sigmoid").folds == 5
    assert fit_logistic(train[1:], labels[1:], validation, validation_labels, 2, "sigmoid").folds == 5


def test_views_of_an_image_are_held_out_together() -> None:
    """Labels that say nothing: who sees the other views of a held-out image seems to know its label."""
    random = np.random.default_rng(0)
    images, labels = random.normal(size=(60, 100)).astype(np.float32), random.integers(0, 2, 60)
    views = np.tile(images, (3, 1)) + random.normal(0, 0.1, size=(180, 100)).astype(np.float32)
    groups, repeated = np.tile(np.arange(60), 3), np.tile(labels, 3)
    blind = fit_logistic(views, repeated, *without_validation(100), 2, "sigmoid")
    aware = fit_logistic(views, repeated, *without_validation(100), 2, "sigmoid", groups=groups)
    assert blind.chosen.held_out_loss is not None
    assert aware.chosen.held_out_loss is not None
    assert blind.chosen.held_out_loss < 0.3
    assert aware.chosen.held_out_loss > 0.65
    assert aware.penalty > 10 * blind.penalty


def test_equal_views_change_nothing() -> None:
    train, labels = made(60, 9, 3)
    once = fit_logistic(train, labels, *without_validation(9), 3, "softmax")
    thrice = fit_logistic(
        np.tile(train, (3, 1)), np.tile(labels, 3), *without_validation(9), 3, "softmax",
        groups=np.tile(np.arange(60), 3),
    )  # fmt: skip
    assert once.penalty == thrice.penalty
    torch.testing.assert_close(once.weight, thrice.weight, atol=2e-3, rtol=2e-3)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 4), st.integers(0, 29))
def test_folds_hold_the_same_share_of_each_class_and_whole_images(
    classes: list[int], views: int, validation: int
) -> None:
    labels = np.tile(np.array(classes), views)
    groups = np.tile(np.arange(len(classes)) * 7 + 3, views)
    folds = fold_of_rows(labels, groups, validation)
    assert all(len(np.unique(folds[groups == group])) == 1 for group in np.unique(groups))
    images = folds[: len(classes)]
    for label in set(classes):
        counts = np.bincount(images[np.array(classes) == label], minlength=min(5, len(classes)))
        assert counts.max() - counts.min() <= 1


def test_scale_and_offset_of_the_features_do_not_matter() -> None:
    train, labels = made(150, 10, 3)
    head = fit_logistic(train, labels, *without_validation(10), 3, "softmax")
    scales = np.array([1e-20, 1e-6, 1e-3, 1, 1, 1e3, 1e6, 1e12, 1e20, 1e37], np.float32)
    other = fit_logistic(train * scales, labels, *without_validation(10), 3, "softmax")
    assert other.penalty == head.penalty
    np.testing.assert_allclose(probabilities(other, train * scales), probabilities(head, train), atol=1e-3)
    moved = fit_logistic(train + 100, labels, *without_validation(10), 3, "softmax")
    np.testing.assert_allclose(probabilities(moved, train + 100), probabilities(head, train), atol=1e-3)


def test_a_constant_feature_gets_no_weight() -> None:
    train, labels = made(100, 6, 2)
    train[:, 2], train[:, 4] = 0.1, 0.0
    head = fit_logistic(train, labels, *without_validation(6), 2, "sigmoid")
    without = fit_logistic(train[:, [0, 1, 3, 5]], labels, *without_validation(4), 2, "sigmoid")
    assert head.weight[0, [2, 4]].abs().max() < 1e-4
    torch.testing.assert_close(head.weight[:, [0, 1, 3, 5]], without.weight, atol=2e-3, rtol=2e-3)


def test_bfloat16_is_what_it_is_in_fp32() -> None:
    train, labels = made(100, 6, 2)
    halved = torch.from_numpy(train).bfloat16()
    head = fit_logistic(halved, torch.from_numpy(labels), *without_validation(6), 2, "sigmoid")
    same = fit_logistic(halved.float().numpy(), labels, *without_validation(6), 2, "sigmoid")
    assert head.weight.dtype == torch.float32
    assert torch.equal(head.weight, same.weight)


def test_classes_told_apart_perfectly_give_finite_weights() -> None:
    train = np.array([[-2.0], [-1.0], [1.0], [2.0]] * 5, np.float32)
    labels = (train[:, 0] > 0).astype(np.int64)
    head = fit_logistic(train, labels, *without_validation(1), 2, "sigmoid")
    assert torch.isfinite(head.weight).all()
    assert head.chosen.train_accuracy == 1.0


def test_a_class_without_images_is_never_predicted_and_breaks_nothing() -> None:
    train, labels = made(120, 8, 3)
    head = fit_logistic(train[labels != 1], labels[labels != 1], *made(10, 8, 3, seed=2), 3, "softmax")
    assert torch.isfinite(head.weight).all()
    assert torch.isfinite(head.bias).all()
    assert (probabilities(head, train).argmax(1) != 1).all()
    two = fit_logistic(train[labels != 1], labels[labels != 1] // 2, *without_validation(8), 2, "softmax")
    np.testing.assert_allclose(probabilities(head, train)[:, [0, 2]], probabilities(two, train), atol=5e-3)


def test_where_nothing_can_be_held_out_the_usual_penalty_is_taken() -> None:
    """Of two images, one a class, neither can be predicted from the other."""
    head = fit_logistic(np.array([[0.0], [1.0]], np.float32), np.array([0, 1]), *without_validation(1), 2, "sigmoid")
    assert head.chosen.score is None
    assert head.penalty == head.trials[logistic.USUAL_STEP].penalty
    assert probabilities(head, np.array([[0.0], [1.0]], np.float32)).argmax(1).tolist() == [0, 1]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30), st.integers(1, 40), st.integers(2, 4), st.integers(0, 3), st.integers(0, 10_000),
    st.sampled_from(["plain", "duplicates", "huge", "constant", "steps"]),
)  # fmt: skip
def test_any_input_gives_finite_logits(
    rows: int, features: int, classes: int, validation: int, seed: int, kind: str
) -> None:
    random = np.random.default_rng(seed)
    train = random.normal(size=(rows, features)).astype(np.float32)
    match kind:
        case "duplicates":
            train = train[random.integers(0, rows, rows)]
        case "huge":
            train *= np.float32(10.0) ** random.integers(-30, 30, features).astype(np.float32)
        case "constant":
            train[:, random.random(features) < 0.7] = 4.0
        case "steps":
            train = train.round()
    labels = random.integers(0, classes, rows)
    held = train[random.integers(0, rows, validation)]
    head = fit_logistic(train, labels, held, random.integers(0, classes, validation), classes, "softmax")
    assert head.weight.shape == (classes, features)
    assert np.isfinite(probabilities(head, train)).all()
    assert head.chosen.train_loss <= np.log(classes) + 1e-3
    assert all(trial.validation_loss is None for trial in head.trials) == (validation == 0)


def test_progress_and_stopping() -> None:
    train, labels = made(60, 5, 2)
    seen: list[tuple[str, int, int]] = []
    fit_logistic(train, labels, *without_validation(5), 2, "sigmoid", on_progress=lambda *step: seen.append(step))
    assert [done for _, done, _ in seen] == list(range(1, len(seen) + 1))
    with pytest.raises(RunInterrupted, match="after penalty 1 of 15"):
        fit_logistic(train, labels, *without_validation(5), 2, "sigmoid", should_stop=lambda: True)


def test_what_cannot_be_fitted_is_said() -> None:
    train, labels = made(20, 5, 2)
    with pytest.raises(DataError, match="no training images"):
        fit_logistic(train[:0], labels[:0], train, labels, 2, "sigmoid")
    broken = train.copy()
    broken[3, 1], broken[7, 2] = np.nan, np.inf
    with pytest.raises(DataError, match="2 of 20 training rows are not finite"):
        fit_logistic(broken, labels, train, labels, 2, "sigmoid")
    with pytest.raises(DataError, match="2 of 20 validation rows are not finite"):
        fit_logistic(train, labels, broken, labels, 2, "sigmoid")


def test_an_array_that_may_not_be_written_to_gives_no_warning() -> None:
    train, labels = made(20, 5, 2)
    train.flags.writeable = labels.flags.writeable = False
    fit_logistic(train, labels, train, labels, 2, "sigmoid")
