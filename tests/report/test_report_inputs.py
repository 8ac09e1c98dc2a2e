"""Reading a run directory of which any part may be absent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tintype.errors import RunError
from tintype.records import EpochRecord
from tintype.report.inputs import read_inputs
from tintype.rundir import RunDir

MakeRun = Callable[..., RunDir]
MakeHistory = Callable[..., list[EpochRecord]]


def test_mistakes_are_the_surest_wrong_rows(make_run: MakeRun) -> None:
    run_dir = make_run(accuracy=0.6)
    predictions = run_dir.read_predictions()["test"]
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    sure = predictions.probabilities.max(axis=1)
    expected = sorted((-sure[i], predictions.paths[i]) for i in wrong)[:50]
    found = read_inputs(run_dir).mistakes
    assert [item.path for item in found] == [path for _, path in expected]
    assert found[0].confidence == pytest.approx(-expected[0][0], rel=1e-6)
    row = predictions.paths.index(found[0].path)
    assert found[0].label == predictions.classes[predictions.labels[row]]
    assert found[0].predicted == predictions.classes[predictions.predicted[row]]


def test_images_without_a_label_are_no_mistakes(make_run: MakeRun) -> None:
    run_dir = make_run()
    predictions = run_dir.read_predictions()["test"]
    run_dir.write_predictions([replace(predictions, labels=np.full(len(predictions), -1))])
    assert read_inputs(run_dir).mistakes == ()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("", 3),
        ('[fit]\nkeep = "last"\n', 5),
        ('[fit]\nmonitor = "validation_accuracy"\n', 2),
        ("not = [toml", 3),
    ],
)
def test_the_kept_epoch_follows_the_settings(
    make_run: MakeRun, make_history: MakeHistory, config: str, expected: int
) -> None:
    run_dir = make_run(config=config)
    losses, accuracies = [5.0, 4.0, 1.0, 1.0, 2.0], [0.1, 0.9, 0.8, 0.9, 0.7]
    run_dir.write_history([
        replace(row, validation_loss=loss, validation_accuracy=accuracy)
        for row, loss, accuracy in zip(make_history(5), losses, accuracies, strict=True)
    ])  # fmt: skip
    assert read_inputs(run_dir).kept_epoch == expected


def test_the_kept_epoch_without_validation_and_as_recorded(make_run: MakeRun, make_history: MakeHistory) -> None:
    history = make_history(4, validation=False)
    history[1] = replace(history[1], train_loss=0.001)
    run_dir = make_run()
    run_dir.write_history(history)
    assert read_inputs(run_dir).kept_epoch == 2
    run_dir.write_json("environment.json", {"kept_epoch": 3})
    assert read_inputs(run_dir).kept_epoch == 3


def test_classes_come_from_where_their_number_fits_the_matrix(make_run: MakeRun) -> None:
    run_dir = make_run(classes=("x", "y", "z"))
    assert read_inputs(run_dir).classes == ("x", "y", "z")
    run_dir.write_json("model.json", {"classes": ["p", "q"]})
    assert read_inputs(run_dir).classes == ("x", "y", "z")
    (run_dir / "data.json").unlink()
    assert read_inputs(run_dir).classes == ("x", "y", "z")


def test_the_test_split_speaks_for_a_run_and_validation_where_there_is_none(make_run: MakeRun) -> None:
    run_dir = make_run()
    assert read_inputs(run_dir).split == "test"
    run_dir.write_evaluation([run_dir.read_evaluation()["validation"]])
    assert read_inputs(run_dir).split == "validation"


@pytest.mark.parametrize("name", ["data.json", "gallery.json", "predictions.csv", "history.jsonl", "environment.json"])
def test_a_damaged_file_is_one_plain_line(make_run: MakeRun, name: str) -> None:
    run_dir = make_run()
    (run_dir / name).write_text("split,path\ntest,{" if name.endswith("csv") else '[{"nonsense": 1', encoding="utf-8")
    with pytest.raises(RunError, match=name) as caught:
        read_inputs(run_dir)
    assert "\n" not in str(caught.value)


def test_a_record_of_another_version_is_named(make_run: MakeRun) -> None:
    run_dir = make_run()
    run_dir.write_json("gallery.json", [{"group": "mistakes", "picture": "x"}])
    with pytest.raises(RunError, match=r"gallery\.json is from another version"):
        read_inputs(run_dir)


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="tintype train DATA"):
        read_inputs(RunDir(tmp_path / "nowhere"))
