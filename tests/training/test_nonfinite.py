"""Why a loss is not finite: each cause planted, and told from the others."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tintype.config import ModelConfig
from tintype.models.build import build_network
from tintype.models.network import Network
from tintype.records import Finding
from tintype.runtime import Runtime, start_runtime
from tintype.training.nonfinite import explain_non_finite

FILES = tuple(f"{number}.png" for number in range(12))


def images(seed: int = 0) -> Tensor:
    """Twelve images with a corner that never changes."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8, generator=generator)
    made[:, :, :2, :2] = 7
    return made


def network_of(layers: str = "conv 4 3 relu\nbn\nflatten") -> Network:
    torch.manual_seed(0)
    return build_network(ModelConfig(layers=layers), (1, 8, 8), 2, np.full(1, 0.5), np.full(1, 0.3)).train()


def explain(
    network: Network, batch: Tensor | None = None, losses: tuple[float, ...] = (), rate: float = 1e-3
) -> Finding:
    runtime: Runtime = start_runtime("cpu", 1, 0)
    given = images() if batch is None else batch
    return explain_non_finite(network, given, FILES, losses, rate, runtime)


class PerPixel(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return (values - values.mean(0)) / values.std(0, correction=0)


class PerImage(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        centred = values - values.mean((1, 2, 3), keepdim=True)
        return centred / centred.square().mean((1, 2, 3), keepdim=True).sqrt()


class Cubed(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return (100 * values).exp()


def before(layer: nn.Module, network: Network) -> Network:
    network.body = nn.Sequential(layer, network.body)
    return network


def test_pixels_that_never_change() -> None:
    found = explain(before(PerPixel(), network_of()))
    assert found.code == "non-finite-zero-deviation"
    assert "4 of 64 values of an image" in found.title
    assert "48 infinite of 768 values" in found.evidence[0]  # a rounding error divided by 0


def test_the_same_in_a_forward_of_ones_own() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, values: Tensor) -> Tensor:
            convolved: Tensor = self.conv(values / values.std(0, correction=0))
            return convolved

    network = network_of("flatten")
    network.body = nn.Sequential(Own(), nn.Flatten(), nn.Linear(72, 64))
    assert explain(network).code == "non-finite-zero-deviation"


def test_images_of_a_single_grey_level() -> None:
    batch = images()
    batch[3] = 50
    batch[9] = 200
    found = explain(before(PerImage(), network_of()), batch)
    assert found.code == "non-finite-zero-deviation"
    assert any("3.png, 9.png" in line and "single" in line for line in found.evidence)


def test_a_layer_that_overflows_is_named_though_batchnorm_was_spoiled_by_it() -> None:
    network = before(Cubed(), network_of())
    network(images())  # the pass that gave the loss
    found = explain(network)
    assert found.code == "non-finite-layer"
    assert "layer body.0 gives values that are not" in found.title
    assert "infinite" in found.evidence[0]


def test_a_rate_that_is_too_high_by_its_losses_or_its_weights() -> None:
    network = before(Cubed(), network_of())
    found = explain(network, losses=(0.7, 3.0, 900.0), rate=0.5)
    assert found.code == "non-finite-learning-rate"
    assert "--set fit.learning_rate=0.05" in found.remedy
    large = network_of()
    with torch.no_grad():
        large.head.weight.fill_(1e30)  # type: ignore[operator]
        large.head.bias.fill_(float("nan"))  # type: ignore[operator]
    assert explain(large, losses=(0.7,)).code == "non-finite-learning-rate"


def test_a_gradient_that_is_lost_is_not_blamed_on_the_rate() -> None:
    network = network_of()
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    assert explain(network, losses=(0.7, 0.6)).code == "non-finite-gradient"
    assert explain(network).code == "non-finite-weights"


def test_looking_leaves_the_statistics_as_they_were() -> None:
    network = network_of()
    before_looking = {name: buffer.clone() for name, buffer in network.named_buffers()}
    assert explain(network).code == "non-finite-loss"
    assert all(torch.equal(buffer, before_looking[name]) for name, buffer in network.named_buffers())
