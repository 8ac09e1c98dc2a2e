"""Thumbnails for the report: the most confident mistakes, and what augmentation does to training images."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tintype.config import AugmentConfig
from tintype.data.augment import augment_numpy, draw_warps
from tintype.data.cache import ImageCache
from tintype.records import GalleryGroup, GalleryImage, Predictions

MISTAKES = 24
AUGMENTED = 12
THUMBNAIL = 160
"""Longest side in pixels; keeps a report with photos well under 3 MB."""

LOSSLESS_SIDE = 64
"""Images up to this size are kept exactly, as PNG."""


def mistake_gallery(cache: ImageCache, indices: NDArray[np.int64], predictions: Predictions) -> list[GalleryImage]:
    """The wrongly classified images of which the network was surest.

    Args:
        cache: The decoded images.
        indices: The images behind the predictions, in their order.
        predictions: Labelled predictions.
    """
    predicted, labels = predictions.predicted, predictions.labels
    confidence = predictions.probabilities.max(axis=1)
    wrong = np.flatnonzero((predicted != labels) & (labels >= 0))
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    return [
        _gallery_image(
            "mistakes",
            predictions.paths[row],
            f"is {predictions.classes[labels[row]]}, taken for {predictions.classes[predicted[row]]}"
            f" ({100 * confidence[row]:.0f} %)",
            cache.images[indices[row]],
        )
        for row in surest.tolist()
    ]


def augmented_gallery(
    cache: ImageCache, indices: NDArray[np.int64], augment: AugmentConfig, seed: int
) -> list[GalleryImage]:
    """Training images as the network saw them in the first epoch."""
    if augment.is_identity or not len(indices):
        return []
    chosen = indices[:: max(1, len(indices) // AUGMENTED)][:AUGMENTED]
    warps = draw_warps(augment, seed, 0, chosen, cache.geometry.size)
    images_NHWC = augment_numpy(np.asarray(cache.images[chosen]), warps, augment.fill or "reflect", threads=1)
    classes, labels = cache.index.classes, cache.index.labels
    return [
        _gallery_image("augmented", cache.index.paths[number], classes[labels[number]], image_HWC)
        for number, image_HWC in zip(chosen.tolist(), images_NHWC, strict=True)
    ]


def _gallery_image(group: GalleryGroup, path: str, caption: str, image_HWC: NDArray[np.uint8]) -> GalleryImage:
    thumbnail = Image.fromarray(image_HWC.squeeze())
    lossless = max(thumbnail.size) <= LOSSLESS_SIDE
    thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    if lossless:
        thumbnail.save(buffer, "PNG")
    else:
        thumbnail.save(buffer, "JPEG", quality=80)
    return GalleryImage(
        group=group,
        path=path,
        caption=caption,
        jpeg=base64.b64encode(buffer.getvalue()).decode("ascii"),
        media_type="image/png" if lossless else "image/jpeg",
    )
