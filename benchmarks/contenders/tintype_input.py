"""tintype: the cat and dog photos from the files to augmented batches, as `tintype train` does it.

Measures the first epoch (finding the files, reading their headers and building the cache included) and the mean
rate of the epochs after it. tintype's batches are uint8, because its networks scale and standardise their input
themselves; ``--float32`` adds that conversion to the batches, which the peers' batches have behind them.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch

import tintype
from tintype.config import AugmentConfig, DataConfig
from tintype.data.batches import train_batches
from tintype.data.cache import ImageCache, build_cache, scan_headers
from tintype.data.sources import read_index
from tintype.runtime import Runtime, start_runtime

SIZE, BATCH = 180, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with cats_dogs/train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm-epochs", type=int, default=2)
    parser.add_argument("--float32", action="store_true", help="count the conversion to 0..1 as well")
    arguments = parser.parse_args()
    augment = AugmentConfig(
        policy="none", rotation=15, shear=5, zoom=0.2, shift=0.1, flip_horizontal=True, fill="nearest"
    ).resolved()
    runtime = start_runtime("cpu", None, arguments.seed)

    begin = time.perf_counter()
    source = f"{arguments.data}/cats_dogs/train"
    config = DataConfig(source=source, image_size=SIZE, color="rgb", resize="stretch")
    index = read_index(config)
    scan_headers(index, config)
    cache = build_cache(index, config)
    built = time.perf_counter() - begin
    assert cache.was_built
    images = take_epoch(cache, augment, runtime, 0, arguments.float32)
    # tintype leaves an incomplete last batch out; its share of the time is added.
    first = built + (time.perf_counter() - begin - built) * len(index) / images

    begin = time.perf_counter()
    images = sum(take_epoch(cache, augment, runtime, 1 + n, arguments.float32) for n in range(arguments.warm_epochs))
    seconds = time.perf_counter() - begin
    print(
        json.dumps(
            {
                "measures": {"warm_images_per_second": images / seconds, "first_epoch_seconds": first},
                "cache_build_seconds": built,
                "versions": {"tintype": tintype.__version__, "torch": torch.__version__},
            }
        )
    )


def take_epoch(cache: ImageCache, augment: AugmentConfig, runtime: Runtime, epoch: int, to_float: bool) -> int:
    """Take every batch once; gives the number of images."""
    subset = np.arange(len(cache.index))
    count = 0
    batches = train_batches(
        cache, subset, BATCH, augment, runtime.seed, epoch, None, runtime.device, threads=runtime.threads
    )
    for batch in batches:
        images = batch.images.float().mul_(1 / 255) if to_float else batch.images
        assert images.shape == (BATCH, 3, SIZE, SIZE)
        assert len(batch.labels) == BATCH
        count += BATCH
    return count


if __name__ == "__main__":
    main()
