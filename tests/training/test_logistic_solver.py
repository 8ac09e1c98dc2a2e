"""Problems solved side by side against the same problems alone, and principal axes against the features themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from tintype.models.network import OutputKind
from tintype.training import logistic_solver
from tintype.training.logistic_solver import Axes, Problems, principal_axes


def rows_and_labels(rows: int, features: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    centres = torch.randn(classes, features, generator=generator)
    return torch.randn(rows, features, generator=generator) + 0.5 * centres[labels], labels


def plain_axes(rows: Tensor) -> Axes:
    return Axes(rows, rows.square().mean(0), lambda weights: weights)


@pytest.mark.parametrize("shape", [(60, 7), (9, 40), (20, 20)])
def test_principal_axes_keep_logits_and_lengths(shape: tuple[int, int]) -> None:
    rows, _ = rows_and_labels(*shape, classes=2)
    axes = principal_axes(rows)
    assert axes.rows.shape[1] <= min(shape)
    torch.testing.assert_close(axes.rows.square().mean(0), axes.variances, rtol=1e-3, atol=1e-4)
    weights = torch.randn(axes.rows.shape[1], 3)
    torch.testing.assert_close(axes.rows @ weights, rows @ axes.expand(weights), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(axes.expand(weights).norm(dim=0), weights.norm(dim=0), rtol=1e-3, atol=1e-3)


def test_features_without_any_variation_leave_no_axis_and_the_shares_of_the_classes() -> None:
    labels = torch.tensor([0, 1, 1, 1])
    axes = principal_axes(torch.zeros(4, 6))
    problems = Problems(axes, labels, torch.ones(4, 1), 4.0, 2, "softmax")
    solution = problems.minimise(problems.zeros(), 1.0, tolerance=1e-9)
    torch.testing.assert_close(solution.logits[0, 0].softmax(0), torch.tensor([0.25, 0.75]), atol=1e-3, rtol=0)
    assert torch.equal(axes.expand(solution.weights[:-1, 0]), torch.zeros(6, 2))


def test_where_there_are_many_rows_and_features_the_axes_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = rows_and_labels(50, 12, 3)
    turned = principal_axes(rows)
    monkeypatch.setattr(logistic_solver, "ROTATE_UP_TO", 8)
    same = principal_axes(rows)
    assert same.rows is rows
    solved = []
    for axes in (turned, same):
        problems = Problems(axes, labels, torch.ones(50, 1), 50.0, 3, "softmax")
        solved.append(axes.expand(problems.minimise(problems.zeros(), 0.1, 1e-10).weights[:-1, 0]))
    torch.testing.assert_close(*solved, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("classes", "output", "units"), [(2, "sigmoid", 1), (2, "softmax", 2), (4, "softmax", 4)])
def test_the_minimum_is_the_one_that_scipy_finds(classes: int, output: OutputKind, units: int) -> None:
    rows, labels = rows_and_labels(80, 6, classes)
    factors = torch.rand(80, 1) + 0.5
    problems = Problems(plain_axes(rows), labels, factors, 80.0, classes, output)
    ours = problems.minimise(problems.zeros(), 0.05, tolerance=1e-10).weights[:, 0].double().numpy()
    rows_64, factors_64 = rows.double().numpy(), factors[:, 0].double().numpy()

    def objective(flat: NDArray[np.float64]) -> float:
        weights = flat.reshape(7, units)
        logits = rows_64 @ weights[:-1] + weights[-1]
        logits = np.concatenate([np.zeros((80, 1)), logits], axis=1) if units == 1 else logits
        losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(80), labels.numpy()]
        penalty = 0.025 * (weights[:-1] ** 2).sum() + 0.5 * logistic_solver.BIAS_PENALTY * (weights[-1] ** 2).sum()
        return float((losses * factors_64).sum() / 80 + penalty)

    theirs = minimize(objective, np.zeros(7 * units), method="BFGS", options={"gtol": 1e-7})
    assert objective(ours.ravel()) == pytest.approx(theirs.fun, abs=1e-6)
    slopes = theirs.x.reshape(7, units)[:-1]
    np.testing.assert_allclose(ours[:-1], slopes, atol=3e-3)


def test_problems_side_by_side_are_solved_as_each_alone() -> None:
    rows, labels = rows_and_labels(90, 15, 3)
    factors = (torch.rand(90, 5, generator=torch.Generator().manual_seed(3)) > 0.3).float()
    axes = principal_axes(rows)

    def solve(columns: Tensor) -> Tensor:
        problems = Problems(axes, labels, columns, 90.0, 3, "softmax")
        return problems.minimise(problems.zeros(), 0.01, tolerance=1e-9).weights

    together = solve(factors)
    for number in range(5):
        torch.testing.assert_close(together[:, [number]], solve(factors[:, [number]]), atol=2e-3, rtol=2e-3)


def test_a_good_start_saves_iterations() -> None:
    rows, labels = rows_and_labels(200, 30, 3)
    problems = Problems(principal_axes(rows), labels, torch.ones(200, 1), 200.0, 3, "softmax")
    cold = problems.minimise(problems.zeros(), 0.01, tolerance=1e-8)
    warm = problems.minimise(cold.weights, 0.01, tolerance=1e-7)
    assert cold.iterations > 2
    assert warm.iterations == 0
    assert torch.equal(warm.weights, cold.weights)
