"""What the user did not set is chosen here from the data, and every choice comes with its reason."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from tintype.config import RunConfig
from tintype.data.cache import Headers
from tintype.data.sources import ImageIndex
from tintype.models import zoo

PHOTO_SIZE = 128
"""Side in pixels that photos are brought to; the small residual network reaches 0.91 on cats and dogs at it."""

FEW_EPOCHS = 2
"""With so few passes augmentation costs more than it gives: MNIST after one epoch, 4 seeds, 0.9899 to 0.9912 with the
``digits`` policy, 0.9905 to 0.9913 with its shifts alone, and 0.9910 to 0.9924 (5 seeds) at twice the learning rate."""

SMALL_SIDE = 64
"""Images whose shorter side is at most this stay at their own size."""

WIDE = 2.0
"""Aspect ratio from which a centre crop would cut away half of an image."""

WIDE_SHARE = 0.02
"""Share of wide images from which all are padded. On the cats and dogs (0.9 % wide) a network from scratch reached
0.912 of 1,000 on crops, 0.901 stretched and 0.878 to 0.891 padded: bars cost resolution."""


@dataclass(frozen=True)
class Plan:
    """Settings with nothing left open, and what was chosen: (setting, value, reason)."""

    config: RunConfig
    choices: tuple[tuple[str, str, str], ...]


def plan_data(config: RunConfig, index: ImageIndex, headers: Headers) -> Plan:
    """Choose image size, colour and resize policy from the files' headers.

    Args:
        config: As the user gave it.
        index: The images.
        headers: Their sizes and modes.
    """
    chooser = _Chooser(config)
    name = config.model.name
    network = zoo.find(name) if name and ":" not in name else None
    readable = headers.widths > 0
    widths, heights = headers.widths[readable], headers.heights[readable]
    if config.data.image_size is None:
        if network is not None:
            chooser.choose("data.image_size", network.image_size, f"the size {name} was made for")
        else:
            size, reason = _image_size(widths, heights)
            chooser.choose("data.image_size", size, reason)
    if config.data.color == "auto":
        modes = Counter(mode for mode, good in zip(headers.modes, readable, strict=True) if good)
        grey = set(modes) <= GREY_MODES
        seen = ", ".join(f"{count:,} {mode}" for mode, count in modes.most_common(4))
        chooser.choose("data.color", "grey" if grey else "rgb", f"the files' modes: {seen}")
    if config.data.resize == "auto":
        policy, reason = _resize_policy(widths, heights)
        chooser.choose("data.resize", policy, reason)
    chooser.settle("data.kind", index.kind)
    return chooser.plan()


GREY_MODES = frozenset({"1", "L", "I", "I;16", "I;16B", "I;16L", "F", "LA"})


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
    chooser = _Chooser(config, plan.choices)
    ours = config.model.name is None and config.model.layers is None
    if ours:
        layers = zoo.default_layers(size, channels, training_images, classes)
        reason = f"tintype's small network for {size} px and {training_images:,} training images"
        chooser.choose("model.layers", layers, reason, shown="from scratch")
    if config.fit.epochs is None:
        chooser.choose("fit.epochs", *_epochs(size, training_images))
    _plan_augmentation(chooser, size, channels)
    if config.model.flip_average is None:
        flips = bool(chooser.config.augment.flip_horizontal)
        reason = "training images are mirrored too" if flips else "training images are not mirrored"
        chooser.choose("model.flip_average", flips, reason)
    _plan_fit(chooser, size, training_images, ours)
    return chooser.plan()


def _plan_augmentation(chooser: _Chooser, size: int, channels: int) -> None:
    if chooser.config.augment.policy == "auto":
        if channels == 1 and size <= SMALL_SIDE:
            chooser.choose("augment.policy", "digits", "small grey images: no mirroring, which could change the class")
        elif size <= SMALL_SIDE:
            chooser.choose("augment.policy", "light", "small colour images")
        else:
            chooser.choose("augment.policy", "photo", "photo-sized images")
        if (chooser.config.fit.epochs or 0) <= FEW_EPOCHS:
            _plan_little_augmentation(chooser)
    resolved = chooser.config.augment.resolved()
    for name, value in resolved.model_dump().items():
        chooser.settle(f"augment.{name}", value)


def _plan_little_augmentation(chooser: _Chooser) -> None:
    """Images that are hardly seen twice cannot be learnt by heart; only shifts and mirroring stay."""
    for name in ("rotation", "shear", "zoom", "brightness", "contrast"):
        if getattr(chooser.config.augment, name) is None:
            chooser.choose(f"augment.{name}", 0.0, f"{chooser.config.fit.epochs} epochs show an image hardly twice")


def _plan_fit(chooser: _Chooser, size: int, images: int, ours: bool) -> None:
    fit = chooser.config.fit
    if fit.batch_size is None:
        batch = _batch_size(size, images, chooser.config.fit.epochs or 1)
        chooser.choose("fit.batch_size", batch, f"{size} px, {images:,} training images")
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


def _learning_rate(config: RunConfig, size: int) -> tuple[float, str]:
    """Learning rate and reason. The figures for our own networks were found by experiment on MNIST and photos."""
    fit = config.fit
    if fit.optimizer == "adamw" and config.model.name is None:
        if size > 40:
            return 4e-3, "peak found best for photos"
        if (fit.epochs or 0) <= FEW_EPOCHS:
            return 2e-2, "peak found best for small images in one or two epochs"
        return 1e-2, "peak found best for small images"
    usual = {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-3, "adadelta": 1.0}
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


def _image_size(widths: np.ndarray, heights: np.ndarray) -> tuple[int, str]:
    sides = np.minimum(widths, heights)
    median = int(np.median(sides))
    if median <= SMALL_SIDE:
        return median, f"the files' own size ({median} px, median of the shorter side)"
    size = min(PHOTO_SIZE, median // 16 * 16)
    return size, f"photos (shorter side {median} px, median): small enough to train on a laptop"


def _resize_policy(widths: np.ndarray, heights: np.ndarray) -> tuple[str, str]:
    longer, shorter = np.maximum(widths, heights), np.minimum(widths, heights)
    ratios = longer / shorter
    if (ratios < 1.02).all():
        return "stretch", "all images are square"
    wide = float(np.mean(ratios > WIDE))
    if wide > WIDE_SHARE:
        return "pad", f"{wide:.0%} of the images are more than {WIDE:g} times longer than wide: a crop would halve them"
    cut = f"a centre crop keeps {np.mean(shorter / longer):.0%} of an image on average"
    return "crop", f"{cut}, less than half of {wide:.1%} of them; --resize pad keeps all"


class _Chooser:
    """Collects choices; a setting that the user gave is never asked about."""

    def __init__(self, config: RunConfig, choices: tuple[tuple[str, str, str], ...] = ()) -> None:
        self.config = config
        self._choices = list(choices)

    def choose(self, setting: str, value: object, reason: str, shown: str | None = None) -> None:
        """Set a value and say why."""
        self.settle(setting, value)
        self._choices.append((setting, str(value) if shown is None else shown, reason))

    def settle(self, setting: str, value: object) -> None:
        """Set a value that follows from others."""
        self.config = self.config.replace({setting: value})

    def plan(self) -> Plan:
        """The settings and all choices."""
        return Plan(self.config, tuple(self._choices))
