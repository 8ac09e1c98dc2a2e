from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes import textures

from tintype.config import DataConfig
from tintype.data.audit import Audit, audit
from tintype.data.cache import ImageCache, build_cache
from tintype.data.sources import read_index
from tintype.data.split import Split, make_split
from tintype.records import Finding

SIDE = 48


def write(root: Path, counts: dict[str, int]) -> Path:
    """Folders such as ``train/cat`` with so many PNGs, all different."""
    for seed, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True)
        for number, pixels in enumerate(textures(count, SIDE, seed)):
            Image.fromarray(pixels).save(root / folder / f"{number:03}.png")
    return root


PLAIN = {"train/cat": 60, "train/dog": 60, "test/cat": 40, "test/dog": 40}


def look(root: Path, **settings: object) -> tuple[Audit, ImageCache, Split]:
    config = DataConfig.model_validate(
        {"source": str(root), "image_size": SIDE, "color": "rgb", "resize": "stretch", **settings}
    )
    index = read_index(config)
    cache = build_cache(index, config)
    split = make_split(index, cache.usable, config)
    return audit(cache, split), cache, split


def finding(result: Audit, code: str) -> Finding:
    (found,) = [item for item in result.findings if item.code == code]
    return found


def codes(result: Audit) -> set[str]:
    return {item.code for item in result.findings}


def leaked_names(result: Audit, cache: ImageCache) -> list[str]:
    return [cache.index.paths[row] for row in result.leaked_test]


def test_sound_data_raise_no_alarm(tmp_path: Path) -> None:
    result, _, _ = look(
        write(tmp_path / "data", {"train/cat": 250, "train/dog": 250, "test/cat": 200, "test/dog": 200})
    )
    assert result.findings == ()
    assert result.leaked_test.dtype == np.int64
    assert len(result.leaked_test) == 0


def test_test_images_that_stand_in_training_are_found_named_and_returned(tmp_path: Path) -> None:
    root = write(tmp_path / "data", PLAIN)
    shutil.copy(root / "train/cat/007.png", root / "test/cat/copy.png")
    with Image.open(root / "train/dog/011.png") as image:
        image.save(root / "test/dog/again.jpg", quality=60)
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "test/dog/turned.png")
    result, cache, _ = look(root)
    assert leaked_names(result, cache) == ["test/cat/copy.png", "test/dog/again.jpg", "test/dog/turned.png"]
    found = finding(result, "leakage")
    assert found.severity == "warning"
    assert found.title == (
        "3 of 83 test images (3.6 %) stand in training or validation too (1 as the same file, 2 as near-duplicates)"
    )
    assert found.evidence == (
        "test/cat/copy.png is the same file as train/cat/007.png",
        "test/dog/again.jpg is nearly the same as train/dog/011.png",
        "test/dog/turned.png is a mirror image of train/dog/011.png",
    )
    # The two copies of one training image are copies of each other as well.
    assert "(1 in test)" in finding(result, "duplicates-within-splits").title
    assert "contradictory-labels" not in codes(result)


def test_many_leaked_test_images_are_critical(tmp_path: Path) -> None:
    root = write(tmp_path / "data", PLAIN)
    for number in range(5):
        shutil.copy(root / f"train/cat/{number:03}.png", root / f"test/cat/copy{number}.png")
    result, cache, _ = look(root)
    assert finding(result, "leakage").severity == "critical"
    assert len(leaked_names(result, cache)) == 5


def test_copies_of_one_file_leak_whatever_their_order(tmp_path: Path) -> None:
    # The first of the equal files is a test image, so the group's stand-in must not hide the training one.
    root = write(tmp_path / "data", {"a/cat": 0, "train/cat": 60, "train/dog": 60, "test/cat": 40, "test/dog": 40})
    shutil.rmtree(root / "a")
    manifest = ["path,label,split"]
    shutil.copy(root / "train/cat/003.png", root / "test/cat/x.png")
    shutil.copy(root / "train/cat/003.png", root / "test/cat/y.png")
    manifest += [f"test/cat/{name}.png,cat,test" for name in ("x", "y")]
    manifest += [
        f"{part}/{label}/{number:03}.png,{label},{part}"
        for part, count in (("test", 40), ("train", 60))
        for label in ("cat", "dog")
        for number in range(count)
    ]
    (root / "labels.csv").write_text("\n".join(manifest))
    result, cache, _ = look(root)
    assert leaked_names(result, cache) == ["test/cat/x.png", "test/cat/y.png"]


def test_copies_in_validation_are_a_finding_of_their_own(tmp_path: Path) -> None:
    root = write(tmp_path / "data", {**PLAIN, "val/cat": 20, "val/dog": 20})
    shutil.copy(root / "train/cat/001.png", root / "val/cat/copy.png")
    shutil.copy(root / "val/dog/002.png", root / "test/dog/copy.png")
    result, cache, _ = look(root)
    assert finding(result, "validation-leakage").evidence == ("val/cat/copy.png is the same file as train/cat/001.png",)
    assert leaked_names(result, cache) == ["test/dog/copy.png"]


def test_copies_with_two_labels_are_named_with_both(tmp_path: Path) -> None:
    root = write(tmp_path / "data", PLAIN)
    shutil.copy(root / "train/cat/007.png", root / "train/dog/wrong.png")
    result, _, split = look(root, validation_fraction=0)
    assert len(split.validation) == 0
    assert finding(result, "contradictory-labels").evidence == (
        "train/dog/wrong.png is the same file as train/cat/007.png (dog and cat)",
    )
    assert finding(result, "duplicates-within-splits").title.startswith("1 image is a copy of another")


def test_sets_of_copies_count_all_but_one(tmp_path: Path) -> None:
    root = write(tmp_path / "data", PLAIN)
    for number in range(3):
        shutil.copy(root / "train/cat/007.png", root / f"train/cat/again{number}.png")
    with Image.open(root / "train/cat/007.png") as image:
        image.save(root / "train/cat/other.jpg", quality=85)
    result, _, _ = look(root, validation_fraction=0)
    assert (
        "4 images are copies of others in the same split (4 in train)"
        in finding(result, "duplicates-within-splits").title
    )


def test_blank_images_are_named(tmp_path: Path) -> None:
    root = write(tmp_path / "data", PLAIN)
    Image.new("RGB", (SIDE, SIDE), (250, 250, 250)).save(root / "train/cat/white.png")
    noise = np.random.default_rng(0).integers(0, 4, size=(SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "train/dog/black.png")
    # Shaded, dotted and finely checked images do show something.
    Image.fromarray(np.linspace(0, 255, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint8)).save(
        root / "train/cat/a.png"
    )
    dotted = np.zeros((SIDE, SIDE), np.uint8)
    dotted[20:24, 20:24] = 255
    Image.fromarray(dotted).save(root / "train/cat/b.png")
    Image.fromarray((np.indices((SIDE, SIDE)).sum(0) % 2 * 255).astype(np.uint8)).save(root / "train/cat/c.png")
    result, _, _ = look(root)
    assert finding(result, "blank-images").evidence == ("train/cat/white.png", "train/dog/black.png")


def test_bad_files_are_named_with_the_reason(tmp_path: Path) -> None:
    root = write(tmp_path / "data", PLAIN)
    (root / "train/cat/broken.png").write_bytes(b"")
    result, cache, _ = look(root, skip_bad=True)
    (evidence,) = finding(result, "bad-files").evidence
    assert evidence == f"train/cat/broken.png: {cache.bad['train/cat/broken.png']}"
    assert finding(result, "bad-files").title == "1 file of 201 cannot be read and was left out"


@pytest.mark.parametrize(("dogs", "is_said"), [(25, False), (24, True)])
def test_imbalance_is_said_from_five_to_one(tmp_path: Path, dogs: int, is_said: bool) -> None:
    root = write(tmp_path / "data", {"train/cat": 120, "train/dog": dogs, "test/cat": 40, "test/dog": 40})
    result, _, _ = look(root, validation_fraction=0)
    assert ("class-imbalance" in codes(result)) == is_said
    if is_said:
        assert finding(result, "class-imbalance").evidence == ("cat: 120", "dog: 24")


def test_classes_of_few_images_are_named(tmp_path: Path) -> None:
    root = write(tmp_path / "data", {"train/cat": 20, "train/dog": 19, "test/cat": 40, "test/dog": 40})
    result, _, _ = look(root, validation_fraction=0)
    assert finding(result, "few-images").evidence == ("dog: 19",)


@pytest.mark.parametrize(("images", "severity"), [(9, "warning"), (60, "info")])
def test_small_test_set_says_what_it_can_prove(tmp_path: Path, images: int, severity: str) -> None:
    root = write(tmp_path / "data", {"train/cat": 30, "train/dog": 30, "test/cat": images, "test/dog": images})
    found = finding(look(root)[0], "small-test-set")
    assert found.severity == severity
    if images == 9:
        assert "with 18 test images even a perfect score proves no more than an accuracy above 0.82" in found.title


def test_missing_test_set_is_said(tmp_path: Path) -> None:
    result, _, _ = look(write(tmp_path / "data", {"cat": 40, "dog": 40}), test_fraction=0)
    assert "no-test-set" in codes(result)


def test_odd_shapes_small_images_and_modes_are_said(tmp_path: Path) -> None:
    root = write(tmp_path / "data", PLAIN)
    wide = textures(1, side=400, seed=50)[0]
    Image.fromarray(wide[:100]).save(root / "train/cat/wide.png")
    Image.fromarray(wide[:20, :20]).save(root / "train/cat/tiny.png")
    Image.fromarray(wide[:50, :50, 0]).save(root / "train/cat/grey.png")
    result, _, _ = look(root)
    assert finding(result, "extreme-shapes").evidence == ("train/cat/wide.png: 400x100",)
    assert finding(result, "small-images").evidence == ("train/cat/tiny.png: 20x20",)
    assert finding(result, "mixed-modes").evidence == ("RGB: 202 images", "L: 1 image")
    assert "shortcut-risk" not in codes(result)


def test_class_of_other_mode_is_a_shortcut(tmp_path: Path) -> None:
    root = write(tmp_path / "data", {"cat": 40, "dog": 40, "owl": 40})
    for path in sorted((root / "dog").iterdir())[:36]:
        with Image.open(path) as image:
            grey = image.convert("L")
        grey.save(path)
    found = finding(look(root)[0], "shortcut-risk")
    assert "the pixel mode of the file alone tells dog from the others in 9" in found.title
    assert any("dog by pixel mode" in line and "90 % L, 10 % RGB" in line for line in found.evidence)


@pytest.mark.parametrize("what", ["size", "shape", "file type"])
def test_class_from_another_source_is_a_shortcut(tmp_path: Path, what: str) -> None:
    root = write(tmp_path / "data", {"cat": 60, "dog": 60})
    for path in sorted((root / "dog").iterdir()):
        with Image.open(path) as image:
            if what == "size":
                image.resize((2 * SIDE, 2 * SIDE)).save(path)
            elif what == "shape":
                image.resize((SIDE * 6 // 5, SIDE * 5 // 6)).save(path)
            else:
                image.save(path.with_suffix(".jpg"))
                path.unlink()
    assert f"the {what} of the file alone tells cat" in finding(look(root)[0], "shortcut-risk").title


def test_sizes_at_random_are_no_shortcut(tmp_path: Path) -> None:
    root = write(tmp_path / "data", {"cat": 60, "dog": 60})
    random = np.random.default_rng(0)
    for path in sorted(root.rglob("*.png")):
        with Image.open(path) as image:
            resized = image.resize((int(random.integers(30, 90)), int(random.integers(30, 90))))
        resized.save(path)
    assert "shortcut-risk" not in codes(look(root)[0])


def test_only_images_of_the_splits_are_looked_at(tmp_path: Path) -> None:
    root = write(tmp_path / "data", PLAIN)
    for number in range(60):
        shutil.copy(root / f"train/cat/{number:03}.png", root / f"test/cat/copy{number}.png")
    full, _, split = look(root)
    part, cache, kept = look(root, fraction=0.3)
    used = {cache.index.paths[row] for row in [*kept.train, *kept.validation]}
    assert len(full.leaked_test) == 60
    assert len(kept.train) < len(split.train)
    assert set(leaked_names(part, cache)) == {
        f"test/cat/copy{number}.png" for number in range(60) if f"train/cat/{number:03}.png" in used
    }


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    config = DataConfig(source=str(write(tmp_path / "data", PLAIN)), image_size=SIDE, color="rgb", resize="stretch")
    index = read_index(config)
    cache = build_cache(index, config)
    seen: list[tuple[str, int, int]] = []
    audit(cache, make_split(index, cache.usable, config), lambda *step: seen.append(step))
    assert seen[-1] == ("looking at images", 200, 200)


@pytest.mark.data
def test_chest_x_rays_come_from_different_sources(shared_data: Callable[[str], Path]) -> None:
    result, _, _ = look(shared_data("chest_xray"), image_size=96, color="grey", resize="pad")
    assert "tells covid from the others" in finding(result, "shortcut-risk").title
    assert finding(result, "small-test-set").severity == "warning"
    assert len(result.leaked_test) == 0


@pytest.mark.data
def test_real_photos_raise_no_false_alarm(shared_data: Callable[[str], Path]) -> None:
    result, _, _ = look(shared_data("cats_dogs"), image_size=64, resize="pad")
    assert len(result.leaked_test) == 0
    assert codes(result) <= {"validation-leakage", "extreme-shapes"}  # one photo is there twice, one is 195x33
    assert finding(result, "validation-leakage").evidence == (
        "train/dogs/dog.180.jpg is nearly the same as train/dogs/dog.74.jpg",
    )
