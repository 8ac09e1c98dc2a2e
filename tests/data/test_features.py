from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tintype.data import features, rowfile
from tintype.data.features import FeatureCache, bf16_bits, foretell, from_bits, missing_bytes, open_features, rows
from tintype.data.index import NO_SPLIT, ImageIndex
from tintype.data.rowfile import RowWriter, is_intact
from tintype.errors import DataError
from tintype.records import OnProgress, silent

GIGABYTE = 2**30
FROZEN = "running the frozen layers"


def make_index(n: int) -> ImageIndex:
    paths = tuple(f"{i}.png" for i in range(n))
    splits = np.full(n, NO_SPLIT, np.int8)
    return ImageIndex("folder", Path("photos"), ("a",), paths, np.zeros(n, np.int64), splits, None, None, "")


def value(view: int, image: int, shape: tuple[int, ...], is_bf16: bool) -> NDArray[np.float32 | np.uint16]:
    """What the frozen layers of these tests say of an image: other numbers for each image, view and place."""
    numbers = 1 + image + 100 * view + 1000 * np.arange(np.prod(shape)).reshape(shape)
    return numbers.astype(np.uint16) if is_bf16 else (numbers / 7).astype(np.float32)


class Frozen:
    """Frozen layers that keep a record of what they were asked."""

    def __init__(self, shape: tuple[int, ...] = (3, 2), is_bf16: bool = False) -> None:
        self.shape = shape
        self.is_bf16 = is_bf16
        self.asked: list[tuple[int, list[int]]] = []

    def run(self, view: int, indices: NDArray[np.int64]) -> NDArray[np.float32 | np.uint16]:
        self.asked.append((view, indices.tolist()))
        return np.stack([value(view, i, self.shape, self.is_bf16) for i in indices.tolist()])

    def open(
        self,
        n: int = 20,
        views: int = 3,
        key: str = "key",
        trained: NDArray[np.int64] | None = None,
        usable: NDArray[np.bool_] | None = None,
        views_key: str = "light",
        batch: int = 4,
        most_bytes: int = GIGABYTE,
        on_progress: OnProgress = silent,
    ) -> FeatureCache:
        return open_features(
            make_index(n),
            key,
            self.shape,
            self.is_bf16,
            np.ones(n, bool) if usable is None else usable,
            np.arange(0, n, 2) if trained is None else trained,
            views,
            views_key,
            self.run,
            block_rows=batch,
            most_bytes=most_bytes,
            on_progress=on_progress,
        )

    @property
    def views_run(self) -> set[int]:
        return {view for view, _ in self.asked}


def folders(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "features").glob("*") if path.suffix != ".lock")


def folder_of(cache: Path, part: str) -> Path:
    (found,) = (cache / "features").glob(f"*-{part}-*/")
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_holds_what_the_layers_say_of_every_image_and_view(
    data: st.DataObject, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(private_cache / "features", ignore_errors=True)
    n, views, is_bf16 = data.draw(st.integers(1, 25)), data.draw(st.integers(1, 4)), data.draw(st.booleans())
    usable = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    usable[data.draw(st.integers(0, n - 1))] = True
    trained = np.flatnonzero(usable & np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n))))
    if not len(trained):
        trained = np.flatnonzero(usable)[:1]
    shape = data.draw(st.sampled_from([(3,), (2, 3, 1)]))
    block_bytes = data.draw(st.integers(1, 200))  # blocks of one row up to all, batches below and above that
    with monkeypatch.context() as patch:
        patch.setattr(features, "RowWriter", partial(RowWriter, block_bytes=block_bytes))
        patch.setattr(features, "is_intact", partial(is_intact, block_bytes=block_bytes))
        frozen, again = Frozen(shape, is_bf16), Frozen(shape, is_bf16)
        batch = data.draw(st.integers(1, 30))
        built = frozen.open(n, views, trained=trained, usable=usable, batch=batch)
        cache = again.open(n, views, trained=trained, usable=usable, batch=batch)
    assert (built.was_built, cache.was_built, again.asked) == (True, False, [])
    assert (cache.views, cache.shape, cache.is_bf16) == (views, shape, is_bf16)
    assert max(len(indices) for _, indices in frozen.asked) <= batch
    for i in range(n):
        expected = value(0, i, shape, is_bf16) if usable[i] else np.zeros(shape)
        assert np.array_equal(cache.clean[i], expected)
    for view in range(1, views):
        for place, i in enumerate(trained.tolist()):
            assert np.array_equal(cache.changed[view - 1][place], value(view, i, shape, is_bf16))
    wanted = trained[data.draw(st.lists(st.integers(0, len(trained) - 1), max_size=9))]
    chosen = np.array(data.draw(st.lists(st.integers(0, views - 1), min_size=len(wanted), max_size=len(wanted))), int)
    got = rows(cache, wanted, chosen)
    assert got.shape == (len(wanted), *shape)
    assert got.dtype == (np.uint16 if is_bf16 else np.float32)
    for row, i, view in zip(got, wanted, chosen, strict=True):
        assert np.array_equal(row, value(view, i, shape, is_bf16))


def test_rows_of_images_that_do_not_train_are_those_as_they_are() -> None:
    cache = Frozen().open(views=2)
    got = rows(cache, np.array([19, 1, 4, 4]), np.array([0, 0, 1, 0]))
    expected = [value(0, 19, (3, 2), False), value(0, 1, (3, 2), False), value(1, 4, (3, 2), False)]
    assert np.array_equal(got, [*expected, value(0, 4, (3, 2), False)])
    assert got.flags.writeable
    for image in (1, 19):
        with pytest.raises(AssertionError, match="training images only"):
            rows(cache, np.array([image, 2]), np.array([1, 1]))


def test_without_training_images_there_are_those_as_they_are() -> None:
    cache = Frozen().open(views=1, trained=np.array([], np.int64))
    assert np.array_equal(rows(cache, np.array([7]), np.array([0]))[0], value(0, 7, (3, 2), False))


def test_more_views_compute_only_the_new_ones_and_fewer_none() -> None:
    Frozen().open(views=3)
    more, fewer = Frozen(), Frozen()
    assert more.open(views=5).was_built
    assert more.views_run == {3, 4}
    assert not fewer.open(views=2).was_built
    assert fewer.asked == []


def test_other_training_images_or_changes_reuse_the_images_as_they_are() -> None:
    Frozen().open()
    others, changed, other_key = Frozen(), Frozen(), Frozen()
    others.open(trained=np.arange(5))
    changed.open(views_key="photo")
    other_key.open(key="other")
    assert others.views_run == changed.views_run == {1, 2}
    assert other_key.views_run == {0, 1, 2}
    assert not Frozen().open().was_built


@pytest.mark.parametrize("what", ["usable", "shape", "precision"])
def test_what_else_decides_the_content_is_no_stale_hit(what: str) -> None:
    Frozen((4,)).open(views=1)
    usable = np.arange(20) != 1 if what == "usable" else None
    frozen = Frozen((2, 2) if what == "shape" else (4,), what == "precision")
    cache = frozen.open(views=1, usable=usable)
    assert cache.was_built
    assert cache.shape == frozen.shape
    assert not Frozen((4,)).open(views=1).was_built


@pytest.mark.parametrize("part", ["clean", "view2"])
@pytest.mark.parametrize("damage", ["rows", "meta", "short", "no rows", "no meta", "checksum"])
def test_damage_is_noticed_and_only_that_part_is_built_again(private_cache: Path, part: str, damage: str) -> None:
    Frozen().open()
    folder = folder_of(private_cache, part)
    meta, data = folder / "meta.json", folder / "rows.bin"
    if damage == "rows":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 16
        data.write_bytes(content)
    elif damage == "meta":
        meta.write_text(meta.read_text()[:-5])
    elif damage == "short":
        os.truncate(data, 100)
    elif damage == "no rows":
        data.unlink()
    elif damage == "no meta":
        meta.unlink()
    else:
        meta.write_text(meta.read_text().replace('"checksums": [', '"checksums": [-1, '))
    again = Frozen()
    cache = again.open()
    assert cache.was_built
    assert again.views_run == {0 if part == "clean" else 2}
    assert np.array_equal(cache.clean[19], value(0, 19, (3, 2), False))
    assert np.array_equal(cache.changed[1][9], value(2, 18, (3, 2), False))
    assert not Frozen().open().was_built


def test_every_flipped_byte_of_the_table_is_noticed_or_harmless(private_cache: Path) -> None:
    Frozen().open(views=1)
    meta = folder_of(private_cache, "clean") / "meta.json"
    content = meta.read_bytes()
    for place in range(len(content)):
        for bit in (0, 6):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            meta.write_bytes(damaged)
            cache = Frozen().open(views=1)
            assert np.array_equal(cache.clean[19], value(0, 19, (3, 2), False))
            meta = folder_of(private_cache, "clean") / "meta.json"


def test_progress_counts_all_that_is_missing() -> None:
    Frozen().open(views=2)
    said: list[tuple[str, int, int]] = []
    Frozen().open(views=4, batch=7, on_progress=lambda *call: said.append(call))
    assert said == [(FROZEN, done, 20) for done in (0, 7, 10, 10, 17, 20)]
    said.clear()
    Frozen().open(views=2, n=5, batch=3, on_progress=lambda *call: said.append(call))
    assert said[-1] == (FROZEN, 8, 8)


def test_what_another_process_computes_meanwhile_is_opened_and_not_counted(private_cache: Path) -> None:
    Frozen().open(views=4)
    theirs = folder_of(private_cache, "view2")
    aside = theirs.rename(private_cache / "aside")
    for part in ("view1", "view3"):
        shutil.rmtree(folder_of(private_cache, part))
    frozen = Frozen()
    said: list[tuple[str, int, int]] = []

    def on_progress(what: str, done: int, total: int) -> None:
        said.append((what, done, total))
        if done == 5:
            aside.rename(theirs)

    assert frozen.open(views=4, batch=5, on_progress=on_progress).was_built
    assert frozen.views_run == {1, 3}
    assert said == [(FROZEN, done, 30) for done in (0, 5, 10)] + [(FROZEN, done, 20) for done in (10, 15, 20)]


def test_large_files_are_on_the_disk_before_the_table_is_written(
    private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: list[list[Path]] = []
    monkeypatch.setattr(rowfile, "VERIFIED_BYTES", 0)
    monkeypatch.setattr(os, "fsync", lambda _: tables.append(list(private_cache.rglob("*.building/meta.json"))))
    Frozen().open(views=2)
    assert tables == [[], []]


def test_interrupted_it_keeps_whole_parts_and_nothing_else(private_cache: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done > 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Frozen().open(on_progress=interrupt)
    assert [folder.name.split("-")[1] for folder in folders(private_cache)] == ["clean"]
    again = Frozen()
    assert again.open().was_built
    assert again.views_run == {1, 2}


def test_foretold_is_what_it_takes(private_cache: Path) -> None:
    usable, trained = np.arange(20) != 3, np.array([0, 4, 7, 12, 19])

    def foretold(views: int, is_bf16: bool = True) -> int:
        return foretell(usable, trained, views, (3, 2), is_bf16)

    def missing(views: int) -> int:
        return missing_bytes("key", (3, 2), True, usable, trained, views, "light")

    assert missing(3) == foretold(3) == (20 + 2 * 5) * 6 * 2
    Frozen(is_bf16=True).open(usable=usable, trained=trained)
    assert sum(file.stat().st_size for file in (private_cache / "features").glob("*/rows.bin")) == foretold(3)
    assert missing(3) == 0
    assert missing(4) == 5 * 6 * 2
    assert foretold(3, is_bf16=False) == 2 * foretold(3)


def test_a_disk_that_is_too_small(private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(private_cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 * 2**20))
    frozen = Frozen()
    with pytest.raises(DataError) as caught:
        frozen.open()
    assert str(caught.value) == (
        f"the features need 64.0 MiB in {private_cache}/features, where 3.0 MiB is free. Make room, set TINTYPE_CACHE "
        "to a folder on a larger disk, use fewer --views, or run with --no-feature-cache."
    )
    assert (frozen.asked, folders(private_cache)) == ([], [])


def test_a_disk_with_just_enough_room(private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage, needed = shutil.disk_usage(private_cache), (20 + 2 * 10) * 24

    def disk_usage(folder: Path) -> object:
        written = sum(file.stat().st_size for file in folder.glob("*/rows.bin"))
        return usage._replace(free=2**26 + needed - written)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    Frozen().open()
    needed -= 1
    with pytest.raises(DataError, match=r"^the features need 64.0 MiB .*, where 64.0 MiB is free"):
        Frozen().open(key="other")


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"^cannot write features to .*/file/features: .* Set TINTYPE_CACHE"):
        Frozen().open()


def test_more_than_all_features_may_take() -> None:
    frozen = Frozen((2**20,))
    with pytest.raises(DataError) as caught:
        frozen.open(n=2000, views=3, most_bytes=2**30)
    assert str(caught.value) == (
        "the features of 2,000 images in 3 views take 15.6 GiB on disk, and fit.feature_cache_gb allows 1.0 GiB. Raise "
        "it with --set fit.feature_cache_gb=16, use fewer --views, or run with --no-feature-cache."
    )
    assert frozen.asked == []


def test_the_longest_unused_make_room(private_cache: Path) -> None:
    """Each set of features takes 20 x 24 bytes of rows and somewhat more than half as much besides."""
    for number, key in enumerate(("a", "b", "c")):
        Frozen().open(views=1, key=key)
        marker = next((private_cache / "features").glob(f"{key}-*/used"))
        os.utime(marker, (number, number))
    size = sum(file.stat().st_size for file in (private_cache / "features").glob("a-*/*"))
    held = Frozen().open(views=1, key="a")  # now the most recent
    Frozen().open(views=1, key="d", most_bytes=3 * size)
    assert [folder.name[0] for folder in folders(private_cache)] == ["a", "c", "d"]
    Frozen().open(views=1, key="e", most_bytes=size)
    assert [folder.name[0] for folder in folders(private_cache)] == ["e"]
    assert np.array_equal(held.clean[19], value(0, 19, (3, 2), False))
    # What is opened stays, also where the bound is just met by the rows alone.
    Frozen().open(views=3, key="f", most_bytes=(20 + 2 * 10) * 24)
    assert len(folders(private_cache)) == 3


def test_there_is_room_before_and_after_whatever_others_build(private_cache: Path) -> None:
    def keys() -> list[str]:
        return [folder.name[0] for folder in folders(private_cache)]

    Frozen().open(views=1, key="a")
    said: list[list[str]] = []

    def on_progress(what: str, done: int, total: int) -> None:
        said.append(keys())
        if done == 0:
            Frozen().open(views=1, key="c")

    Frozen().open(views=1, key="b", most_bytes=900, on_progress=on_progress)
    assert (said[0], said[1], keys()) == (["b"], ["b", "c"], ["b"])


def test_bits_of_bf16() -> None:
    values = torch.randn(4, 3, 2).permute(0, 2, 1)
    bits = bf16_bits(values)
    assert bits.shape == (4, 2, 3)
    assert bits.dtype == np.uint16
    # bf16 is the upper half of a float32, rounded to nearest even.
    whole = values.contiguous().numpy().view(np.uint32)
    assert np.array_equal(bits, (whole + 0x7FFF + ((whole >> 16) & 1)) >> 16)
    assert torch.equal(from_bits(bits, True), values.bfloat16())


@pytest.mark.parametrize("is_bf16", [False, True])
def test_as_a_tensor(is_bf16: bool) -> None:
    cache = Frozen(is_bf16=is_bf16).open()
    mapped = from_bits(cache.clean, is_bf16)  # read-only: a warning from torch would be an error here
    own = rows(cache, np.arange(20), np.zeros(20, np.int64))
    shared = from_bits(own, is_bf16)
    assert torch.equal(mapped, shared)
    assert shared.dtype == (torch.bfloat16 if is_bf16 else torch.float32)
    own[3] = 0
    assert not shared[3].any()


# What child processes run: batches that take their time, of features that are easily computed again.
CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from tintype.data.features import open_features
from tintype.data.index import ImageIndex
n, width, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
none = np.full(n, -1)
paths = tuple(map(str, range(n)))
index = ImageIndex("folder", Path("photos"), ("a",), paths, none, none.astype(np.int8), None, None, "")
def run(view, indices):
    time.sleep(pause)
    return np.repeat((1000 * view + indices).astype(np.float32)[:, None], width, 1)
def build():
    return open_features(index, "key", (width,), False, np.ones(n, bool), np.arange(n // 2), 3, "light", run,
                         block_rows=10, most_bytes=2**40)
print("begins", flush=True)
"""
BUILD = CHILD + "sys.stdin.readline()\nprint(build().was_built, flush=True)\n"


class Child:
    """A process that builds features of ``n`` images in 3 views once it is told to go."""

    def __init__(self, n: int, width: int, pause: float, script: str = BUILD) -> None:
        command = [sys.executable, "-c", script, str(n), str(width), str(pause)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Child:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "begins\n"
        return self

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def result(self) -> str:
        return self.process.communicate(timeout=60)[0].strip()

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.__exit__(None, None, None)


def open_as_child(n: int, width: int, run: Callable[[int, NDArray[np.int64]], NDArray[np.float32]]) -> FeatureCache:
    arguments = make_index(n), "key", (width,), False, np.ones(n, bool), np.arange(n // 2), 3, "light", run
    return open_features(*arguments, block_rows=10, most_bytes=2**40)


def check_whole(cache: FeatureCache, n: int) -> None:
    for view, part in enumerate((cache.clean, *cache.changed)):
        expected = 1000 * view + np.arange(n if view == 0 else n // 2)
        assert np.array_equal(part, np.broadcast_to(expected[:, None], part.shape))


def test_two_builders_at_once(private_cache: Path) -> None:
    with Child(100, 50, 0.02) as first, Child(100, 50, 0.02) as second:
        first.go()
        while not folders(private_cache):
            time.sleep(0.001)
        second.go()
        assert (first.result(), second.result()) == ("True", "False")
    check_whole(open_as_child(100, 50, lambda *_: pytest.fail("all is there")), 100)
    assert len(folders(private_cache)) == 3


def check_kill(private_cache: Path, seed: int) -> None:
    """Kill a builder at some moment: nothing half-written is read, and whole parts are not computed again."""
    n, width = 60, 200_000  # 48 MB and twice 24 MB, in blocks of two rows
    chance = random.Random(seed)
    script = BUILD.replace("time.sleep(pause)", 'print("batch", flush=True)')
    with Child(n, width, 0, script) as child:
        child.go()
        assert child.process.stdout is not None
        for _ in range(chance.randint(0, 12)):  # of 6 batches of the images as they are and twice 3 of changed ones
            child.process.stdout.readline()
        time.sleep(chance.uniform(0, 0.03))
        child.process.send_signal(signal.SIGKILL)
        child.process.wait()
    left = folders(private_cache)
    whole = {folder.name.split("-")[1] for folder in left if folder.suffix != ".building"}
    computed: set[str] = set()

    def run(view: int, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        computed.add(f"view{view}" if view else "clean")
        return np.repeat((1000 * view + indices).astype(np.float32)[:, None], width, 1)

    cache = open_as_child(n, width, run)
    check_whole(cache, n)
    assert computed == {"clean", "view1", "view2"} - whole
    assert not [folder for folder in folders(private_cache) if folder.suffix == ".building"]


def test_killed_while_building(private_cache: Path) -> None:
    check_kill(private_cache, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_killed_at_any_moment(private_cache: Path, seed: int) -> None:
    check_kill(private_cache, seed)


def test_memory_does_not_grow_with_the_features() -> None:
    script = CHILD + (
        "import resource\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nbuild()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    with Child(300, 100_000, 0, script) as child:
        grown = int(child.result()) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 40e6 < (300 + 2 * 150) * 400_000 / 5


def test_the_version_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    Frozen().open()
    monkeypatch.setattr(features, "FEATURES_VERSION", features.FEATURES_VERSION + 1)
    assert Frozen().open().was_built
