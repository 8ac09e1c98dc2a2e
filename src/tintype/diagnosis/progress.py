"""How far a run has come: what it learned of its own training images, and whether training and evaluation agree."""

from __future__ import annotations

import numpy as np

from tintype.diagnosis.facts import Facts
from tintype.diagnosis.measures import accuracy, difference, held_out
from tintype.evaluation.stats import wilson
from tintype.records import Interval, LayerHealth

HALF_WAY = 0.5
"""A network that has come less than half of the way from always naming the largest class (0) to every training image
right (1) has not learned its training images: 0.75 of two even classes, 0.55 of ten. Sensible trainings end far
above."""

MODES_MARGIN = 0.10
"""Accuracy on the same images that may be lost between training and inference mode. Dropout and augmentation make the
figure of training mode the lower one, so that any loss is odd; 10 points beyond the interval are beyond chance."""


def majority(facts: Facts) -> float:
    """Share of the largest class among the training images: what always naming it gets right."""
    counts = facts.data.counts["train"]
    return max(counts) / max(1, sum(counts))


def chance_loss(facts: Facts) -> float:
    """Mean cross-entropy of always answering with the shares of the classes in training, nats: their entropy."""
    shares = np.asarray([count for count in facts.data.counts["train"] if count], dtype=np.float64)
    shares /= shares.sum()
    return float(-(shares * np.log(shares)).sum())


def training_accuracy(facts: Facts) -> Interval | None:
    """Share of the training images, unchanged, that the finished network gets right; None where it is not known."""
    part = (facts.predictions or {}).get("train")
    return None if part is None or not len(part) else accuracy(part)


def learnt_nothing(facts: Facts) -> bool:
    """True where the accuracy on the training images may be that of always naming the largest class."""
    reached = training_accuracy(facts)
    return reached is not None and reached.low <= majority(facts)


def has_not_learnt(facts: Facts) -> bool:
    """True where the training images are learned less than half, with certainty; see :data:`HALF_WAY`."""
    reached = training_accuracy(facts)
    chance = majority(facts)
    if reached is None or chance >= 1:
        return False
    return learnt_nothing(facts) or (reached.high - chance) / (1 - chance) < HALF_WAY


def held_out_gap(facts: Facts) -> tuple[str, Interval, Interval, Interval] | None:
    """The split that judges, the accuracies on training and on its images, and how much lower the second is."""
    reached, parts = training_accuracy(facts), held_out(facts)
    if reached is None or not parts:
        return None
    judged = accuracy(parts[0])
    return parts[0].split, reached, judged, difference(reached, judged)


def lost_between_modes(facts: Facts) -> str:
    """What the network loses between training and evaluation on the training images, in words; empty where it does not.

    Two comparisons, either of which is enough: the images that were looked at, in both modes with the same weights;
    and all training images, as they went through the epoch that was kept and as they were evaluated afterwards.
    """
    health, row, evaluated = facts.health, facts.kept_row, training_accuracy(facts)
    if health is not None:
        n = health.images
        training, inference = (
            wilson(round(share * n), n) for share in (health.training_accuracy, health.inference_accuracy)
        )
        if difference(training, inference).low > MODES_MARGIN:
            return (
                f"{training.value:.3f} of {n:,} training images are right in training mode, {inference.value:.3f} "
                "of the same images in inference mode"
            )
    if row is not None and evaluated is not None:
        n = facts.training_images
        during = wilson(round(row.train_accuracy * n), n)
        if difference(during, evaluated).low > MODES_MARGIN:
            return (
                f"in epoch {row.epoch} {during.value:.3f} of the training images were right while it trained, "
                f"{evaluated.value:.3f} [{evaluated.low:.3f}, {evaluated.high:.3f}] are in evaluation"
            )
    return ""


def weight_layers(facts: Facts) -> tuple[LayerHealth, ...]:
    """The layers that multiply by weights, normalisations left out; empty where nobody looked inside."""
    layers = facts.health.layers if facts.health is not None else ()
    return tuple(layer for layer in layers if layer.parameters and "Norm" not in layer.kind)
