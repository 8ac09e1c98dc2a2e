"""Architectures: they build at every size, stay within their limits, and begin at what is known to work."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tintype.config import ModelConfig
from tintype.models import zoo
from tintype.models.build import build_network
from tintype.tuning.architectures import (
    MOST_PARAMETERS,
    MOST_WORK,
    Architecture,
    cost_of,
    starting_parameters,
    suggest_architecture,
    within_limits,
)
from tintype.tuning.space import Images

filters = st.integers(1, 24).map(lambda count: 8 * count)
architectures = st.builds(
    Architecture,
    family=st.sampled_from(["plain", "residual"]),
    stem=filters,
    stem_kernel=st.sampled_from([3, 5]),
    reduction=st.sampled_from([1, 2, 4]),
    widths=st.lists(filters, min_size=1, max_size=5).map(tuple),
    blocks=st.integers(1, 3),
    kernel=st.sampled_from([3, 5]),
    norm=st.sampled_from(["bn", "none"]),
    pooling=st.sampled_from(["stride", "max", "avg"]),
    head=st.sampled_from(["gap", "gmp", "flatten"]),
    dense=st.sampled_from([0, 64]),
    dropout=st.sampled_from([0.0, 0.3]),
)


def asked(images: Images, seed: int = 0) -> optuna.Trial:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()


def started(images: Images, number: int = 0) -> Architecture:
    trial = optuna.trial.FixedTrial(dict(starting_parameters(images)[number]))
    return suggest_architecture(trial, images)  # type: ignore[arg-type]  # Optuna's own stand-in for a trial


@settings(max_examples=25)
@given(architectures, st.integers(8, 224), st.sampled_from([1, 3]))
def test_every_architecture_classifies_images_of_every_size(made: Architecture, size: int, channels: int) -> None:
    """Counted on shapes alone: no weight is allocated. No map gets below 3 pixels a side."""
    sides: list[int] = []

    def note(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        if output.ndim == 4:
            sides.append(min(output.shape[2:]))

    with torch.device("meta"), torch.no_grad():
        network = build_network(ModelConfig(layers=made.layers(size)), (channels, size, size), 7)
        for module in network.modules():
            module.register_forward_hook(note)
        logits = network.eval()(torch.empty(2, channels, size, size, dtype=torch.uint8))
    assert logits.shape == (2, 7)
    assert min(sides) >= 3


@settings(max_examples=10)
@given(architectures, st.integers(8, 48))
def test_an_architecture_for_large_images_builds_for_smaller_ones(made: Architecture, size: int) -> None:
    text = made.layers(224)
    with torch.device("meta"), torch.no_grad():
        network = build_network(ModelConfig(layers=text), (3, size, size), 3)
        assert network.eval()(torch.empty(1, 3, size, size, dtype=torch.uint8)).shape == (1, 3)


def test_an_architecture_is_trained_by_a_step() -> None:
    made = started(Images(16, 3, 500, 4))
    network = build_network(ModelConfig(layers=made.layers(16)), (3, 16, 16), 4)
    logits = network(torch.zeros(4, 3, 16, 16, dtype=torch.uint8))
    logits.square().mean().backward()
    assert all(weight.grad is not None for weight in network.parameters())


@pytest.mark.parametrize(
    ("size", "channels", "images"),
    [(8, 1, 300), (8, 3, 300), (28, 1, 60_000), (40, 1, 100), (64, 3, 10_000), (224, 1, 99)],
)
def test_what_is_drawn_is_within_the_limits(size: int, channels: int, images: int) -> None:
    shown = Images(size, channels, images, 2)
    default = cost_of(zoo.default_layers(size, channels, 10_000, 2), shown.shape)
    drawn = [suggest_architecture(asked(shown, seed), shown) for seed in range(10)]
    for made in drawn:
        cost = cost_of(made.layers(size), shown.shape)
        assert cost.parameters <= MOST_PARAMETERS
        assert cost.work <= MOST_WORK * default.work
    assert len(set(drawn)) == len(drawn)
    assert {made.family for made in drawn} == {"plain", "residual"}


def test_even_the_largest_can_be_made_narrow_enough() -> None:
    for size, channels in [(8, 1), (28, 1), (40, 1), (47, 3), (224, 3)]:
        widest = Architecture("plain", 96, 5, 1, (512,) * 5, 3, kernel=5, head="flatten", dense=512)
        shown = Images(size, channels, 100, 2)
        made = within_limits(widest, shown)
        assert made.widths[0] < 512
        assert replace(made, widths=widest.widths, stem=96, dense=512) == widest, "nothing else is changed"


def test_work_and_parameters_are_counted() -> None:
    """Two convolutions by hand: multiply-adds are weights times places."""
    cost = cost_of("conv 8 3 stride=2 bias=no\nconv 4 1\ngap\ndense 5\n", (3, 16, 16))
    assert cost.parameters == 3 * 8 * 9 + (8 * 4 + 4) + (4 * 5 + 5)
    assert cost.work == 3 * 8 * 9 * 64 + 8 * 4 * 64 + 4 * 5


@pytest.mark.parametrize("size", [32, 64, 128, 224])
def test_a_search_on_colour_images_begins_at_the_default(size: int) -> None:
    images = Images(size, 3, 10_000, 20)
    assert started(images).layers(size) == zoo.default_layers(size, 3, 10_000, 20)


@pytest.mark.parametrize(("size", "channels"), [(8, 3), (20, 1), (28, 1), (48, 3), (96, 3), (160, 1)])
def test_elsewhere_a_search_begins_close_to_the_default(size: int, channels: int) -> None:
    images = Images(size, channels, 10_000, 10)
    begun = cost_of(started(images).layers(size), images.shape)
    default = cost_of(zoo.default_layers(size, channels, 10_000, 10), images.shape)
    assert 0.5 < begun.work / default.work < 2


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (64, 3), (8, 3), (224, 3)])
def test_a_search_begins_with_networks_of_both_families(size: int, channels: int) -> None:
    images = Images(size, channels, 10_000, 10)
    begun = [started(images, number) for number in range(len(starting_parameters(images)))]
    assert len(set(begun)) == len(begun)
    assert {made.family for made in begun} == {"plain", "residual"}
    vgg = begun[-1].layers(size)
    assert "flatten\ndense" in vgg
    assert "pool 2" in vgg or size < 12
