"""The fused frozen part gives the values of the network it was made from."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from drawn import draw_statistics
from torch import nn

from tintype.models.fused import Front, FusedConv, can_fuse, fused
from tintype.models.layers import build_layers, parse_layers
from tintype.models.network import Network, make_head

pytestmark = pytest.mark.skipif(not can_fuse(torch.device("cpu")), reason="PyTorch without oneDNN")


class MapOf(nn.Module):
    def __init__(self, name: str, **arguments: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.model: Any = timm.create_model(name, pretrained=False, **arguments)
        draw_statistics(self.model)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model.forward_features(images)
        return features


@pytest.mark.parametrize(
    ("name", "arguments", "side", "convolutions"),
    [
        ("mobilenetv2_100", {"pad_type": "same"}, 96, 52),  # ReLU6, and padding at the bottom and right
        ("mobilenetv2_100", {"pad_type": "same"}, 97, 52),  # the same on odd sides, where it is on both
        ("tf_efficientnet_b0", {}, 75, 81),  # 5x5 with that padding, SiLU, squeeze and excitation
        ("mobilenetv3_small_100", {}, 64, 52),  # hard swish
        ("resnet18", {}, 64, 20),  # ReLU behind a sum stays
        ("vgg11", {}, 64, 8),  # no normalisation
        ("inception_v3", {}, 96, 94),  # branches
        ("densenet121", {}, 64, 120),  # normalisation before the convolution stays
    ],
)
def test_values_stay(name: str, arguments: dict[str, str], side: int, convolutions: int) -> None:
    network = MapOf(name, **arguments).eval()
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    quick = fused(network, "fp32")
    assert sum(isinstance(part, FusedConv) for part in quick.modules()) == convolutions
    with torch.inference_mode():
        expected = network(images)
        torch.testing.assert_close(quick(images), expected, rtol=1e-3, atol=2e-4 * float(expected.abs().max()))
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in after.items()), "the network is as it was"


def test_bf16_is_as_close_as_autocast_is() -> None:
    network = MapOf("resnet18").eval()
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        exact = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            usual = (network(images).float() - exact).abs().mean()
            error = (fused(network, "bf16")(images).float() - exact).abs().mean()
    assert error < 1.5 * usual


def test_a_module_that_runs_twice_is_not_merged_with_what_follows_one_run() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()

        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            maps = self.relu(self.conv(maps))
            convolved: torch.Tensor = self.conv(maps)
            return convolved

    network = Twice().eval()
    images = torch.randn(1, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(fused(network, "fp32")(images), network(images))


def test_a_front_standardises_as_the_network_does() -> None:
    body = build_layers(parse_layers("conv 4 3; bn; relu; gap"), (3, 8, 8))
    network = Network(body, make_head(4, 2, "softmax"), "softmax", (3, 8, 8), [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]).eval()
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    with torch.inference_mode():
        expected = network.features(images)
        torch.testing.assert_close(Front(body, network.mean, network.std)(images), expected)
        torch.testing.assert_close(Front(fused(body, "fp32"), network.mean, network.std)(images), expected)
