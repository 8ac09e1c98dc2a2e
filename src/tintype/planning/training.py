"""Network, augmentation and training recipe."""

from __future__ import annotations

import math

from tintype.config import RunConfig
from tintype.errors import ConfigError
from tintype.models import zoo
from tintype.planning.chooser import SMALL_SIDE, Chooser, Plan
from tintype.planning.transfer import freezes_all, keeps_features, plan_transfer

FEW_EPOCHS = 2
"""With so few passes augmentation costs more than it gives: MNIST after one epoch, 4 seeds, 0.9899 to 0.9912 with the
``digits`` policy, 0.9905 to 0.9913 with its shifts alone, and 0.9910 to 0.9924 (5 seeds) at twice the learning rate."""


def plan_training(plan: Plan, classes: int, training_images: int) -> Plan:
    """Choose network, augmentation and training settings, given how many images there are to train on.

    Args:
        plan: With the data settings chosen.
        classes: Number of classes.
        training_images: Images in the training split.
    """
    config = plan.config
    size = config.data.image_size
    assert size is not None
    channels = 1 if config.data.color == "grey" else 3
    chooser = Chooser(config, plan.choices)
    if config.model.backbone is not None:
        plan_transfer(chooser, training_images)
    elif config.heads is not None:
        raise ConfigError("heads: a grid of heads needs a backbone to stand on: name one with --backbone.")
    ours = config.model.name is None and config.model.layers is None and config.model.backbone is None
    if ours:
        layers = zoo.default_layers(size, channels, training_images, classes)
        reason = f"tintype's small network for {size} px and {training_images:,} training images"
        chooser.choose("model.layers", layers, reason, shown="from scratch")
    if chooser.config.fit.epochs is None:
        chooser.choose("fit.epochs", *_epochs(size, training_images))
    _plan_augmentation(chooser, size, channels)
    if chooser.config.model.flip_average is None:
        flips = bool(chooser.config.augment.flip_horizontal)
        reason = "training images are mirrored too" if flips else "training images are not mirrored"
        chooser.choose("model.flip_average", flips, reason)
    _plan_fit(chooser, size, training_images, ours)
    return chooser.plan()


def _plan_augmentation(chooser: Chooser, size: int, channels: int) -> None:
    if chooser.config.augment.policy == "auto":
        if channels == 1 and size <= SMALL_SIDE:
            chooser.choose("augment.policy", "digits", "small grey images: no mirroring, which could change the class")
        elif size <= SMALL_SIDE:
            chooser.choose("augment.policy", "light", "small colour images")
        else:
            chooser.choose("augment.policy", "photo", "photo-sized images")
        if (chooser.config.fit.epochs or 0) <= FEW_EPOCHS and not keeps_features(chooser.config):
            _plan_little_augmentation(chooser)
    resolved = chooser.config.augment.resolved()
    for name, value in resolved.model_dump().items():
        chooser.settle(f"augment.{name}", value)


def _plan_little_augmentation(chooser: Chooser) -> None:
    """Images that are hardly seen twice cannot be learnt by heart; only shifts and mirroring stay."""
    reason = f"an image is hardly seen twice: fit.epochs = {chooser.config.fit.epochs}"
    for name in ("rotation", "shear", "zoom", "brightness", "contrast"):
        if getattr(chooser.config.augment, name) is None:
            chooser.choose(f"augment.{name}", 0.0, reason)


def _plan_fit(chooser: Chooser, size: int, images: int, ours: bool) -> None:
    fit = chooser.config.fit
    if fit.optimizer == "lbfgs":
        _require_frozen(chooser.config)
        return  # no batches, no learning rate; the penalty is found by trying
    if fit.batch_size is None:
        batch = _batch_size(size, images, chooser.config.fit.epochs or 1)
        chooser.choose("fit.batch_size", batch, f"{size} px, {images:,} training images")
    if fit.optimizer is None:
        chooser.settle("fit.optimizer", "adamw")
    fit = chooser.config.fit
    if fit.learning_rate is None:
        chooser.choose("fit.learning_rate", *_learning_rate(chooser.config, size))
    if fit.weight_decay is None:
        decay = 0.05 if fit.optimizer == "adamw" else 0.0
        chooser.choose("fit.weight_decay", decay, f"the usual value for {fit.optimizer}")
    if fit.ema is None and ours and size > SMALL_SIDE:
        chooser.choose("fit.ema", 0.998, "averaged weights: steadier, at hardly any cost")
    if fit.label_smoothing is None:
        smoothing = (0.05 if size <= 40 else 0.1) if ours else 0.0
        chooser.choose(
            "fit.label_smoothing", smoothing, "steadier probabilities" if ours else "a named network's own recipe"
        )


def _require_frozen(config: RunConfig) -> None:
    if not (keeps_features(config) and freezes_all(config)) or config.model.head:
        raise ConfigError(
            "optimizer: lbfgs fits the output layer alone, on what frozen layers say: it needs a backbone with freeze "
            "= all, no head, and the feature cache. Take adamw, or leave optimizer out."
        )


def _learning_rate(config: RunConfig, size: int) -> tuple[float, str]:
    """Learning rate and reason. The figures for our own networks were found by experiment on MNIST and photos."""
    fit = config.fit
    if fit.optimizer == "adamw" and config.model.name is None and config.model.backbone is None:
        if size > 40:
            return 4e-3, "peak found best for photos"
        if (fit.epochs or 0) <= FEW_EPOCHS:
            return 2e-2, "peak found best for small images in one or two epochs"
        return 1e-2, "peak found best for small images"
    assert fit.optimizer is not None
    usual = {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-3, "adadelta": 1.0, "lbfgs": 1.0}
    return usual[fit.optimizer], f"the usual value for {fit.optimizer}"


def _batch_size(size: int, images: int, epochs: int) -> int:
    """A power of two that leaves 20 steps in an epoch and 200 in all, or the weights hardly move."""
    most = 256 if size <= 40 else 64
    fitting = max(8.0, min(images / 20, images * epochs / 200))
    return min(most, 1 << int(math.log2(fitting)))


def _epochs(size: int, images: int) -> tuple[int, str]:
    """As many epochs as show some 430,000 small or 220,000 large images, from 6 to 120."""
    shown = 430_000 if size <= 40 else 220_000
    epochs = max(6, min(120, round(shown / images)))
    return epochs, f"{images:,} training images: {epochs * images:,} shown in all"
