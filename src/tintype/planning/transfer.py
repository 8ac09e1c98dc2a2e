"""A pretrained backbone: whether to take one, where its weights come from, and how to train on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tintype.config import RunConfig
from tintype.errors import ConfigError
from tintype.models.pretrained import WeightsSource, available, find_weights, read_source
from tintype.planning.chooser import SMALL_SIDE, Chooser

DEFAULT_BACKBONE = "mobilenetv2_100"
"""For photos without another wish: small enough for a laptop, and good enough for 0.99 on cats and dogs."""

VIEWS = 8
"""Versions of each training image that frozen layers see where augmentation is asked for."""

LOGISTIC_ROWS = 100_000
"""More images (views counted each) than this are learnt in batches rather than all at once."""

HEAD_EPOCHS = 30
"""Epochs for a head on kept features, which cost next to nothing."""

FINE_TUNING_EPOCHS = 10


def plan_backbone(chooser: Chooser, widths: np.ndarray, heights: np.ndarray) -> WeightsSource | None:
    """Settle the backbone and where its weights come from; photos get a pretrained one where there are weights."""
    model = chooser.config.model
    nothing_named = model.backbone is None and model.name is None and model.layers is None
    if nothing_named and model.weights in (None, "auto"):
        photos = len(widths) and float(np.median(np.minimum(widths, heights))) > SMALL_SIDE
        found = available(DEFAULT_BACKBONE) if photos else None
        if found is not None:
            reason = f"pretrained on a million photos, so that it needs few of yours; {found.description}"
            chooser.choose("model.backbone", DEFAULT_BACKBONE, reason)
    elif nothing_named and model.weights is not None and model.weights != "none":
        architecture = read_source(Path(model.weights).expanduser()).architecture
        if architecture is not None:
            chooser.choose("model.backbone", architecture, "what the weights file was made for")
    model = chooser.config.model
    if model.backbone is None:
        if model.weights == "auto":
            raise ConfigError("weights: auto finds pretrained weights for a backbone: name one with --backbone.")
        return None
    chooser.settle("model.weights", _absolute(model.weights or "auto"))
    source = find_weights(model.backbone, chooser.config.model.weights)
    if source is not None and model.backbone_arguments is None and source.arguments:
        chooser.settle("model.backbone_arguments", source.arguments)
    return source


def _absolute(weights: str) -> str:
    """A run can be repeated from another folder."""
    return weights if weights in ("auto", "none") else str(Path(weights).expanduser().absolute())


def plan_transfer(chooser: Chooser, images: int) -> None:
    """Choose what is frozen, how the rest is trained, and which views of the images the frozen layers see.

    Args:
        chooser: With a backbone named and its weights settled.
        images: Training images.
    """
    config = chooser.config
    pretrained = config.model.weights != "none"
    if config.model.freeze is None and config.model.depth is None:
        chooser.settle("model.freeze", "all" if pretrained else "none")
    config = chooser.config
    if config.heads is not None and (not (freezes_all(config) and keeps_features(config)) or config.model.head):
        raise ConfigError(
            "heads: a grid of heads is trained on what frozen layers say: it needs a backbone with freeze = all, no "
            "head of its own, and the feature cache."
        )
    _plan_views(chooser)
    if config.fit.optimizer is None and _is_logistic(chooser.config, images):
        reason = "logistic regression on the backbone's features: exact, and no learning rate to choose"
        chooser.choose("fit.optimizer", "lbfgs", reason)
    if config.fit.epochs is None:
        _plan_epochs(chooser, pretrained)
    if config.fit.backbone_rate is None:
        chooser.settle("fit.backbone_rate", 0.1 if pretrained else 1.0)
    if config.fit.head_epochs is None:
        first = pretrained and not freezes_all(chooser.config)
        epochs = 0 if not first else 1 if config.model.head is None else 3
        if epochs:
            chooser.choose("fit.head_epochs", epochs, "a random head would spoil what the backbone knows")
        else:
            chooser.settle("fit.head_epochs", 0)


def freezes_all(config: RunConfig) -> bool:
    """True when the settings say that no layer of the backbone trains."""
    return config.model.freeze == "all" or config.model.depth == 0


def keeps_features(config: RunConfig) -> bool:
    """True when frozen layers are to be run once."""
    some = config.model.freeze not in (None, "none", 0) or config.model.depth not in (None, "all")
    return config.model.backbone is not None and some and config.fit.feature_cache


def _is_logistic(config: RunConfig, images: int) -> bool:
    """True when the output layer alone trains and nothing was said about how."""
    fit = config.fit
    nothing_said = fit.epochs is None and fit.learning_rate is None and fit.batch_size is None
    plain = not config.model.head and config.heads is None
    few = images * (fit.views or 1) <= LOGISTIC_ROWS
    return freezes_all(config) and keeps_features(config) and nothing_said and plain and few


def _plan_views(chooser: Chooser) -> None:
    config = chooser.config
    policy, views = config.augment.policy, config.fit.views
    if not keeps_features(config):
        if views is not None and views > 1:
            chooser.choose("fit.views", 1, "nothing is frozen and kept, so that each epoch changes the images anew")
        return
    if views is None:
        plain = policy == "none" or (policy == "auto" and freezes_all(config))
        reason = (
            "the images as they are" if plain else "each image as it is and changed in 7 ways; frozen layers run once"
        )
        chooser.choose("fit.views", 1 if plain else VIEWS, reason)
    elif views == 1 and policy not in ("none", "auto"):
        raise ConfigError(
            f"views: frozen layers see each image once and unchanged with 1. For --augment {policy} give --views "
            f"{VIEWS}, or --no-feature-cache."
        )
    elif views > 1 and policy == "none":
        raise ConfigError(
            f"views: {views} views of an image are all the same with --augment none. Leave one of them out."
        )
    if chooser.config.fit.views == 1:
        chooser.settle("augment.policy", "none")
    if config.model.flip_average is None:
        chooser.settle("model.flip_average", False)


def _plan_epochs(chooser: Chooser, pretrained: bool) -> None:
    if chooser.config.fit.optimizer == "lbfgs":
        chooser.settle("fit.epochs", 1)
    elif freezes_all(chooser.config):
        chooser.choose("fit.epochs", HEAD_EPOCHS, "the head alone trains, on kept features")
    elif pretrained:
        chooser.choose("fit.epochs", FINE_TUNING_EPOCHS, "fine-tuning starts from what the backbone knows")
