"""The named networks: exact parameter counts, and texts that build at every sensible size."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from tintype.config import ModelConfig
from tintype.errors import ConfigError
from tintype.models import zoo
from tintype.models.build import build_network
from tintype.models.layers import output_shape, parse_layers
from tintype.models.network import Network
from tintype.models.summary import summarize


def build(name: str) -> Network:
    entry = zoo.find(name)
    shape = (entry.channels, entry.image_size, entry.image_size)
    return build_network(ModelConfig(name=name), shape, entry.classes)


# Counts as published: the labs' (Keras), the Keras and TensorFlow tutorials' and the CIFAR ResNets'.
@pytest.mark.parametrize(
    ("name", "total", "non_trainable"),
    [
        ("cats_dogs_sample", 1_212_513, 0),
        ("cats_dogs", 13_300_033, 384),
        ("tiny_cnn", 123_160, 576),
        ("alexnet_32", 22_370_760, 1_216),
        ("mlp_128", 101_770, 0),
        ("mlp_128_128", 118_282, 0),
        ("mnist_convnet", 29_034 + 96, 96),
        ("mnist_tutorial", 1_199_882, 0),
        ("resnet20", 269_722 + 1_376, 1_376),
        ("resnet32", 464_154 + 2_272, 2_272),
        ("resnet44", 658_586 + 3_168, 3_168),
        ("resnet56", 853_018 + 4_064, 4_064),
    ],
)
def test_parameter_counts(name: str, total: int, non_trainable: int) -> None:
    summary = summarize(build(name))
    assert summary.total_parameters == total
    assert summary.non_trainable_parameters == non_trainable
    assert summary.trainable_parameters == total - non_trainable


@pytest.mark.parametrize("name", zoo.names())
def test_every_network_classifies_images_of_its_size(name: str) -> None:
    entry = zoo.find(name)
    network = build(name).eval()
    with torch.no_grad():
        images = torch.zeros(2, entry.channels, entry.image_size, entry.image_size, dtype=torch.uint8)
        probabilities = network.probabilities(network(images))
    assert probabilities.shape == (2, entry.classes)
    assert entry.description
    assert entry.source


def test_ablation_rows_differ_from_the_base_in_what_they_say() -> None:
    base = zoo.find("mnist_ablation").layers
    assert zoo.find("mnist_tutorial_conv3").layers == base
    assert zoo.find("mnist_ablation_dense1000").layers == base.replace("dense 128", "dense 1000")
    assert zoo.find("mnist_ablation_kernel5").layers == base.replace(" 3 pad", " 5 pad")
    assert zoo.find("mnist_ablation_bn").layers == base.replace("valid relu", "valid relu\nbn")
    rows = [zoo.find(name).layers for name in zoo.names() if name.startswith("mnist_ablation")]
    assert len(set(rows)) == 8


def test_batch_normalisation_in_the_tutorial_network() -> None:
    counts = [zoo.find(f"mnist_tutorial{suffix}").layers.count("bn\n") for suffix in ("", "_bn1", "_bn2")]
    assert counts == [0, 1, 2]


def test_names_and_texts_are_read_without_torch() -> None:
    """The command line lists names and checks texts before the slow import."""
    code = "import sys, tintype.models.zoo, tintype.models.grammar; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_name_lists_close_ones() -> None:
    with pytest.raises(ConfigError, match=r"no network named 'resnet18'. Did you mean resnet"):
        zoo.find("resnet18")
    with pytest.raises(ConfigError, match=r"tintype summary --list"):
        zoo.find("qqqqq")


@pytest.mark.parametrize("size", [4, 8, 12, 16, 20, 28, 32, 40, 48, 64, 96, 128, 180, 224, 300])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("images", [50, 2_000, 60_000])
def test_default_network_suits_the_images(size: int, channels: int, images: int) -> None:
    text = zoo.default_layers(size, channels, images, 10)
    *body, last = parse_layers(text)
    assert last.kind in ("gap", "gmp")
    _, height, width = output_shape(body, (channels, size, size))
    # The last map is small enough to be looked at as a whole, and not yet a single pixel of a larger image.
    assert height == width
    assert min(2, size) <= height <= max(8, math.ceil(size / 32))
    parameters = sum(
        p.numel() for p in build_network(ModelConfig(layers=text), (channels, size, size), 10).parameters()
    )
    assert 20_000 < parameters < 2_000_000
