"""One row of a study's table: what the runs of a point, one for each seed, say together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import stdtrit

from tintype.evaluation.compare import accuracy_over_seeds, loss_over_seeds
from tintype.evaluation.stats import UPPER_QUANTILE, Z, crossed_share, score_interval
from tintype.records import Interval
from tintype.report.studyfile import PointRow
from tintype.studies.outcome import Outcome, TrainingAnswers
from tintype.studies.plan import Point

COSTS = ("seconds_per_epoch", "seconds_per_step", "images_per_second", "training_seconds", "peak_memory_mb")


def point_row(point: Point, changes: str, failed: int, found: Mapping[int, Outcome]) -> PointRow:
    """Put a row together.

    Args:
        point: What was asked for.
        changes: What differs from the reference, in words.
        failed: How many of its runs did not finish for good.
        found: Seed to what the finished run of it contributed.
    """
    row = PointRow(point.label, point.names, point.settings, tuple(found), failed, changes=changes)
    outcomes = list(found.values())
    if not outcomes:
        return row
    answers = [item.answers for item in outcomes]
    accuracies = tuple(item.accuracy for item in outcomes)
    costs: dict[str, Any] = {name: _median([getattr(item, name) for item in outcomes]) for name in ("epochs", *COSTS)}
    images = _median([item.train_images for item in outcomes])
    training = [item.training for item in outcomes if item.training is not None]
    return replace(
        row,
        accuracy=accuracy_over_seeds(answers),
        accuracy_by_seed=accuracies,
        accuracy_deviation=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        loss=loss_over_seeds(answers),
        loss_by_seed=tuple(item.loss for item in outcomes),
        total_parameters=outcomes[0].total_parameters,
        trainable_parameters=outcomes[0].trainable_parameters,
        train_images=None if images is None else round(images),
        train_accuracy=training_accuracy(training) if training else None,
        train_accuracy_by_seed=(
            tuple(float(item.is_right.mean()) for item in training) if len(training) == len(outcomes) else ()
        ),
        device=" and ".join(dict.fromkeys(item.device for item in outcomes if item.device)) or None,
        **costs,
    )


def training_accuracy(training: Sequence[TrainingAnswers]) -> Interval:
    """Mean accuracy over the seeds on the images that each network was trained on.

    Where every seed had the same images, the interval is that of two-way layouts, as for test images. Where each seed
    drew images of its own, each gives one figure that holds the luck of both draws, so that Student's distribution
    over the seeds covers both; the interval is never narrower than Wilson's for the images of one seed.

    Args:
        training: One for each seed, at least one.
    """
    if len({item.images for item in training}) == 1:
        return crossed_share(np.stack([item.is_right for item in training]))
    shares = [float(item.is_right.mean()) for item in training]
    n = round(statistics.mean(len(item.is_right) for item in training))
    stretch = float(stdtrit(len(shares) - 1, UPPER_QUANTILE)) / Z
    return score_interval(statistics.mean(shares), statistics.variance(shares) / len(shares) * stretch**2, most=n, n=n)


def with_speed_up(row: PointRow, reference: PointRow) -> PointRow:
    """The row with how many times as fast as the reference it was trained."""
    for cost in ("seconds_per_epoch", "training_seconds"):
        own, other = getattr(row, cost), getattr(reference, cost)
        if own and other and row.label != reference.label:
            return replace(row, speed_up=other / own)
    return row


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
