"""`predict` as its users run it, on a model that was not trained."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tintype.cli import app, predicting
from tintype.config import ModelConfig
from tintype.data.decode import Geometry
from tintype.errors import TintypeError
from tintype.models.build import build_network
from tintype.records import ImageStatistics
from tintype.rundir import RunDir
from tintype.serving import watching
from tintype.serving.model import Model, save_model
from tintype.serving.predictor import Predictor


@pytest.fixture
def run(tmp_path: Path, shapes_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run whose threshold leaves half of the shapes unsure; commands run beside it."""
    torch.manual_seed(3)
    config = ModelConfig(layers="conv 8 3 relu\npool 2\ngap\n")
    network = build_network(config, (3, 24, 24), 2, np.full(3, 0.4), np.full(3, 0.2)).eval()
    statistics = ImageStatistics(10, 90.0, 40.0, 60.0, 100.0, 0.5, 1.0, 24.0, 24.0)
    run_dir = RunDir(tmp_path / "run")
    (tmp_path / "run").mkdir()
    (run_dir / "config.toml").touch()
    run_dir.write_json("evaluation.json", {})
    geometry = Geometry(24, 3, "stretch")
    save_model(run_dir, Model(network, config, ("circle", "square"), geometry, statistics, 1.0, 89.0))
    labels = list(Predictor(run_dir.path, "cpu").predict_many([shapes_folder]))
    threshold = float(np.median([label.probability for label in labels]))
    save_model(run_dir, Model(network, config, ("circle", "square"), geometry, statistics, 1.0, 89.0, threshold))
    monkeypatch.chdir(tmp_path)
    return run_dir.path


def test_unsure_answers_are_marked_counted_and_can_be_turned_off(run: Path) -> None:
    shown = CliRunner().invoke(app, ["predict", str(run), "shapes", "--device", "cpu"])
    assert shown.exit_code == 0
    assert shown.stdout.count("not sure (") == 40
    assert "not sure of 40 of 80 images" in shown.stderr
    assert "--answer-all turns it off" in shown.stderr
    everything = CliRunner().invoke(app, ["predict", str(run), "shapes", "--device", "cpu", "--answer-all"])
    assert "not sure" not in everything.output


def test_json_and_csv_give_the_label_and_say_that_it_is_not_sure(run: Path) -> None:
    as_json = CliRunner().invoke(app, ["predict", str(run), "shapes", "--json", "--top", "2"])
    found = json.loads(as_json.stdout)["predictions"]
    assert sum(not item["sure"] for item in found) == 40
    assert all(item["label"] and len(item["top"]) == 2 for item in found)
    assert as_json.stderr == ""
    as_csv = CliRunner().invoke(app, ["predict", str(run), "shapes", "--csv"])
    rows = list(csv.DictReader(io.StringIO(as_csv.stdout)))
    assert [row["sure"] for row in rows] == [str(item["sure"]).lower() for item in found]


@pytest.mark.parametrize(
    ("options", "folder"), [(["--explain"], "explained"), (["--explain-to", "why/here"], "why/here")]
)
def test_explain_writes_pictures_and_says_where(run: Path, options: list[str], folder: str) -> None:
    images = ["shapes/circle/000.png", "shapes/square/000.png"]
    shown = CliRunner().invoke(app, ["predict", str(run), *options, *images])
    assert shown.exit_code == 0, shown.output
    pictures = [f"{folder}/000.png", f"{folder}/000-2.png"]
    assert [line.split()[-1] for line in shown.stdout.splitlines()] == pictures
    assert all(Path(path).is_file() for path in pictures)
    assert f"{folder}: where the model looked, 2 images" in shown.stderr


def test_nothing_is_explained_unless_it_is_asked_for(run: Path) -> None:
    before = sorted(Path().rglob("*"))
    assert CliRunner().invoke(app, ["predict", str(run), "shapes/circle/000.png"]).exit_code == 0
    assert sorted(Path().rglob("*")) == before


def test_an_image_comes_on_standard_input(run: Path) -> None:
    content = Path("shapes/circle/000.png").read_bytes()
    piped = CliRunner().invoke(app, ["predict", str(run), "-", "--json"], input=content)
    named = CliRunner().invoke(app, ["predict", str(run), "shapes/circle/000.png", "--json"])
    (one,), (other,) = (json.loads(shown.stdout)["predictions"] for shown in (piped, named))
    assert one["path"] == "-"
    assert one["probabilities"] == other["probabilities"]


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_output_is_the_same_table_and_is_gone_on_with(run: Path) -> None:
    as_csv = CliRunner().invoke(app, ["predict", str(run), "shapes", "--csv"])
    shown = CliRunner().invoke(app, ["predict", str(run), "shapes", "-o", "out/labels.csv"])
    assert (shown.exit_code, shown.stdout) == (0, "")
    assert "out/labels.csv: 80 images labelled, 0 were there already" in shown.stderr
    assert "not sure of 40 of 80 images" in shown.stderr
    whole = rows("out/labels.csv")
    assert [{**row, "model": ""} for row in whole] == [
        {**row, "model": ""} for row in csv.DictReader(io.StringIO(as_csv.stdout))
    ]
    content = Path("out/labels.csv").read_bytes()
    Path("out/labels.csv").write_bytes(content[: 2 * len(content) // 3])
    again = CliRunner().invoke(app, ["predict", str(run), "shapes", "-o", "out/labels.csv", "--json"])
    told = json.loads(again.stdout)
    assert told["images"] + told["there_before"] == 80
    assert 20 < told["images"] < 35, "a third"
    kept = told["there_before"]
    assert rows("out/labels.csv")[:kept] == whole[:kept]
    assert [(row["path"], row["label"]) for row in rows("out/labels.csv")] == [
        (row["path"], row["label"]) for row in whole
    ]
    whole = rows("out/labels.csv")
    Path("shapes/circle/bad.png").write_bytes(b"bad")
    more = CliRunner().invoke(app, ["predict", str(run), "shapes", "-o", "out/labels.csv"])
    assert rows("out/labels.csv")[:-1] == whole
    assert rows("out/labels.csv")[-1]["error"] == "not a readable image: the content is a text file"
    assert isinstance(more.exception, TintypeError)
    assert "1 image could not be read" in str(more.exception)


def test_a_list_of_files_is_labelled_each_once(run: Path) -> None:
    names = [path.as_posix() for path in sorted(Path("shapes/circle").iterdir())]
    Path("list.txt").write_text("\n".join([*names, names[0], "absent.png"]))
    CliRunner().invoke(app, ["predict", str(run), "shapes/circle", "--files-from", "list.txt", "-o", "labels.csv"])
    assert [row["path"] for row in rows("labels.csv")] == [*names, "absent.png"]
    assert rows("labels.csv")[-1]["error"] == "the file is missing"


def test_a_list_may_be_a_pipe_which_can_be_read_only_once(run: Path) -> None:
    names = [path.as_posix() for path in sorted(Path("shapes/circle").iterdir())]
    os.mkfifo("list")
    writer = threading.Thread(target=lambda: Path("list").write_text("\n".join(names)))
    writer.start()
    shown = CliRunner().invoke(app, ["predict", str(run), "--files-from", "list", "--csv"])
    writer.join()
    assert [row["path"] for row in csv.DictReader(io.StringIO(shown.stdout))] == names


def test_several_processes_share_the_images_and_one_joins_them(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "3")
    Path("shapes/circle/bad.png").write_bytes(b"bad")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        done = CliRunner().invoke(app, ["predict", str(run), "shapes", "-o", "labels.csv", "--device", "cpu"])
        assert done.exit_code == 0, "one that fails would stop the others"
    parts = [[row["path"] for row in rows(f"labels.rank{rank}.csv")] for rank in range(3)]
    assert all(15 < len(part) < 40 for part in parts)
    assert len({path for part in parts for path in part}) == sum(map(len, parts)) == 81
    alone = CliRunner().invoke(app, ["predict", str(run), "shapes", "--explain"])
    assert "give --output labels.csv" in str(alone.exception)
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    joined = CliRunner().invoke(app, ["predict", str(run), "shapes", "-o", "labels.csv"])
    assert "81 rows taken over" in joined.stderr
    assert "labels.csv: 0 images labelled, 81 were there already" in joined.stderr
    assert len(rows("labels.csv")) == 81


def test_a_watched_folder_goes_into_a_csv_and_on_after_a_stop(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = sorted(Path("shapes/circle").iterdir())
    Path("inbox").mkdir()
    looks = 0

    def pause(seconds: float) -> None:
        nonlocal looks
        if looks % 3 == 2:
            looks += 1
            raise KeyboardInterrupt
        shutil.copy(images[looks], f"inbox/{looks}.png")
        os.utime(f"inbox/{looks}.png", (1, 1))
        looks += 1

    monkeypatch.setattr(predicting, "_pause", pause)
    monkeypatch.setattr(watching, "SETTLED_SECONDS", 0.0)
    outputs = [CliRunner().invoke(app, ["predict", str(run), "--watch", "inbox", "--top", "2"]) for _ in range(2)]
    assert [shown.exit_code for shown in outputs] == [0, 0]
    assert [len(shown.stdout.splitlines()) for shown in outputs] == [2, 2]
    assert "labels.csv, which has 2; Ctrl-C ends it" in outputs[1].stderr
    assert "labels.csv: 2 images labelled; the same command goes on" in outputs[1].stderr
    assert [row["path"] for row in rows("labels.csv")] == [f"inbox/{number}.png" for number in (0, 1, 3, 4)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name images"),
        (["-", "a.png"], "reads one image from standard input"),
        (["-", "-o", "labels.csv"], "no --output"),
        (["--watch", "absent"], "there is no folder absent to watch"),
        (["--watch", "shapes", "a.png"], "name no other images"),
        (["--watch", "shapes", "--json"], "leave --csv out|--json writes one object"),
        (["shapes", "-o", "labels.json"], "ends in .csv"),
        (["shapes", "-o", "labels.csv", "--csv"], "leave --csv out"),
        (["https://example.org/cat.jpg"], "a web address, and tintype fetches nothing"),
        (["shapes", "--device", "gpu"], "device must be"),
    ],
)
def test_what_does_not_go_together_is_one_line(run: Path, arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["predict", str(run), *arguments], input=b"")
    assert isinstance(done.exception, TintypeError)
    assert re.search(words, str(done.exception))
    assert "\n" not in str(done.exception)
    assert not list(Path().glob("labels*"))


def test_top_must_be_at_least_one(run: Path) -> None:
    assert CliRunner().invoke(app, ["predict", str(run), "shapes", "--top", "0"]).exit_code == 2
