"""A grid of heads on kept features: all trained together, the best becomes the network's."""

from __future__ import annotations

import time
from collections import OrderedDict

import numpy as np
from torch import nn

from tintype.config import FitConfig, HeadsConfig
from tintype.data.features import FeatureCache
from tintype.data.split import Split
from tintype.models.network import Network, Tail
from tintype.records import EpochRecord
from tintype.runtime import Runtime
from tintype.training.features import CutNetwork, vectors
from tintype.training.fit import Fitted
from tintype.training.heads import FittedHeads, HeadResult, expand, fit_heads
from tintype.training.losses import balanced_class_weights
from tintype.watch import Watch


def fit_head_grid(
    network: Network,
    cut: CutNetwork,
    features: FeatureCache,
    split: Split,
    grid: HeadsConfig,
    config: FitConfig,
    runtime: Runtime,
    watch: Watch,
) -> tuple[Fitted, FittedHeads]:
    """Train every combination of a grid, and put the best head into the network.

    Args:
        network: The whole; gets the head.
        cut: It in two parts; the tail gets the head, too.
        features: What the frozen layers said.
        split: Training images, and validation images to choose with.
        grid: What is combined.
        config: ``epochs``, ``batch_size``, ``label_smoothing`` and ``class_weights`` count.
        runtime: Device and seed.
        watch: Progress and stopping.

    Returns:
        The new tail with the history of the best head, and all heads.

    Raises:
        ConfigError: The grid holds what cannot be.
        NonFiniteError: No combination could be trained.
    """
    assert config.epochs is not None
    assert config.batch_size is not None
    started = time.monotonic()
    labels, classes = features.index.labels, len(features.index.classes)
    weights_K = balanced_class_weights(labels[split.train], classes) if config.class_weights == "balanced" else None
    train = np.tile(split.train, features.views)
    views = np.repeat(np.arange(features.views), len(split.train))
    train_KNF = vectors(cut.tail, features, train, views, runtime).reshape(features.views, len(split.train), -1)
    plain = np.zeros_like(split.validation)
    heads = fit_heads(
        train_KNF, labels[split.train], vectors(cut.tail, features, split.validation, plain, runtime),
        labels[split.validation], expand(grid, runtime.seed), classes=classes, output=network.output,
        epochs=config.epochs, batch_size=config.batch_size, seed=runtime.seed,
        label_smoothing=config.label_smoothing or 0.0, class_weights=weights_K, on_progress=watch.on_progress,
        should_stop=watch.should_stop,
    )  # fmt: skip
    best = heads.results[heads.best()]
    for part in (network, cut.tail):
        _put_head(part, *heads.module(heads.best()))
    seconds = time.monotonic() - started
    history = _history(best, seconds, len(split.train), len(heads.results))
    return Fitted(cut.tail, history, best.best_epoch, config.batch_size, stopped_early=False), heads


def _put_head(part: Network | Tail, layers: nn.Sequential, output: nn.Linear) -> None:
    assert isinstance(part.body, nn.Sequential)
    device = part.mean.device
    part.body = nn.Sequential(OrderedDict([*part.body.named_children(), *layers.to(device).named_children()]))
    part.head = output.to(device)


def _history(best: HeadResult, seconds: float, images: int, heads: int) -> tuple[EpochRecord, ...]:
    """The best head's epochs; all heads share the time, so each epoch counts the images of all of them."""
    share = seconds / len(best.history)
    return tuple(
        EpochRecord(
            epoch=row.epoch,
            train_loss=row.train_loss,
            train_accuracy=row.train_accuracy,
            validation_loss=row.validation_loss,
            validation_accuracy=row.validation_accuracy,
            learning_rate=best.setting.learning_rate,
            seconds=share,
            images_per_second=images * heads / share,
        )
        for row in best.history
    )
