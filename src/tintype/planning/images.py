"""Size, colour and shape that images are brought to."""

from __future__ import annotations

from collections import Counter

import numpy as np

from tintype.config import RunConfig
from tintype.data.cache import Headers
from tintype.data.sources import ImageIndex
from tintype.models import zoo
from tintype.models.pretrained import usual_size
from tintype.planning.chooser import SMALL_SIDE, Chooser, Plan
from tintype.planning.transfer import plan_backbone

PHOTO_SIZE = 128
"""Side in pixels that photos are brought to; the small residual network reaches 0.91 on cats and dogs at it."""

WIDE = 2.0
"""Aspect ratio from which a centre crop would cut away half of an image."""

WIDE_SHARE = 0.02
"""Share of wide images from which all are padded. On the cats and dogs (0.9 % wide) a network from scratch reached
0.912 of 1,000 on crops, 0.901 stretched and 0.878 to 0.891 padded: bars cost resolution."""

GREY_MODES = frozenset({"1", "L", "I", "I;16", "I;16B", "I;16L", "F", "LA"})


def plan_data(config: RunConfig, index: ImageIndex, headers: Headers) -> Plan:
    """Choose image size, colour and resize policy from the files' headers.

    Args:
        config: As the user gave it.
        index: The images.
        headers: Their sizes and modes.
    """
    chooser = Chooser(config)
    readable = headers.widths > 0
    widths, heights = headers.widths[readable], headers.heights[readable]
    source = plan_backbone(chooser, widths, heights)
    name = config.model.name
    network = zoo.find(name) if name and ":" not in name else None
    if config.data.image_size is None:
        if chooser.config.model.backbone is not None:
            size = (source and source.image_size) or usual_size(chooser.config.model.backbone)
            chooser.choose("data.image_size", size, f"the size {chooser.config.model.backbone} was trained at")
        elif network is not None:
            chooser.choose("data.image_size", network.image_size, f"the size {name} was made for")
        else:
            size, reason = _image_size(widths, heights)
            chooser.choose("data.image_size", size, reason)
    if config.data.color == "auto" and chooser.config.model.backbone is not None:
        chooser.settle("data.color", "rgb")  # what pretrained networks were trained on; grey images become it
    elif config.data.color == "auto":
        modes = Counter(mode for mode, good in zip(headers.modes, readable, strict=True) if good)
        grey = set(modes) <= GREY_MODES
        seen = ", ".join(f"{count:,} {mode}" for mode, count in modes.most_common(4))
        chooser.choose("data.color", "grey" if grey else "rgb", f"the files' modes: {seen}")
    if config.data.resize == "auto":
        policy, reason = _resize_policy(widths, heights)
        chooser.choose("data.resize", policy, reason)
    chooser.settle("data.kind", index.kind)
    return chooser.plan()


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
