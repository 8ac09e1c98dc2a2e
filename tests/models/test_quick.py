"""Quick training gives the gradients of the network that it is made from."""

from __future__ import annotations

import copy
from typing import Any, Self

import pytest
import torch
from drawn import draw_statistics
from torch import Tensor, fx, nn

from tintype.models.chains import Geometry
from tintype.models.fused import can_fuse
from tintype.models.graph import traced
from tintype.models.quick import QuickTraining, convolved

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not can_fuse(CPU), reason="PyTorch without oneDNN")


def graph_of(name: str, **arguments: Any) -> fx.GraphModule:
    import timm

    torch.manual_seed(1)
    model = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    draw_statistics(model)
    graph = traced(model)
    assert graph is not None
    return graph


class Held(nn.Module):
    """Keeps all statistics, in training too."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph_module = graph

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.graph_module(images)
        return result


def step(network: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    network.zero_grad()
    images = images.clone().requires_grad_()
    torch.manual_seed(5)
    result = network(images)
    (result * torch.linspace(-1, 1, result.shape[1])).sum().backward()
    assert images.grad is not None
    return (
        result.detach(),
        {name: part.grad for name, part in network.named_parameters() if part.grad is not None},
        images.grad,
    )


@pytest.mark.parametrize(
    ("name", "arguments", "side"),
    [
        ("mobilenetv2_100", {"pad_type": "same"}, 64),
        ("mobilenetv2_100", {"pad_type": "same"}, 75),
        ("mobilenetv2_100", {}, 66),
        ("tf_efficientnet_b0", {}, 64),  # 5x5, and an activation that stays an operation of its own
        ("resnet18", {}, 64),
    ],
)
def test_gradients_stay(name: str, arguments: dict[str, str], side: int) -> None:
    network = Held(graph_of(name, **arguments)).train().double()
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    exact, exact_gradients, exact_images = step(network, images)
    single, images = copy.deepcopy(network).float(), images.float()
    before = {key: tensor.clone() for key, tensor in single.state_dict().items()}
    graph = single.graph_module.graph
    with QuickTraining(single, CPU):
        assert single.graph_module.graph is not graph
        result, gradients, of_images = step(single, images)
        assert list(single.state_dict()) == list(before)
    assert single.graph_module.graph is graph
    assert all(torch.equal(tensor, before[key]) for key, tensor in single.state_dict().items())
    torch.testing.assert_close(result.double(), exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))
    assert gradients.keys() == exact_gradients.keys()
    for key, gradient in gradients.items():
        error = (gradient.double() - exact_gradients[key]).norm() / exact_gradients[key].norm().clamp_min(1e-12)
        assert error < 2e-3, key
    assert (of_images.double() - exact_images).norm() < 2e-3 * exact_images.norm()


@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [7, 8, 9])
def test_the_gradients_of_one_convolution(groups: int, size: int, stride: int, side: int) -> None:
    conv = nn.Conv2d(6, 6, size, stride=stride, padding=size // 2, groups=groups)
    images = torch.randn(2, 6, side, side + 1, requires_grad=True)
    expected = torch.relu(conv(images))
    expected.backward(ahead := torch.randn_like(expected))  # type: ignore[no-untyped-call]
    wanted = [images.grad, conv.weight.grad, conv.bias.grad] if conv.bias is not None else []
    images.grad = conv.weight.grad = None
    assert conv.bias is not None
    conv.bias.grad = None
    result = convolved(images, conv.weight, conv.bias, Geometry.of(conv), ("relu", [], ""))
    torch.testing.assert_close(result, expected)
    result.backward(ahead)  # type: ignore[no-untyped-call]
    for got, gradient in zip((images.grad, conv.weight.grad, conv.bias.grad), wanted, strict=True):
        torch.testing.assert_close(got, gradient, rtol=1e-4, atol=1e-4)


def test_a_normalisation_that_learns_its_statistics_stays() -> None:
    network = graph_of("resnet18").train()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    expected, _, _ = step(copy.deepcopy(network), images)
    with QuickTraining(network, CPU):
        result, _, _ = step(network, images)
    assert torch.equal(result, expected)
    assert network.get_submodule("bn1").num_batches_tracked == 1
