"""The training images that a network finds most like each of its mistakes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tintype.data.cache import ImageCache
from tintype.data.thumbnails import Thumbnail, make_thumbnail
from tintype.evaluation.neighbours import nearest
from tintype.training.layer_features import Reading

MISTAKES = 24
NEIGHBOURS = 3
_SIDE = 112
_USUAL_SAMPLE = 1_000


@dataclass(frozen=True)
class Lookalike:
    """A training image that is like a mistake.

    Attributes:
        path: Identifier.
        label: Its class.
        distance: 1 minus the cosine between the features, 0 to 2.
        picture: Small.
    """

    path: str
    label: str
    distance: float
    picture: Thumbnail


@dataclass(frozen=True)
class ExplainedMistake:
    """A mistake with the training images that are most like it.

    Attributes:
        path: Identifier.
        label: Its class.
        predicted: The answer.
        confidence: Its probability.
        picture: As the network saw it.
        lookalikes: The nearest first.
    """

    path: str
    label: str
    predicted: str
    confidence: float
    picture: Thumbnail
    lookalikes: tuple[Lookalike, ...]


@dataclass(frozen=True)
class Lookalikes:
    """The surest mistakes, each with its nearest training images; ``neighbours.json``.

    Attributes:
        searched: Training images that were looked at.
        training: Training images that there are.
        usual: Median distance from a training image to the nearest other one; None where none were searched.
        reason: Why there are none; empty otherwise.
        mistakes: The surest first.
    """

    searched: int
    training: int
    usual: float | None
    reason: str
    mistakes: tuple[ExplainedMistake, ...]

    @property
    def of_the_answer(self) -> int:
        """How many mistakes have a nearest training image of the class that was answered."""
        return sum(item.lookalikes[0].label == item.predicted for item in self.mistakes)


def explain_mistakes(
    reading: Reading,
    cache: ImageCache,
    indices: NDArray[np.int64],
    inverted: NDArray[np.bool_],
    trained: Reading,
    trained_cache: ImageCache,
    trained_indices: NDArray[np.int64],
    training: int,
) -> Lookalikes:
    """Find the nearest training images of the 24 surest mistakes, by the features that the output layer sees.

    Args:
        reading: Features and labelled predictions of the images that were judged, N of them.
        cache: Those images.
        indices: Their positions in it, shape (N,).
        inverted: Of which the network saw the negative, shape (N,).
        trained: Features of training images, T of them.
        trained_cache: Those images.
        trained_indices: Their positions in it, shape (T,).
        training: How many training images there are.
    """
    predictions = reading.predictions
    surest = predictions.surest_mistakes[:MISTAKES]
    found = nearest(reading.features[surest], trained.features, NEIGHBOURS)
    mistakes = []
    for row, near, away in zip(surest.tolist(), found.indices.tolist(), found.distances.tolist(), strict=True):
        image_HWC = np.asarray(cache.images[indices[row]])
        answer = int(predictions.predicted[row])
        mistakes.append(
            ExplainedMistake(
                path=predictions.paths[row],
                label=predictions.classes[int(predictions.labels[row])],
                predicted=predictions.classes[answer],
                confidence=float(predictions.probabilities[row, answer]),
                picture=make_thumbnail(255 - image_HWC if inverted[row] else image_HWC, _SIDE),
                lookalikes=tuple(
                    _lookalike(trained_cache, int(trained_indices[place]), distance)
                    for place, distance in zip(near, away, strict=True)
                ),
            )
        )
    sample = trained.features[:: max(1, len(trained.features) // _USUAL_SAMPLE)]
    usual = float(np.median(nearest(sample, trained.features, 2).distances[:, -1]))
    return Lookalikes(len(trained_indices), training, usual, "", tuple(mistakes))


def _lookalike(cache: ImageCache, number: int, distance: float) -> Lookalike:
    index = cache.index
    picture = make_thumbnail(np.asarray(cache.images[number]), _SIDE)
    return Lookalike(index.paths[number], index.classes[int(index.labels[number])], distance, picture)
