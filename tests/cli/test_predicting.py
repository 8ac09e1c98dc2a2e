"""`predict` as a process: what it imports, how it is killed and gone on with, how a pipe feeds it."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tintype.config import ModelConfig
from tintype.data.decode import Geometry
from tintype.models.build import build_network
from tintype.records import ImageStatistics
from tintype.rundir import RunDir
from tintype.serving.model import Model, save_model

LIGHT = """
import sys
import tintype.cli, tintype.cli.predicting, tintype.console, tintype.serving.exported
heavy = [name for name in ("torch", "timm", "scipy", "sklearn", "pydantic", "cv2", "pandas", "jinja2", "matplotlib")
         if name in sys.modules]
assert not heavy, heavy
"""


@pytest.fixture
def run(tmp_path: Path, shapes_folder: Path) -> Path:
    """A finished run with an untrained network, and 800 names of the 80 shapes in `many`."""
    torch.manual_seed(3)
    config = ModelConfig(layers="conv 4 3 relu\ngap\n")
    network = build_network(config, (3, 24, 24), 2, np.full(3, 0.4), np.full(3, 0.2)).eval()
    statistics = ImageStatistics(10, 90.0, 40.0, 60.0, 100.0, 0.5, 1.0, 24.0, 24.0)
    run_dir = RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    (run_dir / "config.toml").touch()
    run_dir.write_json("evaluation.json", {})
    geometry = Geometry(24, 3, "stretch")
    save_model(run_dir, Model(network, config, ("circle", "square"), geometry, statistics, 1.0, 89.0))
    (tmp_path / "many").mkdir()
    for number in range(10):
        for path in shapes_folder.glob("*/*.png"):
            os.link(path, tmp_path / "many" / f"{path.parent.name}-{path.stem}-{number}.png")
    return run_dir.path


def command(run: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tintype", "predict", str(run), *arguments]


def test_an_export_is_used_without_any_heavy_library() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True, timeout=60)


def test_what_was_killed_goes_on_where_it_stopped(run: Path) -> None:
    """Killed without warning in the middle of a list that comes through a pipe: every image once, nothing lost."""
    folder, table = run.parent, run.parent / "labels.csv"
    names = sorted(path.name for path in (folder / "many").iterdir())
    listed = "".join(f"many/{name}\n" for name in names)
    arguments = command(run, "--files-from", "-", "-o", "labels.csv")
    first = subprocess.Popen(arguments, cwd=folder, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert first.stdin is not None
    first.stdin.write(listed)
    first.stdin.flush()  # and it stays open: the process waits for more names
    deadline = time.monotonic() + 60
    while not (table.exists() and table.read_bytes().count(b"\n") > 256):
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    first.stdin.close()
    before = table.read_bytes()
    assert 256 < before.count(b"\n") < 800
    second = subprocess.run(arguments, cwd=folder, input=listed, capture_output=True, text=True, timeout=120)
    assert second.returncode == 0, second.stderr
    assert table.read_bytes().startswith(before)
    with table.open(encoding="utf-8", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [f"many/{name}" for name in names]


def test_ctrl_c_says_how_far_it_came(run: Path) -> None:
    arguments = command(run, "--files-from", "-", "-o", "labels.csv")
    process = subprocess.Popen(arguments, cwd=run.parent, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    table = run.parent / "labels.csv"
    deadline = time.monotonic() + 60
    while not table.exists() or not table.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == "tintype: stopped; labels.csv has 0 more rows. The same command goes on."
