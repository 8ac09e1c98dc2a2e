"""SIGKILL at random moments of a run, then ``--resume``: the weights are those of an undisturbed run, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from shapes import make_shapes

ARGUMENTS = [
    "--epochs", "12", "--image-size", "24", "--batch-size", "8", "--device", "cpu", "--set", "threads=1",
    "--set", "precision=fp32", "--set", "fit.checkpoint_seconds=0", "--set", "fit.ema=0.9",
]  # fmt: skip


def start(folder: Path, *arguments: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tintype", *map(str, arguments)]
    environment = {**os.environ, "TINTYPE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A folder with data and a whole run in ``whole``, and the seconds it took."""
    folder = tmp_path_factory.mktemp("kill")
    make_shapes(folder / "shapes", 60)
    started = time.monotonic()
    finish(start(folder, "train", "shapes", "-o", "whole", *ARGUMENTS))
    return folder, time.monotonic() - started


def kill_and_resume(folder: Path, seconds: float, seed: int, kills: int) -> None:
    """Kill the run at random moments after it has begun to train, then let it end, and compare the weights."""
    random = np.random.default_rng(seed)
    run = folder / f"killed-{seed}"
    process = start(folder, "train", "shapes", "-o", run, *ARGUMENTS)
    for _ in range(kills):
        while not (run / "config.toml").exists() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(float(random.uniform(0, seconds * 0.6)))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (run / "evaluation.json").exists():
            break
        process = start(folder, "train", "--resume", run)
    else:
        finish(process)
    assert (run / "model.safetensors").read_bytes() == (folder / "whole" / "model.safetensors").read_bytes()
    rows = len((run / "history.jsonl").read_text().splitlines())
    assert rows == 12
    assert not list(run.glob(".*.tmp")) or (run / "evaluation.json").exists()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_killed_runs_end_bit_equal(undisturbed: tuple[Path, float], seed: int) -> None:
    kill_and_resume(*undisturbed, seed=seed, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 30))
def test_twenty_killed_runs_end_bit_equal(undisturbed: tuple[Path, float], seed: int) -> None:
    kill_and_resume(*undisturbed, seed=seed, kills=1)


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(undisturbed: tuple[Path, float]) -> None:
    folder, _ = undisturbed
    run = folder / "interrupted"
    process = start(folder, "train", "shapes", "-o", run, *ARGUMENTS, "--epochs", "500")
    while not (run / "history.jsonl").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors.decode()
    last = errors.decode().strip().splitlines()[-1]
    assert last.endswith(f"Go on with: tintype train --resume {run}")
    assert "Traceback" not in errors.decode()
    assert (run / "checkpoint.safetensors").exists()
