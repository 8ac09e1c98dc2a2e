"""A candidate's time and its epochs are those of its steps; the head before them counts for neither."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from shapes import make_shapes

from tintype.config import ModelConfig, RunConfig
from tintype.learning import Learnt, OnEpoch, learn
from tintype.models.build import build_network
from tintype.models.weights import save_weights
from tintype.preparing import Built, Prepared, list_images
from tintype.records import EpochRecord
from tintype.runtime import start_runtime
from tintype.tuning import trainer as module
from tintype.tuning.trainer import Trained, Trainer
from tintype.watch import Watch

HEAD_SECONDS = 5.0


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    make_shapes(tmp_path / "shapes", 60)
    torch.manual_seed(5)
    network = build_network(ModelConfig(name="resnet20"), (3, 32, 32), 10)
    weights = tmp_path / "resnet20.safetensors"
    save_weights(network, weights, {"zoo": "resnet20", "mean": "0.5,0.5,0.5", "std": "0.3,0.3,0.3"})
    config = RunConfig().replace(
        {
            "data.source": str(tmp_path / "shapes"), "data.image_size": 32, "data.resize": "stretch",
            "model.backbone": "resnet20", "model.weights": str(weights), "model.freeze": "none",
            "fit.batch_size": 16, "fit.head_epochs": 1, "threads": 1, "precision": "fp32",
        }
    )  # fmt: skip
    return Trainer(list_images(config, Watch()), config, start_runtime("cpu", 1, 0), Watch())


def test_neither_time_nor_epochs_count_the_head(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_slow_head(built: Built, data: Prepared, checkpoint: Any, watch: Watch, on_epoch: OnEpoch) -> Learnt:
        def heard(record: EpochRecord, epochs: int) -> None:
            if record.epoch == 1:
                time.sleep(HEAD_SECONDS)
            on_epoch(record, epochs)

        return learn(built, data, checkpoint, watch, heard)

    monkeypatch.setattr(module, "learn", with_a_slow_head)
    trained = trainer.train({}, 1.0)
    assert isinstance(trained, Trained), trained
    assert trained.pace is not None
    fit = trained.built.plan.config.fit
    assert fit.epochs is not None
    rows = trained.learnt.fitted.history
    assert [row.epoch for row in rows] == list(range(1, fit.epochs + 2)), "the head's row comes first"
    steps = fit.epochs * (fit.steps_per_epoch or trained.pace.steps)
    assert trained.score.epochs == pytest.approx(steps / trained.pace.steps)
    assert trainer.lateness * trained.pace.seconds(trained.score.epochs) < HEAD_SECONDS
    assert trained.score.seconds > HEAD_SECONDS, "what it cost is all of it"
