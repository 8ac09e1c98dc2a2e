"""A study from its file to its report, with real runs: nothing twice, nothing lost, nothing mixed."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from shapes import make_shapes

from tintype.config import RunConfig
from tintype.errors import ConfigError, RunError, RunInterrupted
from tintype.evaluation.stats import mcnemar, wilson
from tintype.report.studyfile import read_study_table
from tintype.rundir import RunDir
from tintype.studies import compare_settings, load_study, run_study
from tintype.watch import Watch

STUDY = """
name = "rates & seeds"
kind = "grid"
seeds = 2
[base]
data.image_size = 24
model.layers = "conv 4 3 relu\\ngap"
fit.epochs = 1
augment.policy = "none"
evidence.baselines = false
evidence.attention = false
device = "cpu"
precision = "fp32"
threads = 1
[axes]
"fit.learning_rate" = [0.0001, 0.03]
[quick]
seeds = 1
data.fraction = 0.5
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    make_shapes(tmp_path / "shapes", 40)
    file = tmp_path / "study.toml"
    file.write_text(STUDY, encoding="utf-8")
    return file


def do(file: Path, watch: Watch = Watch(), text: str = STUDY, quick: bool = False) -> Path:
    file.write_text(text, encoding="utf-8")
    study = load_study(file, source=file.parent / "shapes", quick=quick)
    return run_study(study, file.parent / "out", watch).path


def stamps(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/model.safetensors")}


def test_a_study_from_its_file_to_its_report(study_file: Path) -> None:
    said: list[str] = []
    folder = do(study_file, Watch(on_message=said.append))
    # One seed of every point first, with the time that is left from the second run on.
    begun = [line for line in said if line.startswith("run ")]
    assert [line.split(",")[0] for line in begun] == [
        "run 1 of 4: learning_rate 0.0001", "run 2 of 4: learning_rate 0.03",
        "run 3 of 4: learning_rate 0.0001", "run 4 of 4: learning_rate 0.03",
    ]  # fmt: skip
    assert ["left for all" in line for line in begun] == [False, True, True, True]
    table = read_study_table(folder)
    assert [run.state for run in table.runs] == ["finished"] * 4
    assert (table.reference, table.split) == ("learning_rate 0.0001", "test")
    first = table.points[0]
    test = [RunDir(folder / "runs" / f"learning_rate=0.0001,seed={seed}").read_predictions()["test"] for seed in (0, 1)]
    right = [float(np.mean(item.predicted == item.labels)) for item in test]
    assert test[0].paths == test[1].paths
    assert first.accuracy is not None
    assert first.accuracy.value == pytest.approx(np.mean(right))
    assert first.accuracy_by_seed == pytest.approx(tuple(right))
    assert first.accuracy.n == table.images == len(test[0])
    alone = wilson(round(first.accuracy.value * table.images), table.images)
    assert first.accuracy.high - first.accuracy.low >= (alone.high - alone.low) * 0.97
    assert (first.total_parameters, first.trainable_parameters) == (4 * 27 + 4 + 5, 4 * 27 + 4 + 5)
    runs = [RunDir(folder / "runs" / f"learning_rate=0.0001,seed={seed}") for seed in (0, 1)]
    batch = runs[0].read_json("environment.json")["micro_batch"]
    steps = [batch / run.read_history()[0].images_per_second for run in runs]
    assert first.seconds_per_step == pytest.approx(np.median(steps))
    assert first.images_per_second == pytest.approx(np.median([batch / step for step in steps]))
    assert (folder / "report.html").is_file()
    with (folder / "study.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["learning_rate"] for row in rows] == ["0.0001", "0.03"]
    assert float(rows[0]["accuracy"]) == pytest.approx(first.accuracy.value, rel=1e-6)
    assert rows[0]["verdict"] == ""
    assert rows[1]["verdict"] in ("better", "worse", "cannot be told apart")


def test_what_is_done_is_not_done_again_and_more_can_be_asked_for(study_file: Path) -> None:
    folder = do(study_file, text=STUDY.replace("seeds = 2", "seeds = 1", 1))
    before, report = stamps(folder), (folder / "report.html").read_bytes()
    do(study_file, text=STUDY.replace("seeds = 2", "seeds = 1", 1))
    assert stamps(folder) == before
    assert (folder / "report.html").read_bytes() == report
    more = STUDY.replace("seeds = 2", "seeds = 1", 1).replace("[0.0001, 0.03]", "[0.0001, 0.03, 0.001]")
    do(study_file, text=more)
    after = stamps(folder)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"learning_rate=0.001,seed=0"}
    # The copy of the study in its directory asks for the very same runs.
    copy = load_study(folder / "study.toml")
    assert copy.requests() == load_study(study_file, source=study_file.parent / "shapes").requests()


def test_other_settings_are_refused_before_any_work(study_file: Path) -> None:
    folder = do(study_file, text=STUDY.replace("seeds = 2", "seeds = 1", 1))
    before = stamps(folder)
    other = STUDY.replace("fit.epochs = 1", "fit.epochs = 2")
    with pytest.raises(RunError, match=r"was made with fit\.epochs = 1, and now it is 2"):
        do(study_file, text=other)
    with pytest.raises(RunError, match=r"data\.fraction = 1\.0, and now it is 0\.5"):
        do(study_file, quick=True)
    assert stamps(folder) == before
    shutil.rmtree(folder / "requests")
    with pytest.raises(RunError, match="was not made by this study"):
        do(study_file)


def test_somebodys_folder_is_left_alone(study_file: Path) -> None:
    (study_file.parent / "out").mkdir()
    (study_file.parent / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="is not a study's directory"):
        do(study_file)
    assert [path.name for path in (study_file.parent / "out").iterdir()] == ["thesis.txt"]


def test_a_stopped_study_goes_on_where_it_was(study_file: Path) -> None:
    """Stopped in the middle of the second run, which then goes on from its checkpoint."""
    text = STUDY.replace("fit.epochs = 1", "fit.epochs = 6").replace("seeds = 2", "seeds = 1", 1)
    folder = study_file.parent / "out"
    steps = 0

    def stop_in_second() -> bool:
        nonlocal steps
        second = (folder / "runs" / "learning_rate=0.03,seed=0" / "history.jsonl").exists()
        steps += second
        return second and steps > 3

    with pytest.raises(RunInterrupted, match="stopped with 1 of 2\xa0runs finished"):
        do(study_file, Watch(should_stop=stop_in_second), text)
    table = read_study_table(folder)
    assert [run.state for run in table.runs] == ["finished", "interrupted"]
    assert (folder / "report.html").is_file()
    assert (folder / "runs" / "learning_rate=0.03,seed=0" / "checkpoint.safetensors").exists()
    first = stamps(folder)
    do(study_file, text=text)
    assert [run.state for run in read_study_table(folder).runs] == ["finished", "finished"]
    assert stamps(folder)["learning_rate=0.0001,seed=0"] == first["learning_rate=0.0001,seed=0"]
    whole = study_file.parent / "whole"
    run_study(load_study(study_file, source=study_file.parent / "shapes"), whole)
    one, other = (path / "runs" / "learning_rate=0.03,seed=0" / "model.safetensors" for path in (folder, whole))
    assert one.read_bytes() == other.read_bytes()


def test_a_run_killed_before_it_began_is_made_anew(study_file: Path) -> None:
    text = STUDY.replace("seeds = 2", "seeds = 1", 1)
    folder = do(study_file, text=text)
    run = folder / "runs" / "learning_rate=0.03,seed=0"
    for path in run.iterdir():
        if path.name not in ("data.json", "findings.json"):
            path.unlink()
    do(study_file, text=text)
    assert RunDir(run).is_complete


def test_failing_runs_are_recorded_and_the_study_goes_on(study_file: Path) -> None:
    text = STUDY.replace("[0.0001, 0.03]", "[1e12, 0.03]").replace("seeds = 2", "seeds = 1", 1)
    said: list[str] = []
    folder = do(study_file, Watch(on_message=said.append), text)
    table = read_study_table(folder)
    assert [run.state for run in table.runs] == ["diverged", "finished"]
    assert "not finite" in table.runs[0].reason
    assert table.points[0].accuracy is None
    assert table.points[0].failed == 1
    assert any("nothing is compared" in remark for remark in table.remarks)
    # What diverged would diverge again; it is not repeated.
    said.clear()
    do(study_file, Watch(on_message=said.append), text)
    assert not [line for line in said if line.startswith("run ")]
    assert read_study_table(folder).runs == table.runs


def test_failures_that_can_be_mended_are_tried_again(study_file: Path) -> None:
    text = STUDY.replace("seeds = 2", "seeds = 1", 1).replace(
        '"fit.learning_rate" = [0.0001, 0.03]', '"model.layers" = {good = "gap", bad = "conv 4 3 relu\\nwobble 3"}'
    ).replace('model.layers = "conv 4 3 relu\\ngap"\n', "")  # fmt: skip
    folder = do(study_file, text=text)
    runs = read_study_table(folder).runs
    assert [run.state for run in runs] == ["finished", "failed"]
    assert "line 2" in runs[1].reason
    said: list[str] = []
    do(study_file, Watch(on_message=said.append), text)
    assert [line.split(",")[0] for line in said if line.startswith("run ")] == ["run 2 of 2: layers bad"]


def test_when_nothing_succeeds_the_first_reason_is_the_error(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(STUDY, encoding="utf-8")
    with pytest.raises(RunError, match=r"none of 4\srun.* succeeded; the first failed: .*absent"):
        run_study(load_study(file, source=tmp_path / "absent"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "study.json").read_text())["best"] == ""


def test_two_processes_do_not_work_on_one_study(study_file: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def wait(_: str) -> None:
        inside.set()
        assert go_on.wait(60)

    study = load_study(study_file, source=study_file.parent / "shapes", quick=True)
    first = threading.Thread(target=lambda: run_study(study, study_file.parent / "out", Watch(on_message=wait)))
    first.start()
    assert inside.wait(60)
    try:
        with pytest.raises(RunError, match="another process is at work"):
            run_study(study, study_file.parent / "out")
    finally:
        go_on.set()
        first.join(60)
    assert not first.is_alive()


def test_images_that_differ_are_not_compared(study_file: Path) -> None:
    """A study over the size of the test set: each point has its figures, and the reason why none is compared."""
    text = STUDY.replace("seeds = 2", "seeds = 1", 1).replace(
        '"fit.learning_rate" = [0.0001, 0.03]', '"data.test_fraction" = [0.2, 0.4]'
    )
    table = read_study_table(do(study_file, text=text))
    assert all(row.accuracy is not None for row in table.points)
    assert table.points[1].difference is None
    assert any("cannot be compared" in remark for remark in table.remarks)


def test_comparing_settings_is_a_study_of_models(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study_file.parent)
    config = RunConfig().replace(
        {"data.source": "shapes", "data.image_size": 24, "fit.epochs": 1, "fit.batch_size": 16, "device": "cpu",
         "precision": "fp32", "threads": 1, "seed": 7}
    )  # fmt: skip
    result = compare_settings(config, "model.layers", ["gap", "flatten"])
    assert result.path == Path("runs/shapes-gap-flatten")
    assert result.report.is_file()
    assert [row.label for row in result.table.points] == ["gap", "flatten"]
    assert result.table.seeds == (7,)
    predictions = [
        RunDir(result.path / "runs" / f"layers={name},seed=7").read_predictions() for name in ("gap", "flatten")
    ]
    gap, flatten = (item["test"].predicted == item["test"].labels for item in predictions)
    difference = result.table.points[1].difference
    assert difference is not None
    assert difference.p == pytest.approx(mcnemar(int((flatten & ~gap).sum()), int((gap & ~flatten).sum())))
    assert difference.value == pytest.approx(flatten.mean() - gap.mean())
    assert not difference.covers_seeds
    with pytest.raises(ConfigError, match="at least two values"):
        compare_settings(config, "model.layers", ["gap"])


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the counter cannot be set back here")
def test_peak_memory_is_the_runs_own(study_file: Path) -> None:
    """Memory that was used before the study is not laid at its door."""
    np.ones(100_000_000, dtype=np.float64)  # 763 MiB, freed at once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    text = STUDY.replace("seeds = 2", "seeds = 1", 1).replace("[0.0001, 0.03]", "[0.03]")
    peak = read_study_table(do(study_file, text=text)).points[0].peak_memory_mb
    assert peak is not None
    assert 100 < peak < before - 400


def test_points_with_the_same_settings_share_one_run(study_file: Path) -> None:
    text = STUDY.replace('[axes]\n"fit.learning_rate" = [0.0001, 0.03]\n', "").replace("fit.epochs = 1\n", "")
    text = (
        text.replace("seeds = 2", "seeds = 1", 1).replace('kind = "grid"', 'kind = "ablation"')
        + """
[[variants]]
name = "base"
fit.epochs = 1
fit.learning_rate = 0.03
[[variants]]
name = "the same"
fit.learning_rate = 0.03
fit.epochs = 1
[[variants]]
name = "slow"
fit.epochs = 1
fit.learning_rate = 0.0001
"""
    )
    said: list[str] = []
    folder = do(study_file, Watch(on_message=said.append), text)
    assert [line.split(",")[0] for line in said if line.startswith("run ")] == ["run 1 of 2: base", "run 2 of 2: slow"]
    assert len(list((folder / "runs").iterdir())) == 2
    table = read_study_table(folder)
    runs = {run.point: run for run in table.runs}
    assert runs["base"].name == runs["the same"].name != runs["slow"].name
    same = table.point("the same")
    assert same is not None
    assert same.difference is not None
    assert (same.difference.value, same.difference.verdict) == (0.0, "cannot be told apart")
    assert [row.changes for row in table.points] == ["", "", "learning_rate 0.0001 instead of 0.03"]
    assert any(remark.startswith("base and the same ask for the same runs") for remark in table.remarks)
    assert any({"base", "the same"} <= set(group) for group in table.groups)
    # A point that is called otherwise now is the same run still.
    before = stamps(folder)
    renamed = text.replace('"slow"', '"careful"').replace('name = "base"', 'name = "plain"')
    do(study_file, text=renamed)
    assert stamps(folder) == before
    assert [row.label for row in read_study_table(folder).points] == ["plain", "the same", "careful"]


def test_a_device_that_is_not_there_is_one_failed_run(study_file: Path) -> None:
    text = STUDY.replace("seeds = 2", "seeds = 1", 1).replace('kind = "grid"', 'kind = "devices"')
    text = text.replace('device = "cpu"\n', "").replace(
        '"fit.learning_rate" = [0.0001, 0.03]', 'device = ["cpu", "cuda:99"]'
    )
    table = read_study_table(do(study_file, text=text))
    assert [(run.point, run.state) for run in table.runs] == [("cpu", "finished"), ("cuda:99", "failed")]
    assert "is not here" in table.runs[1].reason
    assert "\n" not in table.runs[1].reason
    assert table.points[0].seconds_per_epoch is not None
    assert (table.points[0].device, table.points[0].speed_up) == ("cpu", None)


def test_a_study_of_rates_begins_with_a_range_test(study_file: Path) -> None:
    text = STUDY.replace("seeds = 2", "seeds = 1", 1).replace('kind = "grid"', 'kind = "learning rate"')
    said: list[str] = []
    folder = do(study_file, Watch(on_message=said.append), text)
    first = [line.split(" ")[0] for line in said if line.startswith(("range", "run "))]
    assert first[0] == "range"
    kept = json.loads((folder / "range_test.json").read_text())
    table = read_study_table(folder)
    assert table.range_test == kept
    assert len(kept["rates"]) == len(kept["losses"]) > 10
    # It is not made again, and a study without one has none.
    stamp = (folder / "range_test.json").stat().st_mtime_ns
    do(study_file, text=text)
    assert (folder / "range_test.json").stat().st_mtime_ns == stamp
    assert read_study_table(folder).range_test == kept
    other = study_file.parent / "other"
    study_file.write_text(text.replace("kind =", "range_test = false\nkind ="), encoding="utf-8")
    study = load_study(study_file, source=study_file.parent / "shapes", quick=True)
    assert run_study(study, other).table.range_test is None
    assert not (other / "range_test.json").exists()


def test_more_data_in_a_study_of_its_size(study_file: Path) -> None:
    text = STUDY.replace("seeds = 2", "seeds = 1", 1).replace('kind = "grid"', 'kind = "data size"')
    text = text.replace('"fit.learning_rate" = [0.0001, 0.03]', '"data.train_images" = [8, 12, 16, 24]')
    said: list[str] = []
    table = read_study_table(do(study_file, Watch(on_message=said.append), text))
    order = [line.split(": train_images ")[1].split(",")[0] for line in said if line.startswith("run ")]
    assert order == ["8", "24", "12", "16"]
    assert [row.train_images for row in table.points] == [8, 12, 16, 24]
    assert all(row.train_accuracy is not None and row.train_accuracy.n == row.train_images for row in table.points)
    assert table.law is not None
    assert tuple(table.law["sizes"]) == (8, 12, 16, 24)
