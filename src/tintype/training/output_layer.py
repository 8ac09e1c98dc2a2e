"""The output layer alone, fitted as a logistic regression on what the layers before it say."""

from __future__ import annotations

import time

import numpy as np
import torch

from tintype.config import FitConfig
from tintype.data.features import FeatureCache
from tintype.data.split import Split
from tintype.models.network import Tail
from tintype.records import EpochRecord
from tintype.runtime import Runtime
from tintype.training.features import vectors
from tintype.training.fit import Fitted
from tintype.training.kept_logistic import kept_logistic
from tintype.training.logistic import LogisticHead, fit_logistic
from tintype.training.losses import balanced_class_weights
from tintype.watch import Watch


def fit_output_layer(
    tail: Tail, features: FeatureCache, split: Split, config: FitConfig, runtime: Runtime, watch: Watch
) -> tuple[Fitted, LogisticHead]:
    """Fit a tail's output layer on all views of the training images; nothing else in it changes.

    Args:
        tail: What lies behind the frozen layers; its output layer is fitted in place.
        features: What the frozen layers said.
        split: Training images to fit on, validation images to choose the penalty with.
        config: ``class_weights`` counts.
        runtime: Where it is computed.
        watch: Progress and stopping.

    Returns:
        The tail with a history of one row, and the penalties that were tried.
    """
    started = time.monotonic()
    tail.eval()
    train = np.tile(split.train, features.views)
    views = np.repeat(np.arange(features.views), len(split.train))
    labels = features.index.labels
    weights_K = None
    if config.class_weights == "balanced":
        weights_K = balanced_class_weights(labels[split.train], len(features.index.classes))
    classes = len(features.index.classes)

    def fit_head() -> LogisticHead:
        unchanged = np.zeros_like(split.validation)
        return fit_logistic(
            vectors(tail, features, train, views, runtime), labels[train],
            vectors(tail, features, split.validation, unchanged, runtime), labels[split.validation],
            classes, tail.output, groups=train, class_weights=weights_K,
            on_progress=watch.on_progress, should_stop=watch.should_stop,
        )  # fmt: skip

    head = kept_logistic(features, split, weights_K, tail, fit_head)
    with torch.no_grad():
        assert isinstance(tail.head, torch.nn.Linear)
        tail.head.weight.copy_(head.weight)
        tail.head.bias.copy_(head.bias)
    seconds = time.monotonic() - started
    record = EpochRecord(
        epoch=1,
        train_loss=head.chosen.train_loss,
        train_accuracy=head.chosen.train_accuracy,
        validation_loss=head.chosen.validation_loss,
        validation_accuracy=head.chosen.validation_accuracy,
        learning_rate=0.0,
        seconds=seconds,
        images_per_second=len(train) / seconds,
    )
    return Fitted(tail, (record,), kept_epoch=1, micro_batch=0, stopped_early=False), head
