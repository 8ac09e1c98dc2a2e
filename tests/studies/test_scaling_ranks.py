"""A study of scaling from its command to its page: two processes, a small network, real steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from shapes import make_shapes

STUDY = """
name = "small"
kind = "scaling"
seeds = 1
[scaling]
blocks = 2
steps = 4
machines = [2, 4]
[base]
precision = "fp32"
model.layers = "conv 16 3 relu\\npool 2\\nflatten\\ndense 512 relu"
fit.epochs = 1
fit.batch_size = 12
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a study that was made, then asked for again."""
    folder = tmp_path_factory.mktemp("scaling")
    make_shapes(folder / "images", 40)
    (folder / "small.toml").write_text(STUDY, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TINTYPE_CACHE": str(folder / "cache")}
    arguments = [str(folder / "small.toml"), "--data", str(folder / "images"), "-o", str(folder / "study")]
    command = [sys.executable, "-m", "tintype", "study", *arguments, "--workers", "2"]
    for words in ("block 2 of 2", "measured already"):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert words in done.stderr
        assert "rank1" not in done.stderr
    return folder / "study"


@pytest.mark.slow
def test_the_parts_add_up_to_the_step(made: Path) -> None:
    found = json.loads((made / "scaling.json").read_text(encoding="utf-8"))
    assert [(point["mode"], point["ranks"], point["images"]) for point in found["points"]] == [
        ("strong", 1, 12), ("strong", 2, 12), ("weak", 1, 12), ("weak", 2, 24),
    ]  # fmt: skip
    for point in found["points"]:
        assert abs(point["unaccounted"]) < 0.05 * point["seconds"]["value"] + 0.001
        assert point["parts"]["forward"] > 0
    together = found["points"][1]["parts"]
    assert together["exposed"] > 0
    assert found["points"][0]["parts"]["exposed"] == found["points"][0]["parts"]["waiting"] == 0
    assert found["gradient_bytes"] > 4 * 64 * 64
    assert found["factored"] == ["body.dense1"]
    link = found["link"]
    assert link["bytes_per_second"] > 1e6
    assert 1.0 <= link["slowed"] < 100, "two ranks of one machine: computing takes their cores, and not for good"
    assert 0.0 <= link["wake"] < 1.0
    assert {item["machines"] for item in found["projections"]} == {2, 4}


@pytest.mark.slow
def test_the_runs_are_made_by_as_many_ranks_as_they_say(made: Path) -> None:
    table = json.loads((made / "study.json").read_text(encoding="utf-8"))
    assert [run["state"] for run in table["runs"]] == ["finished"] * 3
    logs = {run["point"]: (made / "runs" / run["name"] / "rank1.log").exists() for run in table["runs"]}
    assert logs == {"1 rank": False, "2 ranks, one batch": True, "2 ranks, a batch each": True}
    one, shared, _ = (next(row for row in table["points"] if row["label"] == label) for label in logs)
    assert one["loss"]["value"] == pytest.approx(shared["loss"]["value"], rel=1e-4)
    assert 'id="gain"' in (made / "report.html").read_text(encoding="utf-8")
