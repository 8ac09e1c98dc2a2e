"""How many steps fit into a number of seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

FORWARD_SHARE = 1 / 3
"""Of a training step's time that classifying as many images takes: the backward pass costs twice the forward pass."""

LEAST_STEPS = 8
"""Fewer say nothing about a network from scratch."""

FINE_TUNING_STEPS = 50
"""Fewer say nothing about a pretrained one, which a new head leads astray at first. MobileNetV2 on 20 classes: 31
steps of 32 images gave nothing that was as good as the head with which they began (2026-11-22, n = 2)."""

MANY_EPOCHS = 8
"""From here on a whole number of epochs is near enough."""

NEARLY_WHOLE = 0.92
"""Share of the images from which an epoch may be called one."""


@dataclass(frozen=True)
class Pace:
    """How fast a candidate trains.

    Attributes:
        per_image: Seconds of a training step for each image.
        images: Training images.
        validation: Validation images.
        batch_size: Images a step.
        least_steps: Fewer say nothing about such a network; an epoch at most.
    """

    per_image: float
    images: int
    validation: int
    batch_size: int
    least_steps: int = LEAST_STEPS

    @property
    def steps(self) -> int:
        """In an epoch."""
        return max(1, self.images // self.batch_size)

    @property
    def epoch_seconds(self) -> float:
        """Of training once on every image and validating."""
        return self.per_image * self.steps * self.batch_size + self.validation_seconds

    @property
    def validation_seconds(self) -> float:
        """Of validating once."""
        return self.per_image * FORWARD_SHARE * self.validation

    def seconds(self, epochs: float) -> float:
        """That so many epochs take."""
        return epochs * self.epoch_seconds

    def settings(self, seconds: float) -> dict[str, Any]:
        """``fit.epochs`` and ``fit.steps_per_epoch`` that take so long, by dotted name.

        Args:
            seconds: Of training.
        """
        wanted = seconds / self.epoch_seconds
        epochs = max(1, math.ceil(wanted - 0.05))
        if wanted >= MANY_EPOCHS and wanted < NEARLY_WHOLE * epochs:
            return {"fit.epochs": int(wanted), "fit.steps_per_epoch": None}
        # Shorter epochs end with the same validation as whole ones.
        training = seconds - epochs * self.validation_seconds
        steps = round(training / (epochs * self.per_image * self.batch_size))
        steps = max(min(self.least_steps, self.steps), min(self.steps, steps))
        return {"fit.epochs": epochs, "fit.steps_per_epoch": None if steps == self.steps else steps}

    @property
    def least_seconds(self) -> float:
        """Of the shortest training that says anything."""
        return min(self.least_steps, self.steps) * self.batch_size * self.per_image + self.validation_seconds
