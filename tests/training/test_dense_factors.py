"""Which dense layers send factors, and that these give the gradient; several ranks: tests/ranks/together_checks.py."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tintype.models.network import Network
from tintype.ranks.world import ALONE
from tintype.training.dense_factors import CLEARLY_LESS, LEAST_WEIGHTS, FactoredLinear, factored_layers, product_seconds


class Body(nn.Module):
    """Layers of several kinds on a picture of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(192, 2048)
        self.tokens = nn.Linear(2048, 1024)
        self.one_token = nn.Linear(1024, 1024)
        self.twice = nn.Linear(1024, 1024)
        self.without_bias = nn.Linear(1024, 1024, bias=False)
        self.frozen = nn.Linear(1024, 1024).requires_grad_(False)
        self.small = nn.Linear(1024, 16)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        rows = self.wide(images_NCHW.flatten(1))
        rows = self.tokens(rows[:, None].expand(-1, 3, -1)).mean(dim=1)
        rows = self.one_token(rows[:, None])[:, 0]
        output: Tensor = self.small(self.frozen(self.without_bias(self.twice(self.twice(rows)))))
        return output


def network() -> Network:
    torch.manual_seed(0)
    return Network(Body(), nn.Linear(16, 2), "softmax", (3, 8, 8))


def test_large_layers_that_see_each_image_once_send_factors() -> None:
    made = network().train()
    assert list(factored_layers(made, rows=8, ranks=2)) == ["body.wide"]
    assert made.training, "it was looked at and is as it was"
    made.body.wide.requires_grad_(False)
    assert factored_layers(made, rows=8, ranks=2) == {}


@given(rows=st.integers(1, 4096), ranks=st.integers(1, 64))
@settings(deadline=None)
def test_factors_are_sent_where_a_ring_would_send_more(rows: int, ranks: int) -> None:
    """By hand: a rank receives the others' rows; a ring sends all but a rank's share of the gradients, twice."""
    weights, width = 192 * 2048, 192 + 2048
    assert weights >= LEAST_WEIGHTS
    gathered, ring = (ranks - 1) * rows * width, 2 * (ranks - 1) / ranks * weights
    sends = list(factored_layers(network(), rows, ranks)) == ["body.wide"]
    assert ranks == 1 or sends is (gathered < CLEARLY_LESS * ring)


@pytest.mark.parametrize("is_bf16", [False, True])
def test_the_product_of_the_factors_is_the_gradient(*, is_bf16: bool) -> None:
    torch.manual_seed(1)
    plain = nn.Linear(48, 32)
    factored = FactoredLinear(copy.deepcopy(plain))
    taken: list[tuple[Tensor, Tensor]] = []
    factored.take = lambda values, gradient: taken.append((values, gradient))
    values, wanted = torch.randn(16, 48), torch.randn(16, 32)
    inputs = []
    for layer in (plain, factored):
        seen = values.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            output = layer(seen)
        (output.float() * wanted).sum().backward()
        inputs.append(seen.grad)
    assert factored.weight.grad is None
    ((of_inputs, of_outputs),) = taken
    assert plain.weight.grad is not None
    product = of_outputs.float().t() @ of_inputs.to(of_outputs.dtype).float()
    torch.testing.assert_close(
        product, plain.weight.grad, rtol=1e-2 if is_bf16 else 1e-5, atol=0.05 if is_bf16 else 1e-5
    )
    assert plain.bias.grad is not None
    assert factored.bias.grad is not None
    assert torch.equal(plain.bias.grad, factored.bias.grad)
    assert inputs[0] is not None
    assert inputs[1] is not None
    assert torch.equal(inputs[0], inputs[1])


def test_multiplying_out_takes_longer_for_more_images() -> None:
    layer = nn.Linear(512, 512)
    few, many = (product_seconds([layer], rows, torch.float32, ALONE) for rows in (1, 8192))
    assert 0 < few < many
    assert product_seconds([], 8, torch.float32, ALONE) == 0


def test_nothing_is_taken_where_nothing_is_learnt() -> None:
    factored = FactoredLinear(nn.Linear(4, 3))
    factored.take = lambda *_: pytest.fail("no gradient is wanted")
    values = torch.randn(2, 4)
    with torch.no_grad():
        output = factored(values)
    assert torch.equal(output, nn.functional.linear(values, factored.weight, factored.bias))


def test_a_copy_is_a_layer_like_any_other() -> None:
    factored = FactoredLinear(nn.Linear(4, 3)).eval()
    factored.take = lambda *_: None
    copied = copy.deepcopy(nn.Sequential(factored))[0]
    assert type(copied) is nn.Linear
    assert not copied.training
    assert torch.equal(copied.weight, factored.weight)
    assert copied.weight.data_ptr() != factored.weight.data_ptr()
