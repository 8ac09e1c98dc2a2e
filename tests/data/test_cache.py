from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tintype.config import DataConfig
from tintype.data import decoding, store
from tintype.data import headers as headers_module
from tintype.data.cache import ImageCache, build_cache, scan_headers
from tintype.data.decode import Geometry, Header, decode_image, read_header
from tintype.data.sources import read_index, relabel
from tintype.errors import DataError
from tintype.rundir import cache_folder


def settings(source: Path, **changes: object) -> DataConfig:
    given = {"source": str(source), "image_size": 16, "color": "rgb", "resize": "pad", **changes}
    return DataConfig.model_validate(given)


def build(source: Path, **changes: object) -> ImageCache:
    config = settings(source, **changes)
    return build_cache(read_index(config), config)


def content_hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def left_behind(folder: Path) -> list[str]:
    """Whatever stands in the cache but lock files."""
    return sorted(path.name for path in (folder / "images").glob("*") if path.suffix != ".lock")


def pixels_file(folder: Path) -> Path:
    (path,) = (folder / "images").glob("*/pixels.u8")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Fifty files of mixed formats, sizes and modes in two classes."""
    random_state = np.random.default_rng(3)
    for i in range(50):
        height, width = (int(side) for side in random_state.integers(5, 60, 2))
        image = Image.fromarray(random_state.integers(0, 256, (height, width, 3)).astype(np.uint8))
        path = tmp_path / "photos" / ("cat" if i % 2 else "dog") / f"{i}.{('jpg', 'png', 'gif', 'bmp')[i % 4]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        (image.convert("L") if i % 5 == 0 else image).save(path)
    return tmp_path / "photos"


def test_holds_what_decode_image_gives(photos: Path) -> None:
    cache = build(photos)
    assert cache.was_built
    assert cache.images.shape == (50, 16, 16, 3)
    assert not cache.images.flags.writeable
    assert cache.usable.all()
    assert cache.bad == {}
    for i, path in enumerate(cache.index.paths):
        file = photos / path
        assert np.array_equal(cache.images[i], decode_image(file, Geometry(16, 3, "pad"), 89))
        assert int(cache.content_hash[i]) == content_hash(file.read_bytes())
        with Image.open(file) as image:
            assert (cache.widths[i], cache.heights[i], cache.modes[i]) == (image.width, image.height, image.mode)


def test_headers_agree_with_the_cache(photos: Path) -> None:
    config = settings(photos)
    headers, cache = scan_headers(read_index(config), config), build(photos)
    assert np.array_equal(headers.widths, cache.widths)
    assert np.array_equal(headers.heights, cache.heights)
    assert headers.modes == cache.modes
    assert headers.errors == {}


def test_a_second_call_opens_the_first_ones(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(photos)
    monkeypatch.setattr(decoding, "decode_with_header", None)  # decoding again would fail
    second = build(photos)
    assert not second.was_built
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.content_hash, second.content_hash)
    assert first.fingerprint == second.fingerprint
    assert first.modes == second.modes


def test_labels_are_no_part_of_the_key(photos: Path) -> None:
    build(photos)
    config = settings(photos)
    renamed = relabel(read_index(config), ["dog", "cat"])
    cache = build_cache(renamed, config)
    assert not cache.was_built
    assert cache.index is renamed


@pytest.mark.parametrize("change", [{"image_size": 17}, {"color": "grey"}, {"resize": "crop"}, {"max_megapixels": 50}])
def test_another_geometry_is_another_cache(photos: Path, change: dict[str, object]) -> None:
    first, second = build(photos), build(photos, **change)
    assert second.was_built
    assert (second.fingerprint == first.fingerprint) == ("max_megapixels" in change)
    assert not build(photos).was_built


def test_a_changed_file_rebuilds(photos: Path) -> None:
    first = build(photos)
    file = photos / first.index.paths[7]
    times = file.stat()
    Image.new("RGB", (9, 9), (1, 2, 3)).save(file, "PNG")
    second = build(photos)
    assert second.was_built
    assert (second.images[7] == [1, 2, 3]).all()
    assert np.array_equal(np.delete(second.images, 7, 0), np.delete(first.images, 7, 0))
    assert second.fingerprint != first.fingerprint
    data = bytearray(file.read_bytes())
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    third = build(photos)
    # Same size and a time of modification set by hand: noticed all the same.
    flipped = data.copy()
    flipped[-20] ^= 1
    file.write_bytes(flipped)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DataError, match=r"1 of 50 images cannot be read: .*damaged"):
        build(photos)
    assert third.fingerprint == second.fingerprint


def test_copies_have_one_fingerprint_and_caches_of_their_own(photos: Path, tmp_path: Path) -> None:
    first = build(photos)
    shutil.copytree(photos, tmp_path / "copy")
    second = build(tmp_path / "copy")
    assert second.was_built
    assert second.fingerprint == first.fingerprint


@pytest.mark.parametrize("damage", ["pixels", "facts", "meta", "short", "no facts"])
def test_a_damaged_cache_is_noticed_and_rebuilt(photos: Path, private_cache: Path, damage: str) -> None:
    first = build(photos)
    expected = np.array(first.images)
    folder = pixels_file(private_cache).parent
    if damage == "no facts":
        (folder / "facts.npz").unlink()
    elif damage == "short":
        os.truncate(folder / "pixels.u8", 1000)
    else:
        name, place = {"pixels": ("pixels.u8", 20_000), "facts": ("facts.npz", 600), "meta": ("meta.json", 3)}[damage]
        content = bytearray((folder / name).read_bytes())
        content[place] ^= 4
        (folder / name).write_bytes(content)
    again = build(photos)
    assert again.was_built
    assert np.array_equal(again.images, expected)
    assert again.fingerprint == first.fingerprint
    assert not build(photos).was_built


def test_large_stores_are_verified_in_part(photos: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BLOCK_BYTES", 16 * 16 * 3)  # an image a block
    monkeypatch.setattr(store, "VERIFIED_BYTES", 25 * 16 * 16 * 3)
    build(photos)
    pixels = pixels_file(private_cache)
    pixels.write_bytes(bytes(byte ^ 1 for byte in pixels.read_bytes()))
    assert build(photos).was_built
    content = bytearray(pixels_file(private_cache).read_bytes())
    content[0] ^= 1
    pixels_file(private_cache).write_bytes(content)
    # Half of the blocks are looked at, other ones each time: one damaged image in fifty is found soon.
    assert any(build(photos).was_built for _ in range(40))


@pytest.mark.parametrize("color", ["grey", "rgb"])
@pytest.mark.parametrize("size", [6, 9])
def test_arrays(tmp_path: Path, color: str, size: int) -> None:
    images = np.random.default_rng(1).integers(0, 256, (300, 6, 6)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", x=images, y=np.arange(300) % 3)
    cache = build(tmp_path / "x.npz", image_size=size, color=color)
    geometry = Geometry(size, 1 if color == "grey" else 3, "pad")
    for i in (0, 150, 299):
        assert np.array_equal(cache.images[i], decode_image(images[i], geometry, 89))
        assert int(cache.content_hash[i]) == content_hash(images[i].tobytes())
    assert (set(cache.widths), set(cache.heights), set(cache.modes)) == ({6}, {6}, {"L"})
    assert not build(tmp_path / "x.npz", image_size=size, color=color).was_built
    images[0, 0, 0] ^= 1
    np.savez(tmp_path / "x.npz", x=images, y=np.arange(300) % 3)
    assert build(tmp_path / "x.npz", image_size=size, color=color).was_built


def spoil(photos: Path, count: int) -> list[str]:
    """Make the first files unreadable; returns their identifiers."""
    paths = list(read_index(settings(photos)).paths[:count])
    for i, path in enumerate(paths):
        (photos / path).write_bytes(b"" if i == 0 else b"some text")
    return paths


def test_bad_files_are_all_named_and_nothing_is_kept(photos: Path, private_cache: Path) -> None:
    bad = spoil(photos, 3)
    with pytest.raises(DataError) as caught:
        build(photos)
    text = "not a readable image: the content is a text file"
    assert str(caught.value) == (
        f"3 of 50 images cannot be read: {bad[0]} (the file is empty (0 bytes)), {bad[1]} ({text}), {bad[2]} ({text}). "
        "Mend or remove them, or leave them out with --skip-bad."
    )
    assert left_behind(private_cache) == []


def test_many_bad_files_are_counted(photos: Path) -> None:
    bad = spoil(photos, 30)
    with pytest.raises(DataError) as caught:
        build(photos)
    assert sum(f"{path} (" in str(caught.value) for path in bad) == 20
    assert str(caught.value).startswith("30 of 50 images cannot be read")
    assert "and 10 more. Mend" in str(caught.value)


def test_skip_bad_leaves_them_out(photos: Path) -> None:
    bad = spoil(photos, 3)
    cache = build(photos, skip_bad=True)
    assert list(cache.bad) == bad
    assert cache.usable.tolist() == [False] * 3 + [True] * 47
    assert not cache.images[:3].any()
    assert (cache.widths[:3].tolist(), cache.modes[:3]) == ([0, 0, 0], ("", "", ""))
    again = build(photos, skip_bad=True)
    assert not again.was_built
    assert again.bad == cache.bad
    with pytest.raises(DataError, match="3 of 50 images cannot be read"):
        build(photos)  # what was built before must not let bad files through


def test_nothing_readable_is_an_error_even_with_skip_bad(photos: Path, private_cache: Path) -> None:
    spoil(photos, 50)
    with pytest.raises(DataError, match="50 of 50 images cannot be read"):
        build(photos, skip_bad=True)
    assert left_behind(private_cache) == []


def test_interrupt_stops_the_threads_and_leaves_nothing(photos: Path, private_cache: Path) -> None:
    config = settings(photos)

    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_cache(read_index(config), config, interrupt)
    assert left_behind(private_cache) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tintype-decode")]
    assert build(photos).was_built


def test_progress_is_told_now_and_then(photos: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    config = settings(photos)
    start = time.monotonic()
    build_cache(read_index(config), config, lambda *call: seen.append(call))
    assert 1 <= len(seen) <= 3 + 11 * (time.monotonic() - start)
    assert seen[-1] == ("decoding images", 50, 50)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


@pytest.mark.parametrize("place", ["/proc/tintype", "file"])
def test_a_folder_that_cannot_be_written(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / place  # an absolute place stays what it is
    monkeypatch.setenv("TINTYPE_CACHE", str(folder))
    with pytest.raises(DataError) as caught:
        build(photos)
    assert str(caught.value).startswith(f"cannot write decoded images to {folder}/images: ")
    assert str(caught.value).endswith("Set TINTYPE_CACHE to a folder that can be written.")
    assert "\n" not in str(caught.value)


def test_a_disk_that_is_too_small(photos: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(private_cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**26))
    with pytest.raises(DataError, match=r"50 images of 16x16 need 0.1 GiB in .*, where 0.1 GiB is free. Make room"):
        build(photos)


def test_a_disk_that_fills_up(photos: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match=r"No space left on device. Set TINTYPE_CACHE"):
        build(photos)
    assert left_behind(private_cache) == []


# What child processes run: they say when they begin, and what came of it.
CHILD = """
import sys
from tintype.config import DataConfig
from tintype.data.cache import build_cache
from tintype.data.sources import read_index
config = DataConfig(source=sys.argv[1], image_size=int(sys.argv[2]), color="rgb", resize="stretch")
index = read_index(config)
print("begins", flush=True)
sys.stdin.readline()
cache = build_cache(index, config)
print(cache.was_built, cache.fingerprint, flush=True)
"""


class Child:
    """A process that builds the cache of a folder once it is told to go."""

    def __init__(self, photos: Path, size: int, script: str = CHILD) -> None:
        command = [sys.executable, "-c", script, str(photos), str(size)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Child:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "begins\n"
        return self

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def result(self) -> list[str]:
        return self.process.communicate(timeout=60)[0].split()

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.__exit__(None, None, None)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough work for some tenths of a second: 200 names for 4 files."""
    root = tmp_path_factory.mktemp("many")
    for name in ("a", "b"):
        (root / name).mkdir()
        for i in range(2):
            noise = np.random.default_rng(i).integers(0, 256, (140, 140, 3)).astype(np.uint8)
            Image.fromarray(noise).save(root / name / f"{i}.jpg")
            for copy in range(49):
                (root / name / f"{i}-{copy}.jpg").hardlink_to(root / name / f"{i}.jpg")
    return root


def test_two_builders_at_once(many: Path, private_cache: Path) -> None:
    with Child(many, 128) as first, Child(many, 128) as second:
        first.go()
        second.go()
        results = [first.result(), second.result()]
    assert sorted(result[0] for result in results) == ["False", "True"]
    assert results[0][1] == results[1][1]
    assert len(left_behind(private_cache)) == 1


def test_the_second_builder_waits_and_says_so(many: Path, private_cache: Path) -> None:
    said: list[str] = []
    with Child(many, 512) as first:
        first.go()
        while not list((private_cache / "images").glob("*.building")):
            time.sleep(0.001)
        first.process.send_signal(signal.SIGSTOP)

        def on_progress(what: str, done: int, total: int) -> None:
            said.append(what)
            first.process.send_signal(signal.SIGCONT)

        config = settings(many, image_size=512, resize="stretch")
        cache = build_cache(read_index(config), config, on_progress)
        assert first.result()[0] == "True"
    assert set(said) == {"waiting for another process that decodes the same images"}
    assert not cache.was_built


def check_kill(many: Path, folder: Path, seed: int) -> None:
    """Kill a builder at some moment; the next build gives what an undisturbed one gives."""
    start = time.monotonic()
    expected = build(many, image_size=96, resize="stretch")
    usual = time.monotonic() - start
    whole, name = np.array(expected.images), pixels_file(folder).parent.name
    shutil.rmtree(folder / "images")
    with Child(many, 96) as child:
        child.go()
        time.sleep(random.Random(seed).uniform(0, 1.2) * usual)
        child.process.send_signal(signal.SIGKILL)
        child.process.wait()
    remains = left_behind(folder)
    assert set(remains) <= {name, f"{name}.building"}
    again = build(many, image_size=96, resize="stretch")
    assert again.was_built == (name not in remains)
    assert np.array_equal(again.images, whole)
    assert np.array_equal(again.content_hash, expected.content_hash)
    assert again.fingerprint == expected.fingerprint
    assert left_behind(folder) == [name]


@pytest.mark.parametrize("seed", range(5))
def test_killed_at_any_moment(many: Path, private_cache: Path, seed: int) -> None:
    check_kill(many, private_cache, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5, 25))
def test_killed_at_any_moment_of_many(many: Path, private_cache: Path, seed: int) -> None:
    check_kill(many, private_cache, seed)


def test_killed_just_before_the_rename(photos: Path, private_cache: Path) -> None:
    dying = "import os\nfrom pathlib import Path\nPath.rename = lambda *_: os._exit(9)\n" + CHILD
    with Child(photos, 24, dying) as child:
        child.go()
        assert child.process.wait(timeout=60) == 9
    assert left_behind(private_cache)[0].endswith(".building")
    # A build of other images tidies up, and the killed one is not taken for whole.
    build(photos, image_size=20)
    assert len(left_behind(private_cache)) == 1
    assert build(photos, image_size=24, resize="stretch").was_built


def test_a_living_builder_is_left_alone(photos: Path, many: Path, private_cache: Path) -> None:
    with Child(many, 512) as child:
        child.go()
        while not list((private_cache / "images").glob("*.building")):
            time.sleep(0.002)
        child.process.send_signal(signal.SIGSTOP)
        build(photos)
        assert any(name.endswith(".building") for name in left_behind(private_cache))
        child.process.send_signal(signal.SIGCONT)
        assert child.result()[0] == "True"


def test_memory_does_not_grow_with_the_images(many: Path) -> None:
    script = (
        CHILD.replace("sys.stdin.readline()", "import resource; before = resource.getrusage(0).ru_maxrss")
        + "print(resource.getrusage(0).ru_maxrss - before)\n"
    )
    with Child(many, 512, script) as child:
        grown = int(child.result()[-1]) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 60e6 < 200 * 512 * 512 * 3


@pytest.mark.data
def test_real_images(shared_data: Callable[[str], Path]) -> None:
    cache = build(shared_data("chest_xray"), image_size=64, color="grey")
    assert len(cache.images) == 305
    assert set(cache.modes) == {"L", "RGB", "RGBA"}
    assert cache.images.std(axis=(1, 2, 3)).min() > 5


@pytest.mark.data
def test_mnist_is_a_copy(shared_data: Callable[[str], Path]) -> None:
    config = settings(shared_data("mnist"), image_size=28, color="grey")
    index = read_index(config)
    start = time.process_time()
    cache = build_cache(index, config)
    assert time.process_time() - start < 2  # takes 0.4 s; decoding one by one takes 3 s
    assert index.arrays is not None
    assert np.array_equal(cache.images[..., 0], index.arrays)


def test_headers_are_read_once_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers_module, "_WORTH_KEEPING", 3)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (10 + number, 8)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "a" / "broken.png").write_bytes(b"no image")
    config = DataConfig(source=str(tmp_path))
    index = read_index(config)
    first = scan_headers(index, config)
    reads: list[Path] = []

    def noted(path: Path, max_megapixels: float) -> Header:
        reads.append(path)
        return read_header(path, max_megapixels)

    monkeypatch.setattr(headers_module, "read_header", noted)
    again = scan_headers(index, config)
    assert reads == []
    assert (again.modes, again.errors) == (first.modes, first.errors)
    assert np.array_equal(again.widths, first.widths)
    assert np.array_equal(again.heights, first.heights)
    Image.new("L", (30, 30)).save(tmp_path / "a" / "0.png")
    assert "L" in scan_headers(index, config).modes
    assert len(reads) == len(index)
    for kept in (cache_folder() / "headers").iterdir():
        kept.write_bytes(kept.read_bytes()[:-40])
    assert "L" in scan_headers(index, config).modes
    assert len(reads) == 2 * len(index), "what is damaged is read anew"
