from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tintype.config import DataConfig
from tintype.data.sources import ImageIndex, index_paths, read_index, relabel
from tintype.errors import DataError


def put(*paths: Path) -> None:
    """Write a small image at each path, whatever its extension."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            Image.new("RGB", (4, 3), (1, 2, 3)).save(file, "PNG")


def read(source: Path, **settings: object) -> ImageIndex:
    return read_index(DataConfig.model_validate({"source": str(source), **settings}))


def refusal(source: Path, **settings: object) -> str:
    with pytest.raises(DataError) as caught:
        read(source, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows(index: ImageIndex) -> dict[str, tuple[str, int]]:
    """Path to (class name, split)."""
    names = [index.classes[label] for label in index.labels]
    return dict(zip(index.paths, zip(names, index.given_split.tolist(), strict=True), strict=True))


def test_unsplit_class_folders(tmp_path: Path) -> None:
    put(tmp_path / "10/b.png", tmp_path / "9/a.JPG", tmp_path / "9/deeper/still/c.tiff", tmp_path / "9/noext")
    index = read(tmp_path)
    assert index.kind == "folder"
    assert index.root == tmp_path
    assert index.classes == ("9", "10")
    assert rows(index) == {
        "9/a.JPG": ("9", -1),
        "9/deeper/still/c.tiff": ("9", -1),
        "9/noext": ("9", -1),
        "10/b.png": ("10", -1),
    }
    assert index.description == "class folders: 2 classes, 4 images"
    assert index.labels.dtype == np.int64
    assert index.given_split.dtype == np.int8


@pytest.mark.parametrize(
    "folders",
    [("train", "val", "test"), ("Train", "VALID", "Test"), ("training", "validation", "testing")],
)
def test_split_folders(tmp_path: Path, folders: tuple[str, str, str]) -> None:
    train, validation, test = folders
    put(tmp_path / train / "a/1.png", tmp_path / train / "b/1.png")
    put(tmp_path / validation / "a/2.png", tmp_path / test / "b/3.png")
    assert rows(read(tmp_path)) == {
        f"{train}/a/1.png": ("a", 0),
        f"{train}/b/1.png": ("b", 0),
        f"{validation}/a/2.png": ("a", 1),
        f"{test}/b/3.png": ("b", 2),
    }


def test_class_missing_from_one_split_keeps_its_id(tmp_path: Path) -> None:
    # ultralytics#13936: ids were counted per split
    put(tmp_path / "train/a/1.png", tmp_path / "train/b/1.png", tmp_path / "train/c/1.png")
    put(tmp_path / "test/c/1.png", tmp_path / "test/d/1.png")
    (tmp_path / "test/b").mkdir()
    index = read(tmp_path)
    assert index.classes == ("a", "b", "c", "d")
    assert index.labels[index.given_split == 2].tolist() == [2, 3]
    assert index.description == ("class folders in train/, test/: 4 classes, 5 images; without images: test/b")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    put(tmp_path / "car/1.png", tmp_path / "train/side/1.png", tmp_path / "tram/1.png")
    assert read(tmp_path).classes == ("car", "train", "tram")


def test_only_train_folder(tmp_path: Path) -> None:
    put(tmp_path / "train/a/1.png", tmp_path / "train/b/1.png")
    assert rows(read(tmp_path)) == {"train/a/1.png": ("a", 0), "train/b/1.png": ("b", 0)}


def test_unlabelled_test_folder_is_left_out_and_said(tmp_path: Path) -> None:
    put(tmp_path / "train/a/1.png", tmp_path / "train/b/1.png", tmp_path / "test/1.png", tmp_path / "test/2.png")
    put(tmp_path / "extra/x/1.png")
    index = read(tmp_path)
    assert set(index.given_split.tolist()) == {0}
    assert index.description == (
        "class folders in train/, test/: 2 classes, 2 images; 2 images in test/ without class folders left out; "
        "left out: extra"
    )


def test_what_systems_leave_behind_is_never_data(tmp_path: Path) -> None:
    # autotrain-advanced#220: .ipynb_checkpoints became a class
    put(tmp_path / "a/1.png", tmp_path / "b/1.png")
    put(tmp_path / ".ipynb_checkpoints/1.png", tmp_path / "a/.ipynb_checkpoints/1.png", tmp_path / "a/._1.png")
    put(tmp_path / "__MACOSX/a/1.png", tmp_path / "a/@eaDir/1.png", tmp_path / "a/Thumbs.db", tmp_path / ".hidden.png")
    put(tmp_path / "a/notes.txt", tmp_path / "a/1.png.bak", tmp_path / "readme.md")
    (tmp_path / "a/plain").write_text("no image")
    os.mkfifo(tmp_path / "a/pipe.png")
    assert read(tmp_path).paths == ("a/1.png", "b/1.png")


def test_image_extension_without_image_is_data_to_be_reported(tmp_path: Path) -> None:
    put(tmp_path / "a/1.png", tmp_path / "b/1.png")
    (tmp_path / "a/2.heic").write_bytes(b"not readable here, but its owner counts on it")
    (tmp_path / "a/3.png").symlink_to("nowhere.png")
    assert read(tmp_path).paths == ("a/1.png", "a/2.heic", "a/3.png", "b/1.png")


def test_symlink_loops_add_nothing(tmp_path: Path) -> None:
    put(tmp_path / "data/cat/1.png", tmp_path / "data/dog/1.png")
    (tmp_path / "data/cat/up").symlink_to("..")
    (tmp_path / "data/cat/root").symlink_to("/")
    (tmp_path / "data/cat/me").symlink_to(".")
    (tmp_path / "data/dog/other").symlink_to("../cat")
    (tmp_path / "data/self").symlink_to(".")
    (tmp_path / "data/above").symlink_to("..")
    (tmp_path / "data/dog/knot").symlink_to("knot")
    assert read(tmp_path / "data").paths == ("cat/1.png", "dog/1.png")


def test_links_are_followed_once(tmp_path: Path) -> None:
    put(
        tmp_path / "store/1.png", tmp_path / "store/2.png", tmp_path / "data/dog/1.png", tmp_path / "data/dog/sub/2.png"
    )
    (tmp_path / "data/cat").symlink_to(tmp_path / "store")
    (tmp_path / "data/dog/again").symlink_to("sub")
    (tmp_path / "data/dog/3.png").symlink_to(tmp_path / "store/1.png")
    (tmp_path / "store/back").symlink_to(tmp_path / "data")
    assert read(tmp_path / "data").paths == ("cat/1.png", "cat/2.png", "dog/1.png", "dog/3.png", "dog/sub/2.png")


def test_one_folder_as_two_classes_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "cat/1.png")
    (tmp_path / "dog").symlink_to("cat")
    assert "cat and dog" in refusal(tmp_path)


def test_names_of_any_bytes(tmp_path: Path) -> None:
    longest = "x" + "é" * 125 + ".png"
    assert len(os.fsencode(longest)) == 255
    put(tmp_path / "naïve 日本語 🙂/ü\n.png", tmp_path / "b" / longest)
    raw = os.fsencode(tmp_path / "b") + b"/\xff\xfe.png"
    with open(raw, "wb") as file:  # noqa: PTH123 - a name that is no text
        Image.new("L", (2, 2)).save(file, "PNG")
    index = read(tmp_path)
    assert set(index.paths) == {f"b/{longest}", "b/\udcff\udcfe.png", "naïve 日本語 🙂/ü\n.png"}
    for i in range(len(index)):
        assert Path(str(index.source(i))).is_file()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no images. A folder per class"),
        (["1.png", "2.png"], "holds 2 images but no class folders"),
        (["a/1.png", "b/1.png", "loose.png"], "1 image in {root} stands beside the class folders: loose.png."),
        (["train/a/1.png", "train/b/1.png", "train/x.png", "test/a/1.png"], "1 image in {root}/train stands beside"),
        (["train/1.png", "test/1.png"], "{root}/train holds 1 image but no class folders"),
        (["a/1.png"], "{root} has 1 class: a. A classifier needs at least 2."),
        (["all/a/1.png", "all/b/1.png"], "Did you mean {root}/all?"),
        (["train/a/1.png", "train/b/1.png", "Train/a/1.png"], "two folders of train images: Train, train"),
    ],
)
def test_refusals_name_the_fact(tmp_path: Path, files: list[str], message: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    put(*(root / name for name in files))
    assert message.format(root=root) in refusal(root)


def test_empty_class_folder_is_named(tmp_path: Path) -> None:
    put(tmp_path / "a/1.png", tmp_path / "b/1.png")
    (tmp_path / "c").mkdir()
    (tmp_path / "d").mkdir()
    assert refusal(tmp_path) == "2 class folders c, d hold no images. Remove the folder or add images."


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "no DATA was given. DATA is"),
        ("/no/such/folder", "there is no file or folder /no/such/folder. DATA is a folder of class folders"),
        ("https://example.org/cats.zip", "is a web address"),
        ("x" * 5000, "there is no file or folder xxx"),
        ("ylecun/mnist", "there is no file or folder ylecun/mnist. DATA is"),
    ],
)
def test_missing_sources(source: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_index(DataConfig(source=source))
    assert message in str(caught.value)


def test_files_of_no_use_are_explained(tmp_path: Path) -> None:
    put(tmp_path / "cat.jpg", tmp_path / "x.zip", tmp_path / "y.bin")
    assert "is a single image" in refusal(tmp_path / "cat.jpg")
    assert "is an archive. Unpack it" in refusal(tmp_path / "x.zip")
    assert "is of no known kind" in refusal(tmp_path / "y.bin")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert "is a link to something that does not exist" in refusal(tmp_path / "dangling")
    assert "is a file, but the kind folder needs a folder" in refusal(tmp_path / "cat.jpg", kind="folder")
    assert "holds no npz" in refusal(tmp_path, kind="npz")


def test_folder_with_a_manifest_is_a_manifest_unless_told(tmp_path: Path) -> None:
    put(tmp_path / "a/1.png", tmp_path / "b/1.png")
    (tmp_path / "labels.csv").write_text("path,label\na/1.png,x\nb/1.png,y\n")
    assert (read(tmp_path).kind, read(tmp_path).classes) == ("manifest", ("x", "y"))
    assert read(tmp_path, kind="folder").classes == ("a", "b")
    (tmp_path / "manifest.csv").write_text("path,label\n")
    assert "holds manifest.csv, labels.csv. Name the one to use." in refusal(tmp_path)


def test_evaluation_may_have_one_class(tmp_path: Path) -> None:
    put(tmp_path / "a/1.png")
    assert read_index(DataConfig(source=str(tmp_path)), minimum_classes=1).classes == ("a",)


def test_index_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a/2.png", tmp_path / "a/10.png", tmp_path / "a/x/1.png", tmp_path / "b.dat", tmp_path / "[odd].png")
    (tmp_path / "a/notes.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    index = index_paths(["b.dat", "a", Path("a/2.png"), "a/*.png", "./b.dat", "[odd].png"])
    assert index.paths == ("b.dat", "a/10.png", "a/2.png", "a/x/1.png", "[odd].png")
    assert index.classes == ()
    assert index.labels.tolist() == [-1] * 5
    assert all(Path(str(index.source(i))).is_file() for i in range(5))
    assert index_paths(["**/*.png"]).paths == ("[odd].png", "a/2.png", "a/10.png", "a/x/1.png")
    assert index_paths([tmp_path / "b.dat"]).paths == (str(tmp_path / "b.dat"),)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "no images were named"),
        (["no.png"], "there is no no.png"),
        (["x" * 300], "there is no xxx"),
        (["*.jpg"], "*.jpg matches no images"),
        (["empty"], "empty holds no images"),
        (["https://example.org/cat.jpg"], "is a web address, and tintype fetches nothing. Download it first."),
    ],
)
def test_index_paths_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        index_paths(paths)
    assert message in str(caught.value)


def test_relabel_maps_names_not_positions(tmp_path: Path) -> None:
    put(tmp_path / "cat/1.png", tmp_path / "dog/1.png", tmp_path / "dog/2.png")
    index = relabel(read(tmp_path), ["dog", "bird", "cat"])
    assert index.classes == ("dog", "bird", "cat")
    assert dict(zip(index.paths, index.labels.tolist(), strict=True)) == {
        "cat/1.png": 2,
        "dog/1.png": 0,
        "dog/2.png": 0,
    }
    assert relabel(index_paths([tmp_path]), ["a", "b"]).labels.tolist() == [-1, -1, -1]
    with pytest.raises(DataError, match="dog is unknown to the model, which knows cat, bird"):
        relabel(read(tmp_path), ["cat", "bird"])


def test_indexing_is_fast(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(1000):
            (tmp_path / name / f"{i}.jpg").touch()
    start = time.process_time()
    assert len(read(tmp_path)) == 2000
    assert time.process_time() - start < 0.1  # takes 0.004 s; 100,000 files take 0.15 s


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "classes", "counts"),
    [
        ("mnist", 10, {0: 60_000, 2: 10_000}),
        ("cats_dogs", 2, {0: 2000, 2: 1000}),
        ("chest_xray", 4, {0: 269, 2: 36}),
        ("tiny_imagenet_20", 20, {0: 10_000, 2: 1000}),
        ("cifar10_4k", 10, {-1: 4000}),
        ("digits_drawn", 10, {-1: 1000}),
        ("digits_photos", 10, {-1: 31}),
    ],
)
def test_real_sets(shared_data: Callable[[str], Path], name: str, classes: int, counts: dict[int, int]) -> None:
    index = read(shared_data(name))
    assert len(index.classes) == classes
    splits, numbers = np.unique(index.given_split, return_counts=True)
    assert dict(zip(splits.tolist(), numbers.tolist(), strict=True)) == counts


def test_runs_left_inside_the_data_folder_are_no_class(tmp_path: Path) -> None:
    put(tmp_path / "cat/a.png", tmp_path / "dog/b.png")
    (tmp_path / "runs" / "photos").mkdir(parents=True)
    (tmp_path / "runs" / "photos" / "config.toml").touch()
    assert read(tmp_path).classes == ("cat", "dog")
    (tmp_path / "runs" / "photos" / "config.toml").unlink()
    assert "runs" in refusal(tmp_path)  # an empty folder of that name is still the user's to explain


def test_some_classes_alone(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("bee", "ant", "cow"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("L", (8, 8)).save(tmp_path / split / name / "1.png")
    index = read_index(DataConfig(source=str(tmp_path), classes=("cow", "bee")))
    assert index.classes == ("bee", "cow")
    assert sorted(index.paths) == ["test/bee/1.png", "test/cow/1.png", "train/bee/1.png", "train/cow/1.png"]
    assert [index.classes[label] for label in index.labels] == [path.split("/")[1] for path in index.paths]
    assert "4 images of bee, cow" in index.description
    with pytest.raises(DataError, match=r"no class dog\. There are: ant, bee, cow") as caught:
        read_index(DataConfig(source=str(tmp_path), classes=("dog", "bee")))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="class"):
        read_index(DataConfig(source=str(tmp_path), classes=("bee",)))
