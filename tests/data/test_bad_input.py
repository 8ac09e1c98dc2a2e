"""What users really have in their folders, each case with its exact outcome from listing to decoded pixels."""

from __future__ import annotations

import io
import os
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tintype.config import DataConfig
from tintype.data.cache import ImageCache, build_cache, scan_headers
from tintype.data.decode import Geometry, UnreadableImageError, decode_image
from tintype.data.sources import read_index
from tintype.errors import DataError

SIZE = 16


def settings(source: Path, **changes: object) -> DataConfig:
    given = {"source": str(source), "image_size": SIZE, "color": "rgb", "resize": "pad", **changes}
    return DataConfig.model_validate(given)


def build(source: Path, **changes: object) -> ImageCache:
    config = settings(source, **changes)
    return build_cache(read_index(config), config)


def picture(height: int = 24, width: int = 24) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([9 * x % 256, 7 * y % 256, 5 * (x + y) % 256], axis=2).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes with a good image each."""
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        picture().save(tmp_path / "photos" / name / "good.png")
    return tmp_path / "photos"


def large_png(width: int, height: int) -> bytes:
    """A valid one-bit PNG of any size in a few kilobytes, written by hand so that no memory is needed."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


TEXT = "not a readable image: the content is a text file"
TRUNCATED = "truncated: the file ends before its image does"

BAD: dict[str, tuple[bytes, str, bool]] = {
    # content, reason, whether the header alone shows it
    "zero bytes": (b"", "the file is empty (0 bytes)", True),
    "text named jpg": (b"404: Not Found\n", TEXT, True),
    "truncated jpeg": (encoded(picture(90, 120), "JPEG")[:-700], TRUNCATED, False),
    "truncated png": (encoded(picture(90, 120), "PNG")[:-100], TRUNCATED, False),
    "header only": (encoded(picture(90, 120), "PNG")[:50], TRUNCATED, False),
    "100 megapixels": (
        large_png(10_000, 10_000),
        "10000x10000 is 100.0 megapixels, more than max_megapixels = 89",
        True,
    ),
    "web page": (b"<!DOCTYPE html><html></html>", "not a readable image: the content is a web page", True),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_with_its_reason_and_skipped_when_told(photos: Path, case: str) -> None:
    content, reason, in_header = BAD[case]
    (photos / "dog" / "bad.jpg").write_bytes(content)
    config = settings(photos)
    index = read_index(config)
    headers = scan_headers(index, config)
    position = index.paths.index("dog/bad.jpg")
    assert headers.errors == ({position: reason} if in_header else {})
    with pytest.raises(DataError) as caught:
        build(photos)
    assert str(caught.value) == (
        f"1 of 3 images cannot be read: dog/bad.jpg ({reason}). Mend or remove them, or leave them out with --skip-bad."
    )
    cache = build(photos, skip_bad=True)
    assert cache.bad == {"dog/bad.jpg": reason}
    assert cache.usable.tolist() == [path != "dog/bad.jpg" for path in cache.index.paths]


def test_the_size_limit_costs_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "bomb.png"
    file.write_bytes(large_png(30_000, 30_000))
    assert file.stat().st_size < 200_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableImageError, match=r"900\.0 megapixels"):
        decode_image(file, Geometry(SIZE, 3, "pad"), 89)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # 900 MB had it been decoded


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        (encoded(Image.new("CMYK", (20, 20), (255, 0, 0, 0)), "JPEG", quality=100), "CMYK", (0, 255, 255)),
        (encoded(picture().convert("P", palette=Image.Palette.ADAPTIVE, colors=8), "PNG"), "P", None),
        (encoded(Image.new("RGBA", (20, 20), (255, 0, 0, 0)), "PNG"), "RGBA", (255, 255, 255)),
        (encoded(Image.new("LA", (20, 20), (0, 51)), "PNG"), "LA", (204, 204, 204)),
        (encoded(Image.new("1", (20, 20), 1), "PNG"), "1", (255, 255, 255)),
        (encoded(Image.new("I;16", (20, 20), 257 * 99), "PNG"), "I;16", (99, 99, 99)),
        (
            encoded(
                Image.new("RGB", (20, 20), (0, 0, 255)), "GIF", save_all=True,
                append_images=[Image.new("RGB", (20, 20), (255, 0, 0))],
            ),
            "P",
            (0, 0, 255),
        ),
    ],
    ids=["CMYK", "palette", "RGBA", "LA", "1-bit", "16-bit", "animated GIF"],
)  # fmt: skip
def test_unusual_but_good_images(
    photos: Path, content: bytes, mode: str, expected: tuple[int, int, int] | None
) -> None:
    (photos / "cat" / "unusual.jpg").write_bytes(content)
    cache = build(photos)
    at = cache.index.paths.index("cat/unusual.jpg")
    assert cache.usable.all()
    assert cache.modes[at] == mode
    assert scan_headers(cache.index, settings(photos)).modes == cache.modes
    if expected is None:
        expected_pixels = np.asarray(picture().resize((SIZE, SIZE), Image.Resampling.BOX)).astype(int)
        assert np.abs(cache.images[at] - expected_pixels).mean() < 40  # eight colours stand for all
    else:
        assert np.abs(cache.images[at].astype(int) - expected).max() <= 2


def test_sixteen_bit_ramp_stays_a_ramp(photos: Path) -> None:
    ramp = np.linspace(0, 65535, SIZE * SIZE).round().astype(np.uint16).reshape(SIZE, SIZE)
    Image.fromarray(ramp).save(photos / "cat" / "ramp.png")
    cache = build(photos, color="grey")
    at = cache.index.paths.index("cat/ramp.png")
    assert cache.images[at].ravel().tolist() == list(range(256))


def test_a_turned_photo_is_upright(photos: Path) -> None:
    upright = picture(30, 60)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.save(photos / "cat" / "turned.jpg", exif=exif, quality=98, subsampling=0)
    upright.save(photos / "cat" / "upright.jpg", quality=98, subsampling=0)
    cache = build(photos)
    first, second = cache.index.paths.index("cat/turned.jpg"), cache.index.paths.index("cat/upright.jpg")
    assert (cache.widths[first], cache.heights[first]) == (60, 30)
    assert np.abs(cache.images[first].astype(int) - cache.images[second]).mean() < 2


def test_a_loop_of_links_adds_nothing(photos: Path) -> None:
    # torchvision's ImageFolder saw 42 images where such a loop held 2
    (photos / "cat" / "loop").symlink_to(photos, target_is_directory=True)
    (photos / "dog" / "loop").symlink_to(photos / "dog", target_is_directory=True)
    assert build(photos).index.paths == ("cat/good.png", "dog/good.png")


def test_a_broken_link_is_a_bad_file(photos: Path) -> None:
    (photos / "cat" / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"1 of 3 images cannot be read: cat/gone.png \(the file is missing\)"):
        build(photos)


def test_names_of_any_kind_reach_the_cache_and_back(photos: Path) -> None:
    names = ["日本 🙂.png", "x" + "é" * 125 + ".png", "new\nline.png", " lead.png", "'\"<&>.png", "\udcff.png"]
    for i, name in enumerate(names):
        picture().rotate(i).save(photos / "cat" / name)
    cache = build(photos)
    assert {path.removeprefix("cat/") for path in cache.index.paths if path.startswith("cat")} == {*names, "good.png"}
    assert not build(photos).was_built
    (photos / "cat" / names[2]).write_bytes(b"")
    (photos / "cat" / names[5]).write_bytes(b"")
    with pytest.raises(DataError) as caught:
        build(photos)
    assert str(caught.value).startswith(
        "2 of 8 images cannot be read: cat/new\\nline.png (the file is empty (0 bytes)), cat/\\udcff.png (the"
    )
    skipped = build(photos, skip_bad=True)
    assert set(skipped.bad) == {"cat/new\nline.png", "cat/\udcff.png"}
    assert build(photos, skip_bad=True).bad == skipped.bad


def test_an_empty_class(photos: Path) -> None:
    (photos / "bird").mkdir()
    with pytest.raises(DataError) as caught:
        read_index(settings(photos))
    assert str(caught.value) == "the class folder bird holds no images. Remove the folder or add images."


def test_one_image_in_a_class_is_listed(photos: Path) -> None:
    cache = build(photos)
    assert np.bincount(cache.index.labels).tolist() == [1, 1]  # whether it can be split is the split's to say


def test_a_data_folder_that_cannot_be_written(photos: Path) -> None:
    def state() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in [photos, *photos.rglob("*")]}

    for folder in (photos / "cat", photos / "dog", photos):
        folder.chmod(0o555)
    try:
        before = state()
        assert build(photos).was_built
        assert state() == before  # also where permissions bind nobody, as for root
    finally:
        for folder in (photos, photos / "cat", photos / "dog"):
            folder.chmod(0o755)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(photos: Path) -> None:
    (photos / "cat" / "good.png").chmod(0)
    with pytest.raises(DataError, match=r"cat/good.png \(no permission to read the file\)"):
        build(photos)
