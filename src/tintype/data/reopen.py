"""Images for a finished model: those that it was trained and judged on, found again, and others decoded like them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tintype.config import DataConfig
from tintype.data.cache import ImageCache, build_cache
from tintype.data.decode import Geometry
from tintype.data.formats import IMAGE_EXTENSIONS, extension
from tintype.data.index import UNLABELLED, ImageIndex, listed, shown
from tintype.data.sources import index_paths, read_index, relabel
from tintype.errors import DataError
from tintype.records import OnProgress, silent
from tintype.rundir import RunDir


def reopen_images(run_dir: RunDir, data: DataConfig, on_progress: OnProgress = silent) -> ImageCache:
    """The images of a finished run, decoded once and kept; decoded anew where they are no longer kept.

    Args:
        run_dir: The run.
        data: The settings of its ``config.toml``.
        on_progress: Told of decoding.

    Raises:
        DataError: The images are gone, cannot be read, or are not the ones that the run saw.
    """
    cache = build_cache(read_index(data), data, on_progress)
    if cache.fingerprint != run_dir.read_json("data.json")["fingerprint"]:
        raise DataError(
            f"the images in {shown(data.source)} changed since {shown(run_dir.path)} was trained. Put them back as "
            "they were, or train anew."
        )
    return cache


def decode_like(
    geometry: Geometry,
    classes: Sequence[str],
    max_megapixels: float,
    source: str,
    *,
    skip_bad: bool = False,
    needs_labels: bool = True,
    on_message: Callable[[str], None] = lambda _: None,
    on_progress: OnProgress = silent,
) -> tuple[ImageCache, DataConfig]:
    """Decode other images exactly as a model's own were.

    Args:
        geometry: How the model's images were decoded.
        classes: The model's classes; the images' labels are made to mean the same.
        max_megapixels: Larger images are refused.
        source: The other data.
        skip_bad: Leave unreadable images out instead of stopping.
        needs_labels: Whether images without labels, or with classes that the model does not know, are refused.
        on_message: Told how the data was understood.
        on_progress: Told of decoding.

    Returns:
        The images, and the settings that they were decoded by.

    Raises:
        DataError: The data cannot be read, its labels are not the model's, or labels are needed and there are none.
    """
    data = DataConfig(
        source=source,
        image_size=geometry.size,
        color="grey" if geometry.channels == 1 else "rgb",
        resize=geometry.resize,
        max_megapixels=max_megapixels,
        skip_bad=skip_bad,
    )
    if is_unlabelled_folder(Path(source).expanduser()):
        if needs_labels:
            raise DataError(
                f"{shown(source)} holds images but no labels, so nothing can be judged. Put them into a folder per "
                "class or list them in labels.csv (path,label); `tintype predict` labels images without one."
            )
        index = relabel(index_paths([source]), classes)
    else:
        index = read_index(data, minimum_classes=1)
        index = relabel(index, classes) if needs_labels else _with_known_labels(index, classes, on_message)
    on_message(index.description)
    return build_cache(index, data, on_progress), data


def _with_known_labels(index: ImageIndex, classes: Sequence[str], on_message: Callable[[str], None]) -> ImageIndex:
    """The images with the model's labels; those of a class that it does not know have none."""
    unknown = [name for name in index.classes if name not in classes]
    if unknown:
        on_message(f"{listed(unknown, 10)}: unknown to the model, so these images stand without a label")
    places = {name: number for number, name in enumerate(classes)}
    table = np.array([*(places.get(name, UNLABELLED) for name in index.classes), UNLABELLED], dtype=np.int64)
    return replace(index, classes=tuple(classes), labels=table[index.labels])  # -1 picks the last


def is_unlabelled_folder(folder: Path) -> bool:
    """True for a folder that holds images itself, and neither folders nor a list of labels."""
    if not folder.is_dir():
        return False
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return (
        bool(entries)
        and not any(entry.is_dir() or entry.suffix in (".csv", ".tsv", ".parquet", ".npz") for entry in entries)
        and any(extension(entry.name) in IMAGE_EXTENSIONS for entry in entries)
    )


def rows_of(index: ImageIndex, paths: Sequence[str]) -> NDArray[np.int64]:
    """Positions in the index of images by their identifiers, shape (N,).

    Raises:
        DataError: An identifier is not in the index.
    """
    places = {path: number for number, path in enumerate(index.paths)}
    missing = next((path for path in paths if path not in places), None)
    if missing is not None:
        raise DataError(f"{shown(missing)} is no longer in {shown(index.root)}. Put it back, or train anew.")
    return np.array([places[path] for path in paths], dtype=np.int64)


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` positions below ``count``, evenly spread; all of them where there are no more."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64)) if count else np.zeros(0, np.int64)
