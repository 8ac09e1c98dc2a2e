from __future__ import annotations

import errno
import os
import tempfile
import threading
from pathlib import Path

import filelock
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tintype.data.shelf import mark_used, open_or_build, shrink
from tintype.errors import DataError
from tintype.records import OnProgress, silent


class Shelf:
    """Folders that hold a text; counts how often one was built."""

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self.built = 0

    def open(self, name: str, text: str = "whole", on_progress: OnProgress = silent) -> tuple[str, bool]:
        final = self.parent / name

        def try_open(verify: bool) -> str | None:
            if not (final / "meta.json").is_file() or not (final / "text").is_file():
                return None
            found = (final / "text").read_text()
            return found if found == text or not verify else None

        def build(folder: Path) -> None:
            self.built += 1
            (folder / "text").write_text(text)
            (folder / "meta.json").write_text("{}")

        return open_or_build(final, 3, try_open, build, "things", "waiting for others", on_progress)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.parent.glob("*") if path.suffix != ".lock")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf")


def test_built_once_then_opened(shelf: Shelf) -> None:
    assert shelf.open("a") == ("whole", True)
    assert shelf.open("a") == ("whole", False)
    assert shelf.built == 1
    assert shelf.names() == ["a"]


def test_a_damaged_one_is_replaced(shelf: Shelf) -> None:
    shelf.open("a")
    (shelf.parent / "a" / "text").write_text("spoilt")
    (shelf.parent / "a" / "stray").touch()
    assert shelf.open("a") == ("whole", True)
    assert not (shelf.parent / "a" / "stray").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory"), DataError("no")])
def test_a_failed_build_leaves_nothing_and_keeps_what_was_there(shelf: Shelf, error: BaseException) -> None:
    shelf.open("a")

    def build(folder: Path) -> None:
        (folder / "text").write_text("half")
        assert shelf.names() == ["a", "a.building"]
        raise error

    with pytest.raises(type(error)):
        open_or_build(shelf.parent / "a", 1, lambda _: None, build, "things", "waiting", silent)
    assert shelf.names() == ["a"]
    assert shelf.open("a") == ("whole", False)


def test_what_killed_builders_left_goes_with_the_next_build_and_living_ones_stay(shelf: Shelf) -> None:
    for name in ("killed.building", "alive.building", "a.building"):
        (shelf.parent / name).mkdir(parents=True)
        (shelf.parent / name / "meta.json").touch()
    with filelock.FileLock(shelf.parent / "alive.lock"):
        assert shelf.open("a") == ("whole", True)
        assert shelf.names() == ["a", "alive.building"]


def test_the_second_waits_says_so_and_opens(shelf: Shelf) -> None:
    lock = filelock.FileLock(shelf.parent / "a.lock", thread_local=False)
    shelf.parent.mkdir()
    lock.acquire()
    said: list[tuple[str, int, int]] = []

    def on_progress(*call: object) -> None:
        said.append(call)  # type: ignore[arg-type]
        if len(said) == 2:  # the first finishes
            (shelf.parent / "a").mkdir()
            (shelf.parent / "a" / "text").write_text("whole")
            (shelf.parent / "a" / "meta.json").touch()
            lock.release()

    assert shelf.open("a", on_progress=on_progress) == ("whole", False)
    assert said == [("waiting for others", 0, 3)] * 2
    assert shelf.built == 0


def test_of_many_at_once_one_builds(shelf: Shelf) -> None:
    results: list[tuple[str, bool]] = []
    threads = [threading.Thread(target=lambda: results.append(shelf.open("a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [("whole", False)] * 7 + [("whole", True)]
    assert shelf.built == 1


def test_plain_errors(shelf: Shelf) -> None:
    def build(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError) as caught:
        open_or_build(shelf.parent / "a", 1, lambda _: None, build, "things", "waiting", silent)
    assert str(caught.value) == (
        f"cannot write things to {shelf.parent}: No space left on device. Set TINTYPE_CACHE to a folder that can be "
        "written."
    )
    assert shelf.names() == []


def put(parent: Path, name: str, size: int, used: int, marked: bool = True) -> Path:
    """A folder of ``size`` bytes in all that was used at second ``used``."""
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / "rows").write_bytes(bytes(size))
    (folder / "meta.json").touch()
    if marked:
        mark_used(folder)
        os.utime(folder / "meta.json", (10**9, 10**9))
    os.utime(folder / ("used" if marked else "meta.json"), (used, used))
    return folder


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 100), st.booleans(), st.booleans(), st.booleans()), max_size=6),
    st.integers(-10, 400),
)
def test_shrink_removes_the_longest_unused_until_it_fits(
    facts: list[tuple[int, bool, bool, bool]], most_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as place:
        parent = Path(place)
        order = np.random.default_rng(most_bytes + 10).permutation(len(facts)).tolist()
        held, keep = [], []
        for number, (size, marked, is_kept, is_held) in enumerate(facts):
            folder = put(parent, f"f{number}", size, 10**6 + order[number], marked)
            if is_kept:
                keep.append(folder)
            if is_held:
                held.append(filelock.FileLock(parent / f"f{number}.lock").acquire())
        freed = shrink(parent, most_bytes, keep)
        for lock in held:
            lock.lock.release()
        left = {path.name for path in parent.iterdir() if path.suffix != ".lock"}
    # The rule once more, one by one.
    expected, total = {f"f{number}" for number in range(len(facts))}, sum(fact[0] for fact in facts)
    for number in sorted(range(len(facts)), key=order.__getitem__):
        size, _, is_kept, is_held = facts[number]
        if total > most_bytes and not is_kept and not is_held:
            expected.remove(f"f{number}")
            total -= size
    assert left == expected
    assert freed == sum(fact[0] for fact in facts) - total


def test_opening_marks_as_used(tmp_path: Path) -> None:
    old, older = put(tmp_path, "old", 10, 2), put(tmp_path, "older", 10, 1)
    mark_used(older)
    assert shrink(tmp_path, 10, ()) == 10
    assert (older.exists(), old.exists()) == (True, False)
    mark_used(tmp_path / "not there")


def test_what_is_mapped_stays_readable(tmp_path: Path) -> None:
    folder = put(tmp_path, "a", 5000, 1)
    mapped = np.memmap(folder / "rows", np.uint8, "r")
    assert shrink(tmp_path, 0, ()) == 5000
    assert not folder.exists()
    assert mapped.sum() == 0


def test_unfinished_folders_do_not_count_and_abandoned_ones_go(tmp_path: Path) -> None:
    put(tmp_path, "a", 10, 1)
    put(tmp_path, "b.building", 1000, 1)
    put(tmp_path, "c.building", 1000, 1)
    with filelock.FileLock(tmp_path / "c.lock"):
        assert shrink(tmp_path, 10, ()) == 0
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a", "c.building"]
    assert shrink(tmp_path / "missing", 0, ()) == 0


def test_a_removal_that_is_killed_leaves_nothing_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a", 10, 1)

    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        if (tmp_path / "a.building").exists():
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", die)
        with pytest.raises(Killed):
            shrink(tmp_path, 0, ())
    assert not (tmp_path / "a").exists()
    shrink(tmp_path, 0, ())
    assert not list(tmp_path.glob("*.building"))


def test_one_that_cannot_be_removed_stays_and_the_next_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "theirs", 10, 1)
    put(tmp_path, "ours", 10, 2)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "theirs":
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert shrink(tmp_path, 10, ()) == 10
    assert (tmp_path / "theirs" / "rows").stat().st_size == 10
