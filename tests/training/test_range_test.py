"""The learning-rate range test: it leaves the network alone, and what it proposes trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tintype.config import AugmentConfig, DataConfig, FitConfig, ModelConfig
from tintype.data.cache import ImageCache, build_cache
from tintype.data.sources import read_index
from tintype.data.split import Split, make_split
from tintype.errors import ConfigError, RunInterrupted
from tintype.models.build import build_network
from tintype.models.network import Network
from tintype.records import silent
from tintype.runtime import start_runtime
from tintype.training.fit import fit
from tintype.training.range_test import HIGHEST_RATE, LOWEST_RATE, SMOOTHING, range_test, read_off, smooth

AUGMENT = AugmentConfig(policy="none").resolved()
CONFIG = FitConfig(batch_size=16, optimizer="sgd", learning_rate=123.0, weight_decay=0.0, label_smoothing=0.0)


@pytest.fixture
def data(shapes_folder: Path) -> tuple[ImageCache, Split]:
    config = DataConfig(source=str(shapes_folder), image_size=24, color="rgb", resize="stretch")
    index = read_index(config)
    cache = build_cache(index, config, silent)
    return cache, make_split(index, cache.usable, config)


def network_of() -> Network:
    torch.manual_seed(0)
    layers = "conv 8 3 relu\nbn\npool 2\nconv 16 3 relu\ngap\n"
    return build_network(ModelConfig(layers=layers), (3, 24, 24), 2, np.full(3, 0.3), np.full(3, 0.3))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_it_proposes_trains_and_far_from_it_does_not(data: tuple[ImageCache, Split], optimizer: str) -> None:
    network, runtime = network_of(), start_runtime("cpu", 1, 0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    config = CONFIG.model_copy(update={"optimizer": optimizer})
    found = range_test(network, *data, config, AUGMENT, runtime)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert found.proposed is not None
    assert found.low is not None
    assert found.high is not None
    assert found.diverged_at is not None
    assert LOWEST_RATE < found.low <= found.proposed <= found.high < found.diverged_at <= HIGHEST_RATE
    assert len(found.rates) == len(found.losses) == len(found.smoothed)
    assert np.allclose(np.diff(np.log(found.rates)), np.diff(np.log(found.rates))[0])

    def loss_with(rate: float) -> float:
        settings = config.model_copy(
            update={"learning_rate": rate, "epochs": 12, "schedule": "constant", "keep": "last"}
        )
        return fit(network_of(), *data, settings, AUGMENT, runtime).history[-1].train_loss

    assert loss_with(found.proposed) < 0.85 * loss_with(found.proposed / 1000)


def test_the_same_seed_sees_the_same(data: tuple[ImageCache, Split]) -> None:
    runtime = start_runtime("cpu", 1, 3)
    first, second = (range_test(network_of(), *data, CONFIG, AUGMENT, runtime, steps=20) for _ in range(2))
    assert first == second


def test_it_stops_when_it_is_asked_to_and_refuses_what_has_no_rate(data: tuple[ImageCache, Split]) -> None:
    runtime = start_runtime("cpu", 1, 0)
    seen: list[int] = []
    with pytest.raises(RunInterrupted, match="after step 3 of 20"):
        range_test(
            network_of(), *data, CONFIG, AUGMENT, runtime, steps=20,
            on_progress=lambda what, done, total: seen.append(done), should_stop=lambda: len(seen) == 3,
        )  # fmt: skip
    with pytest.raises(ConfigError, match="lbfgs has no learning rate"):
        range_test(network_of(), *data, CONFIG.model_copy(update={"optimizer": "lbfgs"}), AUGMENT, runtime)


def test_smoothing_is_the_exponentially_weighted_mean_of_what_has_been_seen() -> None:
    losses = np.random.default_rng(0).normal(2, 0.3, 50)
    expected = [np.average(losses[: end + 1], weights=SMOOTHING ** np.arange(end, -1, -1)) for end in range(50)]
    np.testing.assert_allclose(smooth(losses.tolist()), expected)


RATES = np.geomspace(1e-6, 100, 160)


def valley(noise: float, seed: int = 0) -> list[float]:
    """A loss of 2.3 that falls from a rate of 1e-4 on, is lowest at 0.05, and runs away after it."""
    at = np.log10(RATES)
    losses = 2.3 - 2.0 / (1 + np.exp(-4 * (at + 2.6))) + 4.0 * np.maximum(at + 1.2, 0) ** 2
    return [float(loss) for loss in losses + np.random.default_rng(seed).normal(0, noise, len(RATES))]


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_a_known_valley_is_read_off(noise: float) -> None:
    found = read_off(RATES, valley(noise))
    assert found.proposed is not None
    assert found.low is not None
    assert found.high is not None
    assert 1e-4 < found.low < 5e-3
    assert 0.01 < found.high < 0.2
    assert 1e-3 < found.proposed < 0.02
    assert found.diverged_at == RATES[-1]


def test_noise_alone_proposes_nothing() -> None:
    for seed in range(20):
        losses = np.random.default_rng(seed).normal(2.3, 0.2, len(RATES)).tolist()
        found = read_off(RATES, losses)
        assert (found.proposed, found.low, found.high, found.diverged_at) == (None, None, None, None)
    rising = np.linspace(2, 3, len(RATES)).tolist()
    assert read_off(RATES, rising).proposed is None
    assert read_off(RATES, []).diverged_at == RATES[0]
