"""Logistic regression on features that do not change: an output layer that needs no learning rate and no epochs.

The folds of a cross-validation and the fit on all rows are solved side by side, and a row's logit in the problems that
it is held out of comes for nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tintype.data.augment import uniform
from tintype.errors import DataError, RunInterrupted
from tintype.models.network import OutputKind
from tintype.records import OnProgress, silent
from tintype.training.logistic_solver import Problems, Solution, principal_axes
from tintype.training.losses import count_correct, cross_entropies

STEPS_PER_DECADE = 2
DECADES = 7
"""The path of penalties, downwards from the number of features that vary. The loss is flat about the best one."""

USUAL_STEP = 8
"""The penalty on this path that suits features of photos; taken where no row can be held out."""

WAIT = 2
"""The path ends after this many steps that were no better than the best before them."""

LEAST_VALIDATION = 30
MANY_IMAGES = 2_000
"""With fewer validation rows, or fewer training images, cross-validation chooses the penalty.

On features of MobileNetV2, against choosing by a tenth that is held out: cross-entropy of unseen images 0.73 against
0.88 with 60 X-rays of four classes, 0.56 against 0.59 with 200; 0.048 against 0.057 with 300 cats and dogs; 0.534
against 0.586 and 0.2995 against 0.3030 with 100 and 1,000 images of five classes (means over 5 to 12 draws)."""

FOLDS = 5
"""Ten were no better at 60 to 1,000 images."""

LEAST_DEVIATION = 1e-6
"""A feature that varies by a smaller share of its largest value varies by rounding alone."""

_Figures = tuple[float | None, float | None]


@dataclass(frozen=True)
class LogisticTrial:
    """One penalty. Losses are cross-entropies in nats, weighted as the classes are.

    Attributes:
        penalty: The factor in ``mean(cross-entropy) + penalty / 2 * sum(weight ** 2)``, the weights being those of
            standardised features; scikit-learn's C is ``1 / (penalty * rows)``.
        train_loss: Of the training rows.
        train_accuracy: Share of them that is classified right.
        validation_loss: Of the validation rows; None where there are none.
        validation_accuracy: Likewise.
        held_out_loss: Of the training rows when they were held out; None without cross-validation.
        held_out_accuracy: Likewise.
        iterations: Steps of the solver.
        seconds: Time it took.
    """

    penalty: float
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    held_out_loss: float | None
    held_out_accuracy: float | None
    iterations: int
    seconds: float

    @property
    def score(self) -> float | None:
        """The loss by which penalties are compared; None where no row could be held out."""
        return self.validation_loss if self.held_out_loss is None else self.held_out_loss


@dataclass(frozen=True)
class LogisticHead:
    """A fitted output layer for features as they are: their standardisation is part of weight and bias.

    Attributes:
        weight: (K, F), or (1, F) for a sigmoid unit; fp32, on the features' device.
        bias: (K,) or (1,).
        penalty: The chosen one.
        trials: Every penalty that was tried, from strong to weak.
        folds: Folds of the cross-validation that chose it; 0 where the validation rows did.
        held_out: (R, C) logits of each training row with the chosen penalty, when its fold was held out; None without
            cross-validation.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    trials: tuple[LogisticTrial, ...]
    folds: int
    held_out: Tensor | None = None

    @property
    def chosen(self) -> LogisticTrial:
        """The trial of the chosen penalty."""
        return next(trial for trial in self.trials if trial.penalty == self.penalty)


def fit_logistic(
    train_RF: Tensor | NDArray[np.float32],
    train_labels: Tensor | NDArray[np.int64],
    validation_VF: Tensor | NDArray[np.float32],
    validation_labels: Tensor | NDArray[np.int64],
    classes: int,
    output: OutputKind,
    *,
    groups: NDArray[np.int64] | None = None,
    class_weights: NDArray[np.float32] | None = None,
    on_progress: OnProgress = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> LogisticHead:
    """Fit an output layer with the L2 penalty that predicts best.

    It is the one with the smallest cross-entropy on images that were held out: the validation images where there are
    enough of both, else those of a cross-validation inside the training images.

    Args:
        train_RF: (R, F) float32 or bfloat16; rows may be several views of an image.
        train_labels: (R,) class ids.
        validation_VF: (V, F); V may be 0.
        validation_labels: (V,) class ids.
        classes: K.
        output: ``sigmoid``: one unit, which gives the second of two classes; ``softmax``: one a class.
        groups: (R,) the image of each row, so that all its views are held out together; None: each row is an image.
        class_weights: (K,) factor on the losses of each class's rows, in training and in choosing.
        on_progress: Called after each penalty.
        should_stop: Asked after each penalty.

    Raises:
        DataError: There are no training rows, or a feature is not finite.
        RunInterrupted: ``should_stop`` said so.
    """
    assert output == "softmax" or classes == 2, "a sigmoid unit tells two classes apart"
    train, labels_R = _tensor(train_RF), _tensor(train_labels)
    device = train.device
    validation, labels_V = _tensor(validation_VF).to(device), _tensor(validation_labels).to(device)
    _require_usable(train, "training")
    _require_usable(validation, "validation")
    weights_K = torch.ones(classes) if class_weights is None else torch.as_tensor(class_weights).float()
    scaling = _Scaling(train)
    choice = _Choice(
        scaling.apply(train), labels_R.to(device), scaling.apply(validation), labels_V, weights_K.to(device),
        classes, output, fold_of_rows(labels_R.cpu().numpy(), groups, len(labels_V)),
    )  # fmt: skip
    strongest, steps = max(1, scaling.varying), STEPS_PER_DECADE * DECADES + 1
    for number in range(steps):
        choice.try_penalty(strongest * 10 ** (-number / STEPS_PER_DECADE))
        on_progress("fitting the output layer", number + 1, steps)
        if should_stop():
            raise RunInterrupted(f"stopped while fitting the output layer, after penalty {number + 1} of {steps}.")
        if choice.best is not None and number - choice.best >= WAIT:
            break
    penalty, weight_FC, bias_C = choice.finish()
    weight, bias = scaling.fold(weight_FC, bias_C)
    return LogisticHead(weight, bias, penalty, tuple(choice.trials), choice.folds, choice.held_out)


class _Choice:
    """The path of penalties, each started from the solution of the stronger one before.

    Args:
        train_RF: Standardised features.
        labels_R: Class ids.
        validation_VF: Likewise.
        labels_V: Likewise.
        weights_K: Factors on the losses of the classes.
        classes: K.
        output: Sigmoid or softmax.
        fold_of_row: (R,) the fold that each row is held out in; all 0 without cross-validation.
    """

    def __init__(
        self, train_RF: Tensor, labels_R: Tensor, validation_VF: Tensor, labels_V: Tensor, weights_K: Tensor,
        classes: int, output: OutputKind, fold_of_row: NDArray[np.int64],
    ) -> None:  # fmt: skip
        self.labels_R, self.validation_VF, self.labels_V = labels_R, validation_VF, labels_V
        self.weights_R, self.weights_V = weights_K[labels_R], weights_K[labels_V]
        folds = int(fold_of_row.max()) + 1
        self.folds = folds if folds > 1 else 0
        self.fold_R = torch.as_tensor(fold_of_row, device=train_RF.device)
        # A problem for each fold, and the last one for all rows.
        seen_RP = torch.ones(len(train_RF), self.folds + 1, device=train_RF.device)
        if self.folds:
            seen_RP.scatter_(1, self.fold_R[:, None], 0.0)
        self.counted_R = self._has_seen_its_class(seen_RP, classes)
        total = float(self.weights_R.sum())
        self.axes = principal_axes(train_RF)
        self._make = partial(Problems, self.axes, labels_R, total=total, classes=classes, output=output)
        self.problems = self._make(seen_RP * self.weights_R[:, None])
        self.trials: list[LogisticTrial] = []
        self.best: int | None = None
        self.held_out: Tensor | None = None
        self._best_score = math.inf
        self._last = self._best_weights = self.problems.zeros()

    def _has_seen_its_class(self, seen_RP: Tensor, classes: int) -> Tensor:
        """Rows whose class has other rows where they are held out: what was never seen cannot be predicted."""
        counts_KP = torch.zeros(classes, seen_RP.shape[1], device=seen_RP.device).index_add_(0, self.labels_R, seen_RP)
        return counts_KP[self.labels_R, self.fold_R] > 0 if self.folds else torch.zeros_like(self.labels_R).bool()

    def try_penalty(self, penalty: float) -> None:
        """Solve for one penalty and judge it."""
        started = time.monotonic()
        solution = self.problems.minimise(self._last, penalty, tolerance=1e-6)
        self._last = solution.weights
        trial = self._judge(solution, penalty, started)
        if trial.score is not None and trial.score < self._best_score:
            self.best, self._best_score, self._best_weights = len(self.trials), trial.score, self._last
            if self.folds:
                self.held_out = solution.logits[torch.arange(len(self.fold_R), device=self.fold_R.device), self.fold_R]
        self.trials.append(trial)

    def _judge(self, solution: Solution, penalty: float, started: float) -> LogisticTrial:
        logits = solution.logits
        train = _loss_and_accuracy(logits[:, -1], self.labels_R, self.weights_R)
        held_out: _Figures = (None, None)
        validation: _Figures = (None, None)
        if self.counted_R.any():
            rows = self.counted_R.nonzero()[:, 0]
            held_out = _loss_and_accuracy(logits[rows, self.fold_R[rows]], self.labels_R[rows], self.weights_R[rows])
        if len(self.labels_V):
            weight_FC = self.axes.expand(solution.weights[:-1, -1])
            logits_VC = self.validation_VF @ weight_FC + solution.weights[-1, -1]
            validation = _loss_and_accuracy(logits_VC, self.labels_V, self.weights_V)
        seconds = time.monotonic() - started
        return LogisticTrial(penalty, *train, *validation, *held_out, solution.iterations, seconds)

    def finish(self) -> tuple[float, Tensor, Tensor]:
        """The chosen penalty, its weights (F, C) for standardised features and its bias (C,), solved precisely."""
        penalty = self.trials[USUAL_STEP if self.best is None else self.best].penalty
        all_rows = self._make(self.weights_R[:, None])
        weights = all_rows.minimise(self._best_weights[:, -1:], penalty, tolerance=1e-10).weights[:, 0]
        return penalty, self.axes.expand(weights[:-1]), weights[-1]


class _Scaling:
    """Mean 0 and deviation 1 for every feature of the training rows; a feature that does not vary becomes 0.

    Features are first divided by their largest value, so that no square overflows.
    """

    def __init__(self, train_RF: Tensor) -> None:
        rows_RF = train_RF.float()
        self.largest_F = rows_RF.abs().amax(0)
        self.largest_F[self.largest_F < 1e-30] = 1.0  # as good as 0, and its inverse would overflow
        share_RF = rows_RF / self.largest_F
        self.mean_F = share_RF.mean(0)
        self.deviation_F = (share_RF - self.mean_F).square().mean(0).sqrt()
        varies_F = self.deviation_F > LEAST_DEVIATION
        self.varying = int(varies_F.sum())
        self.deviation_F[~varies_F] = 1.0

    def apply(self, rows_RF: Tensor) -> Tensor:
        """Standardised features, fp32."""
        return (rows_RF.float() / self.largest_F - self.mean_F) / self.deviation_F

    def fold(self, weight_FC: Tensor, bias_C: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (C, F) and bias (C,) that give the same logits for features as they are."""
        weight_CF = weight_FC.T.double() / self.deviation_F
        bias_C = bias_C - weight_CF @ self.mean_F.double()
        return (weight_CF / self.largest_F).float().contiguous(), bias_C.float()


def fold_of_rows(
    labels_R: NDArray[np.int64], groups: NDArray[np.int64] | None, validation_rows: int
) -> NDArray[np.int64]:
    """The fold that each training row is held out in, (R,); all 0 where the validation rows are to choose.

    Every fold gets the same share of each class, to one image, and all the rows of a group, whose class is that of its
    first row.

    Args:
        labels_R: Class ids.
        groups: (R,) the image of each row; None: each row is an image.
        validation_rows: How many there are.
    """
    names = np.arange(len(labels_R)) if groups is None else groups
    _, first, group_of_row = np.unique(names, return_index=True, return_inverse=True)
    images = len(first)
    if images >= MANY_IMAGES and validation_rows >= LEAST_VALIDATION:
        return np.zeros(len(labels_R), dtype=np.int64)
    keys = uniform(0, 0, np.arange(images), 1)[:, 0]
    fold_of_group = np.empty(images, dtype=np.int64)
    fold_of_group[np.lexsort((keys, labels_R[first]))] = np.arange(images) % min(images, FOLDS)
    return fold_of_group[group_of_row]


def _loss_and_accuracy(logits_NC: Tensor, labels_N: Tensor, weights_N: Tensor) -> tuple[float, float]:
    losses_N, _ = cross_entropies(logits_NC, labels_N, 0.0)
    loss = (losses_N * weights_N).double().sum() / weights_N.double().sum()
    return float(loss), float(count_correct(logits_NC, labels_N)) / len(labels_N)


def _tensor(values: Tensor | NDArray[Any]) -> Tensor:
    """A tensor as it is, an array copied: a mapped file may not be written to, which PyTorch warns about."""
    return values if isinstance(values, Tensor) else torch.tensor(values)


def _require_usable(rows_RF: Tensor, which: str) -> None:
    if which == "training" and len(rows_RF) == 0:
        raise DataError("there are no training images to fit the output layer on. Check the split.")
    bad = int((~torch.isfinite(rows_RF).all(1)).sum())
    if bad:
        raise DataError(
            f"the features of {bad:,} of {len(rows_RF):,} {which} rows are not finite. Try --precision fp32, or other "
            "weights."
        )
