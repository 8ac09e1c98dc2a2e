"""From settings to networks, users' own modules included."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tintype.config import ModelConfig
from tintype.errors import ConfigError, LayerError
from tintype.models.build import build_network

TEXT = "conv 4 3 relu l2=0.5\nbn\nflatten\ndense 6 relu"


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the user's in the working folder, which is not on the import path."""
    source = """
import torch
from torch import nn

def net(input_shape, classes):
    channels, height, width = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes))

def one_unit(shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 1))

def by_classes(num_classes, width=7, *args, **kwargs):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))

def nothing():
    return None

def greedy(input_shape, depth):
    return nn.Identity()

def broken(classes):
    raise RuntimeError("no\\nluck.")

def map_out():
    return nn.Conv2d(3, 2, 1)

def wrong_input():
    return nn.Linear(999, 2)

def pair():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x
    return Pair()

def frozen():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)).requires_grad_(False)

number = 3
"""
    (tmp_path / "tintype_users_net.py").write_text(source)
    (tmp_path / "tintype_users_bad.py").write_text("import tintype_no_such_library\n")
    monkeypatch.chdir(tmp_path)
    yield "tintype_users_net"
    for name in ("tintype_users_net", "tintype_users_bad"):
        sys.modules.pop(name, None)


def test_text_and_name_build_alike() -> None:
    from_text = build_network(ModelConfig(layers="flatten\ndense 128 relu\ndropout 0.2"), (1, 28, 28), 10)
    from_name = build_network(ModelConfig(name="mlp_128"), (1, 28, 28), 10)
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (from_text, from_name)]
    assert shapes[0] == shapes[1]


def test_layers_win_over_the_name() -> None:
    network = build_network(ModelConfig(name="cats_dogs", layers="gap"), (3, 8, 8), 5)
    assert sum(parameter.numel() for parameter in network.parameters()) == 3 * 5 + 5


@pytest.mark.parametrize(("output", "units"), [("auto", 1), ("softmax", 2)])
def test_two_classes(output: str, units: int) -> None:
    config = ModelConfig.model_validate({"layers": TEXT, "output": output})
    network = build_network(config, (3, 8, 8), 2)
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    assert network(images).shape == (4, units)
    assert network.probabilities(network(images)).shape == (4, 2)


def test_penalties_and_memory_format() -> None:
    network = build_network(ModelConfig(layers=TEXT), (3, 8, 8), 3)
    [(parameter, factor)] = network.l2_penalties()
    assert (parameter.shape, factor) == ((4, 3, 3, 3), 0.5)
    assert parameter.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("standardize", ["none", "channel", "pixel"])
def test_a_finished_network_is_rebuilt_from_settings_alone(standardize: str) -> None:
    config = ModelConfig.model_validate({"layers": TEXT, "standardize": standardize})
    statistics = {
        "none": (None, None),
        "channel": (np.full(3, 0.4), np.full(3, 0.2)),
        "pixel": (np.full((3, 8, 8), 0.4), np.full((3, 8, 8), 0.2)),
    }[standardize]
    trained = build_network(config, (3, 8, 8), 4, *statistics).eval()
    rebuilt = build_network(config, (3, 8, 8), 4).eval()
    rebuilt.load_state_dict(trained.state_dict())
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(trained(images), rebuilt(images))


def test_weights_are_repeatable_by_seed() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(11)
        states.append(build_network(ModelConfig(name="resnet20"), (3, 32, 32), 10).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    ("config", "classes", "error", "message"),
    [
        (ModelConfig(), 3, ConfigError, "neither name nor layers is set"),
        (ModelConfig(name="resnet21"), 3, ConfigError, "Did you mean resnet"),
        (ModelConfig(layers=TEXT), 1, ConfigError, "at least two classes. Got 1."),
        (ModelConfig(layers="conv 3 3"), 3, LayerError, "ends in a map"),
        (ModelConfig(layers="dense 3"), 3, LayerError, "layers, line 1: `dense 3`"),
    ],
)
def test_what_cannot_be_built(config: ModelConfig, classes: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_network(config, (3, 8, 8), classes)


@pytest.mark.parametrize(
    ("function", "classes", "output", "units"),
    [
        ("net", 5, "softmax", 5),
        ("net", 2, "softmax", 2),
        ("one_unit", 2, "sigmoid", 1),
        ("by_classes", 4, "softmax", 4),
    ],
)
def test_users_module(write_module: str, function: str, classes: int, output: str, units: int) -> None:
    network = build_network(ModelConfig(name=f"{write_module}:{function}"), (3, 8, 8), classes, [0.5] * 3, [0.2] * 3)
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert network.output == output
    assert network(images).shape == (2, units)
    torch.testing.assert_close(network(images), network.body((images / 255 - 0.5) / 0.2), rtol=1e-4, atol=1e-4)
    assert network.training


def test_import_path_is_as_before(write_module: str) -> None:
    before = list(sys.path)
    build_network(ModelConfig(name=f"{write_module}:net"), (3, 8, 8), 2)
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tintype_no_such_module:net",
            "tintype_no_such_module cannot be imported: ModuleNotFoundError: No module named",
        ),
        (
            "tintype_users_bad:net",
            "ModuleNotFoundError: No module named 'tintype_no_such_library' (tintype_users_bad.py, line 1).",
        ),
        ("tintype_users_net:nett", "tintype_users_net has no function 'nett'."),
        ("tintype_users_net:number", "has no function 'number'."),
        ("tintype_users_net:nothing", "the function must return a torch.nn.Module. Got NoneType."),
        ("tintype_users_net:greedy", "but it also needs 'depth'; give that one a default."),
        ("tintype_users_net:broken", "the function failed: RuntimeError: no luck (tintype_users_net.py, line 22)."),
        ("tintype_users_net:map_out", "must give logits of shape (2, 2) or (2, 1). Got (2, 2, 8, 8)."),
        ("tintype_users_net:wrong_input", "it fails on images of shape (3, 8, 8): RuntimeError: "),
        ("tintype_users_net:pair", "must give logits of shape (2, 2) or (2, 1). Got tuple."),
        ("tintype_users_net:frozen", "none of its weights train. Let some require a gradient."),
        (":net", "cannot be imported: ValueError: Empty module name"),
    ],
)
def test_users_mistakes_are_one_line(write_module: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_network(ModelConfig(name=name), (3, 8, 8), 2)
    assert str(caught.value).startswith(f"model {name}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
