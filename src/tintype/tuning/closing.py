"""What judging the winner takes: how many images must be classified, how many should, and for how long."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tintype.evaluation.predict import predict
from tintype.preparing import build
from tintype.tuning.trainer import Trainer

TRAINING_IMAGES = 2_000
"""Most training images that the winner classifies: enough to see overfitting, for which two points more or less do."""

FEWEST_TRAINING_IMAGES = 200
"""As many where time is short: they still tell 100 % from 90."""

EXPLAINED = 300
"""Images that a look inside and the maps of mistakes cost as much as, to classify."""

CLOSING_SECONDS = 4.0
"""What judging the winner and its report take besides: shortcuts, figures, pages."""

SMALL_SHARE = 0.1
"""Share of a budget below which judging may take as long as it likes."""

TIMED_IMAGES = (8, 64)
"""Fewest and most images by which it is found out how long classifying takes."""

TIMED_SECONDS = 1.0
"""That this may take, once kernels are built."""


@dataclass(frozen=True)
class Closing:
    """From trained weights to the report.

    Attributes:
        per_image: Seconds for classifying an image; 0 where what frozen layers said of all images is at hand.
        needed: Images that are classified in any case: test and validation images, and those that are explained.
        training: Training images there are.
    """

    per_image: float
    needed: int
    training: int

    def seconds(self, training_images: int) -> float:
        """With so many training images at most."""
        return CLOSING_SECONDS + self.per_image * (self.needed + min(self.training, training_images))

    @property
    def least(self) -> float:
        """Seconds in any case."""
        return self.seconds(FEWEST_TRAINING_IMAGES)

    def planned(self, budget: float | None) -> float:
        """Seconds to keep of a budget: for few training images, unless more take a small part of it."""
        most = self.seconds(TRAINING_IMAGES)
        return most if budget is None else min(most, max(self.least, SMALL_SHARE * budget))

    def training_images(self, seconds: float) -> int:
        """How many of them can be classified in so much time, within the limits."""
        if self.per_image <= 0:
            return TRAINING_IMAGES
        fitting = (seconds - self.seconds(0)) / self.per_image
        return int(max(FEWEST_TRAINING_IMAGES, min(TRAINING_IMAGES, fitting)))


def measure_closing(trainer: Trainer, changes: Mapping[str, Any]) -> Closing:
    """What judging a network will take, by the time that some images take now, with as many threads as do best.

    Args:
        trainer: Of the search.
        changes: The network's settings, by dotted name.
    """
    data = trainer.prepared(changes, with_test=True)
    built, split = build(data), data.split
    flip = bool(data.plan.config.model.flip_average)
    needed = len(split.test) + len(split.validation) + EXPLAINED
    if built.cut is not None and not flip:
        return Closing(0.0, needed, len(split.train))

    def per_image(images: int) -> float:
        timed = split.validation[:images]
        began = time.monotonic()
        predict(built.network, data.cache, timed, built.runtime, "validation", flip_average=flip)
        return (time.monotonic() - began) / len(timed)

    first, most = TIMED_IMAGES  # the first ones build kernels
    images = int(max(first, min(most, TIMED_SECONDS / per_image(first))))
    return Closing(trainer.threads.choose(lambda: per_image(images)), needed, len(split.train))
