"""Rules about training: too little of it, a learning rate that is far off, and what came of it."""

from __future__ import annotations

import math

from tintype.diagnosis.facts import Facts, Rule
from tintype.diagnosis.measures import difference, in_points, in_words
from tintype.diagnosis.progress import (
    chance_loss,
    has_not_learnt,
    held_out_gap,
    learnt_nothing,
    majority,
    training_accuracy,
    weight_layers,
)
from tintype.evaluation.stats import wilson
from tintype.records import EpochRecord, Finding, LayerHealth

SHOWN_SHARE = 0.9
"""Share of the training images that an epoch shows, below which its name promises more than it does; a batch more or
less, as rounding gives, makes no difference of this size."""

FEW_STEPS = 200
"""Optimiser steps below which a network from scratch has hardly begun; what is planned takes at least so many."""

STILL_FALLING = 0.03
"""Share of its value that the training loss still loses in an epoch, on average of the last third, when it falls."""

HARDLY_MOVED = 0.05
"""Change of the weights, as a share of their first norm, in the layer that moved most. Trainings that end well move
their weights by a fifth to several times their norm; a twentieth leaves the features as they were drawn."""

STEP_MOVED = 3e-4
"""The same for each optimiser step. A step of about a thousandth of the weights' size is the rule of thumb for a sound
rate; below a third of it, it is the rate that is small, and not the number of steps alone."""

MOVED_FAR = 1.0
"""The same of most layers, from which on nothing is left of the first weights: a rate that is far too high does it, and
so does a long healthy training, which learns, however."""

LOSS_JUMP = 1.5
"""Training loss of an epoch, as a multiple of the loss of chance, that no network reaches that steps towards less: one
that has learned nothing is at 1, random first weights and their first epoch at up to some 1.2."""

GAP = 0.10
"""Accuracy that training images have above held-out ones, by the lower end of the interval, from which on it is called
overfitting. A few points are the rule with every network that has learned its images."""


def fine_tuning_lost(facts: Facts) -> Finding | None:
    """A backbone that knew more before it was trained: the head alone was better than the fine-tuned network."""
    reached, images = training_accuracy(facts), facts.training_images
    if not facts.head_rows or not facts.loop_rows or reached is None:
        return None
    row = facts.head_rows[-1]
    before = wilson(round(row.train_accuracy * images), images)
    if difference(before, reached).low < GAP:
        return None
    layers = facts.health.layers if facts.health is not None else ()
    norms = [layer.name for layer in layers if layer.batch_statistics and layer.trains]
    return Finding(
        "fine-tuning-lost",
        "critical",
        f"fine-tuning lost what the head alone had: {in_words(before)} of training right with the backbone frozen, "
        f"{in_words(reached)} after it trained",
        (
            f"head alone: training loss {row.train_loss:.4g}",
            *_course(facts.loop_rows),
            *([f"BatchNorm that trains, and took over statistics of its own: {', '.join(norms[:6])}"] if norms else []),
        ),
        "Keep the backbone as it is, --freeze all; or train it more gently, --set fit.backbone_rate=0.01. Weights "
        "whose BatchNorm was folded away (mean 0, variance 1) cannot be fine-tuned in layers that have one.",
    )


def few_steps(facts: Facts) -> Finding | None:
    """Steps that do not show the data: epochs that are a part of a pass only, or a handful of steps in all."""
    fit, rows, images = facts.config.fit, facts.loop_rows, facts.training_images
    if fit.batch_size is None or fit.optimizer == "lbfgs" or not rows or facts.config.heads is not None:
        return None
    batch, steps = min(fit.batch_size, images), _steps(facts)
    passes = len(rows) * steps * batch / images
    share = steps * batch / images
    if fit.steps_per_epoch is not None and share < SHOWN_SHARE:
        never = max(0, images - len(rows) * steps * batch)
        unseen = f"; {never:,} images were never seen" if never else ""
        all_of_them = "1 epoch was" if len(rows) == 1 else f"{len(rows):,} epochs were"
        return Finding(
            "few-steps",
            "critical" if never else "warning",
            f"an epoch of {steps:,} steps of {batch:,} images shows {steps * batch:,} of {images:,} training images "
            f"({share:.0%}): {all_of_them} {passes:.3g} passes over the data{unseen}",
            _course(rows),
            f"Leave fit.steps_per_epoch out, or set it to {max(1, images // batch):,} for a pass in each epoch: "
            "patience, schedule and curves count epochs.",
        )
    if len(rows) * steps < FEW_STEPS and has_not_learnt(facts) and _is_falling(rows):
        wanted = -(-FEW_STEPS // steps)
        return Finding(
            "few-steps",
            "warning",
            f"training took {len(rows) * steps:,} steps in all and its loss was still falling: {_reached(facts)}",
            (f"{len(rows):,} epochs of {steps:,} steps of {batch:,} images", *_course(rows)),
            f"Train longer, --epochs {max(wanted, 2 * len(rows))}, or with smaller batches, --batch-size "
            f"{max(8, batch // 4)}.",
        )
    return None


def learning_rate_low(facts: Facts) -> Finding | None:
    """A rate at which the weights hardly leave the place where they were drawn."""
    rate, rows, layers = facts.config.fit.learning_rate, facts.loop_rows, _trained(facts)
    moved = [layer.moved for layer in layers if layer.moved is not None]
    if rate is None or not rows or not moved or not has_not_learnt(facts):
        return None
    if max(moved) >= HARDLY_MOVED or max(moved) >= STEP_MOVED * len(rows) * _steps(facts):
        return None
    if max(layer.gradient or 0.0 for layer in layers) == 0:
        return None  # nothing can move them, at no rate
    factor = 10.0 ** min(6, max(1, round(math.log10(0.3 / max(*moved, 1e-9)))))
    falling = ", and the loss was still falling at the end" if _is_falling(rows) else ""
    return Finding(
        "learning-rate-low",
        "critical" if learnt_nothing(facts) else "warning",
        f"the learning rate {rate:.3g} is far too low: training moved no layer's weights by more than "
        f"{max(moved):.2%} of their norm{falling}; {_reached(facts)}",
        (*_movements(layers), *_course(rows)),
        f"Use a higher one, such as --learning-rate {rate * factor:.1g}, or leave it out.",
    )


def learning_rate_high(facts: Facts) -> Finding | None:
    """A rate whose steps throw the weights about: the loss jumps above that of chance, and nothing is learned."""
    rate, rows, layers = facts.config.fit.learning_rate, facts.loop_rows, _trained(facts)
    chance = chance_loss(facts)
    if rate is None or not rows or chance <= 0 or not has_not_learnt(facts):
        return None
    moved = sorted(layer.moved for layer in layers if layer.moved is not None)
    worst = max(rows, key=lambda row: row.train_loss)
    if worst.train_loss < LOSS_JUMP * chance or (moved and moved[len(moved) // 2] < MOVED_FAR):
        return None
    return Finding(
        "learning-rate-high",
        "critical",
        f"the learning rate {rate:.3g} is far too high: the training loss was {worst.train_loss:.4g} in epoch "
        f"{worst.epoch}, where guessing costs {chance:.3g}; {_reached(facts)}",
        (*_movements(layers), *_course(rows)),
        f"Use a lower one, such as --learning-rate {rate / 10:.1g} or {rate / 100:.1g}, or leave it out; --set "
        "fit.gradient_clip=1 keeps single steps in bounds.",
    )


def overfitting(facts: Facts) -> Finding | None:
    """Training images that are known far better than others."""
    found = held_out_gap(facts)
    if found is None or found[3].low < GAP:
        return None
    split, reached, judged, gap = found
    rows = [row for row in facts.loop_rows if row.validation_loss is not None]
    best = min(rows, key=lambda row: row.validation_loss or 0.0) if len(rows) > 1 else None
    course = (
        f"validation loss lowest, {best.validation_loss:.4g}, in epoch {best.epoch} of {rows[-1].epoch}; "
        f"{rows[-1].validation_loss:.4g} at the end"
        if best is not None
        else ""
    )
    return Finding(
        "overfitting",
        "warning",
        f"overfitting: accuracy is {in_points(gap)} lower on {split} images than on training images",
        tuple(
            line
            for line in (
                f"training images, unchanged: {in_words(reached)}",
                f"{split} images: {in_words(judged)}",
                course,
            )
            if line
        ),
        f"More training images help most. {_against_overfitting(facts)}",
    )


def underfitting(facts: Facts) -> Finding | None:
    """Training images that were not learned, so that no other image can be."""
    found, reached = held_out_gap(facts), training_accuracy(facts)
    if reached is None or not has_not_learnt(facts) or (found is not None and found[3].low >= GAP):
        return None
    gap = f"; {in_points(found[3])} between them and {found[0]} images" if found is not None else ""
    rows = facts.loop_rows
    falling = _is_falling(rows)
    longer = (
        f"Train longer, --epochs {2 * len(rows)}: the loss was still falling. " if falling and len(rows) > 1 else ""
    )
    return Finding(
        "underfitting",
        "critical" if learnt_nothing(facts) else "warning",
        f"underfitting: the network does not even know its training images: {in_words(reached)}{gap}",
        (
            f"always naming the largest class: {majority(facts):.3f}",
            *([f"{found[0]} images: {in_words(found[2])}"] if found is not None else []),
            *_course(rows),
        ),
        f"{longer}{_against_underfitting(facts)}",
    )


def _against_overfitting(facts: Facts) -> str:
    model, fit = facts.config.model, facts.config.fit
    remedies = []
    if facts.config.augment.is_identity:
        views = " with --views 8" if model.freeze == "all" else ""
        remedies.append(f"--augment photo{views}" if facts.data.image_size > 64 else "--augment light or digits")
    if model.backbone is None:
        remedies.append("a pretrained start, --backbone mobilenetv2_100")
    elif model.freeze not in ("all", None):
        remedies.append("fewer layers that train, --freeze all")
    if not fit.weight_decay and fit.optimizer != "lbfgs":
        remedies.append("--set fit.weight_decay=0.05")
    remedies.append("a dropout layer before the output")
    return "Else: " + "; ".join(remedies) + "."


def _against_underfitting(facts: Facts) -> str:
    model, fit = facts.config.model, facts.config.fit
    if model.backbone is not None and (model.freeze == "all" or model.depth == 0):
        return "Let the backbone's last layers train, --depth 5, or take a larger --image-size or another --backbone."
    weaker = "" if facts.config.augment.is_identity else "weaken --augment; "
    decay = f"lower fit.weight_decay ({fit.weight_decay:g}); " if (fit.weight_decay or 0) > 0.1 else ""
    return f"Use a larger network or a pretrained --backbone; {weaker}{decay}try other values of --learning-rate."


def _trained(facts: Facts) -> tuple[LayerHealth, ...]:
    return tuple(layer for layer in weight_layers(facts) if layer.trains)


def _steps(facts: Facts) -> int:
    """Optimiser steps in an epoch."""
    batch = min(facts.config.fit.batch_size or 1, facts.training_images)
    return facts.config.fit.steps_per_epoch or max(1, facts.training_images // max(1, batch))


def _is_falling(rows: tuple[EpochRecord, ...]) -> bool:
    """True where the last third of the epochs each took a few hundredths off the training loss."""
    if len(rows) < 3:
        return False
    last = rows[-(max(2, len(rows) // 3) + 1) :]
    if last[0].train_loss <= 0 or last[-1].train_loss <= 0:
        return False
    left_of_each: float = (last[-1].train_loss / last[0].train_loss) ** (1 / (len(last) - 1))
    return 1 - left_of_each > STILL_FALLING


def _reached(facts: Facts) -> str:
    reached = training_accuracy(facts)
    assert reached is not None
    return f"{in_words(reached)} of training right, {majority(facts):.3f} by always naming the largest class"


def _course(rows: tuple[EpochRecord, ...]) -> tuple[str, ...]:
    """The training loss of the first, some middle and the last epochs."""
    if not rows:
        return ()
    chosen = sorted({round(part * (len(rows) - 1) / 4) for part in range(5)})
    losses = ", ".join(f"{rows[number].train_loss:.4g} (epoch {rows[number].epoch})" for number in chosen)
    return (f"training loss: {losses}",)


def _movements(layers: tuple[LayerHealth, ...]) -> tuple[str, ...]:
    known = [f"{layer.name} {layer.moved:.3g}" for layer in layers if layer.moved is not None]
    if not known:
        return ()
    more = f" and {len(known) - 6} more" if len(known) > 6 else ""
    return (f"change of the weights, as a share of their first norm: {', '.join(known[:6])}{more}",)


CAUSES: tuple[Rule, ...] = (fine_tuning_lost, few_steps, learning_rate_high, learning_rate_low)
"""Why a network did not learn."""

OUTCOMES: tuple[Rule, ...] = (overfitting, underfitting)
"""What it came to, where no cause is known."""

RULES = (*CAUSES, *OUTCOMES)

_NOT_LEARNT = ("underfitting", "class-imbalance", "no-better-than-majority", "hardly-better-than-shortcut")
EXPLAINS: dict[str, tuple[str, ...]] = {
    "fine-tuning-lost": ("dead-units", "few-steps", "learning-rate-high", "learning-rate-low", *_NOT_LEARNT),
    "few-steps": _NOT_LEARNT,
    "learning-rate-high": ("dead-units", "labels-do-not-fit", *_NOT_LEARNT),
    "learning-rate-low": ("few-steps", "labels-do-not-fit", *_NOT_LEARNT),
    "underfitting": ("no-better-than-majority", "hardly-better-than-shortcut"),
}
"""Codes of findings to codes of what follows from them."""
