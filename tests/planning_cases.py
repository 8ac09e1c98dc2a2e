"""Data sets that need no files, for tests of what is chosen from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tintype.config import RunConfig
from tintype.data.cache import Headers
from tintype.data.sources import ImageIndex
from tintype.planning import plan_data, plan_training


def index_of(count: int) -> ImageIndex:
    labels = (np.arange(count) % 2).astype(np.int64)
    none = np.full(count, -1, dtype=np.int8)
    return ImageIndex(
        "folder", Path("photos"), ("a", "b"), tuple(map(str, range(count))), labels, none, None, None, "d"
    )


def headers_of(sizes: list[tuple[int, int]], modes: list[str]) -> Headers:
    widths, heights = (np.array(side, dtype=np.int32) for side in zip(*sizes, strict=True))
    return Headers(widths, heights, tuple(modes), {})


def planned(
    sizes: list[tuple[int, int]], modes: list[str], settings: dict[str, object] | None = None, images: int = 2000
) -> RunConfig:
    config = RunConfig().replace({"data.source": "photos", **(settings or {})})
    plan = plan_data(config, index_of(len(sizes)), headers_of(sizes, modes))
    return plan_training(plan, 2, images).config
