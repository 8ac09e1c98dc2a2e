"""Names of images from folders, patterns and lists, without holding them all."""

from __future__ import annotations

import inspect
import io
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tintype.data import paths as module
from tintype.data import walk
from tintype.data.paths import find_images, is_web_address, read_list
from tintype.data.walk import iter_images, walk_images
from tintype.errors import DataError


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_folder_comes_in_the_order_of_whole_paths(tmp_path: Path) -> None:
    names = ["a.png", "a/1.png", "a/b/2.png", "a-b/3.png", "a0.png", "b/c/d/4.png", "b.png", "Z.png"]
    put(*(tmp_path / name for name in names), tmp_path / "a/notes.txt", tmp_path / ".hidden/5.png")
    assert list(iter_images(tmp_path)) == sorted(names) == walk_images(tmp_path)


def test_a_large_folder_comes_in_sorted_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "SORTED_AT_ONCE", 10)
    names = [f"{number:03}.png" for number in range(35)]
    put(*(tmp_path / name for name in names))
    found = list(iter_images(tmp_path))
    assert sorted(found) == names
    parts = [found[start : start + 10] for start in range(0, 35, 10)]
    assert all(part == sorted(part) for part in parts)


def test_what_links_lead_to_comes_last_and_once(tmp_path: Path) -> None:
    put(tmp_path / "data/b/1.png", tmp_path / "data/c.png", tmp_path / "elsewhere/2.png")
    (tmp_path / "data/a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/b/again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/b/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/z").symlink_to(tmp_path / "data/b")
    assert list(iter_images(tmp_path / "data")) == ["b/1.png", "c.png", "a/2.png"]


def test_a_tree_may_be_deeper_than_pythons_stack(tmp_path: Path) -> None:
    put(tmp_path / "/".join("d" * 200) / "x.png")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        assert [name.count("/") for name in iter_images(tmp_path)] == [200]
    finally:
        sys.setrecursionlimit(before)


def test_nothing_is_listed_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first image of a second folder comes without a look into those behind it."""
    for folder in "abc":
        put(*(tmp_path / folder / f"{number}.png" for number in range(3)))
    looked: list[str] = []
    real = walk.entries_of

    def entries_of(folder: Path) -> Iterator[os.DirEntry[str]]:
        looked.append(folder.name)
        return real(folder)

    monkeypatch.setattr(walk, "entries_of", entries_of)
    found = find_images([tmp_path])
    looked.clear()
    assert len(list(islice(found, 4))) == 4
    assert looked == [tmp_path.name, "a", "b"]


def test_each_image_comes_once_and_mistakes_come_before_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a/2.png", tmp_path / "a/10.png", tmp_path / "b.dat")
    monkeypatch.chdir(tmp_path)
    assert list(find_images(["b.dat", "a/*.png", "a", "./b.dat"])) == ["b.dat", "a/2.png", "a/10.png"]
    with pytest.raises(DataError, match="there is no absent"):
        find_images(["a", "absent"])
    with pytest.raises(DataError, match="web address"):
        find_images(["a", "HTTPS://example.org/x.jpg"])


@pytest.mark.parametrize("end", ["\n", "\0", "\r\n"])
def test_a_list_may_be_lines_or_what_find_print0_writes(end: str) -> None:
    names = ["a.png", "with space.png", "ü.png", "x/" + "y" * 300 + ".png"]
    content = end.join(names).encode()
    assert list(read_list(io.BytesIO(content), "list")) == names
    assert list(read_list(io.BytesIO(content + end.encode()), "list")) == names


def test_names_of_a_list_may_lie_across_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 7)
    names = [f"folder/{number}.png" for number in range(20)]
    assert list(read_list(io.BytesIO("\n".join(names).encode()), "list")) == names
    assert list(read_list(io.BytesIO("\0".join(["a\nb", "c"]).encode()), "list")) == ["a\nb", "c"]
    assert list(read_list(io.BytesIO(b"a\xff.png\n"), "list")) == ["a\udcff.png"]
    assert list(read_list(io.BytesIO(b"\n\n"), "list")) == []


def test_an_image_is_no_list() -> None:
    with pytest.raises(DataError, match=r"cat\.jpg is no list of paths"):
        list(read_list(io.BytesIO(b"\x89PNG" + bytes(range(1, 10)) * 1000), "cat.jpg"))


def test_web_addresses() -> None:
    assert is_web_address("https://example.org/a.jpg")
    assert is_web_address("S3://bucket/a.jpg")
    assert not is_web_address("https.jpg")
