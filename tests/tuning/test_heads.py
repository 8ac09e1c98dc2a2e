"""Heads of a search against `tintype train` with their settings; what is kept in memory; heads that fail or stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shapes import make_shapes

import tintype as tt
from tintype.config import ModelConfig, RunConfig
from tintype.errors import RunInterrupted
from tintype.models.build import build_network
from tintype.models.weights import save_weights
from tintype.preparing import Prepared, prepare_data
from tintype.rundir import RunDir
from tintype.tuning.heads import HeadBatch
from tintype.tuning.score import Failed, Score
from tintype.tuning.space import Candidate
from tintype.watch import Watch

SEED = 3


@pytest.fixture
def base(tmp_path: Path) -> RunConfig:
    """Shapes, a part of them with the wrong label, and a backbone with random weights."""
    make_shapes(tmp_path / "shapes", 60)
    for number in range(0, 60, 6):
        one, other = (tmp_path / "shapes" / name / f"{number:03}.png" for name in ("circle", "square"))
        picture = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(picture)
    torch.manual_seed(5)
    network = build_network(ModelConfig(name="resnet20"), (3, 32, 32), 10)
    words = {"zoo": "resnet20", "mean": "0.5,0.5,0.5", "std": "0.3,0.3,0.3"}
    save_weights(network, tmp_path / "resnet20.safetensors", words)
    settings = {
        "data.source": str(tmp_path / "shapes"), "data.resize": "stretch", "data.validation_fraction": 0.3,
        "model.weights": str(tmp_path / "resnet20.safetensors"), "threads": 1, "device": "cpu",
        "evidence.baselines": False, "evidence.attention": False,
    }  # fmt: skip
    return RunConfig().replace(settings)


class Preparing:
    """Prepares candidates' images without their test images, and notes how often."""

    def __init__(self, base: RunConfig) -> None:
        self.base, self.calls = base, 0

    def __call__(self, settings: Mapping[str, Any]) -> Prepared:
        self.calls += 1
        data = prepare_data(self.base.replace(settings), Watch())
        return replace(data, split=replace(data.split, test=np.empty(0, np.int64)))


def head(rate: float, decay: float = 0.0, width: int = 0, dropout: float = 0.0, views: int = 1) -> Candidate:
    policy = "photo" if views > 1 else "none"
    return Candidate(
        {
            "model.backbone": "resnet20", "model.freeze": "all", "fit.views": views, "augment.policy": policy,
            "fit.epochs": 6, "fit.batch_size": 16, "heads.learning_rate": (rate,), "heads.weight_decay": (decay,),
            "heads.width": (width,), "heads.dropout": (dropout,), "precision": "fp32",
        },
        features=f"resnet20, {views} views, {policy}",
    )  # fmt: skip


def scored(batch: HeadBatch, candidates: list[Candidate], seed: int = SEED) -> list[Score]:
    scores = batch.score(candidates, seed)
    assert all(isinstance(score, Score) for score in scores)
    return [score for score in scores if isinstance(score, Score)]


@pytest.mark.parametrize("views", [1, 2])
def test_a_head_scores_what_a_run_with_its_settings_gives(base: RunConfig, tmp_path: Path, views: int) -> None:
    candidates = [
        head(0.03, views=views), head(0.01, 3.0, 16, 0.4, views), head(3e-5, views=views),
        head(0.02, 0.1, 8, 0.4, views),
    ]  # fmt: skip
    scores = scored(HeadBatch(Preparing(base)), candidates)
    assert len({score.accuracy for score in scores}) > 1, "all being right would prove nothing"
    for number in (1, 2):
        settings = {**candidates[number].settings, "seed": SEED}
        (tmp_path / f"{number}.toml").write_text(base.replace(settings).to_toml(), encoding="utf-8")
        run = tt.train(config=tmp_path / f"{number}.toml", output=tmp_path / f"run{number}")
        score = scores[number]
        assert run.evaluations["validation"].accuracy.value == score.accuracy
        predictions = RunDir(run.path).read_predictions()["validation"]
        np.testing.assert_array_equal(predictions.predicted == predictions.labels, score.right)
        losses = [row.validation_loss for row in run.history if row.validation_loss is not None]
        assert score.loss == pytest.approx(min(losses), rel=1e-5)
        assert score.epochs == len(run.history) == 6
        network = build_network(
            ModelConfig(backbone="resnet20", head="dense 16 relu" if number == 1 else None), (3, 32, 32), 2
        )
        assert score.parameters == sum(tensor.numel() for tensor in network.parameters())
        assert score.image_size == 32


def test_another_seed_gives_another_head(base: RunConfig) -> None:
    batch = HeadBatch(Preparing(base))
    losses = {scored(batch, [head(1e-3, width=8)], seed)[0].loss for seed in (0, 1, 0)}
    assert len(losses) == 2


def test_features_stay_in_memory_until_others_need_the_room(base: RunConfig) -> None:
    preparing = Preparing(base)
    roomy = HeadBatch(preparing)
    for views in (1, 2, 1):
        scored(roomy, [head(0.01, views=views)])
    assert roomy.kept == ("resnet20, 2 views, photo", "resnet20, 1 views, none")
    assert preparing.calls == 2
    tight = HeadBatch(preparing, most_bytes=1)
    for views in (1, 1, 2, 1):
        scored(tight, [head(0.01, views=views)])
        assert tight.kept == (head(0.01, views=views).features,)
    assert preparing.calls == 2 + 3


def test_a_head_that_cannot_be_trained_fails_alone(base: RunConfig) -> None:
    batch = HeadBatch(Preparing(base))
    good, bad, other = batch.score([head(0.01), head(1e38), head(0.02, width=4)], SEED)
    assert bad == Failed("its loss was not finite in epoch 1")
    for number, candidate in ((0, head(0.01)), (2, head(0.02, width=4))):
        (alone,) = scored(batch, [candidate])
        together = (good, bad, other)[number]
        assert isinstance(together, Score)
        np.testing.assert_array_equal(together.right, alone.right)
        assert together.loss == pytest.approx(alone.loss, rel=1e-5)


def test_a_batch_is_stopped_while_features_are_computed_and_while_heads_train(base: RunConfig) -> None:
    batch = HeadBatch(Preparing(base))
    with pytest.raises(RunInterrupted, match="stopped while running"):
        batch.score([head(0.01)], SEED, should_stop=lambda: True)
    assert batch.kept == ()
    scored(batch, [head(0.01)])
    with pytest.raises(RunInterrupted, match="stopped while training 2 heads, in epoch 1"):
        batch.score([head(0.01), head(0.02)], SEED, should_stop=lambda: True)
