"""How long judging takes, and what is left out where time is short."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import make_shapes

from tintype.config import ModelConfig, RunConfig
from tintype.models.build import build_network
from tintype.models.weights import save_weights
from tintype.preparing import list_images
from tintype.runtime import start_runtime
from tintype.tuning import closing as module
from tintype.tuning.closing import CLOSING_SECONDS, FEWEST_TRAINING_IMAGES, TRAINING_IMAGES, Closing, measure_closing
from tintype.tuning.trainer import Trainer
from tintype.watch import Watch

AN_IMAGE = 0.01
closings = st.builds(Closing, st.floats(1e-4, 1.0), st.integers(300, 50_000), st.integers(1, 100_000))


@given(closing=closings, budget=st.floats(20, 100_000), seconds=st.floats(-100, 5_000))
def test_no_more_training_images_than_fit_and_never_too_few(closing: Closing, budget: float, seconds: float) -> None:
    images = closing.training_images(seconds)
    assert FEWEST_TRAINING_IMAGES <= images <= TRAINING_IMAGES
    assert closing.seconds(images) <= max(seconds, closing.least) + 1e-6
    are_more = images < min(TRAINING_IMAGES, closing.training - 2)
    assert not are_more or closing.seconds(images + 2) > seconds, "as many as fit"
    assert closing.least <= closing.planned(budget) <= max(closing.least, 0.1 * budget)
    assert closing.planned(None) == closing.seconds(TRAINING_IMAGES)
    assert closing.training_images(float("inf")) == TRAINING_IMAGES


def test_what_is_at_hand_takes_no_longer_with_more_images() -> None:
    assert Closing(0.0, 10**6, 10**6).planned(60.0) == CLOSING_SECONDS
    assert Closing(0.0, 10**6, 10**6).training_images(-5.0) == TRAINING_IMAGES


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    make_shapes(tmp_path / "shapes", 60)
    torch.manual_seed(5)
    weights = tmp_path / "resnet20.safetensors"
    network = build_network(ModelConfig(name="resnet20"), (3, 32, 32), 10)
    save_weights(network, weights, {"zoo": "resnet20", "mean": "0.5,0.5,0.5", "std": "0.3,0.3,0.3"})
    config = RunConfig().replace(
        {
            "data.source": str(tmp_path / "shapes"), "data.image_size": 32, "data.resize": "stretch",
            "data.test_fraction": 0.2, "model.backbone": "resnet20", "model.weights": str(weights), "threads": 1,
            "precision": "fp32", "model.flip_average": False,
        }
    )  # fmt: skip
    return Trainer(list_images(config, Watch()), config, start_runtime("cpu", 1, 0), Watch())


def test_an_image_is_timed_where_layers_have_trained_and_not_where_features_are_at_hand(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def slow(_network: Any, _cache: Any, indices: np.ndarray[Any, Any], *_: Any, **__: Any) -> None:
        asked.append(len(indices))
        time.sleep(AN_IMAGE * len(indices))

    monkeypatch.setattr(module, "predict", slow)
    frozen = measure_closing(trainer, {"model.freeze": "all"})
    assert asked == []
    assert frozen.seconds(TRAINING_IMAGES) == CLOSING_SECONDS
    whole = measure_closing(trainer, {"model.depth": "all"})
    assert whole.per_image == pytest.approx(AN_IMAGE, rel=0.3)
    split = trainer.prepared({}, with_test=True).split
    assert len(split.test) > 0
    assert whole.needed == len(split.test) + len(split.validation) + module.EXPLAINED
    assert whole.training == len(split.train)
    assert measure_closing(trainer, {"model.freeze": "all", "model.flip_average": True}).per_image > 0
