"""Schedules against their formulas, optimisers by what they do, the moving average against plain arithmetic."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tintype.config import FitConfig, OptimizerName
from tintype.records import EpochRecord
from tintype.training.optim import (
    WeightAverage,
    average_decay,
    epochs_without_gain,
    learning_rate_at,
    load_optimizer_tensors,
    make_optimizer,
    monitored,
    optimizer_tensors,
)


def record(epoch: int, loss: float | None, accuracy: float | None = 0.5) -> EpochRecord:
    return EpochRecord(epoch, 1.0, 0.5, loss, accuracy if loss is not None else None, 1e-3, 1.0, 1.0)


def test_constant_after_linear_warmup() -> None:
    config = FitConfig(epochs=4, learning_rate=1.0, schedule="constant", warmup_epochs=1)
    rates = [learning_rate_at(config, step, 4, []) for step in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_cosine_starts_at_the_peak_and_ends_at_the_floor() -> None:
    config = FitConfig(epochs=10, learning_rate=0.5, schedule="cosine", minimum_learning_rate=0.01)
    assert learning_rate_at(config, 0, 10, []) == pytest.approx(0.5)
    assert learning_rate_at(config, 50, 10, []) == pytest.approx((0.5 + 0.01) / 2)
    assert learning_rate_at(config, 100, 10, []) == pytest.approx(0.01)


@given(st.integers(1, 50), st.integers(1, 50), st.floats(1e-4, 1.0))
def test_one_cycle_rises_once_and_falls_once(epochs: int, steps: int, peak: float) -> None:
    config = FitConfig(epochs=epochs, learning_rate=peak, schedule="one_cycle", minimum_learning_rate=0.0)
    rates = [learning_rate_at(config, step, steps, []) for step in range(epochs * steps)]
    top = rates.index(max(rates))
    assert all(a <= b + 1e-12 for a, b in pairwise(rates[: top + 1]))
    assert all(a >= b - 1e-12 for a, b in pairwise(rates[top:]))
    assert max(rates) <= peak * (1 + 1e-12)
    assert min(rates) > 0


def test_plateau_halves_after_each_three_epochs_without_gain() -> None:
    config = FitConfig(
        epochs=20, learning_rate=1e-3, schedule="reduce_on_plateau", reduce_patience=3, monitor="validation_accuracy"
    )
    gains = [record(1, 1.0, 0.6), record(2, 1.0, 0.7)]
    flat = [record(n, 1.0, 0.7) for n in range(3, 10)]
    assert learning_rate_at(config, 0, 1, gains + flat[:2]) == pytest.approx(1e-3)
    assert learning_rate_at(config, 0, 1, gains + flat[:3]) == pytest.approx(5e-4)
    assert learning_rate_at(config, 0, 1, gains + flat[:6]) == pytest.approx(2.5e-4)
    many = [record(n, 1.0, 0.7) for n in range(3, 60)]
    assert learning_rate_at(config, 0, 1, gains + many) == pytest.approx(config.minimum_learning_rate)


def test_epochs_without_gain_and_monitor() -> None:
    config = FitConfig(monitor="validation_loss")
    history = [record(1, 0.9), record(2, 0.5), record(3, 0.6), record(4, 0.5)]
    assert epochs_without_gain(config, history) == 2
    assert monitored(config, record(1, None)) == -1.0  # training loss where there is no validation


def test_weight_decay_spares_biases_and_norms() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    optimizer = make_optimizer(network, FitConfig(learning_rate=1e-3, weight_decay=0.1))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(p) for p in network.parameters() if p.ndim > 1}


@pytest.mark.parametrize("name", [name for name in get_args(OptimizerName) if name != "lbfgs"])
def test_every_optimizer_learns_and_comes_back_bit_equal(name: OptimizerName) -> None:
    """The state travels as tensors; channels-last weights keep their memory order for fused kernels."""

    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
        network.to(memory_format=torch.channels_last)
        rate = {"adadelta": 1.0, "sgd": 0.05}.get(name, 1e-3)
        return network, make_optimizer(network, FitConfig(optimizer=name, learning_rate=rate, weight_decay=0.01))

    torch.manual_seed(1)
    images = torch.randn(16, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    labels = (images.mean(dim=(1, 2, 3)) > 0).long()

    def steps(network: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> float:
        loss = torch.tensor(math.nan)
        for _ in range(count):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return loss.item()

    network, optimizer = made()
    first = steps(network, optimizer, 1)
    steps(network, optimizer, 4)
    again, other = made()
    again.load_state_dict(network.state_dict())
    load_optimizer_tensors(other, {k: v.clone().contiguous() for k, v in optimizer_tensors(optimizer).items()})
    last = steps(network, optimizer, 5)
    assert last < first
    assert steps(again, other, 5) == last
    for a, b in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_average_is_the_plain_recursion_and_covers_statistics() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(network)
    expected = {name: t.clone() for name, t in network.state_dict().items() if t.is_floating_point()}
    for _ in range(3):
        with torch.no_grad():
            for tensor in network.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(1.0)
        average.update(0.9)
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = 0.9 * expected[name] + 0.1 * tensor
    for name, tensor in average.network.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected[name])


def test_average_decay_grows_to_its_setting() -> None:
    config = FitConfig(ema=0.99)
    decays = [average_decay(config, step) for step in range(2000)]
    assert decays[0] == pytest.approx(0.1)
    assert decays == sorted(decays)
    assert decays[-1] == 0.99
