"""The modules of our own against their definitions, written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tintype.models.blocks import (
    Dropout,
    Flatten,
    GlobalAveragePool,
    GlobalMaxPool,
    PadShortcut,
    ResidualBlock,
    StandardizeImage,
)


def maps(*shape: int, channels_last: bool = False) -> Tensor:
    tensor = torch.randn(*shape, generator=torch.Generator().manual_seed(3))
    return tensor.contiguous(memory_format=torch.channels_last) if channels_last else tensor


@pytest.mark.parametrize("channels_last", [False, True])
def test_global_pools(channels_last: bool) -> None:
    x = maps(2, 3, 5, 4, channels_last=channels_last)
    np.testing.assert_allclose(GlobalAveragePool()(x), x.numpy().mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(GlobalMaxPool()(x), x.numpy().max(axis=(2, 3)))


@pytest.mark.parametrize("channels_last", [False, True])
def test_flatten_has_keras_order_and_copies_nothing_of_channels_last(channels_last: bool) -> None:
    x = maps(2, 3, 5, 4, channels_last=channels_last)
    flat = Flatten()(x)
    np.testing.assert_array_equal(flat, x.numpy().transpose(0, 2, 3, 1).reshape(2, -1))
    assert (flat.data_ptr() == x.data_ptr()) == channels_last


def test_standardize_image_by_its_own_figures() -> None:
    x = maps(3, 2, 6, 6) * 40 + 100
    x[1] = 17.0
    expected = x.numpy() - x.numpy().mean(axis=(1, 2, 3), keepdims=True)
    expected /= np.maximum(x.numpy().std(axis=(1, 2, 3), keepdims=True), 1 / np.sqrt(72))
    result = StandardizeImage()(x)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    assert result[1].abs().max() == 0


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9, 0.999999])
@pytest.mark.parametrize("shape", [(64, 1000), (16, 8, 25, 20)])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(5)
    dropped = Dropout(share)(torch.ones(shape))
    kept = (dropped != 0).double().mean().item()
    count = np.prod(shape)
    # Five standard deviations of a binomial share, and the step of 1/65,536 in which it is drawn.
    assert abs(kept - (1 - share)) < 5 * np.sqrt(share * (1 - share) / count) + 2 / 65_536
    assert len(dropped.unique()) <= 2
    if share < 0.99:
        assert dropped.max().item() == pytest.approx(1 / (1 - share), rel=1e-3)


def test_dropout_draws_values_independently() -> None:
    torch.manual_seed(1)
    flags = (Dropout(0.5)(torch.ones(400_000)) != 0).double() - 0.5
    # Neighbours share a 64-bit draw; correlations at every lag within it must vanish (5 standard deviations).
    for lag in (1, 2, 3, 4, 8):
        assert abs((flags[lag:] * flags[:-lag]).mean().item() * 4) < 5 / np.sqrt(400_000)


def test_dropout_gradient_passes_where_values_pass_and_evaluation_drops_nothing() -> None:
    torch.manual_seed(0)
    layer = Dropout(0.5)
    x = maps(4, 3, 8, 8, channels_last=True).requires_grad_()
    y = layer(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, torch.where(y != 0, 2.0, 0.0))
    assert layer.eval()(x) is x or torch.equal(layer.eval()(x), x)


def test_dropout_is_repeatable_and_keeps_the_type() -> None:
    x = torch.ones(1000, dtype=torch.bfloat16)
    torch.manual_seed(9)
    first = Dropout(0.3)(x)
    torch.manual_seed(9)
    assert torch.equal(first, Dropout(0.3)(x))
    assert first.dtype == torch.bfloat16


def test_pad_shortcut_subsamples_and_adds_zero_channels_on_both_sides() -> None:
    x = maps(2, 4, 7, 6)
    y = PadShortcut(4, 9, 2)(x)
    assert y.shape == (2, 9, 4, 3)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert y[:, :2].abs().sum() == 0
    assert y[:, 6:].abs().sum() == 0


@pytest.mark.parametrize(("stride", "filters"), [(1, 4), (2, 8), (1, 8), (3, 4)])
@pytest.mark.parametrize("shortcut", ["conv", "pad"])
def test_residual_block_is_two_convolutions_and_its_input(stride: int, filters: int, shortcut: str) -> None:
    torch.manual_seed(2)
    block = ResidualBlock(4, filters, stride, shortcut).eval()
    x = maps(2, 4, 9, 8)
    inner = nn.functional.conv2d(x, block.conv1.weight, stride=stride, padding=1) / np.sqrt(1 + 1e-5)
    inner = nn.functional.conv2d(inner.relu(), block.conv2.weight, padding=1) / np.sqrt(1 + 1e-5)
    outer = x
    if (stride, filters) != (1, 4):
        parameters = dict(block.named_parameters())
        if shortcut == "conv":
            outer = nn.functional.conv2d(x, parameters["shortcut.conv.weight"], stride=stride) / np.sqrt(1 + 1e-5)
        else:
            outer = nn.functional.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, (filters - 4) // 2, (filters - 4) // 2))
    torch.testing.assert_close(block(x), (inner + outer).relu(), rtol=1e-4, atol=1e-5)
