"""Which space suits the images, the weights on this machine and the user's wishes."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel

from tintype.config import RunConfig
from tintype.data.cache import Headers
from tintype.errors import ConfigError
from tintype.models.pretrained import WeightsSource, usual_size
from tintype.planning import plan_data
from tintype.planning.chooser import SMALL_SIDE
from tintype.preparing import Prepared
from tintype.tuning.ownspace import OwnSpace
from tintype.tuning.scratch import NETWORKS, ScratchSpace
from tintype.tuning.space import Images, Space
from tintype.tuning.transferspace import TransferSpace, backbones_at_hand

SMALLEST_RATIO = 0.5
"""A backbone made for images of less than half their side would lose most of what they show."""

LARGEST_RATIO = 4.0
"""Small images may be enlarged so many times for a backbone: 64 px to the usual 224 and 256 px."""

LARGEST_RATIO_AT_SIZE = 2.0
"""Where the user says at which size the images are used, none are enlarged, and a backbone made for larger ones sees
less of everything than it knows."""

_CHOSEN_BY_TRANSFER = (
    "model.freeze", "model.depth", "model.head", "heads", "fit.views", "fit.batch_size", "fit.optimizer",
    "fit.learning_rate", "fit.backbone_rate", "fit.layer_decay", "fit.head_epochs",
)  # fmt: skip


def choose_space(data: Prepared, wanted: RunConfig, own: OwnSpace | None = None) -> Space:
    """The space to search, with the reason.

    Args:
        data: The images, prepared as ``wanted`` says.
        wanted: Settings as the user gave them, with nothing chosen yet.
        own: A space of the user's, which is then the one.

    Raises:
        ConfigError: The user has set what the space varies.
    """
    given = given_settings(wanted)
    images = _images_from_scratch(data, wanted)
    if own is not None:
        _require_free(own, given)
        return own.on(images)
    backbone = data.plan.config.model.backbone
    named = not given.isdisjoint({"model.backbone", "model.weights"})
    if backbone is not None and named and wanted.model.weights != "none":
        return _transfer([backbone], data, given, wanted, "it is the backbone that was named")
    if not given.isdisjoint(NETWORKS):
        return ScratchSpace(images, "the network is given, so that its recipe alone is searched", given)
    if wanted.model.weights == "none":
        return ScratchSpace(images, "no pretrained weights are wanted", given)
    side = _side(data)
    if _is_small_and_grey(data):
        return ScratchSpace(images, "small grey images, on which networks from scratch train in seconds", given)
    at_hand = backbones_at_hand()
    names = [source.architecture for source in at_hand if _suits(source, side, wanted) if source.architecture]
    if names:
        made_for = "photos" if side > SMALL_SIDE else f"images of {round(side)} px"
        suited = f"there are pretrained weights that suit {made_for}: {', '.join(names)}"
        return _transfer(names, data, given, wanted, suited)
    reason = "there are no pretrained weights on this machine"
    if at_hand:
        reason = f"no pretrained network on this machine was made for images of about {round(side)} px"
    return ScratchSpace(images, reason, given)


def given_settings(config: RunConfig) -> frozenset[str]:
    """Dotted names of the settings that differ from their defaults, which the user must have given."""

    def differing(one: Any, default: Any, prefix: str) -> set[str]:
        if not (isinstance(one, BaseModel) and isinstance(default, BaseModel)):
            return set() if one == default else {prefix}
        return {
            name
            for field in type(one).model_fields
            for name in differing(getattr(one, field), getattr(default, field), f"{prefix}.{field}".lstrip("."))
        }

    return frozenset(differing(config, RunConfig(), ""))


def _images_from_scratch(data: Prepared, wanted: RunConfig) -> Images:
    """The images as a network from scratch would get them, which a backbone may want larger and in colour."""
    cache = data.cache
    headers = Headers(cache.widths, cache.heights, cache.modes, {})
    free = wanted.replace({"model.backbone": None, "model.weights": "none"})
    config = plan_data(free, cache.index, headers).config.data
    assert config.image_size is not None
    channels = 1 if config.color == "grey" else 3
    return Images(config.image_size, channels, len(data.split.train), len(cache.index.classes))


def _suits(source: WeightsSource, side: float, wanted: RunConfig) -> bool:
    assert source.architecture is not None
    made_for = source.image_size or usual_size(source.architecture)
    if wanted.data.image_size is not None:
        return SMALLEST_RATIO <= made_for / wanted.data.image_size <= LARGEST_RATIO_AT_SIZE
    # Photos of any size are brought to what their backbone was made for, if that is no thumbnail.
    return SMALLEST_RATIO * min(side, 2 * SMALL_SIDE) <= made_for <= LARGEST_RATIO * side


def _transfer(names: list[str], data: Prepared, given: frozenset[str], wanted: RunConfig, reason: str) -> TransferSpace:
    heads_only = wanted.model.freeze == "all"
    varied = (name for name in _CHOSEN_BY_TRANSFER if not (heads_only and name == "model.freeze"))
    chosen = next((name for name in varied if name in given), None)
    if chosen is not None:
        raise ConfigError(
            f"{chosen} is what a search on pretrained networks varies. Leave it out, or write a space of your own "
            "(--space FILE)."
        )
    reason = f"{reason}; heads alone, since nothing else shall train" if heads_only else reason
    side = math.inf if "data.image_size" in given else _side(data)
    return TransferSpace(names, len(data.split.train), _policies(data, given), reason, heads_only, side)


def _policies(data: Prepared, given: frozenset[str]) -> tuple[str, ...]:
    """Ways in which training images may be changed, the strongest last: the user's, or what does not change a class."""
    config = data.plan.config
    if "augment.policy" in given:
        return () if config.augment.policy == "none" else (config.augment.policy,)
    return ("digits",) if _is_small_and_grey(data) else ("light", "photo")


def _side(data: Prepared) -> float:
    """Shorter side of the files in pixels."""
    return min(data.statistics.width, data.statistics.height)


def _is_small_and_grey(data: Prepared) -> bool:
    """Like digits, also where the files could hold colour."""
    return data.statistics.color == 0 and _side(data) <= SMALL_SIDE


def _require_free(own: OwnSpace, given: frozenset[str]) -> None:
    both = sorted(given & own.parameters.keys())
    if both:
        raise ConfigError(f"{both[0]} is searched by the space, so it cannot be set too. Change it in the file.")
    network = next((name for name in NETWORKS if own.architectures and name in given), None)
    if network is not None:
        raise ConfigError(f"the space draws architectures, so {network} cannot be set too. Leave it out.")
