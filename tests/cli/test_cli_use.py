"""`predict` as its users run it, on a model that was not trained."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tintype.cli import app
from tintype.config import ModelConfig
from tintype.data.decode import Geometry
from tintype.models.build import build_network
from tintype.records import ImageStatistics
from tintype.rundir import RunDir
from tintype.serving.model import Model, save_model
from tintype.serving.predictor import Predictor


@pytest.fixture
def run(tmp_path: Path, shapes_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run whose threshold leaves half of the shapes unsure; commands run beside it."""
    torch.manual_seed(3)
    config = ModelConfig(layers="conv 8 3 relu\npool 2\ngap\n")
    network = build_network(config, (3, 24, 24), 2, np.full(3, 0.4), np.full(3, 0.2)).eval()
    statistics = ImageStatistics(10, 90.0, 40.0, 60.0, 100.0, 0.5, 1.0, 24.0, 24.0)
    run_dir = RunDir(tmp_path / "run")
    (tmp_path / "run").mkdir()
    (run_dir / "config.toml").touch()
    run_dir.write_json("evaluation.json", {})
    geometry = Geometry(24, 3, "stretch")
    save_model(run_dir, Model(network, config, ("circle", "square"), geometry, statistics, 1.0, 89.0))
    labels = list(Predictor(run_dir.path, "cpu").predict_many([shapes_folder]))
    threshold = float(np.median([label.probability for label in labels]))
    save_model(run_dir, Model(network, config, ("circle", "square"), geometry, statistics, 1.0, 89.0, threshold))
    monkeypatch.chdir(tmp_path)
    return run_dir.path


def test_unsure_answers_are_marked_counted_and_can_be_turned_off(run: Path) -> None:
    shown = CliRunner().invoke(app, ["predict", str(run), "shapes", "--device", "cpu"])
    assert shown.exit_code == 0
    assert shown.stdout.count("not sure (") == 40
    assert "not sure of 40 of 80 images" in shown.stderr
    assert "--answer-all turns it off" in shown.stderr
    everything = CliRunner().invoke(app, ["predict", str(run), "shapes", "--device", "cpu", "--answer-all"])
    assert "not sure" not in everything.output


def test_json_and_csv_give_the_label_and_say_that_it_is_not_sure(run: Path) -> None:
    as_json = CliRunner().invoke(app, ["predict", str(run), "shapes", "--json", "--top", "2"])
    found = json.loads(as_json.stdout)["predictions"]
    assert sum(not item["sure"] for item in found) == 40
    assert all(item["label"] and len(item["top"]) == 2 for item in found)
    assert as_json.stderr == ""
    as_csv = CliRunner().invoke(app, ["predict", str(run), "shapes", "--csv"])
    rows = list(csv.DictReader(io.StringIO(as_csv.stdout)))
    assert [row["sure"] for row in rows] == [str(item["sure"]).lower() for item in found]


@pytest.mark.parametrize(
    ("options", "folder"), [(["--explain"], "explained"), (["--explain-to", "why/here"], "why/here")]
)
def test_explain_writes_pictures_and_says_where(run: Path, options: list[str], folder: str) -> None:
    images = ["shapes/circle/000.png", "shapes/square/000.png"]
    shown = CliRunner().invoke(app, ["predict", str(run), *options, *images])
    assert shown.exit_code == 0, shown.output
    pictures = [f"{folder}/000.png", f"{folder}/000-2.png"]
    assert [line.split()[-1] for line in shown.stdout.splitlines()] == pictures
    assert all(Path(path).is_file() for path in pictures)
    assert f"{folder}: where the model looked, 2 images" in shown.stderr


def test_nothing_is_explained_unless_it_is_asked_for(run: Path) -> None:
    before = sorted(Path().rglob("*"))
    assert CliRunner().invoke(app, ["predict", str(run), "shapes/circle/000.png"]).exit_code == 0
    assert sorted(Path().rglob("*")) == before


def test_top_must_be_at_least_one(run: Path) -> None:
    assert CliRunner().invoke(app, ["predict", str(run), "shapes", "--top", "0"]).exit_code == 2
