"""A look inside a trained network: figures against their definitions, and nothing changed by looking."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tintype.config import DataConfig, ModelConfig
from tintype.data.cache import ImageCache, build_cache
from tintype.data.sources import read_index
from tintype.evaluation.health import EXAMINED_IMAGES, examine, note_weights
from tintype.models.build import build_network
from tintype.models.network import Network
from tintype.records import Health, silent
from tintype.runtime import start_runtime

LAYERS = "conv 4 3 relu\nbn\npool 2\nflatten\ndense 8 relu\ndropout 0.5\n"


@pytest.fixture
def cache(shapes_folder: Path) -> ImageCache:
    config = DataConfig(source=str(shapes_folder), image_size=24, color="rgb", resize="stretch")
    return build_cache(read_index(config), config, silent)


def network_of(layers: str = LAYERS) -> Network:
    torch.manual_seed(0)
    return build_network(ModelConfig(layers=layers), (3, 24, 24), 2, np.full(3, 0.3), np.full(3, 0.3))


def look(network: Network, cache: ImageCache, **options: object) -> Health:
    rows = np.arange(len(cache.index), dtype=np.int64)
    return examine(network, cache, network, cache, rows, start_runtime("cpu", 1, 0), **options)  # type: ignore[arg-type]


def images_of(cache: ImageCache) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.array(cache.images)).permute(0, 3, 1, 2), torch.from_numpy(cache.index.labels)


def test_looking_changes_nothing(cache: ImageCache) -> None:
    network = network_of()
    network.train()
    next(network.body.children()).eval()
    modes = [module.training for module in network.modules()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.head.weight.grad = torch.ones_like(network.head.weight)  # type: ignore[arg-type]
    random = torch.get_rng_state()
    first = look(network, cache)
    assert look(network, cache) == first
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert [name for name, parameter in network.named_parameters() if parameter.grad is not None] == ["head.weight"]
    assert torch.equal(network.head.weight.grad, torch.ones_like(network.head.weight))  # type: ignore[arg-type]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_the_figures_are_those_of_their_definitions(cache: ImageCache) -> None:
    network = network_of("conv 4 3 stride=2 pad=valid\nbn\nrelu\nflatten\ndense 8 relu\n")
    health = look(network, cache)
    images, labels = images_of(cache)
    assert health.images == len(images) == 80
    standardised = (images / 255 - 0.3) / 0.3
    for seen in (health.training_input, health.inference_input):
        assert seen.kind == "Conv2d"
        assert seen.mean == pytest.approx(standardised.mean().item(), abs=1e-4)
        assert seen.deviation == pytest.approx(standardised.std().item(), rel=1e-3)
        assert seen.high == pytest.approx(standardised.max().item(), rel=1e-4)
    rows = {row.name: row for row in health.layers}
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    with torch.no_grad():
        before = next(network.body.children())(standardised)
    found = next(row for row in health.layers if row.kind == "BatchNorm2d")
    gaps = before.mean((0, 2, 3)).abs() / (1 + norm.eps) ** 0.5  # fresh statistics: mean 0, variance 1
    assert found.mean_gap == pytest.approx(gaps.median().item(), rel=1e-3)
    assert found.deviation_ratio == pytest.approx(before.std((0, 2, 3)).median().item(), rel=1e-2)
    assert found.batch_statistics
    network.eval()
    with torch.no_grad():
        logits = network(images)
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    assert health.inference_loss == pytest.approx(cross_entropy(two, labels).item(), rel=1e-4)
    assert health.inference_accuracy == pytest.approx((two.argmax(1) == labels).float().mean().item())
    network.train()
    logits = network(images)
    cross_entropy(torch.cat([torch.zeros_like(logits), logits], 1), labels).backward()  # type: ignore[no-untyped-call]
    head = network.head
    assert isinstance(head, nn.Linear)
    assert head.weight.grad is not None
    assert head.bias.grad is not None
    norm_of_gradient = torch.cat([head.weight.grad.flatten(), head.bias.grad]).norm()
    expected = norm_of_gradient / torch.cat([head.weight.flatten(), head.bias]).norm()
    assert rows["output"].gradient == pytest.approx(expected.item(), rel=1e-3)
    assert [row.name for row in health.layers][-1] == "output"


def test_what_moved_is_estimated_from_a_sample(cache: ImageCache) -> None:
    network = network_of("flatten\ndense 64 relu\n")  # 110,592 weights, of which 4,096 are remembered
    first = note_weights(network)
    assert max(len(values) for values in first.values.values()) == 4096
    dense = next(module for module in network.modules() if isinstance(module, nn.Linear))
    before = dense.weight.detach().clone()
    with torch.no_grad():
        dense.weight.add_(torch.randn_like(dense.weight) * 0.01)
    expected = ((dense.weight - before).norm() / before.norm()).item()
    rows = {row.kind + row.name: row for row in look(network, cache, first=first).layers}
    moved = next(row.moved for name, row in rows.items() if name.startswith("Linear") and "output" not in name)
    assert moved == pytest.approx(expected, rel=0.05)
    assert rows["Linearoutput"].moved == 0
    assert all(row.moved is None for row in look(network, cache).layers)


def test_weights_that_come_out_the_same_were_loaded(cache: ImageCache) -> None:
    def drawn(seed: int) -> Network:
        torch.manual_seed(seed)
        network = build_network(ModelConfig(layers=LAYERS), (3, 24, 24), 2, np.full(3, 0.3), np.full(3, 0.3))
        convolution, dense, *_ = (part for part in network.modules() if isinstance(part, (nn.Conv2d, nn.Linear)))
        convolution.weight.data = torch.arange(float(convolution.weight.numel())).view_as(convolution.weight) / 100
        convolution.requires_grad_(False)
        dense.requires_grad_(False)
        return network

    network = drawn(0)
    health = look(network, cache, first=note_weights(network, drawn(1)))
    loaded = {row.kind: row.loaded for row in health.layers if row.name != "output"}
    assert (loaded["Conv2d"], loaded["Linear"], loaded["BatchNorm2d"]) == (True, False, None)
    assert [row.loaded for row in health.layers if row.name == "output"] == [None]  # it trains
    assert all(row.loaded is None for row in look(network, cache, first=note_weights(network)).layers)


def test_dead_layers_and_frozen_ones(cache: ImageCache) -> None:
    network = network_of("flatten\ndense 8 relu\n")
    dense = next(module for module in network.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        dense.bias[:6] = -1e4
    dense.requires_grad_(False)
    rows = {row.kind: row for row in look(network, cache).layers if row.name != "output"}
    assert rows["ReLU"].dead == pytest.approx(0.75)
    assert (rows["Linear"].trains, rows["Linear"].gradient) == (False, None)
    assert rows["Linear"].parameters == sum(parameter.numel() for parameter in dense.parameters())


def test_a_frozen_part_is_looked_at_as_it_trains(cache: ImageCache) -> None:
    network = network_of("conv 4 3\nbn\nrelu\nflatten\ndense 8 relu\n")
    norm_name = next(name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d))
    network.freeze([norm_name])
    row = next(row for row in look(network, cache).layers if row.kind == "BatchNorm2d")
    assert (row.trains, row.batch_statistics) == (False, False)


def test_a_module_that_differs_by_mode_is_seen(cache: ImageCache) -> None:
    class Doubles(nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return 2 * values if self.training else values

    network = network_of("flatten\ndense 8 relu\n")
    network.body = nn.Sequential(Doubles(), network.body)
    health = look(network, cache)
    assert health.training_input.deviation == pytest.approx(2 * health.inference_input.deviation, rel=1e-4)


def test_large_images_are_few_and_figures_stay_finite(cache: ImageCache) -> None:
    network = network_of("flatten\ndense 8 relu\n")
    assert look(network, cache, most=4).images == 4
    assert EXAMINED_IMAGES == 128
    with torch.no_grad():
        next(network.parameters()).fill_(float("inf"))
    health = look(network, cache)
    assert np.isfinite(health.inference_loss)
    assert np.isfinite(health.training_loss)
