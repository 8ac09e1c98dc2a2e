"""The images that an export is verified on: a run's own test images, found again."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tintype.config import load_config
from tintype.data.cache import ImageCache
from tintype.data.decode import decode_image
from tintype.data.pixels import Geometry, as_mode
from tintype.data.reopen import evenly, reopen_images, rows_of
from tintype.errors import DataError, RunError
from tintype.ledger import fingerprint_images
from tintype.records import Predictions
from tintype.rundir import RunDir
from tintype.serving.model import Model
from tintype.watch import Watch

MOST_VERIFIED = 10_000
"""Images compared at most, evenly taken."""

MOST_ORIGINALS = 1_000
"""Images compared at most in their original size: each has to be decoded whole."""

MOST_PIXELS = 24_000_000
"""Larger originals are left out: in the graph each of them is a quarter of a gigabyte."""

CALIBRATION_IMAGES = 256
"""Training images that the ranges of activations are taken from."""


@dataclass(frozen=True)
class Samples:
    """Images, some of which can be had in their original size.

    Attributes:
        kind: What they are, for people: ``test images``.
        images: uint8, shape (M, S, S, C), perhaps on disk.
        rows: Which of ``images`` are meant, shape (N,), at least one.
        labels: Class ids of those, shape (N,); -1 where unknown.
        paths: Identifiers of those, length N.
        originals: Which of the N can be had in their original size.
        original: Gives such an image, RGB, uint8, shape (H, W, 3).
        training: Some training images, a position in ``images`` each; empty where there are none.
        fingerprint: Of the whole test set, for the ledger; empty where these are no test images.
    """

    kind: str
    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    paths: tuple[str, ...]
    originals: NDArray[np.int64]
    original: Callable[[int], NDArray[np.uint8]]
    training: NDArray[np.int64]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.rows)


def find_samples(run_dir: RunDir, model: Model, watch: Watch) -> Samples:
    """A run's test images (validation or training images in a run without), or what is left of them.

    Where the data are gone or have changed, the pictures in the run's report are all there is; that is said.

    Raises:
        RunError: There is not one image.
    """
    predictions = run_dir.read_predictions()
    chosen = next((predictions[split] for split in ("test", "validation", "train") if split in predictions), None)
    config = load_config(run_dir / "config.toml")
    try:
        cache = reopen_images(run_dir, config.data, watch.on_progress)
        if chosen is None:
            raise DataError("the run has classified no images.")
        return _from_cache(cache, chosen, predictions.get("train"))
    except DataError as error:
        samples = _from_gallery(run_dir, model)
        watch.on_message(f"{error} The export is verified on {len(samples):,} pictures of the report instead.")
        return samples


def original_pixels(source: Path | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image in its original size, upright, in RGB, uint8, shape (H, W, 3); its colours as tintype decodes them.

    Args:
        source: A file that was decoded before, or pixels of shape (H, W) or (H, W, C).
    """
    if isinstance(source, np.ndarray):
        pixels = source[..., 0] if source.ndim == 3 and source.shape[2] == 1 else source
        return np.asarray(as_mode(Image.fromarray(np.ascontiguousarray(pixels)), 3))
    with Image.open(source) as file:
        return np.asarray(as_mode(ImageOps.exif_transpose(file), 3))


def decoded(pixels_HWC: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    """What the run's own resize makes of an image, shape (S, S, C)."""
    return decode_image(pixels_HWC, geometry, float("inf"))


def _from_cache(cache: ImageCache, chosen: Predictions, training: Predictions | None) -> Samples:
    places = rows_of(cache.index, chosen.paths)
    taken = evenly(len(places), MOST_VERIFIED)
    rows = places[taken]
    known = np.zeros(0, np.int64) if training is None else rows_of(cache.index, training.paths)
    fitting = np.flatnonzero(cache.widths[rows].astype(np.int64) * cache.heights[rows] <= MOST_PIXELS)
    labels = ["" if label < 0 else chosen.classes[label] for label in chosen.labels.tolist()]
    return Samples(
        kind=f"{chosen.split} images",
        images=cache.images,
        rows=rows,
        labels=chosen.labels[taken],
        paths=tuple(chosen.paths[row] for row in taken.tolist()),
        originals=fitting[evenly(len(fitting), MOST_ORIGINALS)],
        original=lambda number: original_pixels(cache.index.source(int(rows[number]))),
        training=known[evenly(len(known), CALIBRATION_IMAGES)],
        fingerprint=fingerprint_images(cache.content_hash[places], labels) if chosen.split == "test" else "",
    )


def _from_gallery(run_dir: RunDir, model: Model) -> Samples:
    entries = run_dir.read_json("gallery.json") if (run_dir / "gallery.json").is_file() else []
    pictures = [_picture(str(entry["jpeg"])) for entry in entries]
    if not pictures:
        raise RunError(
            f"the export of {run_dir.path} cannot be verified: its images are gone or have changed, and its report "
            "holds no picture. Put the images back."
        )
    return Samples(
        kind="pictures of the report",
        images=np.stack([decoded(picture, model.geometry) for picture in pictures]),
        rows=np.arange(len(pictures)),
        labels=np.full(len(pictures), -1),
        paths=tuple(str(entry["path"]) for entry in entries),
        originals=np.arange(len(pictures)),
        original=pictures.__getitem__,
        training=np.zeros(0, np.int64),
        fingerprint="",
    )


def _picture(encoded: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        return np.asarray(as_mode(picture, 3))
