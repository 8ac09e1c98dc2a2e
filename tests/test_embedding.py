"""Maps of a finished run's images, through the Python API and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapes import make_shapes
from typer.testing import CliRunner

import tintype as tt
from tintype import api
from tintype.cli import app
from tintype.errors import ConfigError, DataError, RunError

QUICK: dict[str, Any] = {
    "epochs": 4, "device": "cpu", "precision": "fp32",
    "settings": {"threads": 1, "evidence.baselines": False, "evidence.attention": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on shapes, and its data; both with a cache of their own."""
    folder = tmp_path_factory.mktemp("embedding")
    make_shapes(folder / "shapes", 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINTYPE_CACHE", str(folder / "cache"))
        run = tt.train(folder / "shapes", output=folder / "run", **QUICK)
    return run.path, folder / "shapes"


def test_the_map_holds_the_test_images_and_pale_training_images(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = trained
    found = api.embed(run, output=tmp_path / "map", device="cpu")
    content = json.loads((tmp_path / "map" / "embedding.json").read_text())
    assert found.content == content
    roles = [point["role"] for point in content["points"]]
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert roles.count("test") == content["judged"] == evaluation["test"]["accuracy"]["n"]
    assert {name: roles.count(name) for name in ("validation", "train")} == content["context"]
    assert all(content["context"].values())
    assert content["learnt"] is True
    assert content["separability"]["splits"] == ["validation", "test"], "it learnt from the training images"
    assert content["separability"]["accuracy"]["n"] == roles.count("test") + roles.count("validation")
    right = np.mean([p["label"] == p["predicted"] for p in content["points"] if p["role"] == "test"])
    assert right == pytest.approx(evaluation["test"]["accuracy"]["value"])
    assert content["trustworthiness"]["value"] > 0.8
    page = found.page.read_bytes()
    found.page.unlink()
    assert api.report(tmp_path / "map").read_bytes() == page
    assert len(json.loads((tmp_path / "map" / "thumbnails.json").read_text())) == len(roles)


def test_the_same_map_again_and_another_layer(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = trained
    one = api.embed(run, output=tmp_path / "one", device="cpu").content
    two = api.embed(run, output=tmp_path / "two", device="cpu").content
    assert one == two
    layer = json.loads((run / "summary.json").read_text())["layers"][0]
    other = api.embed(run, layer=layer["name"], device="cpu")
    assert other.path == run / "embeddings" / layer["name"]
    assert other.content["features"] == layer["output_shape"][0]


def test_new_images_are_placed_into_the_same_map(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = trained
    make_shapes(tmp_path / "new", 8, seed=3)
    alone = api.embed(run, output=tmp_path / "alone", device="cpu").content["points"]
    content = api.embed(run, tmp_path / "new", output=tmp_path / "map", device="cpu").content
    assert content["points"][: len(alone)] == alone
    new = content["points"][len(alone) :]
    assert [point["role"] for point in new] == ["new"] * 16
    labels = {tuple(point[axis] for axis in "xy"): point["label"] for point in alone}
    places = np.array(list(labels))
    nearest = [list(labels.values())[int(((places - (p["x"], p["y"])) ** 2).sum(1).argmin())] for p in new]
    assert np.mean([one == point["predicted"] for one, point in zip(nearest, new, strict=True)]) > 0.8
    assert all(point["distance"] >= 0 for point in new)


def test_unlabelled_images_and_such_as_are_unlike_all_others(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = trained
    make_shapes(tmp_path, 4, seed=3)
    new = [
        point
        for point in api.embed(run, tmp_path / "circle", output=tmp_path / "map", device="cpu").content["points"]
        if point["role"] == "new"
    ]
    assert [point["label"] for point in new] == [""] * 4
    page = (tmp_path / "map" / "embedding.html").read_text()
    assert "4\u00a0new images" in page


def test_mistakes_of_the_user_are_one_line(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = trained
    with pytest.raises(ConfigError, match="no layer 'nosuch'"):
        api.embed(run, layer="nosuch", output=tmp_path / "a")
    with pytest.raises(ConfigError, match=r"perplexity must be at least 2. Got 0.5"):
        api.embed(run, perplexity=0.5, output=tmp_path / "a")
    with pytest.raises(RunError, match="there is no run directory"):
        api.embed(tmp_path / "nothing")
    with pytest.raises(DataError, match="there is no file or folder"):
        api.embed(run, tmp_path / "nothing", output=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_gone_images_are_one_line(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = trained
    data.rename(data.with_name("elsewhere"))
    try:
        with pytest.raises(DataError, match="there is no file or folder"):
            api.embed(run, output=tmp_path / "a")
    finally:
        data.with_name("elsewhere").rename(data)


def test_the_command_line_says_where_and_prints_one_object(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = trained
    arguments = ["embed", str(run), "--device", "cpu", "--perplexity", "200"]
    told = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "m")])
    assert told.exit_code == 0
    assert told.stdout == ""
    assert "trustworthiness" in told.stderr
    assert "instead of 200: it can be at most a third" in told.stderr
    assert str(tmp_path / "m" / "embedding.html") in told.stderr
    content = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert content["path"] == str(run / "embeddings" / "features")
    assert "points" not in content
    assert content["separability"]["accuracy"]["n"] > 0


@pytest.mark.slow
@pytest.mark.data
def test_chest_x_rays_of_pneumonia_overlap(
    shared_data: Callable[[str], Path], shared_weights: Callable[[str], Path], tmp_path: Path
) -> None:
    weights = shared_weights("mobilenetv2_100_imagenet")
    run = tt.train(shared_data("chest_xray"), output=tmp_path / "run", weights=str(weights))
    content = api.embed(run.path, output=tmp_path / "map").content
    assert content["judged"] == 36
    assert not content["learnt"]
    pair = content["separability"]["pairs"][0]
    assert {pair["one"], pair["other"]} == {"pneumonia_bac", "pneumonia_vir"}
    assert pair["accuracy"]["high"] < 0.85
    assert content["separability"]["shuffled"]["value"] < 0.35
