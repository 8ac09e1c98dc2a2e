"""Losses against PyTorch's own and against Keras' definition of a sigmoid unit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tintype.training.losses import balanced_class_weights, count_correct, cross_entropies


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_agrees_with_pytorch(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(32, 5) * 4, torch.randint(0, 5, (32,))
    smoothed, plain = cross_entropies(logits, labels, smoothing)
    expected = nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(smoothed, expected)
    torch.testing.assert_close(plain, nn.functional.cross_entropy(logits, labels, reduction="none"))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_sigmoid_agrees_with_pytorch(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(32, 1) * 4, torch.randint(0, 2, (32,))
    smoothed, plain = cross_entropies(logits, labels, smoothing)
    targets = labels[:, None].float()
    binary = nn.functional.binary_cross_entropy_with_logits
    expected = binary(logits, targets * (1 - smoothing) + smoothing / 2, reduction="none")
    torch.testing.assert_close(smoothed, expected[:, 0])
    torch.testing.assert_close(plain, binary(logits, targets, reduction="none")[:, 0])


def test_sigmoid_and_two_softmax_units_are_the_same_loss() -> None:
    logit, labels = torch.tensor([[1.5], [-0.3]]), torch.tensor([1, 1])
    pair = torch.cat([torch.zeros_like(logit), logit], dim=1)
    torch.testing.assert_close(cross_entropies(logit, labels, 0.1), cross_entropies(pair, labels, 0.1))


def test_huge_logits_stay_finite() -> None:
    losses, _ = cross_entropies(torch.tensor([[1e4], [-1e4]]), torch.tensor([0, 0]), 0.0)
    assert losses.tolist() == [1e4, 0.0]


def test_count_correct() -> None:
    assert count_correct(torch.tensor([[0.1], [-2.0], [3.0]]), torch.tensor([1, 1, 1])).item() == 2
    assert count_correct(torch.tensor([[0.1, 0.2, 0.0], [5.0, 1.0, 2.0]]), torch.tensor([1, 2])).item() == 1


def test_balanced_weights_average_to_one_and_skip_absent_classes() -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 2, 2], dtype=np.int64)
    weights = balanced_class_weights(labels, 3)
    assert weights[1] == 0
    assert weights[labels].mean() == pytest.approx(1.0)
    assert weights[0] * 6 == pytest.approx(weights[2] * 2)
