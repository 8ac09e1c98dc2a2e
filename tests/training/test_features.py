"""Frozen layers run once: features are those of the whole network, and are found again only where they are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shapes import make_shapes

from tintype.config import AugmentConfig, DataConfig, FitConfig, ModelConfig
from tintype.data.batches import evaluation_batches, feature_batches, train_batches
from tintype.data.cache import ImageCache, build_cache
from tintype.data.features import FeatureCache
from tintype.data.sources import read_index
from tintype.data.split import Split, make_split
from tintype.evaluation.predict import predict
from tintype.models.build import backbone_of, build_network
from tintype.models.graph import find_boundary
from tintype.models.network import Network
from tintype.ranks.world import World
from tintype.runtime import Runtime, start_runtime
from tintype.training.features import CutNetwork, choose_front_precision, cut_network, features_key, run_frozen

PLAIN = AugmentConfig(policy="none").resolved()
CHANGED = AugmentConfig(policy="light").resolved()
FIT = FitConfig(views=1, feature_precision="fp32")


@pytest.fixture
def images(tmp_path: Path) -> tuple[ImageCache, Split]:
    make_shapes(tmp_path / "shapes", 30)
    config = DataConfig(source=str(tmp_path / "shapes"), image_size=32, color="rgb", resize="stretch")
    index = read_index(config)
    cache = build_cache(index, config)
    return cache, make_split(index, cache.usable, config)


def runtime() -> Runtime:
    return start_runtime("cpu", 1, 0)


def cut_at(freeze: str | int, seed: int = 0) -> tuple[Network, CutNetwork]:
    torch.manual_seed(seed)
    network = build_network(ModelConfig(backbone="resnet20", weights="none", freeze=freeze), (3, 32, 32), 2).eval()
    backbone = backbone_of(network)
    assert backbone is not None
    cut = cut_network(network, find_boundary(backbone, freeze))
    assert cut is not None
    return network, cut


def features_of(
    cut: CutNetwork, images: tuple[ImageCache, Split], fit: FitConfig = FIT, augment: AugmentConfig = PLAIN
) -> FeatureCache:
    return run_frozen(cut, *images, fit, augment, runtime())


@pytest.mark.parametrize("freeze", ["all", "residual2", 4])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 5e-2)])
def test_kept_and_fresh_features_give_the_same_probabilities(
    images: tuple[ImageCache, Split], freeze: str | int, precision: str, tolerance: float
) -> None:
    network, cut = cut_at(freeze)
    features = features_of(cut, images, FIT.model_copy(update={"feature_precision": precision}))
    assert features.is_bf16 == (precision == "bf16")
    cache, split = images
    fresh = predict(network, cache, split.test, runtime(), "test")
    kept = predict(cut.tail, features, split.test, runtime(), "test")
    assert kept.paths == fresh.paths
    np.testing.assert_allclose(kept.probabilities, fresh.probabilities, atol=tolerance)


def test_a_second_run_computes_nothing_and_other_weights_compute_anew(images: tuple[ImageCache, Split]) -> None:
    _, cut = cut_at("all")
    assert features_of(cut, images).was_built
    assert not features_of(cut_at("all")[1], images).was_built, "the same weights, built again"
    assert features_of(cut_at("all", seed=1)[1], images).was_built
    assert features_of(cut_at("residual1")[1], images).was_built
    assert not features_of(cut, images).was_built


def test_everything_that_decides_the_features_is_in_their_key(images: tuple[ImageCache, Split]) -> None:
    cache, _ = images
    network, cut = cut_at("residual2")
    before = features_key(cut.front, cache, "fp32")
    assert features_key(cut.front, cache, "bf16") != before
    assert features_key(cut.front, replace(cache, fingerprint="other"), "fp32") != before
    assert features_key(cut_at("residual1")[1].front, cache, "fp32") != before
    with torch.no_grad():
        network.head.weight.add_(1)  # type: ignore[operator]
    assert features_key(cut.front, cache, "fp32") == before, "what lies behind the cut does not count"
    with torch.no_grad():
        network.mean.add_(0.1)
    assert features_key(cut.front, cache, "fp32") != before
    network.mean.sub_(0.1)
    backbone = backbone_of(network)
    assert backbone is not None
    backbone.get_submodule("bn1").running_mean.add_(0.5)  # type: ignore[operator]
    assert features_key(cut.front, cache, "fp32") != before


def test_views_are_of_training_images_and_every_pass_shows_another(images: tuple[ImageCache, Split]) -> None:
    _, split = images
    _, cut = cut_at("all")
    features = features_of(cut, images, FIT.model_copy(update={"views": 3}), CHANGED)
    assert features.views == 3
    one = split.train[:1]
    seen = [next(feature_batches(features, one, np.full(1, view), 1, torch.device("cpu"))).images for view in range(3)]
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    plain = features_of(cut, images)
    assert torch.equal(seen[0], next(feature_batches(plain, one, np.zeros(1, int), 1, torch.device("cpu"))).images)

    def shown(epoch: int) -> dict[int, torch.Tensor]:
        batches = train_batches(features, split.train, 8, CHANGED, 0, epoch, None, torch.device("cpu"))
        return {i: row for batch in batches for i, row in zip(batch.indices.tolist(), batch.images, strict=True)}

    epochs = [shown(epoch) for epoch in range(3)]
    everywhere = set(epochs[0]) & set(epochs[1]) & set(epochs[2])
    assert len(everywhere) > 10
    for number in everywhere:
        rows = [epoch[number] for epoch in epochs]
        assert not torch.equal(rows[0], rows[1])
        assert not torch.equal(rows[1], rows[2])
        assert not torch.equal(rows[0], rows[2])


def test_labels_and_names_belong_to_the_features(images: tuple[ImageCache, Split]) -> None:
    cache, split = images
    _, cut = cut_at("residual2")
    features = features_of(cut, images)
    for kept, fresh in zip(
        evaluation_batches(features, split.validation, 5, torch.device("cpu")),
        evaluation_batches(cache, split.validation, 5, torch.device("cpu")),
        strict=True,
    ):
        assert np.array_equal(kept.indices, fresh.indices)
        assert torch.equal(kept.labels, fresh.labels)
        assert kept.images.is_contiguous(memory_format=torch.channels_last)
        expected = cut.front(fresh.images)
        torch.testing.assert_close(kept.images, expected, rtol=1e-3, atol=1e-3)


def test_nothing_is_cut_where_nothing_is_frozen() -> None:
    torch.manual_seed(0)
    network = build_network(ModelConfig(backbone="resnet20", weights="none"), (3, 32, 32), 2)
    backbone = backbone_of(network)
    assert backbone is not None
    assert cut_network(network, find_boundary(backbone, "none")) is None


def test_the_precision_is_measured_once_or_as_set(images: tuple[ImageCache, Split]) -> None:
    cache, _ = images
    _, cut = cut_at("all")
    assert choose_front_precision(cut, runtime(), cache, "fp32") == ("fp32", "as set")
    precision, evidence = choose_front_precision(cut, runtime(), cache, "auto")
    assert precision in ("fp32", "bf16")
    assert "differ" in evidence
    # Another measurement might fall out differently; what is kept must not be computed again for that.
    for kept in ("fp32", "bf16"):
        _, cut = cut_at("all", seed=1 if kept == "fp32" else 2)
        features_of(cut, images, FIT.model_copy(update={"feature_precision": kept}))
        precision, evidence = choose_front_precision(cut, runtime(), cache, "auto")
        assert (precision, "are kept" in evidence) == (kept, True)


def test_ranks_take_the_precision_that_any_of_them_has_kept(images: tuple[ImageCache, Split]) -> None:
    class Others(World):
        def any(self, *flags: bool) -> tuple[bool, ...]:
            assert flags == (False, False)
            return (False, True)  # another rank has features in fp32

    chosen = choose_front_precision(cut_at("all")[1], replace(runtime(), world=Others()), images[0], "auto")
    assert chosen == ("fp32", "the features of these images are kept in it")


def test_pretrained_features_tell_cats_from_dogs(
    shared_data: Callable[[str], Path], shared_weights: Callable[[str], Path], tmp_path: Path
) -> None:
    import tintype as tt

    weights, data = shared_weights("mobilenetv2_100_imagenet"), shared_data("cats_dogs")
    few = tmp_path / "few"
    for split, count in (("train", 30), ("test", 20)):
        for kind in ("cats", "dogs"):
            (few / split / kind).mkdir(parents=True)
            for path in sorted((data / split / kind).iterdir())[:count]:
                (few / split / kind / path.name).symlink_to(path)
    run = tt.train(few, output=tmp_path / "run", weights=str(weights), device="cpu", settings={"threads": 1})
    assert run.evaluation.accuracy.value >= 0.9
    assert run.evaluation.accuracy.n == 40
