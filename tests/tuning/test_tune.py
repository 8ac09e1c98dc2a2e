"""A search from the command to the winner's run directory, on small pictures."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from shapes import make_shapes

from tintype import api
from tintype.config import load_config
from tintype.errors import ConfigError, RunError
from tintype.report.tunefile import TuneTable, read_tune_table
from tintype.run import load_run
from tintype.watch import Watch

SPACE = """
name = "small"
[base]
data.image_size = 24
precision = "fp32"
evidence.baselines = false
evidence.attention = false
[space]
fit.learning_rate = {low = 1e-3, high = 1e-1, log = true}
[space.model.layers]
choices = {small = "conv 4 3 relu; pool 2; flatten", broken = "conv 4 3 relu; pool 40 pad=valid; flatten"}
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, 60)
    return folder


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("space") / "small.toml"
    file.write_text(SPACE, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def searched(images: Path, space: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINTYPE_LEDGER", str(folder.parent / "ledger.jsonl"))
        patch.setenv("TINTYPE_CACHE", str(folder.parent / "cache"))
        _search(images, space, folder)
    return folder


def _search(images: Path, space: Path, folder: Path) -> None:
    # A full training of three epochs: stages of a step or two, whatever else the machine does.
    api.tune(images, trials=12, space=space, output=folder, settings={"fit.epochs": 3})


def roles(table: TuneTable) -> dict[str, int]:
    found = [row.role for row in table.trials]
    return {role: found.count(role) for role in found}


def test_baselines_stand_in_the_table_and_all_trials_have_ended(searched: Path) -> None:
    table = read_tune_table(searched)
    counts = roles(table)
    assert counts["default"] == counts["logistic"] == 1
    assert counts["search"] >= 12
    assert {row.state for row in table.trials} <= {"complete", "pruned", "failed", "waiting"}
    assert table.state == "finished"


def test_what_cannot_be_built_is_a_failed_trial_with_its_cause(searched: Path) -> None:
    failed = [row for row in read_tune_table(searched).trials if row.state == "failed"]
    assert failed
    assert all("pool" in row.cause for row in failed)
    assert all("broken" not in str(row.settings) or row.accuracy is None for row in failed)


def test_the_winner_is_the_best_of_the_table(searched: Path) -> None:
    table = read_tune_table(searched)
    winner = table.trial(table.winner)
    assert winner is not None
    assert winner.accuracy is not None
    means = {}
    for row in table.trials:
        if row.role in ("search", "default", "logistic") and row.state == "complete" and row.accuracy is not None:
            seeds = [row.accuracy, *(item.accuracy for item in table.repeats_of(row.number) if item.accuracy)]
            means[row.number] = sum(item.value for item in seeds) / len(seeds), len(seeds)
    most = max(count for _, count in means.values())
    assert means[winner.number][0] == max(mean for mean, count in means.values() if count == most)


def test_the_test_images_are_read_once_and_the_result_is_a_whole_run(searched: Path) -> None:
    run = load_run(searched / "best")
    assert run.evaluation.metrics["accuracy"].n == len(
        [line for line in (searched / "best/predictions.csv").read_text().splitlines() if line.startswith("test")]
    )
    assert (searched / "best/report.html").is_file()
    ledger = json.loads((searched / "best/ledger.json").read_text(encoding="utf-8"))
    assert ledger["looks"] == 1


def test_the_winners_settings_train_again(searched: Path, images: Path, tmp_path: Path) -> None:
    config = load_config(searched / "winner.toml")
    assert config.data.source == str(images)
    again = api.train(config=searched / "winner.toml", output=tmp_path / "again")
    one = load_run(searched / "best").evaluations["validation"].metrics["accuracy"].value
    assert again.evaluations["validation"].metrics["accuracy"].value == pytest.approx(one, abs=0.21)  # 15 images


def test_selection_is_judged(searched: Path) -> None:
    table = read_tune_table(searched)
    assert table.selection is not None
    assert table.selection.optimism >= 0
    assert table.selection.n == table.images


def test_a_search_that_has_ended_needs_more_time_to_go_on(searched: Path) -> None:
    with pytest.raises(RunError, match="--budget"):
        api.resume_tune(searched)


def test_without_a_limit_there_is_no_search(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--budget 30m"):
        api.tune(images, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_that_holds_something_is_left_alone(images: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        api.tune(images, budget="10s", output=tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["mine.txt"]


def test_ctrl_c_leaves_the_best_so_far_and_resuming_goes_on(images: Path, space: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "tintype", "tune", str(images), "--trials", "500", "--space", str(space)]
    process = subprocess.Popen(
        [*command, "--set", "fit.epochs=3", "-o", str(folder)], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (folder / "kept").is_dir():
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert f"tintype tune --resume {folder}" in said.replace("\n", " ")
    before = read_tune_table(folder)
    assert before.state == "interrupted"
    run = load_run(folder / "best")
    assert "test" not in run.evaluations  # it was not the end, so the test images were not read
    tuned = api.resume_tune(folder, trials=sum(row.role == "search" for row in before.trials) + 1)
    assert tuned.run is not None
    assert "test" in tuned.run.evaluations
    assert tuned.table.seconds > before.seconds
    known = {row.number: row.accuracy for row in tuned.table.trials if row.state == "complete"}
    assert all(known[row.number] == row.accuracy for row in before.trials if row.state == "complete")


def test_stopped_before_anything_was_tried_it_leaves_nothing(images: Path, tmp_path: Path) -> None:
    def stop(what: str, _done: int, _total: int) -> None:
        assert what
        raise KeyboardInterrupt

    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        api.tune(images, trials=1, output=folder, watch=Watch(on_progress=stop))
    assert not folder.exists()


def test_a_storage_that_cannot_be_used_leaves_nothing(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(ConfigError, match="is a folder"):
        api.tune(images, trials=1, output=folder, storage=str(tmp_path))
    assert not folder.exists()


@pytest.mark.slow
def test_heads_on_pretrained_features_are_searched_together(
    images: Path, shared_weights: Callable[[str], Path], tmp_path: Path
) -> None:
    settings = {"model.backbone": "resnet20", "model.weights": str(shared_weights("resnet20_cifar10"))}
    quiet = {"evidence.baselines": False, "evidence.attention": False}
    tuned = api.tune(images, budget=30, trials=34, output=tmp_path / "out", settings=settings | quiet)
    table = tuned.table
    heads = [row for row in table.trials if "heads.learning_rate" in row.settings and row.role == "search"]
    assert 25 <= len(heads) <= 34  # the others were fine-tuning
    assert all(row.accuracy is not None for row in heads if row.state == "complete")
    assert len({round(row.ended or 0.0) for row in heads if row.state == "complete"}) <= 4  # they ended in batches
    assert table.space == "transfer"
    assert tuned.run is not None
    winner = table.trial(table.winner)
    assert winner is not None
    assert winner.accuracy is not None
    if winner in heads:  # the model is the very head that was chosen
        found = tuned.run.evaluations["validation"].metrics["accuracy"].value
        assert found == pytest.approx(winner.accuracy.value)
