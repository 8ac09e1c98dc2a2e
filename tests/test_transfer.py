"""Transfer learning through the Python API and the command line: frozen layers once, the head first, fine-tuning."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shapes import make_shapes

import tintype as tt
from tintype.config import ModelConfig
from tintype.errors import ConfigError, RunInterrupted
from tintype.models.build import build_network
from tintype.models.weights import save_weights
from tintype.records import EpochRecord
from tintype.rundir import RunDir, cache_folder
from tintype.watch import Watch

SET: dict[str, Any] = {"threads": 1, "data.resize": "stretch"}
BACKBONE: dict[str, Any] = {"backbone": "resnet20", "image_size": 32, "device": "cpu"}


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    make_shapes(tmp_path / "shapes", 60)
    return tmp_path / "shapes"


@pytest.fixture
def pretrained(tmp_path: Path) -> str:
    """Weights for the backbone: random ones, which are good enough to tell a circle from a square."""
    torch.manual_seed(5)
    network = build_network(ModelConfig(name="resnet20"), (3, 32, 32), 10)
    save_weights(
        network, tmp_path / "resnet20.safetensors", {"zoo": "resnet20", "mean": "0.5,0.5,0.5", "std": "0.3,0.3,0.3"}
    )
    return str(tmp_path / "resnet20.safetensors")


def train(data: Path, output: Path, weights: str, settings: dict[str, Any] | None = None, **options: Any) -> tt.Run:
    return tt.train(
        data, output=output, weights=weights, settings={**SET, **(settings or {})}, **{**BACKBONE, **options}
    )


def test_the_default_is_a_logistic_regression_on_frozen_features(shapes: Path, tmp_path: Path, pretrained: str) -> None:
    run = train(shapes, tmp_path / "run", pretrained)
    assert run.evaluation.accuracy.value >= 0.9
    assert len(run.history) == 1
    before, after = load_file(pretrained), load_file(run.path / "model.safetensors")
    for name, tensor in before.items():
        if name.startswith("body."):
            assert torch.equal(after[name.replace("body.", "body.backbone.", 1)], tensor), name
    tried = json.loads((run.path / "penalties.json").read_text())
    assert tried["chosen"] in [trial["penalty"] for trial in tried["trials"]]
    summary = RunDir(run.path).read_summary()
    assert summary.trainable_parameters == 65  # 64 features and a bias to one sigmoid unit
    predictions = RunDir(run.path).read_predictions()["test"]
    label = tt.load(run.path, device="cpu").predict(shapes / predictions.paths[0])
    assert label.probabilities[predictions.classes[0]] == pytest.approx(predictions.probabilities[0, 0], abs=0.03)


def test_the_same_with_and_without_kept_features(shapes: Path, tmp_path: Path, pretrained: str) -> None:
    options: dict[str, Any] = {"depth": 2, "epochs": 2, "head_epochs": 0, "augment": "none", "precision": "fp32"}
    settings = {"fit.feature_precision": "fp32"}
    kept = train(shapes, tmp_path / "kept", pretrained, settings, views=1, **options)
    fresh = train(shapes, tmp_path / "fresh", pretrained, settings, feature_cache=False, **options)
    assert not (tmp_path / "fresh" / "penalties.json").exists()
    for one, other in zip(kept.history, fresh.history, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-3)
        assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-3)
    probabilities = [RunDir(run.path).read_predictions()["test"].probabilities for run in (kept, fresh)]
    np.testing.assert_allclose(probabilities[0], probabilities[1], atol=2e-3)


def test_the_head_is_trained_first_and_the_backbone_more_slowly(shapes: Path, tmp_path: Path, pretrained: str) -> None:
    run = train(shapes, tmp_path / "run", pretrained, depth=2, epochs=3, views=2)
    assert [row.epoch for row in run.history] == [1, 2, 3, 4]  # the logistic head, then three epochs
    before, after = load_file(pretrained), load_file(run.path / "model.safetensors")
    changed = {name for name in before if name.startswith("body.") and "num_batches" not in name
               and not torch.equal(before[name], after[name.replace("body.", "body.backbone.", 1)])}  # fmt: skip
    assert changed
    assert all(name.startswith(("body.residual3.2.",)) for name in changed)
    environment = json.loads((run.path / "environment.json").read_text())
    assert 1 <= environment["kept_epoch"] <= 4  # the head alone may be the best


def test_a_stopped_fine_tuning_ends_as_if_it_had_not_been(shapes: Path, tmp_path: Path, pretrained: str) -> None:
    options: dict[str, Any] = {"depth": 2, "epochs": 3, "views": 2, "precision": "fp32", "batch_size": 16}
    whole = train(shapes, tmp_path / "whole", pretrained, **options)
    seen: list[EpochRecord] = []
    watch = Watch(on_epoch=lambda record, _: seen.append(record), should_stop=lambda: len(seen) == 2)
    with pytest.raises(RunInterrupted, match="--resume"):
        train(shapes, tmp_path / "stopped", pretrained, **options, watch=watch)
    resumed = tt.resume(tmp_path / "stopped")
    assert [row.epoch for row in resumed.history] == [row.epoch for row in whole.history]
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_resolved_settings_repeat_the_run(shapes: Path, tmp_path: Path, pretrained: str) -> None:
    one = train(shapes, tmp_path / "one", pretrained)
    shutil.rmtree(cache_folder() / "figures")  # where the fitted head is kept
    two = tt.train(config=one.path / "config.toml", output=tmp_path / "two")
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()
    assert two.evaluation == one.evaluation


def test_runs_with_other_seeds_share_the_features(shapes: Path, tmp_path: Path, pretrained: str) -> None:
    train(shapes, tmp_path / "one", pretrained, views=2)
    before = {path.name: path.stat().st_mtime_ns for path in (cache_folder() / "features").glob("*/rows.bin")}
    train(shapes, tmp_path / "two", pretrained, views=2, seed=1)
    assert {path.name: path.stat().st_mtime_ns for path in (cache_folder() / "features").glob("*/rows.bin")} == before
    assert before


def test_a_head_of_its_own_and_a_backbone_that_is_cut(shapes: Path, tmp_path: Path, pretrained: str) -> None:
    run = train(
        shapes,
        tmp_path / "run",
        pretrained,
        cut="residual1",
        head="gap; bn; dense 16 relu",
        epochs=40,
        learning_rate=0.02,
    )
    names = load_file(run.path / "model.safetensors")
    assert "body.dense1.weight" in names
    assert not any("residual2" in name for name in names)
    assert run.evaluations["train"].accuracy.value > 0.7


def test_a_grid_of_heads_gives_the_best_and_names_what_failed(shapes: Path, tmp_path: Path, pretrained: str) -> None:
    grid: dict[str, Any] = {
        "heads.learning_rate": [0.01, 1e38], "heads.width": [0, 8], "heads.dropout": [0.2], "heads.seeds": 2,
    }  # fmt: skip
    run = train(shapes, tmp_path / "run", pretrained, grid, epochs=5)
    tried = json.loads((run.path / "heads.json").read_text())
    assert len(tried["heads"]) == 8
    best = tried["heads"][tried["best"]]
    assert best["setting"]["learning_rate"] == 0.01
    assert all(bool(head["failed"]) == (head["setting"]["learning_rate"] > 1) for head in tried["heads"])
    assert [row.validation_loss for row in run.history] == [row["validation_loss"] for row in best["history"]]
    model = json.loads((run.path / "model.json").read_text())["model"]
    assert ("dense 8 relu" in model["head"]) == (best["setting"]["width"] == 8)
    predictions = RunDir(run.path).read_predictions()["test"]
    label = tt.load(run.path, device="cpu").predict(shapes / predictions.paths[0])
    assert label.probabilities[predictions.classes[0]] == pytest.approx(predictions.probabilities[0, 0], abs=0.03)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "auto"}, "TINTYPE_WEIGHTS"),
        ({"weights": "missing.safetensors"}, "missing.safetensors"),
        ({"freeze": "residual7"}, "residual1"),
        ({"depth": 40}, "19 layers"),
        ({"depth": 2, "freeze": "all"}, "give one"),
        ({"backbone": "resnet2000"}, "resnet2000"),
        ({"cut": "nowhere"}, "nowhere"),
        ({"settings": {"heads.learning_rate": [-1.0]}}, "learning_rate"),
        ({"settings": {"heads.seeds": 2}, "head": "dense 4"}, "no head"),
        ({"settings": {"fit.feature_cache_gb": 1e-7}}, "feature_cache_gb"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    shapes: Path, tmp_path: Path, pretrained: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(tt.TintypeError) as caught:
        train(shapes, tmp_path / "run", **{"weights": pretrained, **options})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_the_labs_networks_have_exactly_their_parameters() -> None:
    head = "bn; flatten; dense 256 relu l2=0.01; dropout 0.3"
    two = tt.summary(backbone="vgg16", head=head, freeze="all", image_size=224, classes=2)
    assert (two.total_parameters, two.trainable_parameters) == (21_139_777, 6_424_065)
    four = tt.summary(backbone="vgg16", head=head, freeze="all", image_size=224, classes=4)
    assert (four.total_parameters, four.trainable_parameters) == (21_140_548, 6_424_836)


def tintype(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    command = [sys.executable, "-m", "tintype", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})


def test_the_command_line_trains_and_imports(
    shapes: Path, tmp_path: Path, pretrained: str, tintype_here: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    torch.save({"state_dict": load_file(pretrained)}, tmp_path / "theirs.pth")
    done = tintype_here(
        "import", str(tmp_path / "theirs.pth"), "-o", str(tmp_path / "mine.safetensors"), "--backbone", "resnet20",
        "--mean", "0.5,0.5,0.5", "--std", "0.3,0.3,0.3", "--image-size", "32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = tintype(
        "train", str(shapes), "-o", str(tmp_path / "run"), "--weights", str(tmp_path / "mine.safetensors"), "--json",
        "--set", "threads=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["evaluation"]["test"]["accuracy"]["value"] >= 0.9


def test_without_weights_and_without_a_network_there_is_one_line_at_once(shapes: Path) -> None:
    done = tintype("train", str(shapes), "--backbone", "vgg16", HF_HUB_OFFLINE="0", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("tintype: there are no pretrained weights for vgg16")
    assert "Traceback" not in done.stderr


def test_lbfgs_asks_for_frozen_layers(shapes: Path) -> None:
    with pytest.raises(ConfigError, match="freeze"):
        tt.train(shapes, optimizer="lbfgs", device="cpu")
