"""Images for a finished model: its own found again, others decoded like them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes import make_shapes

from tintype.config import DataConfig
from tintype.data.cache import build_cache
from tintype.data.decode import Geometry
from tintype.data.reopen import decode_like, evenly, is_unlabelled_folder, reopen_images, rows_of
from tintype.data.sources import read_index
from tintype.errors import DataError
from tintype.rundir import RunDir

GEOMETRY = Geometry(size=16, channels=1, resize="pad")


def finished(folder: Path, data: DataConfig) -> RunDir:
    run_dir = RunDir(folder)
    run_dir.write_json("data.json", {"fingerprint": build_cache(read_index(data), data).fingerprint})
    return run_dir


def test_a_run_s_images_are_found_again_and_changed_ones_are_not_taken_for_them(tmp_path: Path) -> None:
    make_shapes(tmp_path / "shapes", 5)
    data = DataConfig(source=str(tmp_path / "shapes"), image_size=16, color="grey", resize="stretch")
    run_dir = finished(tmp_path / "run", data)
    cache = reopen_images(run_dir, data)
    assert not cache.was_built
    assert rows_of(cache.index, ["square/001.png", "circle/000.png"]).tolist() == [6, 0]
    with pytest.raises(DataError, match=r"other.png is no longer in"):
        rows_of(cache.index, ["other.png"])
    Image.new("L", (24, 24)).save(tmp_path / "shapes" / "circle" / "000.png")
    with pytest.raises(DataError, match=r"changed since .*run was trained"):
        reopen_images(run_dir, data)


def test_gone_images_are_said(tmp_path: Path) -> None:
    make_shapes(tmp_path / "shapes", 3)
    data = DataConfig(source=str(tmp_path / "shapes"), image_size=16, color="grey", resize="stretch")
    run_dir = finished(tmp_path / "run", data)
    (tmp_path / "shapes").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="there is no file or folder"):
        reopen_images(run_dir, data)


def test_other_images_are_decoded_like_the_model_s_with_its_labels(tmp_path: Path) -> None:
    make_shapes(tmp_path / "more", 3)
    (tmp_path / "more" / "circle").rename(tmp_path / "more" / "zebra")
    cache, data = decode_like(GEOMETRY, ("square", "x", "zebra"), 50.0, str(tmp_path / "more"))
    assert cache.images.shape == (6, 16, 16, 1)
    assert cache.index.labels.tolist() == [0, 0, 0, 2, 2, 2]
    assert (data.max_megapixels, data.resize) == (50.0, "pad")
    with pytest.raises(DataError, match="zebra is unknown to the model"):
        decode_like(GEOMETRY, ("square", "circle"), 50.0, str(tmp_path / "more"))


def test_a_folder_without_labels_is_one_line_or_is_taken_as_it_is(tmp_path: Path) -> None:
    make_shapes(tmp_path, 3)
    flat = tmp_path / "circle"
    with pytest.raises(
        DataError, match=r"holds images but no labels, so nothing can be judged. Put them into a folder"
    ):
        decode_like(GEOMETRY, ("a", "b"), 50.0, str(flat))
    cache, _ = decode_like(GEOMETRY, ("a", "b"), 50.0, str(flat), needs_labels=False)
    assert cache.index.labels.tolist() == [-1, -1, -1]
    assert cache.index.classes == ("a", "b")


def test_what_an_unlabelled_folder_is(tmp_path: Path) -> None:
    make_shapes(tmp_path / "shapes", 1)
    assert not is_unlabelled_folder(tmp_path / "shapes")
    assert is_unlabelled_folder(tmp_path / "shapes" / "circle")
    assert not is_unlabelled_folder(tmp_path / "shapes" / "circle" / "000.png")
    (tmp_path / "shapes" / "circle" / "labels.csv").write_text("path,label\n000.png,circle\n")
    assert not is_unlabelled_folder(tmp_path / "shapes" / "circle")
    (tmp_path / "empty").mkdir()
    assert not is_unlabelled_folder(tmp_path / "empty")


def test_evenly() -> None:
    assert evenly(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert evenly(1000, 3).tolist() == [0, 499, 999]
    assert evenly(0, 3).tolist() == []
    assert evenly(7, 0).tolist() == []
    assert all(len(np.unique(evenly(n, 50))) == min(n, 50) for n in (1, 49, 50, 51, 77, 4000))


def test_classes_that_the_model_does_not_know_have_no_label_where_none_is_needed(tmp_path: Path) -> None:
    make_shapes(tmp_path / "shapes", 2)
    told: list[str] = []
    cache, _ = decode_like(
        GEOMETRY, ("square", "x"), 50.0, str(tmp_path / "shapes"), needs_labels=False, on_message=told.append
    )
    assert cache.index.labels.tolist() == [-1, -1, 0, 0]
    assert any(line.startswith("circle: unknown to the model") for line in told)
