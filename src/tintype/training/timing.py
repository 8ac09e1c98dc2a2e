"""How long a network takes to train, found out by training it for a moment."""

from __future__ import annotations

import copy
import statistics
import time

from tintype.config import AugmentConfig, FitConfig
from tintype.data.batches import train_batches
from tintype.data.cache import ImageCache
from tintype.data.features import FeatureCache
from tintype.data.split import Split
from tintype.models.network import Network
from tintype.runtime import Runtime
from tintype.training.fit import TrainingLoop

MOST_STEPS = 5


def seconds_per_image(
    network: Network,
    cache: ImageCache | FeatureCache,
    split: Split,
    config: FitConfig,
    augment: AugmentConfig,
    runtime: Runtime,
    most_seconds: float,
) -> float:
    """Seconds of the training loop for each image: median of a few real steps, the first of which does not count.

    The network is copied, so its weights stay as they are.

    Args:
        network: What would be trained.
        cache: What it would see.
        split: Training images.
        config: Every number chosen.
        augment: Every number chosen.
        runtime: Where it would be computed.
        most_seconds: No further step is timed after so long, from the second on.

    Raises:
        NonFiniteError: The loss is not finite in one of the first steps.
    """
    short = config.model_copy(update={"epochs": 1, "steps_per_epoch": 1 + MOST_STEPS})
    loop = TrainingLoop(copy.deepcopy(network), cache, split, short, augment, runtime, None)
    loop.network.train()
    batches = train_batches(
        cache, split.train, loop.batch_size, augment, runtime.seed, 0, loop.steps, runtime.device,
        threads=runtime.threads,
    )  # fmt: skip
    began = before = time.perf_counter()
    seconds = []
    for batch in batches:
        loss_sum, _ = loop.train_step(batch)
        loss_sum.item()  # on a GPU the step ends here
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
        if len(seconds) > 1 and now - began > most_seconds:
            break
    return statistics.median(seconds[1:] or seconds) / loop.batch_size
