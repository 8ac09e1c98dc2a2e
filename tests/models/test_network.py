"""The network class: preprocessing inside, heads, probabilities."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit, softmax
from torch import Tensor, nn

from tintype.config import ModelConfig
from tintype.models.backbones import load_backbone
from tintype.models.blocks import Flatten
from tintype.models.build import backbone_of, build_network
from tintype.models.graph import find_boundary, split_backbone
from tintype.models.network import LEAST_DEVIATION, Network, OutputKind, Tail, make_head, output_kind

SHAPE = (3, 4, 5)


def network(
    output: OutputKind = "softmax",
    mean: NDArray[np.float32] | None = None,
    std: NDArray[np.float32] | None = None,
) -> Network:
    torch.manual_seed(0)
    return Network(Flatten(), make_head(60, 3, output), output, SHAPE, mean, std)


def images(channels_last: bool = True) -> Tensor:
    tensor = torch.randint(0, 256, (6, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    return tensor.contiguous(memory_format=torch.channels_last) if channels_last else tensor


@pytest.mark.parametrize("per", ["channel", "pixel"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_standardisation_has_mean_0_and_deviation_1_and_is_channels_last(per: str, channels_last: bool) -> None:
    x = images(channels_last).numpy() / 255
    axes = (0, 2, 3) if per == "channel" else 0
    mean, std = x.mean(axis=axes, dtype=np.float32), x.std(axis=axes, dtype=np.float32)
    result = network(mean=mean, std=std).standardize(images(channels_last))
    np.testing.assert_allclose(result.mean(dim=axes), 0, atol=1e-5)
    np.testing.assert_allclose(result.std(dim=axes, correction=0), 1, atol=1e-4)
    assert result.dtype == torch.float32
    if channels_last:
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_a_network_is_placed_with_its_channels_last_whatever_else_it_keeps() -> None:
    convolution = nn.Conv2d(3, 8, 3, padding=1)
    body = nn.Sequential(convolution, nn.Flatten())
    body.register_buffer("mask", torch.arange(48.0).view(2, 1, 2, 3, 4))  # of five axes, as Swin keeps them
    placed = Network(body, make_head(160, 3, "softmax"), "softmax", SHAPE)
    plain = copy.deepcopy(placed)(images())
    assert placed.place(torch.device("cpu")) is placed
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert not convolution.weight.is_contiguous()
    torch.testing.assert_close(placed(images()), plain)
    with pytest.raises(RuntimeError, match="rank 4"):  # why Module.to does not do; once it does, place can go
        placed.to(memory_format=torch.channels_last)


def test_without_statistics_images_come_in_the_scale_0_to_1() -> None:
    torch.testing.assert_close(network().standardize(images()), images().float() / 255)


def test_uint8_and_float_images_are_the_same_and_stay_as_they_are() -> None:
    net = network(mean=np.array([0.4, 0.5, 0.6], np.float32), std=np.array([0.2, 0.3, 0.1], np.float32))
    as_float = images().float()
    torch.testing.assert_close(net(images()), net(as_float))
    assert torch.equal(as_float, images().float())


def test_a_pixel_that_does_not_vary_becomes_zero_and_is_counted() -> None:
    """keras#1880: dividing by a deviation of 0 gives NaN in every later layer."""
    x = images()
    x[:, :, 0, 0] = 200
    scaled = x.numpy() / np.float32(255)
    net = network(mean=scaled.mean(axis=0), std=scaled.std(axis=0))
    standardised = net.standardize(x)
    assert net.zero_deviations == 3
    assert standardised[:, :, 0, 0].abs().max() < 1e-5
    assert standardised.isfinite().all()
    assert standardised[:, :, 0, 1].abs().max() > 0.1


def test_what_varies_by_less_than_a_grey_level_counts_as_constant() -> None:
    std = np.array([LEAST_DEVIATION * 0.99, LEAST_DEVIATION * 1.01, 0.2], np.float32)
    assert network(mean=np.zeros(3, np.float32), std=std).zero_deviations == 1


def test_statistics_travel_with_the_weights() -> None:
    mean, std = np.array([0.4, 0.5, 0.6], np.float32), np.array([0.2, 0.3, 0.1], np.float32)
    trained, fresh = network(mean=mean, std=std), network()
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(images()), trained(images()))


@pytest.mark.parametrize("shape", [(2,), (3, 1), (5, 4, 3), (1, 1, 1)])
def test_statistics_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have shape \(3,\) or \(3, 4, 5\)"):
        network(mean=np.zeros(shape, np.float32))


def test_mean_and_deviation_must_be_of_one_kind() -> None:
    with pytest.raises(ValueError, match="mean and std must have one shape"):
        network(mean=np.zeros(3, np.float32), std=np.ones(SHAPE, np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_probabilities_against_scipy(dtype: torch.dtype) -> None:
    logits = (torch.randn(50, 3, generator=torch.Generator().manual_seed(1)) * 30).to(dtype)
    result = network().probabilities(logits)
    np.testing.assert_allclose(result, softmax(logits.float().numpy(), axis=1), rtol=1e-4, atol=1e-30)
    one = network("sigmoid").probabilities(logits[:, :1])
    positive = expit(logits[:, 0].double().numpy())
    negative = expit(-logits[:, 0].double().numpy())
    np.testing.assert_allclose(one, np.stack([negative, positive], axis=1), rtol=1e-4, atol=1e-30)
    assert result.dtype == one.dtype == torch.float32


@pytest.mark.parametrize(
    ("classes", "output", "kind", "units"),
    [(2, "auto", "sigmoid", 1), (2, "softmax", "softmax", 2), (3, "auto", "softmax", 3)],
)
def test_output_layer_of_the_classes(classes: int, output: str, kind: str, units: int) -> None:
    found = output_kind(classes, "softmax" if output == "softmax" else "auto")
    assert found == kind
    net = network()
    net.reset_classifier(classes, "softmax" if output == "softmax" else "auto")
    assert net.output == kind
    assert net(images()).shape == (6, units)


def test_reset_classifier_keeps_the_body() -> None:
    net = network()
    before = net.features(images())
    net.reset_classifier(7)
    assert torch.equal(net.features(images()), before)
    torch.testing.assert_close(net(images()), net.head(before))


def test_reset_classifier_needs_a_head() -> None:
    net = Network(nn.Sequential(Flatten(), nn.Linear(60, 3)), nn.Identity(), "softmax", SHAPE)
    with pytest.raises(ValueError, match="only a network with a linear head"):
        net.reset_classifier(2)


def test_l2_penalties_belong_to_the_copy_that_is_asked() -> None:
    torch.manual_seed(0)
    net = Network(nn.Sequential(Flatten()), make_head(60, 3, "softmax"), "softmax", SHAPE, l2={"head.weight": 0.1})
    duplicate = copy.deepcopy(net)
    [(parameter, factor)] = duplicate.l2_penalties()
    assert factor == 0.1
    assert isinstance(duplicate.head, nn.Linear)
    assert parameter is duplicate.head.weight


def transfer_network(freeze: str | int = "all", head: str = "") -> Network:
    torch.manual_seed(0)
    config = ModelConfig(backbone="resnet20", weights="none", freeze=freeze, head=head or None)
    return build_network(config, (3, 32, 32), 3)


IMAGES = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))


def test_frozen_layers_say_the_same_in_training_as_in_evaluation_and_never_change() -> None:
    net = transfer_network("residual2")
    backbone = net.body.get_submodule("backbone")
    front, _ = split_backbone(backbone, find_boundary(backbone, "residual2"))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    in_evaluation = front(net.eval().standardize(IMAGES))
    net.train()
    assert torch.equal(front(net.standardize(IMAGES)), in_evaluation)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        net(IMAGES).logsumexp(1).mean().backward()
        optimizer.step()
    assert torch.equal(front(net.standardize(IMAGES)), in_evaluation)
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    frozen = ("body.backbone.conv1", "body.backbone.bn1", "body.backbone.residual1", "body.backbone.residual2")
    assert not any(name.startswith(frozen) for name in changed)
    assert any(name.startswith("body.backbone.residual3") and "running_mean" in name for name in changed)
    assert "head.weight" in changed


def test_statistics_that_were_folded_into_the_weights_are_held_while_the_weights_train() -> None:
    net = transfer_network("none")
    norms = {name: module for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    unlike = next(iter(norms))
    norms[unlike].running_mean.fill_(0.1)  # type: ignore[union-attr]
    list(norms.values())[1].running_var.fill_(1 - 1e-5)  # type: ignore[union-attr] # with eps it is 1
    assert net.hold_folded_statistics() == len(norms) - 1
    for part in (net, copy.deepcopy(net)):
        in_training = {name for name, module in part.train().named_modules() if module.training}
        assert norms.keys() & in_training == {unlike}
    net(IMAGES).logsumexp(1).mean().backward()
    for name, module in norms.items():
        assert module.weight.grad is not None
        assert bool((module.running_mean == 0).all()) == (name != unlike)  # type: ignore[union-attr]


@pytest.mark.data
def test_the_published_mobilenet_holds_all_of_its_statistics(shared_weights: Callable[[str], Path]) -> None:
    config = ModelConfig(backbone="mobilenetv2_100", backbone_arguments={"pad_type": "same"})
    net = build_network(config, (3, 64, 64), 20)
    backbone = backbone_of(net)
    assert backbone is not None
    load_backbone(backbone, shared_weights("mobilenetv2_100_imagenet"))
    assert net.hold_folded_statistics() == 52


def test_what_is_frozen_has_no_gradient_and_can_be_thawed() -> None:
    net = transfer_network("all", "dense 8 relu")
    assert {name for name, p in net.named_parameters() if p.requires_grad} == {
        "body.dense1.weight", "body.dense1.bias", "head.weight", "head.bias",
    }  # fmt: skip
    net.freeze([])
    assert all(parameter.requires_grad for parameter in net.parameters())
    net.train()
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize("freeze", ["all", "residual1", 4])
def test_a_tail_on_features_is_the_network_on_images(freeze: str | int) -> None:
    net = transfer_network(freeze, "dense 8 relu; dropout 0.5").eval()
    backbone = net.body.get_submodule("backbone")
    front, back = split_backbone(backbone, find_boundary(backbone, freeze))
    with torch.inference_mode():
        features = front(net.standardize(IMAGES))
        tail = Tail(net, back, tuple(features.shape[1:])).eval()
        assert torch.equal(tail(features), net(IMAGES))
    assert tail.train().frozen == tuple(name for name in net.frozen if name in dict(tail.named_modules()))
    assert all(p is dict(net.named_parameters())[name] for name, p in tail.named_parameters())
