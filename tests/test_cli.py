"""The command line as its users run it: its stdout, its stderr, its exit code.

``tintype`` starts a process, as a user does. ``tintype_here`` calls the same function in this one, which saves the
seconds that torch takes to load: for what has been seen to work in a process of its own.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from shapes import make_shapes

Here = Callable[..., subprocess.CompletedProcess[str]]

QUICK = ["--epochs", "8", "--image-size", "24", "--device", "cpu", "--set", "threads=1", "--set", "precision=fp32"]

WITHOUT_TORCH = """
import sys
from tintype.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
assert 'torch' not in sys.modules
"""


def tintype(
    *arguments: str | Path, cwd: Path | None = None, cache: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONWARNINGS": "error::ResourceWarning"}
    if cache is not None:
        environment["TINTYPE_CACHE"] = str(cache)
    command = [sys.executable, "-m", "tintype", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=240)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One run on shapes, trained by the command line, in a folder of its own."""
    folder = tmp_path_factory.mktemp("cli")
    make_shapes(folder / "shapes", 60)
    result = tintype("train", "shapes", *QUICK, "--json", cwd=folder, cache=folder / "cache")
    assert result.returncode == 0, result.stderr
    return folder, result


def test_help_is_instant_and_needs_no_torch() -> None:
    code = WITHOUT_TORCH + "assert 'numpy' not in sys.modules"
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1.0  # 0.2 to 0.3 s on a quiet machine; torch alone would take 2


ENDING = """
import atexit, sys
from tintype import cli
atexit.register(lambda: print("at the end", flush=True))
def main():
    print("x" * 1_000_000)
    sys.stderr.write("last words")
    sys.exit(CODE)
cli.main = main
cli.program()
print("never")
"""


@pytest.mark.parametrize(("code", "expected"), [("None", 0), ("0", 0), ("2", 2), ("130", 130), ("'why'", 1)])
def test_the_program_ends_at_once_and_loses_nothing(code: str, expected: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDING.replace("CODE", code)], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == expected
    assert ended.stdout == "x" * 1_000_000 + "\nat the end\n"
    assert ended.stderr.startswith("last words")


def test_a_reader_that_has_seen_enough_is_no_mistake() -> None:
    command = f"set -o pipefail; {sys.executable} -m tintype summary --list | head -n 1"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "cats_dogs_sample\n", "")


def test_what_a_full_disk_does_not_take_is_a_mistake() -> None:
    command = [sys.executable, "-m", "tintype", "summary", "--list"]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (2, "tintype: No space left on device.\n")


def test_train_json_is_one_object_and_nothing_else(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, result = trained
    content = json.loads(result.stdout)
    assert content.keys() == {"run", "evaluation"}
    assert (folder / content["run"]).samefile(folder / "runs" / "shapes")
    accuracy = content["evaluation"]["test"]["accuracy"]
    assert accuracy.keys() == {"value", "low", "high", "n"}
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert result.stderr == ""


def test_the_run_directory_holds_what_is_promised(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    run = trained[0] / "runs" / "shapes"
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "config.toml", "environment.json", "history.jsonl", "model.safetensors", "model.json", "predictions.csv",
        "evaluation.json", "findings.json", "report.html",
    }  # fmt: skip
    assert not [name for name in names if name.startswith(".") or "checkpoint" in name]
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert rows[0].keys() == {
        "epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate", "seconds",
        "images_per_second",
    }  # fmt: skip
    with (run / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    evaluation = json.loads((run / "evaluation.json").read_text())
    test = [row for row in table if row["split"] == "test"]
    right = sum(row["label"] == row["predicted"] for row in test) / len(test)
    assert right == pytest.approx(evaluation["test"]["accuracy"]["value"])
    assert "no module may be" not in (run / "report.html").read_text()


def test_the_config_of_a_run_repeats_it(
    trained: tuple[Path, subprocess.CompletedProcess[str]], tintype_here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = trained
    run = folder / "runs" / "shapes"
    monkeypatch.chdir(folder)
    result = tintype_here("train", "--config", run / "config.toml", "-o", folder / "again")
    assert result.returncode == 0, result.stderr
    assert (folder / "again" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    last = result.stderr.strip().splitlines()[-2:]
    assert "test images right (95 % interval" in last[0]
    assert last[1] == f"report: {folder / 'again' / 'report.html'}"
    assert (folder / "again" / "report.html").is_file()


def test_predict_as_table_json_and_csv(
    trained: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path, tintype_here: Here
) -> None:
    folder, _ = trained
    images = sorted((folder / "shapes" / "circle").iterdir())[:3]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    run = folder / "runs" / "shapes"
    table = tintype_here("predict", run, *images)
    assert table.returncode == 0, table.stderr
    assert len(table.stdout.splitlines()) == 3
    as_json = tintype("predict", run, *images, bad, "--json")
    assert as_json.returncode == 2
    assert "1 image could not be read" in as_json.stderr
    content = json.loads(as_json.stdout)
    assert content["classes"] == ["circle", "square"]
    assert [bool(item["error"]) for item in content["predictions"]] == [False, False, False, True]
    assert sum(content["predictions"][0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    as_csv = tintype_here("predict", run, folder / "shapes" / "*" / "00*.png", "--csv")
    rows = list(csv.DictReader(io.StringIO(as_csv.stdout)))
    assert len(rows) == 20
    expected = {Path(item["path"]).name: item["label"] for item in content["predictions"][:3]}
    named = {Path(row["path"]).name: row["label"] for row in rows if "circle" in row["path"]}
    assert {name: named[name] for name in expected} == expected


def test_predictions_of_the_predictor_are_those_of_the_run(
    trained: tuple[Path, subprocess.CompletedProcess[str]], tintype_here: Here
) -> None:
    """The same image through `predict` and through the run's own evaluation: one decoder, one preprocessing."""
    folder, _ = trained
    run = folder / "runs" / "shapes"
    with (run / "predictions.csv").open(newline="") as file:
        table = [row for row in csv.DictReader(file) if row["split"] == "test"]
    paths = [folder / "shapes" / row["path"] for row in table]
    content = json.loads(tintype_here("predict", run, *paths, "--json").stdout)
    by_name = {Path(item["path"]).as_posix()[-14:]: item["probabilities"]["circle"] for item in content["predictions"]}
    for row in table:
        assert float(row["probability/circle"]) == pytest.approx(by_name[row["path"][-14:]], abs=2e-3)


def test_evaluate_on_inverted_images_finds_and_handles_the_polarity(
    trained: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path, tintype_here: Here
) -> None:
    folder, _ = trained
    make_shapes(tmp_path / "negatives", 20, seed=5, invert=True)
    result = tintype_here(
        "evaluate", folder / "runs" / "shapes", tmp_path / "negatives", "-o", tmp_path / "out", "--json"
    )
    assert result.returncode == 0, result.stderr
    content = json.loads(result.stdout)
    assert "polarity" in " ".join(finding["code"] for finding in content["findings"])
    plain = json.loads((folder / "runs" / "shapes" / "evaluation.json").read_text())["test"]["accuracy"]["value"]
    assert content["evaluation"]["accuracy"]["value"] > plain - 0.25
    assert (tmp_path / "out" / "report.html").is_file()


def test_report_is_rebuilt_from_the_directory_without_torch(
    trained: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = trained
    run = folder / "runs" / "shapes"
    before = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, "report", str(run)], check=True, capture_output=True)
    assert (run / "report.html").read_bytes() == before


def test_check_as_json_and_table(shapes_folder: Path, tintype_here: Here) -> None:
    as_json = json.loads(tintype_here("check", shapes_folder, "--json").stdout)
    assert sum(map(sum, as_json["summary"]["counts"].values())) == 80
    table = tintype_here("check", shapes_folder)
    assert "circle" in table.stdout
    assert table.returncode == 0


def test_summary_counts_and_lists(tintype_here: Here) -> None:
    content = json.loads(tintype_here("summary", "cats_dogs", "--json").stdout)
    assert content["total_parameters"] == 13_300_033
    assert content["non_trainable_parameters"] == 384
    assert sum(row["parameters"] for row in content["layers"]) == 13_300_033
    listed = tintype_here("summary", "--list").stdout.split()
    assert {"cats_dogs", "resnet20", "mnist_convnet"} <= set(listed)
    table = tintype_here("summary", "mnist_convnet", "--image-size", "28", "--classes", "10").stdout
    assert "29,034" in table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "absent"], "absent"),
        (["train"], "no data is named"),
        (["train", ".", "--set", "fit.epoch=3"], "no setting 'fit.epoch'"),
        (["train", "--resume", "absent"], "nothing to resume"),
        (["train", ".", "--resume", "absent"], "give no other option"),
        (["predict", "absent", "x.png"], "there is no run directory"),
        (["evaluate", "absent", "."], "there is no run directory"),
        (["report", "absent"], "there is no run directory"),
        (["summary", "alexnett_32"], "alexnet_32"),
        (["summary"], "--list"),
        (["check", "absent"], "absent"),
        (["tune"], "no data is named"),
        (["tune", "."], "--budget 30m"),
        (["tune", ".", "--budget", "soon"], "such as 90s, 30m or 1h30m"),
        (["tune", ".", "--trials", "0"], "trials must be at least 1"),
        (["tune", ".", "--budget", "1m", "--space", "absent.toml"], "cannot read the space"),
        (["tune", "--resume", "absent"], "nothing to resume"),
        (["tune", ".", "--resume", "absent"], "only --budget, --trials and --storage"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tintype_here: Here
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = tintype_here(*arguments)
    assert ended.returncode == 2, ended.stderr
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1, ended.stderr
    assert words in lines[0]
    assert ended.stdout == ""
    assert not (tmp_path / "runs").exists()


def test_an_unknown_network_is_met_before_any_work(
    shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tintype_here: Here
) -> None:
    monkeypatch.chdir(tmp_path)
    result = tintype_here("train", shapes_folder, "--model", "resnet21", "--json")
    assert result.returncode == 2
    assert "resnet20" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_an_output_in_the_way_is_refused_and_left_alone(
    shapes_folder: Path, tmp_path: Path, tintype_here: Here
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    result = tintype_here("train", shapes_folder, "-o", tmp_path / "mine")
    assert result.returncode == 2
    assert "exists already and is not empty" in result.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
