"""Layers, boundaries and cuts of a backbone: the two parts must be the whole, wherever it is cut."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tintype.errors import ConfigError
from tintype.models import zoo
from tintype.models.graph import (
    cut_behind,
    find_boundary,
    freeze_of_depth,
    frozen_modules,
    layer_depths,
    layers_of,
    split_backbone,
    traced,
)
from tintype.models.layers import build_layers, parse_layers


class MapOf(nn.Module):
    """timm's feature map of a network."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.model: Any = timm.create_model(name, pretrained=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model.forward_features(images)
        return features


def backbone_named(name: str) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    if name == "resnet20":
        return build_layers(parse_layers(zoo.find(name).layers), (3, 32, 32)).eval(), 32
    module = MapOf(name).eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):  # as they come from training, not as they are made
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    return module, 64


RESNET, SIDE = backbone_named("resnet20")
LAYERS = ["conv1", *(f"residual{stage}.{block}.conv{n}" for stage in (1, 2, 3) for block in (0, 1, 2) for n in (1, 2))]


def test_layers_are_the_modules_with_weights_in_the_order_they_run() -> None:
    graph_module = traced(RESNET)
    assert graph_module is not None
    assert [layer.name for layer in layers_of(graph_module)] == LAYERS


@given(frozen=st.integers(0, 19))
@settings(deadline=None, max_examples=20)
def test_both_parts_together_are_the_whole_at_every_number_of_layers(frozen: int) -> None:
    boundary = find_boundary(RESNET, frozen)
    assert (boundary.frozen, boundary.layers) == (frozen, 19)
    if frozen == 0:
        assert boundary.cut == -1
        return
    front, back = split_backbone(RESNET, boundary)
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        whole, carried = RESNET(images), front(images)
        assert torch.equal(carried if back is None else back(carried), whole)
    # Inside a block the cut snaps to before it, and no frozen layer is lost from the frozen set.
    names = {name for name in frozen_modules(RESNET, boundary) if name in LAYERS or name == ""}
    assert names == ({""} if frozen == 19 else set(LAYERS[:frozen]))


@pytest.mark.parametrize("name", ["mobilenetv2_100", "inception_v3", "densenet121", "efficientnet_b0"])
def test_timms_networks_are_cut_where_one_tensor_goes_on(name: str) -> None:
    backbone, _ = backbone_named(name)
    images = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        whole = backbone(images)
        count = find_boundary(backbone, "all").layers
        for frozen in (1, count // 3, count - 2):
            boundary = find_boundary(backbone, frozen)
            front, back = split_backbone(backbone, boundary)
            assert back is not None
            assert torch.equal(back(front(images)), whole)


def test_the_parts_share_the_parameters_under_the_same_names() -> None:
    front, back = split_backbone(RESNET, find_boundary(RESNET, "residual2"))
    assert back is not None
    own = dict(RESNET.named_parameters())
    parts = dict(front.named_parameters()) | dict(back.named_parameters())
    assert parts.keys() == own.keys()
    assert all(parts[name] is own[name] for name in own)
    assert not set(dict(front.named_parameters())) & set(dict(back.named_parameters()))


@pytest.mark.parametrize(
    ("freeze", "frozen", "name"),
    [("none", 0, ""), ("all", 19, "residual3.2.conv2"), ("residual1", 7, "residual1.2.conv2"), ("conv1", 1, "conv1"),
     ("residual2.0.conv1", 8, "residual2.0.conv1"), ("gap1", 19, "residual3.2.conv2")],
)  # fmt: skip
def test_what_a_user_writes(freeze: str, frozen: int, name: str) -> None:
    boundary = find_boundary(RESNET, freeze)
    assert (boundary.frozen, boundary.name, boundary.is_everything) == (frozen, name, frozen == 19)


@pytest.mark.parametrize("freeze", ["residual9", 20, -1, ""])
def test_a_layer_that_is_not_there_is_one_line_with_what_there_is(freeze: int | str) -> None:
    with pytest.raises(ConfigError, match=r"residual1|19 layers") as caught:
        find_boundary(RESNET, freeze)
    assert "\n" not in str(caught.value)


def test_depth_counts_from_the_end() -> None:
    assert freeze_of_depth(RESNET, 0) == 19
    assert freeze_of_depth(RESNET, 5) == 14
    assert freeze_of_depth(RESNET, "all") == "none"
    with pytest.raises(ConfigError, match="0 to 19"):
        freeze_of_depth(RESNET, 20)


def test_depths_of_parameters_count_the_layers_behind_them() -> None:
    depths = layer_depths(RESNET)
    assert depths["conv1.weight"] == 18
    assert depths["bn1.weight"] == 18
    assert depths["residual3.2.conv2.weight"] == 0
    assert set(depths) == {name for name, _ in RESNET.named_parameters()}


def test_a_network_can_be_used_up_to_a_stage() -> None:
    images = torch.randn(2, 3, 32, 32)
    part = cut_behind(RESNET, "residual2")
    with torch.inference_mode():
        expected = images
        for name, module in RESNET.named_children():
            expected = module(expected)
            if name == "residual2":
                break
        assert torch.equal(part(images), expected)
    assert not any(name.startswith("residual3") for name, _ in part.named_parameters())
    with pytest.raises(ConfigError, match="several tensors"):
        cut_behind(RESNET, "residual2.1.conv1")


def test_code_that_cannot_be_followed_is_frozen_whole_or_not_at_all() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(3, 3)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            dense: torch.Tensor = self.dense(values)
            return dense if values.sum() > 0 else -dense

    module = Branching()
    assert traced(module) is None
    assert find_boundary(module, "all").is_everything
    assert find_boundary(module, "none").frozen == 0
    assert freeze_of_depth(module, 0) == "all"
    with pytest.raises(ConfigError, match="whole or not at all"):
        find_boundary(module, 1)
