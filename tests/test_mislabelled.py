"""Checking labels from pictures to page: planted wrong labels of real digits, copies, groups, and mistakes of users."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

import tintype as tt
from tintype.cli import app
from tintype.errors import ConfigError, DataError
from tintype.evaluation.label_errors import LabelErrors, plant

DIGITS = 600


def digits_with_planted(path: Path, count: int) -> tuple[Path, NDArray[np.int64]]:
    """An .npz of scikit-learn's digits with some labels changed, and the places of these."""
    digits = load_digits()
    images = np.round(digits.images[:count] * (255 / 16)).astype(np.uint8)
    labels, planted = plant(digits.target[:count].astype(np.int64), 0.05, seed=1)
    np.savez(path, x=images, y=labels)
    return path, planted


def places(errors: LabelErrors) -> list[int]:
    return [item.place for item in errors.suspects]


def test_planted_labels_of_real_digits_are_found(tmp_path: Path) -> None:
    data, planted = digits_with_planted(tmp_path / "digits.npz", DIGITS)
    found = tt.check(data, labels=True, csv=tmp_path / "list.csv", output=tmp_path / "out")
    assert found.labels is not None
    named = places(found.labels)
    assert np.isin(planted, named).mean() >= 0.85
    assert np.isin(named, planted).mean() >= 0.7
    assert np.isin(named[:20], planted).mean() >= 0.9
    assert [finding.code for finding in found.findings].count("likely-wrong-labels") == 1

    with (tmp_path / "list.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [item.path for item in found.labels.suspects]
    assert list(rows[0]) == ["path", "split", "given", "likely", "quality", "likely_probability"]
    assert {row["split"] for row in rows} <= {"train", "validation", "test"}
    assert (tmp_path / "out" / "labels.csv").read_bytes() == (tmp_path / "list.csv").read_bytes()
    page = (tmp_path / "out" / "labels.html").read_text(encoding="utf-8")
    assert page.count("<img") == min(len(named), 120)
    assert "style=" not in page
    assert "<script" not in page


def test_the_command_line(tmp_path: Path) -> None:
    data, _ = digits_with_planted(tmp_path / "digits.npz", 160)
    result = CliRunner().invoke(app, ["check", str(data), "--labels", "--json", "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["labels"]["images"] == 160
    assert set(content["labels"]["suspects"][0]) >= {"path", "given", "likely", "quality"}
    assert content["labels"]["trial"]["planted"] == 8
    assert (tmp_path / "out" / "labels.html").is_file()


def test_a_check_without_labels_looks_at_none(shapes_folder: Path, tmp_path: Path) -> None:
    assert tt.check(shapes_folder).labels is None
    with pytest.raises(ConfigError, match="ask for it with --labels"):
        tt.check(shapes_folder, csv=tmp_path / "list.csv")


def manifest(folder: Path, grouped: bool) -> Path:
    """Dark and light squares; three copies of one dark image are labelled light, in one group or as equal files."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(60):
        light = number % 2
        pixels = random.integers(0, 60, (12, 12, 3), dtype=np.uint8) + np.uint8(150 * light)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append((f"{number}.png", ("dark", "light")[light], f"group {number}"))
    odd = random.integers(0, 60, (12, 12, 3), dtype=np.uint8)
    for number in range(60, 63):
        if grouped:
            odd = odd.copy()
            odd[0, 0] = number  # another file, the same group
        Image.fromarray(odd).save(folder / f"{number}.png")
        rows.append((f"{number}.png", "light", "odd ones"))
    path = folder / "list.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", *(["group"] if grouped else [])])
        writer.writerows(row if grouped else row[:2] for row in rows)
    return path


@pytest.mark.parametrize("grouped", [False, True])
def test_copies_and_groups_do_not_vouch_for_each_other(tmp_path: Path, grouped: bool) -> None:
    found = tt.check(manifest(tmp_path, grouped), labels=True)
    assert found.labels is not None
    assert {item.path for item in found.labels.suspects} == {"60.png", "61.png", "62.png"}
    assert {item.likely for item in found.labels.suspects} == {"dark"}


def test_classes_too_small_to_be_judged_are_said(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 50, (43, 12, 12), dtype=np.uint8)
    labels = np.r_[np.arange(40) % 2, 2, 2, 2]
    images += (100 * labels).astype(np.uint8)[:, None, None]
    np.savez(tmp_path / "data.npz", x=images, y=labels)
    found = tt.check(tmp_path / "data.npz", labels=True, allow_small=True)
    assert found.labels is not None
    assert found.labels.images == 40
    assert "3 images of 1 class" in found.labels.left_out
    np.savez(tmp_path / "few.npz", x=images[:8], y=labels[:8])
    with pytest.raises(DataError, match="at least two classes of 5"):
        tt.check(tmp_path / "few.npz", labels=True, allow_small=True)


def test_photos_without_weights_are_not_judged_by_their_pixels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 96, 96, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x=images, y=np.arange(40) % 2)
    with pytest.raises(DataError, match="TINTYPE_WEIGHTS"):
        tt.check(tmp_path / "data.npz", labels=True)
    found = tt.check(tmp_path / "data.npz", labels=True, image_size=32)
    assert found.labels is not None
    assert found.labels.images == 40


@pytest.mark.slow
@pytest.mark.data
def test_planted_labels_of_photos_are_found(
    shared_data: Callable[[str], Path],
    shared_weights: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = shared_data("cats_dogs")
    monkeypatch.setenv("TINTYPE_WEIGHTS", str(shared_weights("mobilenetv2_100_imagenet").parent))
    paths = sorted((source / "test").rglob("*.jpg"))
    labels = np.array([path.parent.name == paths[-1].parent.name for path in paths]).astype(np.int64)
    names = (paths[0].parent.name, paths[-1].parent.name)
    changed, planted = plant(labels, 0.05, seed=1)
    with (tmp_path / "list.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        writer.writerows((path, names[label]) for path, label in zip(paths, changed.tolist(), strict=True))
    found = tt.check(tmp_path / "list.csv", labels=True)
    assert found.labels is not None
    by_path = {str(path): place for place, path in enumerate(paths)}
    named = [by_path[item.path] for item in found.labels.suspects]
    assert np.isin(planted, named).mean() >= 0.8
    assert np.isin(named, planted).mean() >= 0.8
