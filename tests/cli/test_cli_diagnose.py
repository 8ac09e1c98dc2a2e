"""``diagnose`` as its users run it: on a run that ended, on one that failed, and on what is no run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from planted_networks import PLANTS
from typer.testing import CliRunner

import tintype as tt
from tintype import api
from tintype.cli import app
from tintype.errors import NonFiniteError, RunError

PLANT = next(plant for plant in PLANTS if plant.name == "log_nan")


@pytest.fixture
def failed(tmp_path: Path) -> Path:
    source, options = PLANT.write(tmp_path)
    with pytest.raises(NonFiniteError):
        tt.train(source, output=tmp_path / "run", **options)
    return tmp_path / "run"


def test_a_failed_run_is_diagnosed_and_what_it_did_not_leave_is_named(failed: Path) -> None:
    shown = CliRunner().invoke(app, ["diagnose", str(failed)])
    assert shown.exit_code == 0
    assert "layer body.log gives values that are not" in shown.stdout
    assert "not seen, as the run left none: history.jsonl, predictions.csv, health.json" in shown.stdout
    found = json.loads(CliRunner().invoke(app, ["diagnose", str(failed), "--json"]).stdout)
    assert [item["code"] for item in found["findings"]] == ["non-finite-layer"]
    assert "health.json" in found["not_seen"]


def test_a_run_that_ended_leaves_its_diagnosis(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (120, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", x_train=images, y_train=np.arange(120) % 2)
    settings = {"model.layers": "flatten\ndense 4 tanh", "threads": 1}
    run = tt.train(tmp_path / "noise.npz", output=tmp_path / "run", epochs=3, device="cpu", settings=settings)
    health = json.loads((run.path / "health.json").read_text())
    assert health["images"] > 80
    assert [layer["name"] for layer in health["layers"]][-1] == "output"
    found = api.diagnose(run.path)
    assert found
    assert {finding.code for finding in found} <= {finding.code for finding in run.findings}
    again = CliRunner().invoke(app, ["diagnose", str(run.path)])
    assert found[0].title in again.stdout
    assert "not seen, as the run left none: history" not in again.stdout


def test_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run directory: it holds no config\.toml"):
        api.diagnose(tmp_path)
