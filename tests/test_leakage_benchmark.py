"""The benchmark that plants copies: what it plants, what it counts, and what it writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benches import benchmark_modules
from PIL import Image
from shapes import textures

MODULES = ("leakage", "results", "workloads", "machine", "layouts")


@pytest.fixture(scope="module")
def leakage() -> Iterator[Any]:
    """The benchmark's module; it stands beside a script, not in a package."""
    with benchmark_modules(*MODULES) as modules:
        yield modules.leakage


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Textures as JPEG files in ``train/CLASS`` and ``test/CLASS``; one test image stands in training already."""
    root = tmp_path_factory.mktemp("photos")
    for seed, folder in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (root / folder).mkdir(parents=True)
        for number, pixels in enumerate(textures(40, 64, seed)):
            Image.fromarray(pixels).save(root / folder / f"{number:03}.jpg", quality=95)
    (root / "test/a/leaked.jpg").write_bytes((root / "train/a/007.jpg").read_bytes())
    return root


def test_planted_copies_are_counted_and_those_that_were_there_are_not(
    leakage: Any, photos: Path, tmp_path: Path
) -> None:
    before = sorted(path.read_bytes() for path in photos.rglob("*.jpg"))
    found = leakage.measure(photos, tmp_path / "copy", 5, 0)
    assert found.before == ("test/a/leaked.jpg",)
    assert found.images == 161 + 25
    assert list(found.recall) == list(leakage.CHANGES)
    for kind, item in found.recall.items():
        assert item.n in (4, 5)
        assert item.value >= 0.75, kind
    assert found.precision.value == 1
    assert found.precision.n >= 20
    assert sorted(path.read_bytes() for path in photos.rglob("*.jpg")) == before
    planted = sorted((tmp_path / "copy" / "train").rglob("planted*"))
    assert len(planted) == 25
    for path in planted:
        with Image.open(path) as image:
            assert image.size == ((48, 48) if path.name.startswith("planted2") else (64, 64))


def test_the_row_and_the_section_say_what_was_found(leakage: Any, tmp_path: Path) -> None:
    recall = {kind: leakage.wilson(99 if kind == "flipped" else 90, 100) for kind in leakage.CHANGES}
    found = leakage.Found(recall, leakage.wilson(498, 500), ("x.jpg",), 96, 2.5, 3_500)
    row = leakage.row_of(found, (21.0, 70_000, 0), 60.0, 3)
    section = leakage.save(tmp_path, row, found, (21.0, 70_000, 0))
    assert "| flipped | 0.990 | 0.946 to 0.998 | 100 | 0.95: met |" in section
    assert "| resized (x 0.75) | 0.900 | 0.826 to 0.945 | 100 | 0.95: not met |" in section
    assert "| brightened (x 1.25) | 0.900 | 0.826 to 0.945 | 100 |  |" in section
    assert "| all: precision | 0.996 | 0.986 to 0.999 | 500 | 0.99: met |" in section
    assert "70,000 images audited in 21.0 s (asked for: under 30 s: met)" in section
    leakage.save(tmp_path, replace(row, repeat=4), found, None)
    (path,) = (tmp_path / "results").iterdir()
    (kept,) = leakage.read_rows(path)
    assert (kept.repeat, kept.measures["recall, flipped"], kept.measures["precision"]) == (4, 0.99, 0.996)
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert page.count("planted leakage") == 1
    assert "70,000" not in page
