"""Facts of runs that never were: counts, answers and curves put together by hand, for the rules of the diagnosis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tintype.config import RunConfig
from tintype.diagnosis.facts import Facts
from tintype.records import (
    DataSummary,
    EpochRecord,
    Health,
    ImageStatistics,
    InputHealth,
    Predictions,
    SplitName,
)

STATISTICS = ImageStatistics(100, 128.0, 40.0, 128.0, 128.0, 0.5, 0.0, 32.0, 32.0)


def data_of(counts: Mapping[str, Sequence[int]], classes: Sequence[str] | None = None) -> DataSummary:
    """A data summary with so many images of each class in each split."""
    names = classes or [f"class{number}" for number in range(len(next(iter(counts.values()))))]
    return DataSummary(
        source="photos",
        kind="folder",
        description="class folders",
        classes=tuple(names),
        counts={split: tuple(images) for split, images in counts.items()},
        image_size=32,
        channels=1,
        resize="stretch",
        sizes={"32x32": 100},
        modes={"L": 100},
        bad={},
        fingerprint="0",
        choices=(),
        statistics=STATISTICS,
    )


def answers(
    split: SplitName, labels: Sequence[int], predicted: Sequence[int], classes: int, paths: Sequence[str] | None = None
) -> Predictions:
    """Predictions that name these classes, each with probability 0.9."""
    chosen = np.eye(classes, dtype=np.float32)[np.asarray(predicted, dtype=np.int64)]
    return Predictions(
        split=split,
        classes=tuple(f"class{number}" for number in range(classes)),
        paths=tuple(paths or (f"{number:05}.png" for number in range(len(labels)))),
        labels=np.asarray(labels, dtype=np.int64),
        probabilities=0.9 * chosen + np.float32(0.1 / classes),
    )


def recognised(
    split: SplitName, images: Sequence[int], recalls: Sequence[float], paths: Sequence[str] | None = None, seed: int = 0
) -> Predictions:
    """Predictions on so many images of each class with these recalls; what is wrong is any of the other classes."""
    random, classes = np.random.default_rng(seed), len(images)
    labels = np.repeat(np.arange(classes), images)
    predicted = labels.copy()
    for label, (number, recall) in enumerate(zip(images, recalls, strict=True)):
        wrong = np.flatnonzero(labels == label)[: round((1 - recall) * number)]
        predicted[wrong] = (label + random.integers(1, classes, len(wrong))) % classes
    return answers(split, labels.tolist(), predicted.tolist(), classes, paths)


def rows(train: Sequence[float], validation: Sequence[float]) -> tuple[EpochRecord, ...]:
    """A history with these accuracies."""
    return tuple(
        EpochRecord(epoch, 1 - one, one, 1 - other, other, 1e-3, 1.0, 1000.0)
        for epoch, (one, other) in enumerate(zip(train, validation, strict=True), start=1)
    )


def health_of(training: float, inference: float) -> Health:
    """A look inside a network that answers so well in training and in inference mode."""
    seen = InputHealth("Conv2d", 0.0, 1.0, -2.0, 2.0)
    return Health(128, seen, seen, training, inference, 1 - training, 1 - inference, ())


def facts_of(
    counts: Mapping[str, Sequence[int]],
    *predictions: Predictions,
    settings: Mapping[str, Any] | None = None,
    **more: Any,
) -> Facts:
    """Facts with these counts, these predictions, these settings and whatever else is named."""
    return Facts(
        config=RunConfig().replace(settings or {}),
        data=data_of(counts),
        predictions={part.split: part for part in predictions},
        **more,
    )
