"""Learning-rate range test: a short training with a rising rate shows which rates a network can be trained with.

L. N. Smith, "Cyclical learning rates for training neural networks", WACV (2017), section 3.3; with the smoothing and
the stopping rule of S. Gugger, "How do you find a good learning rate" (2018).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tintype.config import AugmentConfig, FitConfig
from tintype.data.batches import train_batches
from tintype.data.cache import ImageCache
from tintype.data.features import FeatureCache
from tintype.data.split import Split
from tintype.errors import ConfigError, NonFiniteError, RunInterrupted
from tintype.models.network import Network
from tintype.records import OnProgress, silent
from tintype.runtime import Runtime
from tintype.training.fit import TrainingLoop

LOWEST_RATE, HIGHEST_RATE = 1e-6, 100.0

STEPS = 160
"""Optimiser steps; the rate grows by the same factor from each to the next, tenfold in 20 steps."""

SMOOTHING = 0.9
"""Share of the smoothed loss that each step keeps."""

_TRAILING = round(SMOOTHING / (1 - SMOOTHING))  # steps by which a moving average trails what it averages

DIVERGED = 4.0
"""The test stops where the smoothed loss is this many times its lowest so far."""

FALLEN = 0.1
"""Learning has begun where the smoothed loss has fallen by this share of all that it falls."""

PROPOSED_BELOW_LOWEST = 3.0
"""The proposal is the rate at the lowest loss over this: at the lowest itself training is about to diverge.

That is a little above the usual tenth of the rate at which the moving average is lowest, since the average trails by
nine steps, a factor of 2.8. Sweeps in half decades of small convolutional networks (100 steps, one seed each): MNIST
was best at 0.0032 with SGD and with Adam, where this proposes 0.0045 and 0.0028; CIFAR-10 at 0.0032 with AdamW and from
0.01 to 0.1 with SGD, where it proposes 0.0018 and 0.014. With Adadelta, whose steps grow by themselves, it proposes
0.16, and 1 to 10 were best. Of the factors 10, 4 and 3 this one was chosen on these same five cases, so it is a rule of
thumb and no finding. The steepest fall of the loss, the other usual rule, was off by a factor of 200 in one of them.
"""


@dataclass(frozen=True)
class RangeTest:
    """What a range test saw. Plain values alone, so that it can be written as JSON.

    Attributes:
        rates: Learning rate of each step that was taken, rising.
        losses: Mean training loss of the step's batch, nats, before the step.
        smoothed: The losses as a moving average.
        proposed: A learning rate to train with; None where the loss never fell.
        low: From this rate on the network learns; None where the loss never fell.
        high: The rate with the lowest smoothed loss: above it training gets worse; None where the loss never fell.
        diverged_at: The rate at which the test was stopped; None where it went through all rates.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    proposed: float | None
    low: float | None
    high: float | None
    diverged_at: float | None


def range_test(
    network: Network,
    cache: ImageCache | FeatureCache,
    split: Split,
    config: FitConfig,
    augment: AugmentConfig,
    runtime: Runtime,
    *,
    steps: int = STEPS,
    on_progress: OnProgress = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> RangeTest:
    """Train a copy of the network with an exponentially rising rate until the loss runs away.

    Args:
        network: Its weights are left as they are.
        cache: The decoded images, or what the frozen layers before this network said of them.
        split: Its training images are used.
        config: As for the run: optimiser, batch size, penalties. Rate, schedule and epochs do not count.
        augment: As for the run.
        runtime: Device, threads, precision and seed.
        steps: Steps from :data:`LOWEST_RATE` to :data:`HIGHEST_RATE`, at least 2.
        on_progress: Called after each step.
        should_stop: Asked after each step.

    Raises:
        ConfigError: The settings train without a learning rate.
        RunInterrupted: ``should_stop`` said so.
    """
    if config.optimizer == "lbfgs":
        raise ConfigError("lbfgs has no learning rate to test. Take adamw or sgd.")
    assert config.batch_size is not None
    rates = np.geomspace(LOWEST_RATE, HIGHEST_RATE, steps)
    plain = config.model_copy(
        update={"epochs": 1, "steps_per_epoch": steps, "schedule": "constant", "warmup_epochs": 0.0, "ema": None}
    )
    settings = [plain.model_copy(update={"learning_rate": rate}) for rate in rates.tolist()]
    loop = TrainingLoop(copy.deepcopy(network), cache, split, settings[0], augment, runtime, None)
    loop.network.train()
    batches = train_batches(
        cache, split.train, loop.batch_size, augment, runtime.seed, 0, steps, runtime.device, threads=runtime.threads
    )
    losses: list[float] = []
    for setting, batch in zip(settings, batches, strict=True):
        loop.config = setting
        try:
            loss_sum, _ = loop.train_step(batch)
        except NonFiniteError:
            break
        loss = loss_sum.item() / len(batch.indices)
        if not math.isfinite(loss):
            break
        losses.append(loss)
        on_progress("learning-rate range test", len(losses), steps)
        if should_stop():
            raise RunInterrupted(f"stopped in the range test, after step {len(losses)} of {steps}.")
        if _has_diverged(smooth(losses)):
            break
        loop.progress.step += 1
    return read_off(rates, losses)


def smooth(losses: Sequence[float]) -> NDArray[np.float64]:
    """Exponential moving average, its start corrected for having begun at 0."""
    averages, average = [], 0.0
    for number, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        averages.append(average / (1 - SMOOTHING**number))
    return np.array(averages)


def read_off(rates: NDArray[np.float64], losses: Sequence[float]) -> RangeTest:
    """What the losses of a range test say.

    Args:
        rates: Of every step that was planned, rising.
        losses: Of the steps that were taken; fewer where the test was stopped.
    """
    smoothed = smooth(losses)
    taken = rates[: len(losses)].tolist()
    diverged_at = float(rates[len(losses)]) if len(losses) < len(rates) else None
    if len(losses) and _has_diverged(smoothed):
        diverged_at = taken[-1]
    proposed = low = high = None
    start = float(np.mean(losses[: _TRAILING + 1])) if len(losses) else 0.0
    if len(losses) > _TRAILING and (fallen := start - float(smoothed[_TRAILING:].min())) > _noise(losses):
        lowest = _TRAILING + int(smoothed[_TRAILING:].argmin())
        high = taken[lowest - _TRAILING]
        begun = 1 + int(np.flatnonzero(smoothed[:lowest] > start - FALLEN * fallen)[-1])
        low = min(taken[max(begun - _TRAILING, 0)], high)
        proposed = max(high / PROPOSED_BELOW_LOWEST, low)
    return RangeTest(tuple(taken), tuple(losses), tuple(smoothed.tolist()), proposed, low, high, diverged_at)


def _has_diverged(smoothed: NDArray[np.float64]) -> bool:
    return bool(smoothed[-1] > DIVERGED * smoothed.min())


def _noise(losses: Sequence[float]) -> float:
    """How far the smoothed loss may fall below that of the first steps by chance.

    Four standard deviations of the difference between the moving average and the mean of the first steps; fewer would
    not do, as the lowest of many steps is taken.
    """
    # The median of the differences, since those of a diverging end are no noise (1.05 makes it a deviation).
    deviation = float(np.median(np.abs(np.diff(losses)))) * 1.05
    return 4 * deviation * math.sqrt((1 - SMOOTHING) / (1 + SMOOTHING) + 1 / (_TRAILING + 1))
