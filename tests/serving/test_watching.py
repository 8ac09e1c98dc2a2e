"""Images that appear in a folder, by a clock that the tests move."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tintype.data.nameset import NameSet
from tintype.errors import RunError
from tintype.serving.labels import Label, Source
from tintype.serving.watching import FolderWatch, watch_folder

WHOLE = b"whole"


class World:
    """A folder, a clock, and a model that reads whatever says that it is whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(exist_ok=True)
        self.now = 1000.0
        self.known = NameSet()
        self.watch = FolderWatch(folder, self.known, lambda: self.now)

    def put(self, name: str, content: bytes = WHOLE, age: float = 0.0) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (time.time() - age, time.time() - age))

    def look(self, later: float = 0.0) -> list[tuple[str, str]]:
        """Names and errors of what is final at a look so many seconds later."""
        self.now += later
        final = [label for label in labels(self.watch.ready()) if self.watch.is_final(label)]
        return [(Path(label.path).name, label.error) for label in final]


def labels(items: Iterable[tuple[str, Source]]) -> Iterator[Label]:
    for name, source in items:
        assert isinstance(source, Path)
        is_whole = source.exists() and source.read_bytes() == WHOLE
        yield Label(name, "cat", 1.0, {"cat": 1.0}) if is_whole else Label(name, "", 0.0, {}, False, error="cut off")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "inbox")


def test_what_was_there_long_before_is_taken_at_once_and_once(world: World) -> None:
    world.put("b.png", age=60)
    world.put("a/x.jpg", age=60)
    world.put("notes.txt", age=60)
    world.put(".hidden.png", age=60)
    assert world.look() == [("x.jpg", ""), ("b.png", "")]
    assert world.look(100) == []
    world.put("b.png")
    assert world.look(1) + world.look(100) == [], "a name is labelled once"


def test_what_appears_is_taken_when_it_has_not_changed_for_a_second(world: World) -> None:
    assert world.look() == []
    world.put("a.png", b"wh", age=500)  # a copy that keeps the time of its original
    assert world.look(0.5) == []
    world.put("a.png", b"whol")
    assert world.look(0.6) == [], "it grew"
    world.put("a.png")
    assert world.look(0.6) == []
    assert world.look(0.6) == []
    assert world.look(0.6) == [("a.png", "")]


def test_what_cannot_be_read_yet_is_tried_again_when_it_changes(world: World) -> None:
    world.look()
    world.put("a.png", b"who")
    assert world.look() + world.look(2) + world.look(5) == []
    world.put("a.png")
    assert world.look(1) + world.look(1.1) == [("a.png", "")]


def test_what_stays_unreadable_gets_its_reason_after_half_a_minute(world: World) -> None:
    world.look()
    world.put("a.png", b"who")
    assert world.look() + world.look(2) + world.look(20) == []
    assert world.look(10) == [("a.png", "cut off")]
    assert world.look(100) == []


def test_what_was_unreadable_long_before_gets_its_reason_at_once(world: World) -> None:
    world.put("a.png", b"who", age=60)
    assert world.look() == [("a.png", "cut off")]


def test_what_goes_away_again_is_forgotten(world: World) -> None:
    world.look()
    world.put("a.png")
    world.put("b.png")
    assert world.look() == []
    (world.folder / "a.png").unlink()
    world.now += 2
    found = list(world.watch.ready())
    assert [Path(name).name for name, _ in found] == ["b.png"]
    (world.folder / "b.png").unlink()
    assert not any(world.watch.is_final(label) for label in labels(found))
    assert world.look(100) == []
    world.put("a.png")
    assert world.look() + world.look(1.1) == [("a.png", "")], "it may come back"


def test_the_loop_survives_a_folder_that_is_away_and_says_so_once(world: World) -> None:
    told: list[str] = []
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            world.folder.rename(world.folder.with_name("away"))
        if len(pauses) == 5:
            world.folder.with_name("away").rename(world.folder)
            world.put("a.png", age=60)
        world.now += 2
        if len(pauses) == 9:
            raise KeyboardInterrupt

    found: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        found.extend(label.path for label in watch_folder(world.watch, labels, told.append, pause))
    assert found == [str(world.folder / "a.png")]
    assert len(told) == 1
    assert "inbox" in told[0]
    assert all(0.5 <= seconds <= 10 for seconds in pauses)


def test_a_mistake_that_no_waiting_mends_ends_it(world: World) -> None:
    def fails(items: Iterable[tuple[str, Source]]) -> Iterator[Label]:
        raise RunError("no map")

    with pytest.raises(RunError, match="no map"):
        next(watch_folder(world.watch, fails, print, lambda _: None))
