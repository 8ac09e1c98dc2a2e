from __future__ import annotations

import io
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from tintype.config import DataConfig
from tintype.data.decode import (
    Geometry,
    UnreadableImageError,
    decode_image,
    exif_orientation,
    geometry_of,
    read_header,
)
from tintype.data.pixels import scale_range

Policy = Literal["stretch", "crop", "pad"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
LIMIT = 89.0


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: Any, size: int = 8, channels: int = 3, resize: Policy = "stretch") -> NDArray[np.uint8]:
    return decode_image(data, Geometry(size, channels, resize), LIMIT)


def reason(data: Any, limit: float = LIMIT) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(data, Geometry(8, 3, "pad"), limit)
    return str(caught.value)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    shape = (height, width, channels) if channels > 1 else (height, width)
    pixels: NDArray[np.uint8] = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    return pixels


def landscape(height: int, width: int) -> NDArray[np.uint8]:
    """Smooth and without symmetry, so that resampling is well defined and a turn shows."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [
        127 + 120 * np.sin(5 * x / width),
        255 * y / height,
        127 + 60 * np.cos(4 * y / height) + 60 * np.sin(7 * x / width),
    ]
    return np.asarray(np.rint(np.stack(planes, axis=2)), dtype=np.uint8)


def test_pixels_pass_unchanged_when_the_size_fits() -> None:
    pixels = noise(8, 8)
    for policy in POLICIES:
        assert np.array_equal(decoded(encoded(Image.fromarray(pixels)), resize=policy), pixels)
        assert np.array_equal(decoded(pixels, resize=policy), pixels)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "AVIF", "JPEG"])
def test_every_format_whatever_its_extension(tmp_path: Path, kind: str) -> None:
    pixels = landscape(40, 40)
    path = tmp_path / "image.txt"
    path.write_bytes(encoded(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {})))
    error = np.abs(decoded(path, 40).astype(int) - pixels)
    assert error.mean() <= (8 if kind in ("GIF", "AVIF", "JPEG") else 0)
    assert read_header(path, LIMIT).format == kind
    assert (read_header(path, LIMIT).width, read_header(path, LIMIT).height) == (40, 40)
    assert np.array_equal(decoded(path, 40), decoded(path.read_bytes(), 40))


# How the stored pixels lie for each orientation, written from EXIF 2.3's table ("the 0th row is at the visual
# top/bottom/...") as the inverse of what a viewer does.
STORED: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


def oriented(upright: NDArray[np.uint8], orientation: int, kind: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](upright))
    return encoded(Image.fromarray(stored), kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_exif_orientation_is_applied(orientation: int, kind: str, options: dict[str, Any]) -> None:
    upright = noise(8, 8)
    assert np.array_equal(decoded(oriented(upright, orientation, kind, **options)), upright)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_before_and_after_resizing_agree(orientation: int, policy: Policy) -> None:
    upright = landscape(60, 101)
    data = oriented(upright, orientation, "PNG")
    difference = decoded(data, 16, resize=policy).astype(int) - decoded(upright, 16, resize=policy)
    assert np.abs(difference).max() <= 3  # the reduction by whole pixels starts at one side
    assert np.abs(difference).mean() < 0.3
    header = read_header(data, LIMIT)
    assert (header.width, header.height) == (101, 60)


def test_oriented_jpeg_scaled_while_decoding() -> None:
    upright = landscape(400, 640)
    turned = decoded(oriented(upright, 6, "JPEG", quality=95), 32, resize="pad")
    assert np.abs(turned.astype(int) - decoded(upright, 32, resize="pad")).mean() < 2


@given(st.binary(max_size=80))
def test_exif_blocks_of_any_content_are_survived(block: bytes) -> None:
    assert 1 <= exif_orientation(block) <= 8
    assert 1 <= exif_orientation(b"Exif\0\0II*\0\x08\0\0\0" + block) <= 8


def test_exif_orientation_out_of_range_is_ignored() -> None:
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 9, 0)
    assert exif_orientation(b"MM\0*" + struct.pack(">IH", 8, 1) + entry) == 1
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 8, 0)
    assert exif_orientation(b"MM\0*" + struct.pack(">IH", 8, 1) + entry) == 8


def test_cmyk_becomes_rgb() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(decoded(encoded(red, "JPEG", quality=100)).astype(int) - [255, 0, 0]).max() <= 2
    assert read_header(encoded(red, "JPEG"), LIMIT).mode == "CMYK"


def test_palette_is_expanded_and_its_transparency_shows_white() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([200, 10, 20, 1, 2, 3])
    image.paste(1, (0, 0, 4, 8))
    plain = decoded(encoded(image))
    assert plain[0, 0].tolist() == [1, 2, 3]
    assert plain[0, 7].tolist() == [200, 10, 20]
    clear = decoded(encoded(image, transparency=1))
    assert clear[0, 0].tolist() == [255, 255, 255]
    assert clear[0, 7].tolist() == [200, 10, 20]
    partly = decoded(encoded(image, transparency=bytes([51, 255])))
    assert partly[0, 7].tolist() == [244, 206, 208]  # a fifth of the colour over white


@given(hnp.arrays(np.uint8, (4, 4, 4)))
def test_rgba_over_white_by_hand(rgba: NDArray[np.uint8]) -> None:
    alpha = rgba[..., 3:].astype(float) / 255
    expected = 255 - alpha * (255 - rgba[..., :3])
    assert np.abs(decoded(encoded(Image.fromarray(rgba)), 4) - expected).max() <= 1
    assert np.abs(decoded(rgba, 4) - expected).max() <= 1


def test_grey_with_alpha_and_with_a_transparent_level() -> None:
    image = Image.new("LA", (8, 8), (100, 0))
    assert (decoded(encoded(image), channels=1) == 255).all()
    level = encoded(Image.new("L", (8, 8), 7), transparency=7)
    assert (decoded(level, channels=1) == 255).all()
    color = encoded(Image.new("RGB", (8, 8), (7, 8, 9)), transparency=(7, 8, 9))
    assert (decoded(color) == 255).all()


def test_sixteen_bit_ramp() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(ramp / 257).astype(np.uint8)
    for kind in ("PNG", "TIFF"):
        image = decoded(encoded(Image.fromarray(ramp), kind), 256, channels=1)
        assert np.array_equal(image[..., 0], expected), kind
    big_endian = encoded(Image.frombytes("I;16B", (256, 256), ramp.astype(">u2").tobytes()), "TIFF")
    assert np.array_equal(decoded(big_endian, 256, channels=1)[..., 0], expected)
    assert np.array_equal(decoded(encoded(Image.fromarray(ramp)), 256)[..., 2], expected)


def test_twelve_bits_and_floats() -> None:
    values = np.array([[0, 2048], [1024, 4095]])
    assert decoded(encoded(Image.fromarray(values.astype(np.uint16))), 2, 1)[..., 0].tolist() == [[0, 128], [64, 255]]
    unit = Image.fromarray((values / 4095).astype(np.float32))
    assert decoded(encoded(unit, "TIFF"), 2, 1)[..., 0].tolist() == [[0, 128], [64, 255]]
    hounsfield = Image.fromarray((values - 1000).astype(np.int32))
    assert decoded(encoded(hounsfield, "TIFF"), 2, 1)[..., 0].tolist() == [[0, 128], [64, 255]]


@given(
    hnp.arrays(np.float32, 12, elements=st.floats(-1e6, 1e6, width=32))
    | hnp.arrays(np.int32, 12, elements=st.integers(-70_000, 70_000))
    | hnp.arrays(np.uint16, 12)
)
def test_scaling_keeps_the_order_of_grey_levels(values: NDArray[Any]) -> None:
    scaled = scale_range(values)
    order = np.argsort(values, kind="stable")
    assert (np.diff(scaled[order].astype(int)) >= 0).all()


def test_scaling_survives_what_is_not_finite() -> None:
    assert scale_range(np.array([np.nan, np.inf, 0.0, 1.0], np.float32)).tolist() == [0, 0, 0, 255]
    assert scale_range(np.full(3, np.nan, np.float32)).tolist() == [0, 0, 0]
    assert scale_range(np.full(3, -5.0, np.float32)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (decoded(data) == [250, 0, 0]).all()


def test_grey_stays_one_channel_and_color_becomes_luma() -> None:
    grey = noise(8, 8, 1)
    assert np.array_equal(decoded(encoded(Image.fromarray(grey)), channels=1)[..., 0], grey)
    assert np.array_equal(decoded(encoded(Image.fromarray(grey))), np.stack([grey] * 3, axis=2))
    color = noise(8, 8)
    luma = color @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    assert np.abs(decoded(encoded(Image.fromarray(color)), channels=1)[..., 0] - luma).max() <= 1
    photo = landscape(64, 64)
    jpeg = encoded(Image.fromarray(photo), "JPEG", quality=95, subsampling=0)
    assert np.abs(decoded(jpeg, 64, 1)[..., 0] - photo @ np.array([0.299, 0.587, 0.114])).mean() < 2


def test_bilevel() -> None:
    image = Image.fromarray(np.eye(8, dtype=bool))
    assert np.array_equal(decoded(encoded(image), channels=1)[..., 0], np.eye(8, dtype=np.uint8) * 255)


@settings(deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.sampled_from(POLICIES), st.integers(0, 255)
)  # fmt: skip
def test_any_shape_becomes_the_geometry_and_flat_stays_flat(
    height: int, width: int, size: int, policy: Policy, level: int
) -> None:
    flat = np.full((height, width, 3), (level, 255 - level, 9), np.uint8)
    image = decoded(flat, size, resize=policy)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    assert (image == [level, 255 - level, 9]).all()
    assert decoded(flat, size, 1, policy).shape == (size, size, 1)


@pytest.mark.parametrize(("height", "width"), [(90, 160), (160, 90), (100, 100), (61, 203)])
def test_policies_against_opencv(height: int, width: int) -> None:
    pixels, size = landscape(height, width), 32

    def resized(part: NDArray[np.uint8], w: int, h: int) -> NDArray[np.int64]:
        return np.asarray(cv2.resize(part, (w, h), interpolation=cv2.INTER_AREA)).astype(np.int64)

    stretched = decoded(pixels, size)
    assert np.abs(stretched - resized(pixels, size, size)).mean() < 1.5

    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cropped = decoded(pixels, size, resize="crop")
    assert np.abs(cropped - resized(pixels[top : top + side, left : left + side], size, size)).mean() < 1.5

    padded = decoded(pixels, size, resize="pad")
    h, w = round(height * size / max(height, width)), round(width * size / max(height, width))
    top, left = (size - h) // 2, (size - w) // 2
    inside = padded[top : top + h, left : left + w].astype(int)
    assert np.abs(inside - resized(pixels, w, h)).mean() < 1.5
    outside = np.ones((size, size), bool)
    outside[top : top + h, left : left + w] = False
    if outside.any():
        edges = inside[[0, -1]] if h < size else inside[:, [0, -1]]
        assert (padded[outside] == np.rint(edges.reshape(-1, 3).mean(axis=0))).all()


def test_extreme_shapes() -> None:
    assert decoded(noise(1, 5000), 16, resize="pad").shape == (16, 16, 3)
    assert decoded(noise(5000, 1), 16, resize="crop").shape == (16, 16, 3)


@settings(deadline=None, max_examples=40)
@given(st.integers(20, 700), st.integers(20, 700), st.integers(4, 90), st.sampled_from(POLICIES))
def test_jpegs_are_scaled_while_decoding_as_far_as_is_safe(width: int, height: int, size: int, policy: Policy) -> None:
    loaded: list[tuple[int, int]] = []
    whole = JpegImagePlugin.JpegImageFile.draft

    def spy(self: JpegImagePlugin.JpegImageFile, mode: str | None, wanted: tuple[int, int] | None) -> Any:
        result = whole(self, mode, wanted)
        loaded.append(self.size)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JpegImagePlugin.JpegImageFile, "draft", spy)
        image = decoded(encoded(Image.new("RGB", (width, height), (9, 99, 199)), "JPEG"), size, resize=policy)
    assert np.abs(image.astype(int) - [9, 99, 199]).max() <= 3
    (drafted,) = loaded
    long, short = max(width, height), min(width, height)
    have = max(drafted) if policy == "pad" else min(drafted)
    need = long if policy == "pad" else short
    scale = next(s for s in (8, 4, 2, 1) if need // s >= size or s == 1)
    assert have == -(-need // scale)


def test_scaled_jpeg_looks_like_the_whole_one() -> None:
    photo = landscape(612, 817)
    data = encoded(Image.fromarray(photo), "JPEG", quality=95)
    for policy in POLICIES:
        assert np.abs(decoded(data, 50, resize=policy).astype(int) - decoded(photo, 50, resize=policy)).mean() < 1.5


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layers", [1, 3, 4])
def test_arrays_take_the_same_path_as_files(policy: Policy, channels: int, layers: int) -> None:
    pixels = noise(13, 21, layers)
    data = encoded(Image.fromarray(pixels))
    assert np.array_equal(decoded(pixels, 10, channels, policy), decoded(data, 10, channels, policy))
    if layers == 1:
        assert np.array_equal(decoded(pixels[..., None], 10, channels, policy), decoded(data, 10, channels, policy))


def test_arrays_of_other_kinds_are_refused() -> None:
    assert reason(np.zeros((4, 4), np.float32)) == "pixels must be uint8. Got float32"
    assert "Got (4, 4, 2)" in reason(np.zeros((4, 4, 2), np.uint8))
    assert "Got (0, 4)" in reason(np.zeros((0, 4), np.uint8))


def test_decoding_in_threads_gives_the_same() -> None:
    images = [encoded(Image.fromarray(landscape(50 + i, 90)), kind) for i in range(12) for kind in ("JPEG", "PNG")]
    alone = [decoded(data, 16) for data in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decoded(data, 16), images * 3))
    assert all(np.array_equal(a, b) for a, b in zip(alone * 3, together, strict=True))


def test_size_limit_is_the_settings() -> None:
    data = encoded(Image.new("L", (1000, 500)))
    assert reason(data, 0.4) == "1000x500 is 0.5 megapixels, more than max_megapixels = 0.4"
    assert decode_image(data, Geometry(8, 1, "pad"), 0.5).shape == (8, 8, 1)
    assert "megapixels" in reason(noise(1000, 500), 0.4)
    large = encoded(Image.new("1", (20_000, 10_000)))  # beyond what Pillow itself would open
    assert decode_image(large, Geometry(8, 1, "pad"), 300).shape == (8, 8, 1)


KINDS: dict[str, dict[str, Any]] = {
    "JPEG": {},
    "PNG": {},
    "GIF": {},
    "BMP": {},
    "WEBP": {},
    "TIFF": {},
    "PPM": {},
    "AVIF": {},
}


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_are_errors(kind: str) -> None:
    data = encoded(Image.fromarray(noise(60, 80)), kind)
    for share in (0.1, 0.3, 0.6, 0.9, 0.98):
        assert reason(data[: int(len(data) * share)]).startswith(("truncated", "damaged"))


@pytest.mark.filterwarnings("ignore:::PIL")
@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_damaged_files_raise_one_kind_of_error(kind: str, draw: st.DataObject) -> None:
    data = bytearray(encoded(Image.fromarray(noise(20, 30)), kind))
    for _ in range(draw.draw(st.integers(1, 6))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with suppress(UnreadableImageError):  # and nothing else
        assert decoded(bytes(data)).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript file"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"\0" * 128 + b"DICM", "a DICOM file"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG or XML file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a text file"),
        (b"BM is how this text begins", "a text file"),
        (b"\0" * 200, "nothing but zero bytes"),
        (b"\x01\x02\x03\x04", "in no known image format"),
    ],
)
def test_what_is_no_image_is_told(content: bytes, said: str) -> None:
    assert reason(content) == f"not a readable image: the content is {said}"


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    assert reason(tmp_path / "none.png") == "the file is missing"
    assert reason(tmp_path) == "not a regular file"
    assert reason(b"") == "the file is empty (0 bytes)"
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(2**31)
    assert reason(tmp_path / "huge.png") == "the file has 2.0 GiB, more than 1 GiB"


def test_geometry_of_settings() -> None:
    assert geometry_of(DataConfig(image_size=64, color="grey", resize="crop")) == Geometry(64, 1, "crop")
    with pytest.raises(AssertionError, match="color is not resolved"):
        geometry_of(DataConfig(image_size=64, resize="crop"))
