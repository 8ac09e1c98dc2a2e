"""Where a network looks, against formulas written anew and decisions planted at known places."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tintype.config import ModelConfig
from tintype.evaluation.attention import MapPlace, NoMap, attention_maps, find_place
from tintype.models.build import build_network
from tintype.models.network import Network

POOLED = "conv 8 3 relu\npool 2\nconv 6 3 relu\ngap\n"


def network_of(layers: str, shape: tuple[int, int, int] = (3, 16, 16), classes: int = 3) -> Network:
    torch.manual_seed(1)
    mean = np.full(shape[0], 0.4)
    return build_network(ModelConfig(layers=layers), shape, classes, mean, mean).eval()


def images_of(count: int, shape: tuple[int, int, int] = (3, 16, 16)) -> Tensor:
    return torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def maps_of(network: Network, images: Tensor, classes: NDArray[np.int64], **options: Any) -> NDArray[np.float32]:
    maps = attention_maps(network, images, classes, **options)
    assert not isinstance(maps, NoMap), maps.reason
    return maps


def scaled(maps: Tensor) -> NDArray[np.float32]:
    maps = maps.clamp(min=0)
    return np.asarray((maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-30)).numpy())


def test_behind_global_average_pooling_it_is_the_class_activation_map() -> None:
    network, images = network_of(POOLED), images_of(5)
    classes = np.array([0, 1, 2, 0, 1])
    maps = maps_of(network, images, classes)
    assert isinstance(network.body, nn.Sequential)
    assert isinstance(network.head, nn.Linear)
    with torch.no_grad():
        last_NCHW = network.body[:-1](network.standardize(images))
        expected = torch.einsum("nchw,nc->nhw", last_NCHW, network.head.weight[torch.from_numpy(classes)])
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, scaled(expected), atol=1e-5)
    assert set(maps.max(axis=(1, 2)).tolist()) == {0.0, 1.0}  # nothing in the third image speaks for its class


def test_there_it_is_grad_cam_as_well() -> None:
    """Selvaraju and others, equations 1 and 2, with the gradient through the whole network."""
    network, images = network_of(POOLED), images_of(3)
    assert isinstance(network.body, nn.Sequential)
    last_NCHW = network.body[:-1](network.standardize(images))
    (gradient,) = torch.autograd.grad(network.head(network.body[-1](last_NCHW))[:, 1].sum(), last_NCHW)
    weights_NC = gradient.mean(dim=(2, 3))
    expected = torch.einsum("nc,nchw->nhw", weights_NC, last_NCHW).detach()
    np.testing.assert_allclose(maps_of(network, images, np.array([1, 1, 1])), scaled(expected), atol=1e-5)


def test_a_sigmoid_unit_speaks_for_the_second_class_and_against_the_first() -> None:
    network, images = network_of(POOLED, classes=2), images_of(4)
    assert network.output == "sigmoid"
    assert isinstance(network.body, nn.Sequential)
    assert isinstance(network.head, nn.Linear)
    with torch.no_grad():
        last_NCHW = network.body[:-1](network.standardize(images))
        for_second = torch.einsum("nchw,c->nhw", last_NCHW, network.head.weight[0])
    np.testing.assert_allclose(maps_of(network, images, np.ones(4, np.int64)), scaled(for_second), atol=1e-5)
    np.testing.assert_allclose(maps_of(network, images, np.zeros(4, np.int64)), scaled(-for_second), atol=1e-5)


def test_behind_a_flattened_map_only_the_places_that_count_are_lit() -> None:
    """A dense layer that reads one cell: averaged gradients would light up every bright cell."""
    network = network_of("conv 1 1\navgpool 4\nflatten\n", (1, 32, 32), 2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.mean.zero_()
        network.get_parameter("body.conv1.weight").fill_(1)
        assert isinstance(network.head, nn.Linear)
        network.head.weight[0, 2 * 8 + 5] = 1.0
    image = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    image[0, 0, 8:12, 20:24] = 120  # the cell that counts
    image[0, 0, 24:32, 0:12] = 255  # brighter ones that do not
    maps = maps_of(network, image, np.array([1]))
    expected = np.zeros((8, 8), np.float32)
    expected[2, 5] = 1
    np.testing.assert_array_equal(maps[0], expected)
    np.testing.assert_array_equal(maps_of(network, image, np.array([0]))[0], 0)  # nothing speaks for the other class


@pytest.mark.parametrize("layers", ["conv 8 5 relu\npool 2\nconv 8 3 relu\nflatten\ndense 16 relu\n"])
def test_a_learnt_decision_is_found_where_it_was_planted(layers: str) -> None:
    """Class 1 has a bright square at one place; both classes have others elsewhere, as bright."""
    random = np.random.default_rng(0)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        images = random.integers(0, 60, (count, 1, 24, 24), dtype=np.uint8)
        labels = np.arange(count) % 2
        for image, label in zip(images, labels, strict=True):
            row, column = random.choice([(2, 2), (16, 3), (17, 17)])
            image[0, row : row + 5, column : column + 5] = 230
            if label:
                image[0, 4:9, 15:20] = 230
        return torch.from_numpy(images), torch.from_numpy(labels)

    network = network_of(layers, (1, 24, 24), 2).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(60):
        images, labels = draw(32)
        loss = nn.functional.binary_cross_entropy_with_logits(network(images)[:, 0], labels.float())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    images, labels = draw(100)
    with torch.no_grad():
        assert ((network(images)[:, 0] > 0) == labels).float().mean() > 0.97
    images = images[labels == 1]
    maps = maps_of(network, images, np.ones(len(images), np.int64))
    side = maps.shape[1]
    rows, columns = np.unravel_index(maps.reshape(len(maps), -1).argmax(axis=1), (side, side))
    rows, columns = (rows + 0.5) * 24 / side, (columns + 0.5) * 24 / side
    is_inside = (rows > 3) & (rows < 10) & (columns > 14) & (columns < 21)
    assert is_inside.mean() > 0.9


def test_the_network_is_left_as_it_was() -> None:
    network = network_of("conv 4 3 relu\nbn\npool 2\nconv 4 3\nbn\nrelu\ndropout 0.5\ngap\n").train()
    assert isinstance(network.body, nn.Sequential)
    network.body[0].eval()
    network.body[0].requires_grad_(False)
    weight = network.get_parameter("head.weight")
    weight.grad = torch.ones_like(weight)
    modes = [module.training for module in network.modules()]
    flags = [parameter.requires_grad for parameter in network.parameters()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random_state = torch.get_rng_state()
    images = images_of(4)
    kept = images.clone()
    first = maps_of(network, images, np.zeros(4, np.int64))
    np.testing.assert_array_equal(first, maps_of(network, images, np.zeros(4, np.int64)))  # no dropout
    assert modes == [module.training for module in network.modules()]
    assert flags == [parameter.requires_grad for parameter in network.parameters()]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(images, kept)
    assert torch.is_grad_enabled()
    grads = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert grads == {"head.weight"}
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_gets_the_same(context: Any) -> None:
    network, images = network_of(POOLED), images_of(2)
    expected = maps_of(network, images, np.array([0, 1]))
    with context():
        np.testing.assert_array_equal(maps_of(network, images.clone(), np.array([0, 1])), expected)
        assert not torch.is_grad_enabled()


def test_images_do_not_change_each_others_maps_and_a_known_place_saves_the_search() -> None:
    network, images = network_of("conv 8 3 relu\nresidual 8\nresidual 16 stride=2\ngap\n"), images_of(4)
    classes = np.array([2, 0, 1, 1])
    together = maps_of(network, images, classes)
    place = find_place(network, images[0])
    assert isinstance(place, MapPlace)
    for row in range(4):
        alone = maps_of(network, images[row : row + 1], classes[row : row + 1], place=place)
        np.testing.assert_allclose(alone[0], together[row], atol=1e-4)


class Tokens(nn.Module):
    """A transformer by hand: patches, a class token, two blocks of attention, and the class token read at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.ModuleList(nn.ModuleDict(self._block()) for _ in range(2))
        self.norm = nn.LayerNorm(8)
        self.classifier = nn.Linear(8, 3)

    @staticmethod
    def _block() -> OrderedDict[str, nn.Module]:
        attention = nn.MultiheadAttention(8, 2, batch_first=True)
        return OrderedDict(norm=nn.LayerNorm(8), attention=attention, mlp=nn.Linear(8, 8))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = self.patches(images_NCHW).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            normed = block["norm"](x)
            x = x + block["attention"](normed, normed, normed, need_weights=False)[0]
            x = x + block["mlp"](x)
        logits: Tensor = self.classifier(self.norm(x)[:, 0])
        return logits


def test_a_class_token_is_followed_back_to_the_last_attention() -> None:
    torch.manual_seed(0)
    network = Network(Tokens(), nn.Identity(), "softmax", (3, 16, 16)).eval()
    images = images_of(3)
    place = find_place(network, images[0])
    assert isinstance(place, MapPlace)
    # What enters the attention stands for query, key and value; the gradient by the query alone would be 0.
    assert (place.module, place.layout) == ("body.blocks.1.norm", "tokens")
    maps = maps_of(network, images, np.array([0, 1, 2]))
    assert maps.shape == (3, 4, 4)
    assert maps.max() == 1


def test_maps_with_the_channels_last_are_read_as_such() -> None:
    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3, padding=1)
            self.norm = nn.LayerNorm(5)
            self.classifier = nn.Linear(5, 3)

        def forward(self, images_NCHW: Tensor) -> Tensor:
            logits: Tensor = self.classifier(self.norm(self.conv(images_NCHW).permute(0, 2, 3, 1)).mean((1, 2)))
            return logits

    torch.manual_seed(0)
    body = ChannelsLast().eval()
    network, images = Network(body, nn.Identity(), "softmax", (3, 8, 8)), images_of(2, (3, 8, 8))
    with torch.no_grad():
        last_NHWC = body.norm(body.conv(network.standardize(images)).permute(0, 2, 3, 1))
    expected = torch.einsum("nhwc,c->nhw", last_NHWC, body.classifier.weight[1].detach())
    np.testing.assert_allclose(maps_of(network, images, np.array([1, 1])), scaled(expected), atol=1e-5)


def test_a_network_without_places_says_so() -> None:
    for layers in ("flatten\ndense 8 relu\n", "standardize\nflatten\ndense 8 relu\n"):
        found = attention_maps(network_of(layers), images_of(1), np.array([0]))
        assert isinstance(found, NoMap)
        assert "no layer of this network keeps places" in found.reason


def test_a_network_that_forbids_gradients_says_so() -> None:
    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, images_NCHW: Tensor) -> Tensor:
            with torch.no_grad():
                logits: Tensor = self.conv(images_NCHW).mean((2, 3))
            return logits

    found = attention_maps(Network(Closed(), nn.Identity(), "softmax", (3, 16, 16)), images_of(1), np.array([0]))
    assert isinstance(found, NoMap)
    assert "switches gradients off" in found.reason


def test_a_dead_network_has_an_empty_map() -> None:
    network = network_of(POOLED)
    with torch.no_grad():
        network.get_parameter("head.weight").zero_()
    np.testing.assert_array_equal(maps_of(network, images_of(2), np.array([0, 1])), 0)


@pytest.mark.parametrize(("backbone", "size", "side"), [("mobilenetv2_100", 64, 2), ("vit_tiny_patch16_224", 64, 4)])
def test_backbones_of_timm_have_a_map(backbone: str, size: int, side: int) -> None:
    torch.manual_seed(0)
    network = build_network(ModelConfig(backbone=backbone, freeze="all"), (3, size, size), 3).eval()
    maps = maps_of(network, images_of(2, (3, size, size)), np.array([0, 2]))
    assert maps.shape == (2, side, side)
    assert maps.max() == 1
