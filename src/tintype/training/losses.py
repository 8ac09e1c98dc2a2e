"""The training objective."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import log_softmax, softplus


def cross_entropies(
    logits: torch.Tensor, labels_N: torch.Tensor, label_smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of each image, with and without label smoothing, in nats.

    The one with smoothing is minimised; the one without is what the history shows, so that it can be laid
    beside the validation loss. Smoothing as in Szegedy et al., "Rethinking the Inception Architecture", 2016.

    Args:
        logits: (N, K), or (N, 1) for a sigmoid unit that gives the second of two classes.
        labels_N: Class ids.
        label_smoothing: Share of the target spread evenly over all classes.

    Returns:
        Smoothed and plain losses, each (N,).
    """
    logits = logits.float()
    if logits.shape[1] == 1:
        # softplus(-x) is -log of the second class's probability, softplus(x) of the first's.
        costs_NK = torch.cat([softplus(logits), softplus(-logits)], dim=1)
    else:
        costs_NK = -log_softmax(logits, dim=1)
    plain_N = costs_NK.gather(1, labels_N[:, None]).squeeze(1)
    if label_smoothing == 0:
        return plain_N, plain_N
    return torch.lerp(plain_N, costs_NK.mean(dim=1), label_smoothing), plain_N


def count_correct(logits: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    """How many images are classified right, as a tensor (no synchronisation)."""
    predicted_N = (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)
    return (predicted_N == labels_N).sum()


def balanced_class_weights(labels_N: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Weights that make every class count the same and average to one over the images.

    Args:
        labels_N: Labels of the training images.
        classes: Number of classes.

    Returns:
        (K,); 0 for a class without images.
    """
    counts_K = np.bincount(labels_N, minlength=classes)
    present = counts_K > 0
    weights_K = np.zeros(classes, dtype=np.float32)
    weights_K[present] = len(labels_N) / (present.sum() * counts_K[present])
    return weights_K
