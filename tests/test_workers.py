"""``tintype train --workers`` as a user runs it: the same figures as one process, one run directory, one voice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from shapes import make_shapes
from small_run import SETTINGS


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    make_shapes(tmp_path / "photos", 40)
    (tmp_path / "settings.toml").write_text(SETTINGS, encoding="utf-8")
    return tmp_path / "photos"


def command(photos: Path, output: str, *options: str) -> list[str]:
    settings = photos.parent / "settings.toml"
    return [
        sys.executable, "-m", "tintype", "train", str(photos), "--config", str(settings), "-o",
        str(photos.parent / output), *options,
    ]  # fmt: skip


def tintype(photos: Path, output: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(photos, output, *options), capture_output=True, text=True, timeout=200, check=False)


def history(photos: Path, output: str) -> list[dict[str, float]]:
    lines = (photos.parent / output / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_two_workers_end_as_one_process_does(
    photos: Path, tintype_here: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    one = tintype_here(*command(photos, "one")[3:])
    two = tintype(photos, "two", "--workers", "2")
    assert one.returncode == two.returncode == 0, two.stderr
    for alone, together in zip(history(photos, "one"), history(photos, "two"), strict=True):
        for name in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate"):
            assert together[name] == pytest.approx(alone[name], rel=1e-4), name
    rows = [(photos.parent / name / "predictions.csv").read_text(encoding="utf-8") for name in ("one", "two")]
    assert [line.split(",")[:3] for line in rows[0].splitlines()] == [
        line.split(",")[:3] for line in rows[1].splitlines()
    ], "every image once, in the same order"
    assert "a step of 16 images is shared, 8 each" in two.stderr
    assert two.stderr.count("report: ") == 1, "one rank talks"
    assert "epoch 4 of 4" in (photos.parent / "two" / "rank1.log").read_text(encoding="utf-8")


def test_a_mistake_is_one_line_told_once(photos: Path) -> None:
    done = tintype(photos, "two", "--workers", "2", "--set", "fit.nonsense=1")
    assert done.returncode == 2
    assert done.stderr.count("fit.nonsense") == 1
    assert "Traceback" not in done.stderr
    assert not (photos.parent / "two").exists()


@pytest.mark.gpu
def test_two_gpus_end_as_one_does(photos: Path) -> None:
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("this machine has fewer than two GPUs")
    assert tintype(photos, "one", "--device", "cuda").returncode == 0
    two = tintype(photos, "two", "--device", "cuda", "--workers", "2")
    assert two.returncode == 0, two.stderr
    for alone, together in zip(history(photos, "one"), history(photos, "two"), strict=True):
        assert together["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-3)


@pytest.mark.slow
def test_a_worker_killed_at_a_random_step_changes_nothing(photos: Path) -> None:
    longer = ("--epochs", "60", "--workers", "2")
    assert tintype(photos, "undisturbed", *longer).returncode == 0
    whole = load_file(photos.parent / "undisturbed" / "model.safetensors")
    for round_number, victim in enumerate((1, 0, 1)):
        output = f"killed{round_number}"
        process = subprocess.Popen(command(photos, output, *longer), stderr=subprocess.PIPE, text=True)
        checkpoint = photos.parent / output / "checkpoint.safetensors"
        while not checkpoint.exists():
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.3 * round_number)
        workers = children(process.pid)
        os.kill(workers[victim], signal.SIGKILL)
        _, stderr = process.communicate(timeout=200)
        assert process.returncode == 0, stderr
        assert "was killed by SIGKILL" in stderr
        again = load_file(photos.parent / output / "model.safetensors")
        assert all((again[name] == tensor).all() for name, tensor in whole.items())


@pytest.mark.slow
def test_ctrl_c_stops_all_with_a_checkpoint_and_resume_goes_on_alone(photos: Path) -> None:
    process = subprocess.Popen(
        command(photos, "two", "--workers", "2", "--epochs", "200"), stderr=subprocess.PIPE, text=True
    )
    checkpoint = photos.parent / "two" / "checkpoint.safetensors"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 130, stderr
    assert "after step" in stderr, "all ranks stop at the same step, with a checkpoint of it"
    assert "Go on with: tintype train --resume" in stderr
    assert "Traceback" not in stderr
    resumed = subprocess.run(
        [sys.executable, "-m", "tintype", "train", "--resume", str(photos.parent / "two")],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert len(history(photos, "two")) == 200


def children(parent: int) -> list[int]:
    """Processes that a process has started, the oldest first (Linux)."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
    return [int(number) for number in found]
