"""A fitted output layer is found again where it would come out the same, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shapes import make_shapes

from tintype.config import AugmentConfig, DataConfig, FitConfig, ModelConfig
from tintype.data.cache import build_cache
from tintype.data.features import FeatureCache
from tintype.data.sources import read_index
from tintype.data.split import Split, make_split
from tintype.errors import RunInterrupted
from tintype.models.build import backbone_of, build_network
from tintype.models.graph import find_boundary
from tintype.models.network import Tail
from tintype.rundir import cache_folder
from tintype.runtime import start_runtime
from tintype.training import output_layer
from tintype.training.features import cut_network, run_frozen
from tintype.training.logistic import LogisticHead, fit_logistic
from tintype.watch import Watch

CONFIG = FitConfig(views=1, feature_precision="fp32")


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """An item for each time that a head was really fitted."""
    done: list[None] = []

    def counted(*arguments: object, **named: object) -> LogisticHead:
        done.append(None)
        return fit_logistic(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(output_layer, "fit_logistic", counted)
    return done


@pytest.fixture
def fit_head(tmp_path: Path) -> Callable[..., tuple[LogisticHead, Tail]]:
    """Fits the head of a network that is built anew each time."""
    make_shapes(tmp_path / "shapes", 30)
    data = DataConfig(source=str(tmp_path / "shapes"), image_size=32, color="rgb", resize="stretch")
    index = read_index(data)
    cache = build_cache(index, data)
    whole = make_split(index, cache.usable, data)

    def fit(
        change: Callable[[FeatureCache, Split], tuple[FeatureCache, Split]] = lambda features, split: (features, split),
        config: FitConfig = CONFIG, seed: int = 0, watch: Watch = Watch(),
    ) -> tuple[LogisticHead, Tail]:  # fmt: skip
        torch.manual_seed(seed)
        network = build_network(ModelConfig(backbone="resnet20", weights="none", freeze="all"), (3, 32, 32), 2).eval()
        backbone = backbone_of(network)
        assert backbone is not None
        cut = cut_network(network, find_boundary(backbone, "all"))
        assert cut is not None
        runtime = start_runtime("cpu", 1, 0)
        features = run_frozen(cut, cache, whole, config, AugmentConfig(policy="none").resolved(), runtime)
        _, head = output_layer.fit_output_layer(cut.tail, *change(features, whole), config, runtime, watch)
        return head, cut.tail

    return fit


def test_the_second_fit_is_the_first_one_read_again(
    fit_head: Callable[..., tuple[LogisticHead, Tail]], fits: list[None]
) -> None:
    (first, tail), (second, other) = fit_head(), fit_head()
    assert len(fits) == 1
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    assert first.held_out is not None, "few images: cross-validation chose"
    assert second.held_out is not None
    assert torch.equal(first.held_out, second.held_out)
    assert replace(first, weight=first.bias, held_out=None) == replace(
        second, weight=first.bias, bias=first.bias, held_out=None
    )
    assert all(torch.equal(a, b) for a, b in zip(tail.head.parameters(), other.head.parameters(), strict=True))


def test_whatever_would_give_another_head_has_it_fitted_anew(
    fit_head: Callable[..., tuple[LogisticHead, Tail]], fits: list[None]
) -> None:
    def relabelled(features: FeatureCache, split: Split) -> tuple[FeatureCache, Split]:
        labels = np.asarray(features.index.labels).copy()
        labels[split.train[:3]] = 1 - labels[split.train[:3]]
        return replace(features, index=replace(features.index, labels=labels)), split

    def fewer_trained(features: FeatureCache, split: Split) -> tuple[FeatureCache, Split]:
        return features, replace(split, train=split.train[:-1])

    def fewer_held_out(features: FeatureCache, split: Split) -> tuple[FeatureCache, Split]:
        return features, replace(split, validation=split.validation[:-1])

    fit_head()
    fit_head(relabelled)
    fit_head(fewer_trained)
    fit_head(fewer_held_out)
    fit_head(config=CONFIG.model_copy(update={"class_weights": "balanced"}))
    fit_head(config=CONFIG.model_copy(update={"feature_precision": "bf16"}))
    fit_head(seed=1)  # other frozen weights
    assert len(fits) == 7
    fit_head()
    assert len(fits) == 7


def test_a_fit_that_was_stopped_and_a_damaged_file_leave_nothing_behind(
    fit_head: Callable[..., tuple[LogisticHead, Tail]], fits: list[None]
) -> None:
    with pytest.raises(RunInterrupted):
        fit_head(watch=Watch(should_stop=lambda: True))
    first, _ = fit_head()
    for path in (cache_folder() / "figures").glob("*.npz"):
        path.write_bytes(path.read_bytes()[:-30])
    second, _ = fit_head()
    assert len(fits) == 3
    assert torch.equal(first.weight, second.weight)
