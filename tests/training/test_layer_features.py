"""What a layer says of images: the same by kept features and by images, with the predictions of the same pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from shapes import make_shapes
from torch import Tensor, nn

from tintype.config import AugmentConfig, DataConfig, FitConfig, ModelConfig, RunConfig
from tintype.data.cache import ImageCache, build_cache
from tintype.data.features import FeatureCache
from tintype.data.sources import read_index
from tintype.errors import ConfigError
from tintype.evaluation.predict import predict
from tintype.models.build import build_network
from tintype.models.network import Network
from tintype.models.summary import named_layers, summarize
from tintype.runtime import Runtime, start_runtime
from tintype.training.layer_features import Inputs, has_learnt, open_inputs, read_layer

LAYERS = "conv 6 3 relu\npool 2\nbn\nflatten\ndense 9 relu"
SETTINGS = RunConfig(fit=FitConfig(views=4, feature_precision="fp32"), augment=AugmentConfig(policy="light").resolved())
ALL = np.arange(24)


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    make_shapes(tmp_path / "shapes", 12)
    config = DataConfig(source=str(tmp_path / "shapes"), image_size=32, color="rgb", resize="stretch")
    return build_cache(read_index(config), config)


def runtime() -> Runtime:
    return start_runtime("cpu", 1, 0)


def plain() -> Network:
    torch.manual_seed(0)
    return build_network(ModelConfig(layers=LAYERS), (3, 32, 32), 2).eval()


def on_backbone(**settings: Any) -> tuple[Network, RunConfig]:
    torch.manual_seed(0)
    model = ModelConfig(backbone="resnet20", weights="none", **settings)
    return build_network(model, (3, 32, 32), 2).eval(), SETTINGS.model_copy(update={"model": model})


def images_of(cache: ImageCache) -> Tensor:
    return torch.from_numpy(np.array(cache.images)).permute(0, 3, 1, 2)


def output_of(network: Network, name: str, images_NCHW: Tensor) -> NDArray[np.float32]:
    """What the body's layers up to ``name`` give, run one after the other."""
    values = network.standardize(images_NCHW)
    assert isinstance(network.body, nn.Sequential)
    for child, module in network.body.named_children():
        values = module(values)
        if child == name:
            return np.array((values.mean((2, 3)) if values.ndim == 4 else values).detach().numpy())
    raise AssertionError(name)


@pytest.mark.parametrize("name", ["conv1", "pool1", "bn1", "dense1", "relu2"])
def test_a_layer_says_what_it_says_when_run_by_hand(cache: ImageCache, name: str) -> None:
    network = plain()
    found = read_layer(open_inputs(network, SETTINGS, cache, runtime(), name), ALL, runtime(), "test", name)
    with torch.no_grad():
        np.testing.assert_allclose(found.features, output_of(network, name, images_of(cache)), atol=1e-5)


def test_features_are_what_the_output_layer_sees_and_predictions_those_of_the_network(cache: ImageCache) -> None:
    network = plain()
    rows = np.array([5, 3, 20])
    found = read_layer(Inputs(network, cache), rows, runtime(), "validation")
    with torch.no_grad():
        np.testing.assert_allclose(found.features, network.features(images_of(cache)[rows]).numpy(), atol=1e-5)
    alone = predict(network, cache, rows, runtime(), "validation")
    np.testing.assert_array_equal(found.predictions.probabilities, alone.probabilities)
    assert found.predictions.paths == alone.paths
    last = read_layer(Inputs(network, cache), rows, runtime(), "test", "output").features
    assert last.shape == (3, 1)


def test_mirror_images_and_negatives_are_of_the_predictions_and_of_the_features(cache: ImageCache) -> None:
    network = plain()
    both = read_layer(Inputs(network, cache), ALL, runtime(), "test", flip_average=True)
    np.testing.assert_array_equal(both.features, read_layer(Inputs(network, cache), ALL, runtime(), "test").features)
    negatives = ALL % 2 == 0
    found = read_layer(Inputs(network, cache), ALL, runtime(), "test", inverted=negatives)
    shown = torch.where(torch.from_numpy(negatives)[:, None, None, None], 255 - images_of(cache), images_of(cache))
    with torch.no_grad():
        np.testing.assert_allclose(found.features, network.features(shown).numpy(), atol=1e-5)


@pytest.mark.parametrize("layer", ["features", "dense1"])
def test_behind_frozen_layers_kept_features_are_used_and_say_the_same(cache: ImageCache, layer: str) -> None:
    network, config = on_backbone(freeze="all", head="dense 7 relu")
    inputs = open_inputs(network, config, cache, runtime(), layer)
    assert isinstance(inputs.images, FeatureCache)
    assert inputs.images.views == 1, "changed views belong to training"
    kept = read_layer(inputs, ALL, runtime(), "test", layer)
    fresh = read_layer(Inputs(network, cache), ALL, runtime(), "test", layer)
    np.testing.assert_allclose(kept.features, fresh.features, atol=1e-4)
    np.testing.assert_allclose(kept.predictions.probabilities, fresh.predictions.probabilities, atol=1e-4)
    again = open_inputs(network, config, cache, runtime(), layer).images
    assert isinstance(again, FeatureCache)
    assert not again.was_built


def test_before_the_cut_the_images_are_used(cache: ImageCache) -> None:
    network, config = on_backbone(freeze="all")
    first = next(name for name in named_layers(network) if name.startswith("backbone."))
    inputs = open_inputs(network, config, cache, runtime(), first)
    assert inputs.images is cache
    assert len(read_layer(inputs, ALL, runtime(), "test", first).features) == 24
    not_kept = config.model_copy(update={"fit": config.fit.model_copy(update={"feature_cache": False})})
    assert open_inputs(network, not_kept, cache, runtime()).images is cache


def test_every_layer_of_the_table_can_be_read(cache: ImageCache) -> None:
    network, config = on_backbone(freeze="none")
    for row in summarize(network).layers:
        inputs = open_inputs(network, config, cache, runtime(), row.name)
        found = read_layer(inputs, ALL[:2], runtime(), "test", row.name).features
        assert found.shape == (2, row.output_shape[0]), row.name


def test_an_unknown_layer_is_one_line_that_names_a_near_one(cache: ImageCache) -> None:
    with pytest.raises(ConfigError, match=r"no layer 'conv2'. Did you mean conv1\? There are: features \(what the"):
        open_inputs(plain(), SETTINGS, cache, runtime(), "conv2")


def test_what_has_learnt_is_told_from_what_is_frozen() -> None:
    frozen, _ = on_backbone(freeze="all", head="dense 7 relu")
    names = list(named_layers(frozen))
    assert not has_learnt(frozen, next(name for name in names if name.startswith("backbone.")))
    assert has_learnt(frozen, "dense1")
    assert has_learnt(frozen, "features")
    assert not has_learnt(on_backbone(freeze="all")[0], "features")
    partly, _ = on_backbone(freeze="residual1")
    layers = named_layers(partly)
    trains = {name: any(item.requires_grad for item in layer.parameters()) for name, layer in layers.items()}
    assert any(trains.values())
    assert all(has_learnt(partly, name) for name, does in trains.items() if does)
    assert not any(has_learnt(partly, name) for name in layers if name.startswith("backbone.residual1"))
    assert has_learnt(plain(), "conv1")


class _Own(nn.Module):
    """A user's module, which makes the logits itself and uses one activation twice, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        values = self.relu(self.first(images_NCHW)).mean((2, 3))
        return self.last(self.relu(values - 0.5))  # type: ignore[no-any-return]


def test_a_user_s_module_is_read_before_its_last_dense_layer_and_a_layer_that_runs_twice_the_first_time(
    cache: ImageCache,
) -> None:
    torch.manual_seed(0)
    own = _Own()
    network = Network(own, nn.Identity(), "softmax", (3, 32, 32)).eval()
    with torch.no_grad():
        first = own.first(network.standardize(images_of(cache))).mean((2, 3))
        twice = torch.relu(torch.relu(own.first(network.standardize(images_of(cache)))).mean((2, 3)) - 0.5)

    def read(name: str) -> NDArray[np.float32]:
        return read_layer(Inputs(network, cache), ALL, runtime(), "test", name).features

    np.testing.assert_allclose(read("features"), twice.numpy(), atol=1e-5)
    np.testing.assert_allclose(read("first"), first.numpy(), atol=1e-5)  # before the ReLU overwrote it
    assert (read("relu") >= 0).all()
    assert len(read("relu")) == len(cache.index)


def test_hooks_are_gone_afterwards(cache: ImageCache) -> None:
    network = plain()
    read_layer(Inputs(network, replace(cache)), ALL[:2], runtime(), "test", "conv1")
    has_learnt(network, "conv1")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
