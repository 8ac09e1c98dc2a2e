"""Network and images to predictions."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from tintype.data.batches import evaluation_batches
from tintype.data.cache import ImageCache
from tintype.data.features import FeatureCache
from tintype.models.network import Network
from tintype.records import OnProgress, Predictions, SplitName, silent
from tintype.runtime import Runtime

EVALUATION_PIXELS = 400_000
"""Pixels (or features) in a batch without gradients: enough to keep the cores busy, small enough for their caches."""


def evaluation_batch_size(cache: ImageCache | FeatureCache) -> int:
    """Images per batch when no gradient is kept."""
    values = cache.geometry.size**2 if isinstance(cache, ImageCache) else math.prod(cache.shape)
    return max(8, min(1024, EVALUATION_PIXELS // values))


def predict(
    network: Network,
    cache: ImageCache | FeatureCache,
    indices: NDArray[np.int64],
    runtime: Runtime,
    split: SplitName,
    *,
    flip_average: bool = False,
    inverted: NDArray[np.bool_] | None = None,
    on_progress: OnProgress = silent,
) -> Predictions:
    """Classify images, each exactly once and in the order given.

    Args:
        network: In inference mode afterwards.
        cache: The decoded images, or what the frozen layers before this network said of them.
        indices: Which of them, shape (N,).
        runtime: Device, precision and ranks: each rank classifies its part, and all get the whole.
        split: The name the predictions carry.
        flip_average: Average each image's probabilities with its mirror image's.
        inverted: Of which images the negative is classified (dark on light for a light-on-dark network, or the
            reverse), shape (N,).
        on_progress: Called after each batch.

    Returns:
        Probabilities of shape (N, K) with the true labels.
    """
    network.eval()
    parts: list[torch.Tensor] = []
    mine = runtime.world.part(len(indices))
    done = 0
    with torch.inference_mode():
        for batch in evaluation_batches(cache, indices[mine], evaluation_batch_size(cache), runtime.device):
            images_NCHW = batch.images
            if inverted is not None:
                first = mine.start + done
                chosen = torch.from_numpy(inverted[first : first + len(batch.indices)]).to(images_NCHW.device)
                images_NCHW = torch.where(chosen[:, None, None, None], 255 - images_NCHW, images_NCHW)
            parts.append(_probabilities(network, images_NCHW, runtime, flip_average))
            done += len(batch.indices)
            on_progress(f"classifying the {split} images", done, mine.stop - mine.start)
        if parts:
            probabilities = torch.cat(parts).cpu().numpy()
        else:
            probabilities = np.zeros((0, len(cache.index.classes)), dtype=np.float32)
    probabilities = runtime.world.gather_rows(probabilities)
    return Predictions(
        split=split,
        classes=cache.index.classes,
        paths=tuple(cache.index.paths[number] for number in indices.tolist()),
        labels=cache.index.labels[indices],
        probabilities=probabilities,
    )


def loss_and_accuracy(predictions: Predictions) -> tuple[float, float]:
    """Mean cross-entropy in nats and share of right predictions, without intervals, for the history of a run."""
    of_truth = np.take_along_axis(predictions.probabilities, predictions.labels[:, None], axis=1)
    # The smallest normal number of float32: an impossible truth costs 87 nats instead of infinity.
    losses = -np.log(np.maximum(of_truth, np.finfo(np.float32).tiny), dtype=np.float64)
    return float(losses.mean()), float(np.mean(predictions.predicted == predictions.labels))


def _probabilities(network: Network, images_NCHW: torch.Tensor, runtime: Runtime, flip_average: bool) -> torch.Tensor:
    with runtime.autocast():
        logits = network(images_NCHW)
        mirrored = network(images_NCHW.flip(3)) if flip_average else None
    probabilities = network.probabilities(logits)
    if mirrored is not None:
        probabilities = (probabilities + network.probabilities(mirrored)) / 2
    return probabilities
