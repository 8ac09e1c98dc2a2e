"""A grid of heads on kept features: all trained together, the best becomes the network's."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from tintype.config import FitConfig, HeadsConfig
from tintype.data.features import FeatureCache
from tintype.data.split import Split
from tintype.models.network import Network, OutputKind, Tail
from tintype.records import EpochRecord
from tintype.runtime import Runtime
from tintype.training.features import CutNetwork, vectors
from tintype.training.fit import Fitted
from tintype.training.heads import FittedHeads, HeadResult, expand, fit_heads
from tintype.training.losses import balanced_class_weights
from tintype.training.stacked import HeadSetting
from tintype.watch import Watch


@dataclass(frozen=True)
class HeadInputs:
    """What heads see, on the device that trains them.

    Attributes:
        train: (K, N, F) fp32, K views of the N training images.
        labels: (N,) class ids of the training images.
        validation: (V, F) fp32, the validation images as they are.
        validation_labels: (V,) class ids.
        classes: Number of classes.
    """

    train: Tensor
    labels: NDArray[np.int64]
    validation: Tensor
    validation_labels: NDArray[np.int64]
    classes: int

    @property
    def nbytes(self) -> int:
        """Memory that the vectors take."""
        return self.train.nbytes + self.validation.nbytes


def head_inputs(tail: Tail, features: FeatureCache, split: Split, runtime: Runtime) -> HeadInputs:
    """Read what heads see of the training and of the validation images.

    Args:
        tail: Without layers that train before its output layer; in inference mode afterwards.
        features: What the frozen layers said.
        split: Training and validation images.
        runtime: Where the heads are trained.
    """
    labels, count = features.index.labels, len(split.train)
    train = np.tile(split.train, features.views)
    views = np.repeat(np.arange(features.views), count)
    plain = np.zeros_like(split.validation)
    return HeadInputs(
        vectors(tail, features, train, views, runtime).reshape(features.views, count, -1),
        labels[split.train],
        vectors(tail, features, split.validation, plain, runtime),
        labels[split.validation],
        len(features.index.classes),
    )


def fit_settings(
    seen: HeadInputs, settings: Sequence[HeadSetting], output: OutputKind, config: FitConfig, seed: int, watch: Watch
) -> FittedHeads:
    """Train heads by the settings of a run.

    Args:
        seen: What they see.
        settings: One a head.
        output: Kind of the output layer.
        config: ``epochs``, ``batch_size``, ``label_smoothing`` and ``class_weights`` count; resolved.
        seed: Decides on the order of the images.
        watch: Progress and stopping.

    Raises:
        RunInterrupted: It was asked to stop.
    """
    assert config.epochs is not None
    assert config.batch_size is not None
    is_balanced = config.class_weights == "balanced"
    return fit_heads(
        seen.train, seen.labels, seen.validation, seen.validation_labels, settings, classes=seen.classes, output=output,
        epochs=config.epochs, batch_size=config.batch_size, seed=seed,
        label_smoothing=config.label_smoothing or 0.0,
        class_weights=balanced_class_weights(seen.labels, seen.classes) if is_balanced else None,
        on_progress=watch.on_progress, should_stop=watch.should_stop,
    )  # fmt: skip


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
    started = time.monotonic()
    seen = head_inputs(cut.tail, features, split, runtime)
    heads = fit_settings(seen, expand(grid, runtime.seed), network.output, config, runtime.seed, watch)
    best = heads.results[heads.best()]
    for part in (network, cut.tail):
        _put_head(part, *heads.module(heads.best()))
    seconds = time.monotonic() - started
    history = _history(best, seconds, len(split.train), len(heads.results))
    assert config.batch_size is not None
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
