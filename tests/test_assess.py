"""A finished model on other images: the gap, how the images differ, the nearest training images of its mistakes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapes import make_shapes

import tintype as tt
from tintype import api
from tintype.errors import DataError, RunError
from tintype.report.comparison import difference
from tintype.rundir import RunDir

QUICK: dict[str, Any] = {
    "epochs": 4, "device": "cpu", "precision": "fp32",
    "settings": {"threads": 1, "evidence.baselines": False, "evidence.attention": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on shapes, its images, and its cache."""
    folder = tmp_path_factory.mktemp("assess")
    make_shapes(folder / "shapes", 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINTYPE_CACHE", str(folder / "cache"))
        tt.train(folder / "shapes", output=folder / "run", **QUICK)
    return folder


@pytest.fixture
def swapped(tmp_path: Path) -> Path:
    """Other shapes under each other's name, so that a good network is nearly always wrong."""
    make_shapes(tmp_path / "swapped", 30, seed=9)
    (tmp_path / "swapped" / "circle").rename(tmp_path / "swapped" / "x")
    (tmp_path / "swapped" / "square").rename(tmp_path / "swapped" / "circle")
    (tmp_path / "swapped" / "x").rename(tmp_path / "swapped" / "square")
    return tmp_path / "swapped"


def test_everything_stands_in_the_json_of_the_assessment(trained: Path, swapped: Path, tmp_path: Path) -> None:
    found = tt.evaluate(trained / "run", swapped, output=tmp_path / "out", device="cpu")
    plain = json.loads(json.dumps(found.to_plain()))
    assert found.original is not None
    gap = difference(found.evaluation.accuracy, found.original.accuracy)
    assert plain["gap"] == pytest.approx({"value": gap.value, "low": gap.low, "high": gap.high, "n": 60})
    assert plain["gap"]["high"] < -0.3
    assert "points below" in plain["verdict"]
    assert [item["name"] for item in plain["classes"]] == ["circle", "square"]
    assert {"figure", "other", "trained", "apart"} <= set(plain["images"][0])
    assert plain["calibration"]["overconfidence"]["here"]["low"] > 0
    assert set(plain["evaluation"]) == set(found.evaluation.metrics)
    assert "picture" not in json.dumps(plain["neighbours"])


def test_the_report_of_an_evaluation_is_made_again(trained: Path, swapped: Path, tmp_path: Path) -> None:
    found = tt.evaluate(trained / "run", swapped, device="cpu")
    page = (found.path / "report.html").read_bytes()
    (found.path / "report.html").unlink()
    assert api.report(found.path).read_bytes() == page
    shutil.copytree(found.path, tmp_path / "elsewhere")
    with pytest.raises(RunError, match="lies outside the run that it evaluates"):
        api.report(tmp_path / "elsewhere")


def test_the_nearest_training_images_are_of_the_class_that_was_answered(
    trained: Path, swapped: Path, tmp_path: Path
) -> None:
    found = tt.evaluate(trained / "run", swapped, output=tmp_path / "out", device="cpu").lookalikes
    assert found.reason == ""
    counts = json.loads((trained / "run" / "data.json").read_text())["counts"]["train"]
    assert found.searched == found.training == sum(counts)
    assert len(found.mistakes) == 24
    assert found.of_the_answer > 20
    training = set(RunDir(trained / "run").read_predictions()["train"].paths)
    assert found.usual is not None
    assert found.usual >= 0
    confidences = [mistake.confidence for mistake in found.mistakes]
    assert confidences == sorted(confidences, reverse=True)
    for mistake in found.mistakes:
        assert mistake.label != mistake.predicted
        assert len(mistake.lookalikes) == 3
        assert {item.path for item in mistake.lookalikes} <= training
        distances = [item.distance for item in mistake.lookalikes]
        assert distances == sorted(distances)


def test_a_copy_of_a_training_image_under_another_label_finds_itself(trained: Path, tmp_path: Path) -> None:
    training = RunDir(trained / "run").read_predictions()["train"]
    sure = np.flatnonzero((training.predicted == training.labels) & (training.labels == 0))[0]
    (tmp_path / "copy" / "square").mkdir(parents=True)
    shutil.copy(trained / "shapes" / training.paths[sure], tmp_path / "copy" / "square" / "copy.png")
    (mistake,) = tt.evaluate(
        trained / "run", tmp_path / "copy", device="cpu", output=tmp_path / "o"
    ).lookalikes.mistakes
    assert mistake.lookalikes[0].path == training.paths[sure]
    assert mistake.lookalikes[0].distance == pytest.approx(0, abs=1e-5)


def test_where_the_training_images_are_gone_the_report_says_so(trained: Path, swapped: Path, tmp_path: Path) -> None:
    (trained / "shapes").rename(trained / "elsewhere")
    try:
        found = tt.evaluate(trained / "run", swapped, output=tmp_path / "out", device="cpu")
    finally:
        (trained / "elsewhere").rename(trained / "shapes")
    assert "there is no file or folder" in found.lookalikes.reason
    assert found.lookalikes.mistakes == ()
    assert "None can be shown: there is no file or folder" in found.report.read_text()
    assert found.content["images"][0].apart is not None, "how training images differ ships with the model"


def test_negatives_are_inverted_and_the_pictures_are_as_the_network_saw_them(trained: Path, tmp_path: Path) -> None:
    make_shapes(tmp_path / "negatives", 10, seed=4, invert=True)
    make_shapes(tmp_path / "plain", 10, seed=4)
    negatives = tt.evaluate(trained / "run", tmp_path / "negatives", output=tmp_path / "a", device="cpu")
    plain = tt.evaluate(trained / "run", tmp_path / "plain", output=tmp_path / "b", device="cpu")
    assert negatives.content["inverted"] == 20
    assert plain.content["inverted"] == 0
    assert negatives.evaluation.accuracy == plain.evaluation.accuracy
    assert "20\u00a0images of opposite polarity were shown to the network as negatives" in negatives.report.read_text()


def test_a_folder_without_labels_is_one_line(trained: Path, tmp_path: Path) -> None:
    make_shapes(tmp_path, 2)
    with pytest.raises(DataError, match="holds images but no labels, so nothing can be judged"):
        tt.evaluate(trained / "run", tmp_path / "circle")
    (tmp_path / "list.csv").write_text("path,label\ncircle/000.png,\nsquare/000.png,\n")
    with pytest.raises(DataError, match="label"):
        tt.evaluate(trained / "run", tmp_path / "list.csv")


@pytest.mark.slow
@pytest.mark.data
def test_mnist_s_network_on_other_people_s_digits(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    run = tt.train(
        shared_data("mnist"), output=tmp_path / "run", epochs=1, settings={"data.train_images": 5000},
    )  # fmt: skip
    found = tt.evaluate(run.path, shared_data("digits_drawn"), output=tmp_path / "drawn")
    assert found.evaluation.accuracy.n == 1000
    assert found.content["inverted"] > 900
    photos = tt.evaluate(run.path, shared_data("digits_photos"), output=tmp_path / "photos")
    assert photos.evaluation.accuracy.n == 30, "one of the 31 has no label"
    assert photos.content["gap"].high < 0
    assert max(item.apart or 0 for item in photos.content["images"]) > 2
    assert photos.lookalikes.of_the_answer >= len(photos.lookalikes.mistakes) // 2
