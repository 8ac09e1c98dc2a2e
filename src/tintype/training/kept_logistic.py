"""A fitted output layer, kept on disk beside the features that it was fitted to.

A search begins each of its trainings with it, and so does the next run on the same images; on 9,000 images of 1,280
values and twenty classes it takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple

import numpy as np
import torch
from numpy.typing import NDArray

from tintype.data.features import FeatureCache
from tintype.data.kept import Figures, kept_figures
from tintype.data.split import Split
from tintype.models.network import Tail
from tintype.training.logistic import LogisticHead, LogisticTrial

VERSION = 1
"""Changes when a fit of the same features would come out differently."""


def kept_logistic(
    features: FeatureCache, split: Split, class_weights: NDArray[np.float32] | None, tail: Tail,
    fit_head: Callable[[], LogisticHead],
) -> LogisticHead:  # fmt: skip
    """The output layer that an earlier call kept, or else what ``fit_head`` gives.

    Args:
        features: What it is fitted to.
        split: Training and validation images.
        class_weights: (K,) as it is fitted with them; None: all count the same.
        tail: What lies between features and output layer.
        fit_head: Fits it.

    Raises:
        RunInterrupted: ``fit_head`` said so; nothing is kept.
    """
    weights = np.zeros(0, np.float32) if class_weights is None else class_weights
    labels = np.asarray(features.index.labels, np.int64)
    between = [value.detach().float().cpu().numpy() for value in tail.body.state_dict().values()]
    what = f"logistic regression {VERSION}, {tail.output}, {len(features.index.classes)} classes, {tail.body!r}"
    asked = (split.train, split.validation, labels, weights, *between)
    figures = kept_figures(features.key, what, lambda: _to_figures(fit_head()), asked)
    return _from_figures(figures, next(tail.head.parameters()).device)


def _to_figures(head: LogisticHead) -> Figures:
    trials = [[math.nan if value is None else float(value) for value in astuple(trial)] for trial in head.trials]
    figures: dict[str, NDArray[np.generic]] = {
        "weight": head.weight.cpu().numpy(),
        "bias": head.bias.cpu().numpy(),
        "penalty": np.array(head.penalty),
        "trials": np.array(trials),
        "folds": np.array(head.folds),
    }
    if head.held_out is not None:
        figures["held_out"] = head.held_out.cpu().numpy()
    return figures


def _from_figures(figures: Figures, device: torch.device) -> LogisticHead:
    trials = tuple(_trial(row) for row in figures["trials"].tolist())
    held_out = torch.from_numpy(figures["held_out"]).to(device) if "held_out" in figures else None
    return LogisticHead(
        torch.from_numpy(figures["weight"]).to(device), torch.from_numpy(figures["bias"]).to(device),
        float(figures["penalty"]), trials, int(figures["folds"]), held_out,
    )  # fmt: skip


def _trial(row: list[float]) -> LogisticTrial:
    """What :func:`_to_figures` made numbers of; what there was not had become NaN."""
    penalty, train_loss, train_accuracy, *others, iterations, seconds = row
    loss, accuracy, held_out_loss, held_out_accuracy = (None if math.isnan(value) else value for value in others)
    return LogisticTrial(
        penalty, train_loss, train_accuracy, loss, accuracy, held_out_loss, held_out_accuracy, int(iterations), seconds
    )
