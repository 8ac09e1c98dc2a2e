"""A CSV of labels through stops, damage and several processes."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from tintype.errors import RunError
from tintype.serving.labelfile import LabelFile
from tintype.serving.labels import Label

CLASSES = ("cat", 'a "dog", odd')


def label(path: str, error: str = "") -> Label:
    if error:
        return Label(path, "", 0.0, {}, sure=False, error=error)
    return Label(path, "cat", 0.75, dict(zip(CLASSES, (0.75, 0.25), strict=True)))


LABELS = (
    label("a.jpg"), label('say "cheese", please.jpg'), label("two\nlines.jpg"), label("bad.jpg", "no, no\nimage"),
    label("c\udcff.jpg"), label("ü" * 100 + ".jpg"),
)  # fmt: skip


def write(path: Path, labels: tuple[Label, ...] = LABELS, rank: int | None = None, model: str = "m1") -> None:
    with LabelFile(path, CLASSES, model, rank) as file:
        for one in labels:
            if one.path not in file.known:
                file.append(one)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_there_at_once_and_again_known(tmp_path: Path) -> None:
    path = tmp_path / "new" / "labels.csv"
    with LabelFile(path, CLASSES, "m1") as file:
        for number, one in enumerate(LABELS, start=1):
            file.append(one)
            assert len(rows(path)) == number
    with LabelFile(path, CLASSES, "m1") as file:
        assert len(file.known) == len(LABELS)
        assert all(one.path in file.known for one in LABELS)
    found = rows(path)
    assert [row["path"] for row in found] == [*(one.path for one in LABELS[:4]), "c\\udcff.jpg", LABELS[5].path]
    assert found[0] == {
        "path": "a.jpg", "label": "cat", "probability": "0.75", "sure": "true", "probability/cat": "0.75",
        'probability/a "dog", odd': "0.25", "explanation": "", "error": "", "model": "m1",
    }  # fmt: skip
    assert (found[3]["probability"], found[3]["sure"], found[3]["error"]) == ("", "false", "no, no\nimage")


def test_wherever_it_was_cut_off_it_ends_with_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill may leave any beginning of the file, down to none of it."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the disk's own pace
    path = tmp_path / "labels.csv"
    write(path)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        write(path)
        assert path.read_bytes() == whole, end


def test_an_editor_may_have_changed_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    write(path, LABELS[:2])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n") + b"\n")
    write(path)
    assert [row["label"] for row in rows(path)] == ["cat", "cat", "cat", "", "cat", "cat"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"path,label\r\na.jpg,cat\r\n", "it has other columns"),
        (b"dear diary", "is no table of labels"),
        (b"\xff\xd8\xff\xe0 an image\n", "cannot be read"),
    ],
)
def test_what_is_something_else_is_left_as_it_is(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(RunError, match=words) as caught:
        write(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_damage_is_not_cut_off_with_all_that_follows(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    write(path, LABELS[:1])
    lost = path.read_bytes().replace(b"a.jpg", b'"a.jpg', 1) + b"x.jpg,cat,0.75,true,0.75,0.25,,,m1\r\n" * 2000
    path.write_bytes(lost)
    with pytest.raises(RunError, match="quotation mark is not closed"):
        write(path)
    assert path.read_bytes() == lost
    write(tmp_path / "short.csv", LABELS[:1])
    with (tmp_path / "short.csv").open("ab") as file:
        file.write(b"b.jpg,cat\r\n")
    with pytest.raises(RunError, match=r"the row of b\.jpg has 2 columns instead of 9"):
        write(tmp_path / "short.csv")


def test_labels_of_another_model_are_not_mixed_in(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv")
    with pytest.raises(RunError, match=r"labels of another model \(m1; this one is m2\)"):
        write(tmp_path / "labels.csv", model="m2")


def test_two_processes_cannot_write_one_file(tmp_path: Path) -> None:
    with LabelFile(tmp_path / "labels.csv", CLASSES, "m1"), pytest.raises(RunError, match="another process writes"):
        LabelFile(tmp_path / "labels.csv", CLASSES, "m1")
    write(tmp_path / "labels.csv")


def test_ranks_write_files_of_their_own_which_a_last_process_joins(tmp_path: Path) -> None:
    path = tmp_path / "labels[1].csv"  # a name that is no pattern
    write(path, LABELS[:2], rank=0)
    write(path, LABELS[2:4], rank=11)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["labels[1].rank0.csv", "labels[1].rank11.csv"]
    other = tmp_path / "labels[1].rank11.csv"
    other.write_bytes(other.read_bytes() + b'"half a na')  # that process is at work
    (tmp_path / "labels[1].rankings.csv").write_text("mine\n")
    (tmp_path / "labels1.rank2.csv").write_text("mine\n")
    with LabelFile(path, CLASSES, "m1", rank=0) as file:
        assert len(file.known) == 4
        assert file.taken == 0
    with LabelFile(path, CLASSES, "m1") as file:
        assert (file.taken, len(file.known)) == (4, 4)
        file.append(LABELS[4])
    write(path)
    assert [row["path"] for row in rows(path)][:4] == [one.path for one in LABELS[:4]]
    assert len(rows(path)) == len(LABELS)


def test_a_rank_goes_on_with_what_one_process_did(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv", LABELS[:3])
    write(tmp_path / "labels.csv", rank=1)
    assert [row["label"] for row in rows(tmp_path / "labels.rank1.csv")] == ["", "cat", "cat"]
