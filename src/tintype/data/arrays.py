"""Sources that hold the pixels themselves: MNIST-style idx files and ``.npz`` archives."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from tintype.config import SourceKind
from tintype.data.index import NO_SPLIT, SPLIT_IDS, ImageIndex, counted, listed, natural_sorted, shown
from tintype.errors import DataError
from tintype.records import SplitName

_IDX_TYPES: dict[int, str] = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Type codes of the idx format (yann.lecun.com/exdb/mnist); numbers are big-endian."""

_CHUNK = 2**24

_NPZ_KEYS: tuple[tuple[SplitName | None, str, str], ...] = (
    ("train", "x_train", "y_train"),
    ("validation", "x_val", "y_val"),
    ("validation", "x_validation", "y_validation"),
    ("test", "x_test", "y_test"),
    ("train", "train_images", "train_labels"),
    ("validation", "val_images", "val_labels"),
    ("test", "test_images", "test_labels"),
    (None, "x", "y"),
    (None, "images", "labels"),
)


@dataclass(frozen=True)
class _Part:
    """The images of one split: uint8 (N, H, W[, C]) and their labels as they stand in the file, (N,)."""

    split: SplitName | None
    images: NDArray[np.uint8]
    labels: NDArray[Any]


def idx_files(folder: Path) -> list[Path]:
    """The idx files of a folder, known by their first bytes; of ``x`` and ``x.gz`` the plain one counts."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        named = ("idx" in path.name or "ubyte" in path.name) and not path.name.startswith(".")
        if named and path.is_file() and _idx_shape(path) is not None:
            found.setdefault(path.name.removesuffix(".gz"), path)
    return list(found.values())


def read_idx_folder(folder: Path) -> ImageIndex:
    """Index the images in idx files, paired with their labels by name (``train-images...``, ``train-labels...``).

    Raises:
        DataError: A file is damaged, has no partner, or images and labels do not fit each other.
    """
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path in idx_files(folder):
        shape = _idx_shape(path) or ()
        (labels if len(shape) == 1 else images)[_pair_name(path)] = path
    if not images and not labels:
        raise DataError(f"{shown(folder)} holds no idx files such as train-images-idx3-ubyte.gz.")
    alone = [
        path.name for path in [*images.values(), *labels.values()] if _pair_name(path) not in images.keys() & labels
    ]
    if alone:
        raise DataError(f"{shown(folder)}: {listed(alone)} has no partner; images and labels come as two files.")
    parts: dict[SplitName | None, _Part] = {}
    for name in natural_sorted(images):
        split = _idx_split(name)
        if split in parts:
            raise DataError(
                f"{shown(folder)} holds more than one set of {split or 'unsplit'} images. Keep one set a folder."
            )
        pixels = _as_uint8(read_idx(images[name]), images[name].name)
        parts[split] = _Part(split, pixels, _as_labels(read_idx(labels[name]), labels[name].name))
    return _index("idx", folder, list(parts.values()), None)


def read_idx(path: Path) -> NDArray[Any]:
    """Read one idx file, plain or gzipped.

    Returns:
        The array, of the type and shape that its header says.

    Raises:
        DataError: It is no idx file, is truncated, or is longer than its header says.
    """
    try:
        with _opened(path) as stream:
            shape, kind = _idx_header(stream, path)
            expected = math.prod(shape) * kind.itemsize
            data = bytearray()
            # In pieces: a damaged header must not reserve memory that the file cannot fill.
            while len(data) <= expected and (piece := stream.read(min(_CHUNK, expected + 1 - len(data)))):
                data += piece
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{shown(path)} is damaged or cut off: {error}. Fetch it again.") from None
    except OSError as error:
        raise DataError(f"cannot read {shown(path)}: {error.strerror}.") from None
    if len(data) != expected:
        size = "x".join(str(side) for side in shape)
        amount = "more" if len(data) > expected else f"only {len(data):,}"
        raise DataError(f"{shown(path)} says {size}, which is {expected:,} bytes, but holds {amount}. Fetch it again.")
    return np.frombuffer(data, dtype=kind).reshape(shape)


def read_npz(file: Path) -> ImageIndex:
    """Index the images in an ``.npz``; nothing in it is unpickled.

    Known keys are ``x_train, y_train, x_val, y_val, x_test, y_test``, ``train_images, train_labels`` and so on,
    ``x, y`` and ``images, labels``; ``classes`` may name the labels.

    Raises:
        DataError: The file is damaged, the keys are missing, or images and labels do not fit each other.
    """
    if not zipfile.is_zipfile(file):
        raise DataError(f"{shown(file)} is no .npz archive, or is cut off. Write it with numpy.savez_compressed.")
    try:
        with np.load(file, allow_pickle=False) as archive:
            content = {name.lower(): name for name in archive.files}
            parts = _npz_parts(file, archive, content)
            classes = archive[content["classes"]] if "classes" in content else None
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        reason = "it holds Python objects, which are never unpickled" if "allow_pickle" in str(error) else str(error)
        raise DataError(f"cannot read {shown(file)}: {shown(reason)}.") from None
    return _index("npz", file, parts, None if classes is None else _class_names(classes, file.name))


def _npz_parts(file: Path, archive: Mapping[str, NDArray[Any]], content: dict[str, str]) -> list[_Part]:
    parts: list[_Part] = []
    for split, x, y in _NPZ_KEYS:
        if x in content and y in content and all(part.split != split for part in parts):
            images = _as_uint8(archive[content[x]], f"{x} in {file.name}")
            parts.append(_Part(split, images, _as_labels(archive[content[y]], f"{y} in {file.name}")))
    if not parts:
        raise DataError(
            f"{shown(file)} holds {listed(list(content.values()), 8) or 'nothing'}. Expected are x_train and y_train "
            "(and x_test, y_test), or x and y, or images and labels."
        )
    if any(part.split is None for part in parts) and len(parts) > 1:
        parts = [part for part in parts if part.split is not None]
    return parts


def _index(kind: SourceKind, root: Path, parts: Sequence[_Part], classes: tuple[str, ...] | None) -> ImageIndex:
    for part in parts:
        name = f"{part.split} images" if part.split else "images"
        if len(part.images) != len(part.labels):
            raise DataError(
                f"{shown(root)} has {len(part.images):,} {name} but {len(part.labels):,} labels. Fetch it again."
            )
        if part.images.shape[1:] != parts[0].images.shape[1:]:
            raise DataError(
                f"{shown(root)} has images of {parts[0].images.shape[1:]} and of {part.images.shape[1:]} (height, "
                "width, channels). All must be alike."
            )
    parts = sorted(parts, key=lambda part: NO_SPLIT if part.split is None else SPLIT_IDS[part.split])
    counts = [len(part.images) for part in parts]
    if not sum(counts):
        raise DataError(f"{shown(root)} holds no images.")
    given = np.concatenate([part.labels for part in parts])
    names, labels = _named(root, given, classes)
    splits = [NO_SPLIT if part.split is None else SPLIT_IDS[part.split] for part in parts]
    images = parts[0].images if len(parts) == 1 else np.concatenate([part.images for part in parts])
    sizes = ", ".join(f"{part.split}: {len(part.images):,}" for part in parts if part.split)
    height, width = images.shape[1:3]
    return ImageIndex(
        kind=kind,
        root=root,
        classes=names,
        paths=tuple(f"{part.split or 'images'}/{i:05d}" for part in parts for i in range(len(part.images))),
        labels=labels,
        given_split=np.repeat(np.array(splits, dtype=np.int8), counts),
        groups=None,
        arrays=images,
        description=f"{kind}: {counted(len(names), 'class')}, {counted(len(labels), 'image')} of {width}x{height}"
        + (f" ({sizes})" if sizes else ""),
    )


def _named(
    root: Path, given: NDArray[Any], classes: tuple[str, ...] | None
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names and ids: as ``classes`` says, else the sorted values that occur."""
    if classes is not None and np.issubdtype(given.dtype, np.integer):
        outside = given[(given < 0) | (given >= len(classes))]
        if len(outside):
            raise DataError(f"{shown(root)} has the label {outside[0]}, but classes names {len(classes)} from 0 on.")
        return classes, given.astype(np.int64)
    values, inverse = np.unique(given, return_inverse=True)
    found = [str(value) for value in values]
    names = classes if classes is not None else tuple(natural_sorted(found))
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise DataError(f"{shown(root)} has labels that classes does not name: {listed(unknown)}.")
    place = {name: number for number, name in enumerate(names)}
    return names, np.array([place[name] for name in found], dtype=np.int64)[inverse.reshape(-1)]


def _class_names(classes: NDArray[Any], where: str) -> tuple[str, ...]:
    names = tuple(str(name) for name in classes.reshape(-1))
    if len(set(names)) != len(names):
        raise DataError(f"classes in {shown(where)} names a class twice.")
    return names


def _as_labels(labels: NDArray[Any], where: str) -> NDArray[Any]:
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1:
        raise DataError(f"{shown(where)} has shape {labels.shape}. Labels are one number or name per image.")
    if flat.dtype.kind in "US":
        return np.char.decode(flat, "utf-8") if flat.dtype.kind == "S" else flat
    if flat.dtype.kind == "f" and bool((flat == np.rint(flat)).all()):
        return flat.astype(np.int64)
    if flat.dtype.kind not in "iub":
        raise DataError(f"{shown(where)} has labels of type {flat.dtype}. They must be whole numbers or names.")
    return flat.astype(np.int64)


def _as_uint8(images: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Bring pixels to uint8 (N, H, W) or (N, H, W, C), refusing what would be a guess."""
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3, 4):
        images = np.moveaxis(images, 1, 3)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (3, 4)) or 0 in images.shape[1:]:
        raise DataError(
            f"{shown(where)} has shape {images.shape}. Images are (number, height, width) or (number, height, width, "
            "3)."
        )
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if images.dtype.kind not in "iufb" or not images.size:
        raise DataError(f"{shown(where)} has pixels of type {images.dtype}. They must be numbers.")
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 255):  # NaN fails both
        raise DataError(f"{shown(where)} has values from {low} to {high}. Pixels are 0 to 255, or 0 to 1.")
    if images.dtype.kind in "fb" and high <= 1:
        images = images * np.float32(255)
    return np.asarray(np.rint(images), dtype=np.uint8)


def _pair_name(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    for word in ("images", "image", "labels", "label", "idx1", "idx3", "idx4", "ubyte"):
        name = name.replace(word, "")
    return name.strip("-_. ") or "images"


def _idx_split(name: str) -> SplitName | None:
    if "t10k" in name or "test" in name:
        return "test"
    if "val" in name:
        return "validation"
    return "train" if "train" in name else None


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb")) if zipped else path.open("rb")


def _idx_shape(path: Path) -> tuple[int, ...] | None:
    """The shape in an idx file's header, None for any other file."""
    try:
        with _opened(path) as stream:
            return _idx_header(stream, path)[0]
    except (OSError, EOFError, zlib.error, DataError):
        return None


def _idx_header(stream: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES or not 1 <= magic[3] <= 4:
        raise DataError(f"{shown(path)} is no idx file: it begins with {magic.hex(' ') or 'nothing'}.")
    sides = stream.read(4 * magic[3])
    if len(sides) < 4 * magic[3]:
        raise DataError(f"{shown(path)} is cut off inside its header. Fetch it again.")
    return struct.unpack(f">{magic[3]}I", sides), np.dtype(_IDX_TYPES[magic[2]])
