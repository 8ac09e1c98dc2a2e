"""Thumbnails for the report: the most confident mistakes with where the network looked, and augmented images."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray

from tintype.config import AugmentConfig
from tintype.data.augment import augment_numpy, draw_warps
from tintype.data.cache import ImageCache
from tintype.data.thumbnails import make_thumbnail
from tintype.evaluation.attention import NoMap, attention_maps, find_place
from tintype.evaluation.overlay import overlay
from tintype.models.network import Network
from tintype.records import GalleryGroup, GalleryImage, Predictions
from tintype.runtime import Runtime

MISTAKES = 24
AUGMENTED = 12
THUMBNAIL = 160
"""Longest side in pixels; keeps a report with photos well under 3 MB."""

MAPPED_AT_ONCE = 2
"""Images whose maps are made together. A network that has not run yet in this process takes 0.18 s for 12 images in
pairs and 0.7 s at once (MobileNetV2, 224 px, two cores): fresh memory for 12 images costs more than the arithmetic."""


def mistake_gallery(
    cache: ImageCache,
    indices: NDArray[np.int64],
    predictions: Predictions,
    network: Network | None = None,
    runtime: Runtime | None = None,
    *,
    inverted: NDArray[np.bool_] | None = None,
) -> list[GalleryImage]:
    """The wrongly classified images of which the network was surest, and where it looked.

    Args:
        cache: The decoded images.
        indices: The images behind the predictions, in their order.
        predictions: Labelled predictions.
        network: The whole network that made them; with it each image has an overlay, if the network has a map.
        runtime: Its precision; None for that of the weights.
        inverted: Of which images the network saw the negative, in the order of the predictions.
    """
    predicted, labels = predictions.predicted, predictions.labels
    confidence = predictions.probabilities.max(axis=1)
    surest = predictions.surest_mistakes[:MISTAKES]
    images_NHWC = np.asarray(cache.images[indices[surest]])
    maps_Nhw: Iterable[NDArray[np.float32] | None] = [None] * len(surest)
    if network is not None and len(surest):
        negatives = np.zeros(len(surest), np.bool_) if inverted is None else inverted[surest]
        seen_NHWC = np.where(negatives[:, None, None, None], 255 - images_NHWC, images_NHWC)
        found = _maps(network, runtime, seen_NHWC, predicted[surest])
        maps_Nhw = maps_Nhw if found is None else found
    return [
        _gallery_image(
            "mistakes",
            predictions.paths[row],
            f"is {predictions.classes[labels[row]]}, taken for {predictions.classes[predicted[row]]}"
            f" ({100 * confidence[row]:.0f} %)",
            image_HWC,
            map_hw,
        )
        for row, image_HWC, map_hw in zip(surest.tolist(), images_NHWC, maps_Nhw, strict=True)
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


def _maps(
    network: Network, runtime: Runtime | None, images_NHWC: NDArray[np.uint8], classes_N: NDArray[np.int64]
) -> NDArray[np.float32] | None:
    """Where the network looked for its answers, None for a network that has no map."""
    images_NCHW = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).to(network.mean.device)
    maps: list[NDArray[np.float32]] = []
    with runtime.autocast() if runtime is not None else nullcontext():
        place = find_place(network, images_NCHW[0])
        if isinstance(place, NoMap):
            return None
        for start in range(0, len(images_NHWC), MAPPED_AT_ONCE):
            part = slice(start, start + MAPPED_AT_ONCE)
            maps_Nhw = attention_maps(network, images_NCHW[part], classes_N[part], place)
            if isinstance(maps_Nhw, NoMap):
                return None
            maps.append(maps_Nhw)
    return np.concatenate(maps)


def _gallery_image(
    group: GalleryGroup,
    path: str,
    caption: str,
    image_HWC: NDArray[np.uint8],
    map_hw: NDArray[np.float32] | None = None,
) -> GalleryImage:
    picture = make_thumbnail(image_HWC, THUMBNAIL)
    looked_at = "" if map_hw is None else make_thumbnail(overlay(image_HWC, map_hw), THUMBNAIL).data
    return GalleryImage(group, path, caption, picture.data, picture.media_type, looked_at)
