from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tintype.config import DataConfig
from tintype.data.arrays import read_idx, read_npz
from tintype.data.sources import ImageIndex, read_index
from tintype.errors import DataError

CODES = {"u1": 8, "i1": 9, ">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}


def idx_bytes(array: NDArray[Any]) -> bytes:
    """The idx format as its author describes it: two zeros, type, rank, sides, numbers, all big-endian."""
    code = CODES[array.dtype.str.lstrip("|")]
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


def digits(n: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    random = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.uint8) % 10
    return random.integers(0, 256, (n, 7, 5), dtype=np.uint8), labels


def mnist_like(folder: Path, zipped: bool = False) -> None:
    for name, n in (("train", 30), ("t10k", 20)):
        images, labels = digits(n, n)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = idx_bytes(array)
            path = folder / f"{name}-{kind}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(data) if zipped else data)


def read(source: Path) -> ImageIndex:
    return read_index(DataConfig(source=str(source)))


def refusal(source: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(sorted(CODES)).flatmap(
        lambda kind: hnp.arrays(np.dtype(kind), hnp.array_shapes(min_dims=1, max_dims=4, max_side=5))
    ),
    st.booleans(),
)
def test_idx_round_trip(tmp_path: Path, array: NDArray[Any], zipped: bool) -> None:
    path = tmp_path / "any-idx"
    path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    back = read_idx(path)
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()
    assert back.shape == array.shape


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_layout(tmp_path: Path, zipped: bool) -> None:
    mnist_like(tmp_path, zipped)
    index = read(tmp_path)
    assert index.arrays is not None
    assert np.array_equal(index.arrays, np.concatenate([digits(30, 30)[0], digits(20, 20)[0]]))
    assert index.labels.tolist() == [i % 10 for i in range(30)] + [i % 10 for i in range(20)]
    assert index.given_split.tolist() == [0] * 30 + [2] * 20
    assert (index.paths[0], index.paths[30], index.paths[-1]) == ("train/00000", "test/00000", "test/00019")
    assert index.classes == tuple("0123456789")
    assert index.description == "idx: 10 classes, 50 images of 5x7 (train: 30, test: 20)"


def test_one_idx_file_stands_for_its_folder(tmp_path: Path) -> None:
    mnist_like(tmp_path)
    assert len(read(tmp_path / "train-images-idx3-ubyte")) == 50


def test_idx_damage_is_named(tmp_path: Path) -> None:
    mnist_like(tmp_path)
    images = tmp_path / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    images.write_bytes(whole[:-1])
    assert refusal(tmp_path) == f"{images} says 30x7x5, which is 1,050 bytes, but holds only 1,049. Fetch it again."
    images.write_bytes(whole + b"x")
    assert "but holds more" in refusal(tmp_path)
    images.write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**20, 2**20))  # must not reserve 2^71 bytes
    assert "but holds only 0" in refusal(tmp_path)
    images.write_bytes(gzip.compress(whole)[:-20])
    assert "is damaged or cut off" in refusal(tmp_path)
    images.unlink()
    assert "train-labels-idx1-ubyte has no partner" in refusal(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(digits(29)[0]))
    assert "has 29 train images but 30 labels" in refusal(tmp_path)
    (tmp_path / "x").write_bytes(b"PK\3\4")
    with pytest.raises(DataError, match="is no idx file: it begins with 50 4b 03 04"):
        read_idx(tmp_path / "x")


def npz(tmp_path: Path, **arrays: Any) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    return path


def test_npz_with_splits(tmp_path: Path) -> None:
    x, y = digits(20)
    index = read(npz(tmp_path, x_train=x[:12], y_train=y[:12], x_test=x[12:], y_test=y[12:]))
    assert index.arrays is not None
    assert np.array_equal(index.arrays, x)
    assert index.given_split.tolist() == [0] * 12 + [2] * 8
    assert index.labels.tolist() == y.tolist()
    assert index.kind == "npz"


@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("images", "labels"), ("X", "Y")])
def test_npz_without_splits(tmp_path: Path, x: str, y: str) -> None:
    images, _ = digits(4)
    names = np.array(["dog", "cat", "dog", "bird"])
    index = read(npz(tmp_path, **{x: np.stack([images] * 3, axis=3), y: names[:, None]}))
    assert index.classes == ("bird", "cat", "dog")
    assert index.labels.tolist() == [2, 1, 2, 0]
    assert index.given_split.tolist() == [-1] * 4
    assert index.paths[0] == "images/00000"


def test_npz_classes_name_the_labels(tmp_path: Path) -> None:
    images, _ = digits(4)
    index = read(npz(tmp_path, x=images, y=np.array([1, 0, 1, 0]), classes=np.array(["zebra", "ant"])))
    assert index.classes == ("zebra", "ant")
    assert index.labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.array([0.0, 0.5, 1.0]), [0, 128, 255]),
        (np.array([0.0, 127.6, 255.0]), [0, 128, 255]),
        (np.array([0, 128, 255], dtype=np.int64), [0, 128, 255]),
        (np.array([False, True, True]), [0, 255, 255]),
    ],
)
def test_pixels_are_brought_to_uint8_by_range(tmp_path: Path, pixels: NDArray[Any], expected: list[int]) -> None:
    images = np.broadcast_to(pixels, (2, 4, 3))
    index = read(npz(tmp_path, x=images, y=np.array([0, 1])))
    assert index.arrays is not None
    assert index.arrays.dtype == np.uint8
    assert index.arrays[1, 2].tolist() == expected


def test_channels_first_is_understood(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 9), dtype=np.uint8)
    index = read(npz(tmp_path, x=images, y=np.array([0, 1])))
    assert index.arrays is not None
    assert np.array_equal(index.arrays[1, :, :, 2], images[1, 2])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3)}, "holds a. Expected are x_train and y_train"),
        ({"x": np.zeros((3, 4, 4), np.uint8)}, "holds x. Expected are"),
        ({"x": np.zeros((3, 4, 4), np.uint8), "y": np.arange(2)}, "has 3 images but 2 labels"),
        ({"x": np.zeros((3, 16), np.uint8), "y": np.arange(3)}, "x in data.npz has shape (3, 16)"),
        ({"x": np.zeros((3, 4, 4, 2), np.uint8), "y": np.arange(3)}, "has shape (3, 4, 4, 2)"),
        ({"x": np.full((3, 4, 4), -0.5), "y": np.arange(3)}, "has values from -0.5 to -0.5. Pixels are 0 to 255"),
        ({"x": np.full((3, 4, 4), 256), "y": np.arange(3)}, "has values from 256 to 256"),
        ({"x": np.full((3, 4, 4), np.nan), "y": np.arange(3)}, "has values from nan to nan"),
        ({"x": np.zeros((3, 4, 4), np.uint8), "y": np.eye(3)}, "y in data.npz has shape (3, 3)"),
        ({"x": np.zeros((3, 4, 4), np.uint8), "y": np.array([0.5, 1, 2])}, "labels of type float64"),
        ({"x": np.zeros((3, 4, 4), np.uint8), "y": np.arange(3), "classes": np.array(["a"])}, "has the label 1, but"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": np.array([0, 1]), "classes": np.array(["a", "b", "c"])},
         "has no image of c. Remove the class or add images."),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": np.array([0, 0])}, "has 1 class: 0. A classifier needs at least 2."),
        ({"x": np.zeros((0, 4, 4), np.uint8), "y": np.zeros(0, np.int64)}, "holds no images"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": np.array(["a", None], dtype=object)}, "never unpickled"),
        ({"x_train": np.zeros((2, 4, 4), np.uint8), "y_train": np.arange(2),
          "x_test": np.zeros((2, 5, 4), np.uint8), "y_test": np.arange(2)}, "All must be alike"),
    ],
)  # fmt: skip
def test_npz_refusals(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    assert message in refusal(npz(tmp_path, **arrays))


def test_broken_npz(tmp_path: Path) -> None:
    images, labels = digits(200)
    path = npz(tmp_path, x=images, y=labels)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert "is no .npz archive, or is cut off" in refusal(path)
    path.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    with pytest.raises(DataError, match="cannot read"):
        read_npz(path)
