from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tintype.data.manifests import read_manifest
from tintype.errors import DataError


def write(folder: Path, text: str, files: Sequence[str] = ("a.png", "b.png", "c.png")) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    path = folder / "labels.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_columns(tmp_path: Path) -> None:
    text = "Group, Label ,PATH,camera,split\np1,cat,a.png,x,train\np1,10,sub/b.png,y,Valid\n,9,c.png,,\n,,d.png,,test\n"
    index = read_manifest(write(tmp_path, text, ["a.png", "sub/b.png", "c.png", "d.png"]))
    assert index.kind == "manifest"
    assert index.root == tmp_path
    assert index.classes == ("9", "10", "cat")
    assert index.paths == ("a.png", "sub/b.png", "c.png", "d.png")
    assert index.labels.tolist() == [2, 1, 0, -1]
    assert index.given_split.tolist() == [0, 1, -1, 2]
    assert index.groups == ("p1", "p1", "c.png", "d.png")
    assert index.description == "manifest labels.csv: 3 classes, 4 images; 1 image without a label"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_dialects(tmp_path: Path, delimiter: str, newline: str) -> None:
    lines = ["path,label", "a.png,x", "", "b.png,y", ""]
    text = "\ufeff" + newline.join(lines).replace(",", delimiter)
    index = read_manifest(write(tmp_path, text))
    assert (index.paths, index.labels.tolist(), index.groups) == (("a.png", "b.png"), [0, 1], None)


def test_absolute_paths_and_repeated_rows(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    far = tmp_path / "elsewhere" / "far.png"
    far.touch()
    index = read_manifest(write(tmp_path, f"path,label\n{far},x\na.png,y\n./a.png,y\n"))
    assert index.paths == (str(far), "a.png")
    assert index.source(0) == far
    assert index.description.endswith("1 repeated row dropped")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column path and no column label. It has: none."),
        ("file,class\na.png,x\n", "has no column path and no column label. It has: file, class."),
        ("path,class\na.png,x\n", "has no column label. It has: path, class."),
        ("path,label,Path\na.png,x,a.png\n", "has the column path twice"),
        ("path,label\n", "lists no images"),
        (
            "path,label\na.png,x\nb,c.png,y\n",
            "line 3 has 3 fields where the header has 2. Quote a name that holds ','.",
        ),
        ("path,label\na.png\n", "line 2 has 1 field where"),
        ('path,label\n"a.png,x\n', "is not CSV"),
        ("path,label\n,x\n", "has 1 row without a path"),
        ("path,label,split\na.png,x,train\nb.png,y,holdout\n", "has the split holdout. A split is train, validation"),
        ("path,label\na.png,x\n./a.png,y\nb.png,x\n", "lists 1 image more than once with different labels"),
        (
            "path,label\n" + "".join(f"no{i}.png,x\n" for i in range(9)) + "a.png,y\n",
            "9 of the 10 images in {file} do not exist: no0.png, no1.png, no2.png and 6 more. Paths are relative to",
        ),
    ],
)
def test_refusals(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    assert message.format(file=path) in refusal(path)


def test_parquet_reads_as_csv_does(tmp_path: Path) -> None:
    write(tmp_path, "")
    path = tmp_path / "manifest.parquet"
    table = {"path": ["a.png", "b.png", "c.png"], "label": [2.0, 10.0, None], "split": ["train", None, "test"]}
    parquet.write_table(pa.table(table), path)
    index = read_manifest(path)
    assert index.classes == ("2", "10")
    assert index.labels.tolist() == [0, 1, -1]
    assert index.given_split.tolist() == [0, -1, 2]
    path.write_bytes(b"no parquet")
    assert "cannot read the manifest" in refusal(path)


# What a file name may hold on Linux, and what a label may.
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20)
LABELS = st.text(max_size=8).filter(lambda text: "\0" not in text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.dictionaries(NAMES.filter(lambda name: name.strip() and name not in (".", "..")), LABELS, min_size=1))
def test_whatever_csv_writes_is_read_back(tmp_path: Path, entries: dict[str, str]) -> None:
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    for name in entries:
        (folder / name).touch()
    file = tmp_path / "any.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label"])
        writer.writerows([f"images/{name}", label] for name, label in entries.items())
    index = read_manifest(file)
    named = [index.classes[label] if label >= 0 else "" for label in index.labels]
    assert dict(zip(index.paths, named, strict=True)) == {f"images/{n}": label.strip() for n, label in entries.items()}


def test_undecodable_names(tmp_path: Path) -> None:
    index = read_manifest(write(tmp_path, "path,label\n\udcff.png,x\n", ["\udcff.png"]))
    assert index.paths == ("\udcff.png",)
