"""What one training of a candidate gave."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tintype.evaluation.stats import wilson
from tintype.records import Interval


@dataclass(frozen=True)
class Score:
    """A candidate that was trained.

    Attributes:
        accuracy: Share of the validation images that are right.
        loss: Mean cross-entropy on them, in nats.
        right: (V,) whether each of them is.
        seconds: Of training and validating.
        parameters: Of the network.
        epochs: Passes over the training images.
        image_size: Side in pixels.
    """

    accuracy: float
    loss: float
    right: NDArray[np.bool_]
    seconds: float
    parameters: int
    epochs: float
    image_size: int

    @property
    def key(self) -> tuple[float, float]:
        """Sorts the best last: by accuracy, then by loss."""
        return self.accuracy, -self.loss

    @property
    def interval(self) -> Interval:
        """Wilson's, of the accuracy."""
        return wilson(int(self.right.sum()), len(self.right))


@dataclass(frozen=True)
class Failed:
    """A candidate that could not be trained.

    Attributes:
        cause: Why, in one line.
        is_slow: It was not worth its time, which says something about its settings.
        needs: Seconds of the shortest training that it could have; 0 where that is not known.
    """

    cause: str
    is_slow: bool = False
    needs: float = 0.0
