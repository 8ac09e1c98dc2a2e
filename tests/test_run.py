"""A run through the Python API: one decode, honest figures, leaks counted apart, and runs that are cut short."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes import draw_shape, make_shapes

import tintype as tt
from tintype.config import RunConfig
from tintype.errors import RunError
from tintype.run import start_run
from tintype.rundir import RunDir, cache_folder
from tintype.watch import Watch

QUICK = {"epochs": 6, "device": "cpu", "precision": "fp32", "settings": {"threads": 1}}


def test_a_run_and_its_figures(shapes_folder: Path, tmp_path: Path) -> None:
    run = tt.train(shapes_folder, output=tmp_path / "run", **QUICK)  # type: ignore[arg-type]
    accuracy = run.evaluation.accuracy
    predictions = RunDir(run.path).read_predictions()["test"]
    assert accuracy.n == len(predictions)
    assert accuracy.value == pytest.approx(np.mean(predictions.predicted == predictions.labels))
    assert accuracy.low < accuracy.value or accuracy.value == 0
    assert [row.epoch for row in run.history] == [1, 2, 3, 4, 5, 6]
    assert run.report.is_file()
    assert set(run.evaluations) == {"test", "validation", "train"}
    label = tt.load(run.path, device="cpu").predict(shapes_folder / predictions.paths[0])
    assert label.label == predictions.classes[predictions.predicted[0]]


def test_images_are_decoded_once(shapes_folder: Path, tmp_path: Path) -> None:
    tt.train(shapes_folder, output=tmp_path / "one", **QUICK)  # type: ignore[arg-type]
    caches = sorted((cache_folder() / "images").glob("*/*"))
    times = [path.stat().st_mtime_ns for path in caches]
    tt.train(shapes_folder, output=tmp_path / "two", **QUICK)  # type: ignore[arg-type]
    assert sorted((cache_folder() / "images").glob("*/*")) == caches
    assert [path.stat().st_mtime_ns for path in caches] == times
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert first == second


def test_leaked_test_images_are_counted_apart(tmp_path: Path) -> None:
    root = tmp_path / "data"
    random = np.random.default_rng(3)
    for split, count in (("train", 40), ("test", 20)):
        for name in ("circle", "square"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw_shape(name, random)).save(root / split / name / f"{number}.png")
    for number in range(5):
        shutil.copy(root / "train" / "circle" / f"{number}.png", root / "test" / "circle" / f"copy{number}.png")
    run = tt.train(root, output=tmp_path / "run", **QUICK)  # type: ignore[arg-type]
    metrics = run.evaluation.metrics
    assert metrics["accuracy"].n == 45
    assert metrics["accuracy_leaked"].n == 5
    assert metrics["accuracy_without_leaked"].n == 40
    leak = next(finding for finding in run.findings if finding.code == "leakage")
    assert leak.severity == "critical"
    assert any("copy0.png" in line for line in leak.evidence)


@pytest.mark.parametrize("steps_aside", [True, False])
def test_every_step_of_a_run_looks_for_other_programs_where_it_may_step_aside(
    shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, steps_aside: bool
) -> None:
    taken = []

    class Looking:
        def __init__(self, most: int, on_message: Callable[[str], None]) -> None:
            on_message(f"of {most} threads")

        def step(self) -> None:
            taken.append(1)

    monkeypatch.setattr("tintype.learning.SteppingAside", Looking)
    monkeypatch.setattr(
        "tintype.preparing.choose_computing", lambda runtime, *_: (replace(runtime, steps_aside=steps_aside), None)
    )
    said: list[str] = []
    config = RunConfig().replace(
        {"data.source": str(shapes_folder), "device": "cpu", "fit.epochs": 3, "fit.steps_per_epoch": 4, "threads": 1}
    )
    start_run(config, tmp_path / "run", Watch(on_message=said.append))
    assert len(taken) == (12 if steps_aside else 0)
    assert ("of 1 threads" in said) is steps_aside


def test_a_second_run_gets_a_name_of_its_own(
    shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = tt.train(shapes_folder, **{**QUICK, "epochs": 1})  # type: ignore[arg-type]
    two = tt.train(shapes_folder, **{**QUICK, "epochs": 1})  # type: ignore[arg-type]
    assert (one.path, two.path) == (Path("runs/shapes"), Path("runs/shapes-2"))


def test_a_finished_run_is_not_resumed_and_a_missing_report_is_made(shapes_folder: Path, tmp_path: Path) -> None:
    run = tt.train(shapes_folder, output=tmp_path / "run", **{**QUICK, "epochs": 1})  # type: ignore[arg-type]
    with pytest.raises(RunError, match="finished already"):
        tt.resume(run.path)
    run.report.unlink()
    assert tt.resume(run.path).report.is_file()


def test_images_that_changed_are_not_resumed_with(shapes_folder: Path, tmp_path: Path) -> None:
    run = tt.train(shapes_folder, output=tmp_path / "run", **{**QUICK, "epochs": 1})  # type: ignore[arg-type]
    (run.path / "evaluation.json").unlink()  # as if it had been killed
    Image.new("RGB", (24, 24)).save(shapes_folder / "circle" / "000.png")
    with pytest.raises(RunError, match="images changed"):
        tt.resume(run.path)


def test_evaluations_of_two_sets_of_one_name_do_not_overwrite_each_other(shapes_folder: Path, tmp_path: Path) -> None:
    run = tt.train(shapes_folder, output=tmp_path / "run", **{**QUICK, "epochs": 1})  # type: ignore[arg-type]
    for place, seed in (("here", 1), ("there", 2)):
        make_shapes(tmp_path / place / "more", 5, seed=seed)
    first = tt.evaluate(run.path, tmp_path / "here" / "more", device="cpu")
    second = tt.evaluate(run.path, tmp_path / "there" / "more", device="cpu")
    again = tt.evaluate(run.path, tmp_path / "here" / "more", device="cpu")
    assert first.path == again.path
    assert second.path.name == "more-2"
    assert first.original == run.evaluation
    assert again.evaluation == first.evaluation
    (first.path / "data.json").unlink()  # as a kill would have left it
    assert tt.evaluate(run.path, tmp_path / "here" / "more", device="cpu").path == first.path
