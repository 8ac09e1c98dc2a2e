"""The layer table."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tintype.config import ModelConfig
from tintype.models.build import build_network
from tintype.models.network import Network
from tintype.models.summary import summarize


def test_rows_of_the_labs_cat_network() -> None:
    summary = summarize(build_network(ModelConfig(name="cats_dogs"), (3, 180, 180), 2))
    rows = [(row.name, row.kind, row.output_shape, row.parameters) for row in summary.layers]
    assert rows[:8] == [
        ("conv1", "conv 5x5", (64, 180, 180), 4_864),
        ("pool1", "max pool 3x3 stride 2", (64, 90, 90), 0),
        ("relu1", "relu", (64, 90, 90), 0),
        ("bn1", "batch norm", (64, 90, 90), 256),
        ("conv2", "conv 5x5", (64, 90, 90), 102_464),
        ("pool2", "max pool 3x3 stride 2", (64, 45, 45), 0),
        ("relu2", "relu", (64, 45, 45), 0),
        ("bn2", "batch norm", (64, 45, 45), 256),
    ]
    assert ("dropout1", "dropout 0.5", (384,), 0) in rows
    assert rows[-1] == ("output", "dense", (1,), 33)
    assert [row.trainable_parameters for row in summary.layers if row.kind == "batch norm"] == [128] * 3


def test_totals_are_the_sums_of_the_rows_and_count_every_weight() -> None:
    network = build_network(ModelConfig(layers="residual 8 stride=2 repeat=2\ngap\nbn"), (3, 8, 8), 4)
    summary = summarize(network)
    weights = sum(parameter.numel() for parameter in network.parameters())
    statistics = sum(buffer.numel() for name, buffer in network.named_buffers() if "running" in name)
    assert summary.total_parameters == weights + statistics == sum(row.parameters for row in summary.layers)
    assert summary.trainable_parameters == weights
    assert "residual1.0.shortcut.conv" in [row.name for row in summary.layers]


def test_frozen_weights_are_not_trainable() -> None:
    network = build_network(ModelConfig(layers="conv 4 3\ngap\ndense 5"), (3, 8, 8), 3)
    network.body.get_submodule("conv1").requires_grad_(False)
    summary = summarize(network)
    assert summary.layers[0].trainable_parameters == 0
    assert summary.non_trainable_parameters == summary.layers[0].parameters == 4 * 27 + 4


class Odd(nn.Module):
    """A parameter of its own, a layer used twice, tied weights, a layer never used, and several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(12))
        self.twice = nn.Linear(12, 12)
        self.tied = nn.Linear(12, 12, bias=False)
        self.tied.weight = self.twice.weight
        self.unused = nn.Linear(2, 3)
        self.recurrent = nn.GRU(4, 6, batch_first=True)
        self.last = nn.Linear(6, 3)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = self.tied(self.twice(self.twice(images_NCHW.flatten(1) * self.scale)))
        logits: Tensor = self.last(self.recurrent(x.view(-1, 3, 4))[0][:, -1])
        return logits


def test_users_module_of_any_kind() -> None:
    module = Odd()
    summary = summarize(Network(module, nn.Identity(), "softmax", (3, 2, 2)))
    rows = {row.name: row for row in summary.layers}
    assert summary.total_parameters == sum(parameter.numel() for parameter in module.parameters())
    assert (rows["twice"].parameters, rows["tied"].parameters, rows["unused"].parameters) == (156, 0, 9)
    assert rows["unused"].output_shape == ()
    assert rows["recurrent"].output_shape == (3, 6)
    assert rows["recurrent"].kind == "gru"
    assert rows["body"].parameters == 12
    assert rows["body"].kind == "Odd"


def test_mode_statistics_and_random_state_are_as_before() -> None:
    network = build_network(ModelConfig(layers="conv 4 3\nbn\ndropout 0.5\ngap"), (3, 8, 8), 3)
    frozen = network.body.get_submodule("bn1").eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    summarize(network, (3, 16, 16))
    assert network.training
    assert not frozen.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
