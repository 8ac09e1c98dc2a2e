"""Rules about what the figures prove: labels that do not fit, results that are too good, claims that are too large.

Where the audit said something before training and the figures show now what came of it, the finding has the audit's
code, and stands in its place.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tintype.config import RunConfig
from tintype.data.index import shown
from tintype.diagnosis.facts import Facts, Rule
from tintype.diagnosis.measures import accuracy, difference, guessing, held_out, in_points, in_words
from tintype.diagnosis.progress import lost_between_modes
from tintype.evaluation.baselines import MAJORITY, Baselines, baseline_findings, baselines_of
from tintype.evaluation.metrics import evaluate
from tintype.evaluation.stats import wilson
from tintype.records import Finding, Interval, Predictions

LEARNED = 0.1
"""Training accuracy above guessing from which on a network is said to have learned its training images. What chance
does to a few dozen training images stays below, since the lower end of the interval is asked for."""

CARRIED_OVER = 0.25
"""Share of that gain which held-out images may have at most, by the upper end of their interval, where nothing is said
to carry over. Overfitting loses a part of the gain; with real labels hardly ever three quarters of it."""

LEAST_HELD_OUT = 30
"""Fewer held-out images than this do not tell guessing from a hard task."""

HIDDEN_SHARE = 1.5
"""Share of the largest class over that of equal classes from which on an accuracy may hide the others."""

AVOIDED = 0.5
"""Share of the mistakes of always answering the largest class that a network has to avoid, surely, to be above it."""

HIDDEN_GAP = 0.05
"""By how much the balanced accuracy has to lie below the accuracy, interval below interval."""

FAR = 0.05
"""Difference of validation and test accuracy from which on it is worth a word."""

FAR_SURELY = 0.02
"""The least difference that the interval must leave, after what choosing the best epoch explains."""

BLURRED = "blurred"
"""The shortcut that sees a small version of the whole picture."""

FEW_TEST_IMAGES = 100
"""As in the audit: below, even an accuracy of 0.9 is known to no better than six points."""


def labels_do_not_fit(facts: Facts) -> Finding | None:
    """Labels that have nothing to do with their images: learned by heart, or not at all, and guessing elsewhere.

    A network that overfits, or underfits, answers held-out images better than its own answers dealt out at random
    (Cohen's chance agreement); one whose labels were shuffled does not. Where training failed as well, the cause may
    be the network, unless other features of the images, of simple baselines or of a pretrained network, tell nothing
    of the labels either.
    """
    parts = held_out(facts)
    if not parts or lost_between_modes(facts):
        return None
    others, learned, baselines = accuracy(*parts), _learned(facts), _baselines(facts)
    chance = guessing(*parts)
    if learned is None or others.n < LEAST_HELD_OUT or others.low > chance or _tells_something(baselines):
        return None
    remedy = (
        "Look at some images with their labels: mostly a list of labels was sorted otherwise than the files, or one of "
        "the two was shuffled. `tintype check DATA --labels` lists the least credible ones. If the labels are right, "
        "there is nothing in the images, at this size, that tells the classes apart: try a larger --image-size, or "
        "more images."
    )
    told = f"{in_words(others)} held out, where guessing gives {chance:.3f}"
    by_heart = learned.low > chance + LEARNED and others.high <= chance + CARRIED_OVER * (learned.value - chance)
    witnesses = _witnesses(facts.config, baselines)
    if by_heart:
        fact = (
            f"what was learned of them, accuracy {in_words(learned)} in training, says nothing of other images: {told}"
        )
    elif witnesses and others.high <= chance + LEARNED and not _is_unbalanced(parts[0]):
        fact = f"accuracy {in_words(learned)} in training and {told}; {witnesses} tell no more of them"
    else:
        return None
    return Finding(
        "labels-do-not-fit",
        "critical",
        f"the labels do not seem to belong to the images: {fact}",
        (
            f"training: accuracy {in_words(learned)}",
            *(
                f"{part.split}: accuracy {in_words(accuracy(part))}, guessing gives {guessing(part):.3f}"
                for part in parts
            ),
            *(
                f"a shortcut that sees {row.description}: accuracy {in_words(row.accuracy)}"
                for row in (() if baselines is None else baselines.rows)
            ),
        ),
        remedy,
    )


def leakage(facts: Facts) -> Finding | None:
    """Test images that were trained or chosen on, and what they did to the result."""
    found, evaluation = facts.found("leakage"), (facts.evaluations or {}).get("test")
    if found is None or evaluation is None or "accuracy_leaked" not in evaluation.metrics:
        return None
    everything, leaked = evaluation.accuracy, evaluation.metrics["accuracy_leaked"]
    honest = evaluation.metrics.get("accuracy_without_leaked")
    if honest is None:
        everywhere = f"all {leaked.n:,} test images stand in training or validation too"
        fact = f"accuracy {leaked.value:.3f} is no test: {everywhere}"
        return Finding("leakage", "critical", fact, found.evidence, found.remedy)
    gap = difference(leaked, honest)
    if found.severity != "critical" and gap.low <= 0:
        return None
    explains = (
        f"the leak explains {100 * (everything.value - honest.value):.1f} points of it"
        if gap.low > 0
        else f"the leak is not seen to explain it: the two differ by {in_points(gap)}"
    )
    own = (
        f"test images that stand elsewhere too: accuracy {in_words(leaked)}",
        f"the other test images: accuracy {in_words(honest)}",
    )
    return Finding(
        "leakage",
        "critical",
        f"accuracy {everything.value:.3f} on all test images, {in_words(honest)} without the {leaked.n:,} that "
        f"{'stands' if leaked.n == 1 else 'stand'} in training or validation too: {explains}",
        tuple(dict.fromkeys((*own, *found.evidence))),
        found.remedy,
    )


def validation_leakage(facts: Facts) -> Finding | None:
    """Validation images that were trained on, where they make the validation accuracy surely better than the test's."""
    found, predictions = facts.found("validation-leakage"), facts.predictions or {}
    if found is None or "test" not in predictions or "validation" not in predictions:
        return None
    chosen, tested = accuracy(predictions["validation"]), accuracy(predictions["test"])
    gap = difference(chosen, tested)
    if gap.low <= 0:
        return None
    own = (f"validation: accuracy {in_words(chosen)}", f"test: accuracy {in_words(tested)}")
    return Finding(
        "validation-leakage",
        "warning",
        f"the validation accuracy {in_words(chosen)} is {in_points(gap)} above the test's, and validation images stand "
        "in training too",
        tuple(dict.fromkeys((*own, *found.evidence))),
        found.remedy,
    )


def shortcut(facts: Facts) -> Finding | None:
    """A network that is hardly better than a classifier that sees the colours or the border alone.

    A blur still shows what is in the picture: a network that is no better has an easy task, which is no fault.
    """
    baselines = _baselines(facts)
    if baselines is None:
        return None
    blind = tuple(row for row in baselines.rows if row.name != BLURRED)
    findings = baseline_findings(replace(baselines, rows=blind))
    return next((finding for finding in findings if finding.code == "hardly-better-than-shortcut"), None)


def accuracy_hides_classes(facts: Facts) -> Finding | None:
    """An accuracy that is owed to the largest class, while the others are hardly recognised."""
    part = next(iter(held_out(facts)), None)
    if part is None:
        return None
    images_K = _images(part)
    present, largest = int((images_K > 0).sum()), int(images_K.argmax())
    majority = float(images_K[largest] / images_K.sum())
    if not _is_unbalanced(part):
        return None
    metrics = evaluate(part).metrics
    total, balanced = metrics["accuracy"], metrics["balanced_accuracy"]
    if total.low > majority + AVOIDED * (1 - majority) or balanced.high > total.low - HIDDEN_GAP:
        return None
    recalls = [(metrics[f"recall/{name}"], name) for name in part.classes if f"recall/{name}" in metrics]
    recalls.sort(key=lambda pair: pair[0].value)
    name = shown(part.classes[largest])
    return Finding(
        "class-imbalance",
        "critical" if balanced.low <= 1 / present else "warning",
        f"accuracy {in_words(total)} hides the small classes: always answering {name} would give {majority:.3f}, "
        f"and the balanced accuracy is {balanced.value:.3f} [{balanced.low:.3f}, {balanced.high:.3f}]",
        tuple(f"{shown(label)}: recall {in_words(recall)}" for recall, label in recalls[:24]),
        "Judge by the balanced accuracy and the recall of each class. Let small classes weigh more, --set "
        "fit.class_weights=balanced, or add images of them.",
    )


def validation_far_from_test(facts: Facts) -> Finding | None:
    """Validation images that are much easier, or harder, than the test images, by more than choosing explains."""
    predictions = facts.predictions or {}
    if "test" not in predictions or "validation" not in predictions:
        return None
    chosen, tested = accuracy(predictions["validation"]), accuracy(predictions["test"])
    gap = difference(chosen, tested)
    above = gap.value > 0
    chosen_of = len(facts.history) if facts.config.fit.keep == "best" else 1
    luck = _most_luck(tested, chosen.n, chosen_of) if above else 0.0
    if abs(gap.value) < FAR or max(gap.low, -gap.high) < FAR_SURELY + luck:
        return None
    reasons = (
        "the test images come from another source, or the validation images are akin to the training images: views of "
        "one thing, frames of one film, one patient"
        if above
        else "the validation images are another kind than the training and test images, or worse labelled"
    )
    blameless = "Chance, and choosing the best epoch by these images, do" if above else "Chance does"
    return Finding(
        "validation-above-test" if above else "validation-below-test",
        "warning",
        f"validation accuracy {in_words(chosen)} is {in_points(gap)} {'above' if above else 'below'} the test's, "
        f"{in_words(tested)}",
        (facts.data.description,),
        f"{blameless} not explain that: {reasons}. The epoch was chosen for other images than those of the test. Give "
        "images of one thing one group in a manifest (column group), or take the given splits away and leave them to "
        "tintype.",
    )


def small_test_set(facts: Facts) -> Finding | None:
    """A result on so few test images that it can be claimed only with a wide interval."""
    part = (facts.predictions or {}).get("test")
    if part is None or not 0 < (tested := accuracy(part)).n < FEW_TEST_IMAGES:
        return None
    images_K = _images(part)
    majority = float(images_K.max() / images_K.sum())
    chance = ", which does not exclude guessing" if tested.low <= majority else ""
    return Finding(
        "small-test-set",
        "warning",
        f"accuracy {tested.value:.3f} on {tested.n:,} test images is anything from {tested.low:.3f} to "
        f"{tested.high:.3f}{chance}",
        (
            f"right: {round(tested.value * tested.n):,} of {tested.n:,} (Wilson's 95 % interval)",
            f"always answering {shown(part.classes[int(images_K.argmax())])}: {majority:.3f}",
        ),
        "Do not claim more than the interval. Four times as many test images halve it: add some, raise "
        "data.test_fraction where tintype holds the test images out, or repeat over several splits.",
    )


def _most_luck(accuracy: Interval, images: int, epochs: int) -> float:
    """How much too good the best of some epochs looks on so many images, at most: ``sd * sqrt(2 ln epochs)``.

    The bound of the expected maximum of normal variables; it holds whether they are independent or not (P. Massart,
    "Concentration inequalities and model selection", 2007, lemma 2.3). Epochs, being alike, stay far below it.
    """
    deviation = math.sqrt(accuracy.value * (1 - accuracy.value) / images)
    return deviation * math.sqrt(2 * math.log(max(1, epochs)))


def _learned(facts: Facts) -> Interval | None:
    """The best training accuracy known: of the kept weights, or of the last epoch, which may have been learned further.

    Where validation says nothing, an epoch is kept by chance, often the first one.
    """
    train = (facts.predictions or {}).get("train")
    of_kept = accuracy(train) if train is not None and (train.labels >= 0).any() else None
    images = sum(facts.data.counts.get("train", ()))
    if not facts.history or not images:
        return of_kept
    of_last = wilson(min(images, round(facts.history[-1].train_accuracy * images)), images)
    return of_last if of_kept is None or of_last.value > of_kept.value else of_kept


def _baselines(facts: Facts) -> Baselines | None:
    if facts.baselines is None:
        return None
    try:
        return baselines_of(facts.baselines)
    except (KeyError, TypeError):  # of another version of tintype, which knew other figures
        return None


def _tells_something(baselines: Baselines | None) -> bool:
    """True where some shortcut is surely above the majority class: then the labels do belong to the images."""
    rows = () if baselines is None else baselines.rows
    return any(row.above_majority is not None and row.above_majority.low > FAR_SURELY for row in rows)


def _witnesses(config: RunConfig, baselines: Baselines | None) -> str:
    """Features of the images from which some of the labels should have been told; empty where there are none."""
    is_frozen = config.model.freeze == "all" or config.model.depth == 0
    if config.model.backbone is not None and config.model.weights != "none" and is_frozen:
        return f"the features of the pretrained {config.model.backbone}"
    if baselines is None or all(row.name == MAJORITY for row in baselines.rows):
        return ""
    return f"simple shortcuts ({', '.join(row.name for row in baselines.rows if row.name != MAJORITY)})"


def _images(part: Predictions) -> NDArray[np.int64]:
    """Labelled images of each class, shape (K,)."""
    return np.bincount(part.labels[part.labels >= 0], minlength=len(part.classes))


def _is_unbalanced(part: Predictions) -> bool:
    """True where the largest class alone makes an accuracy that looks like something."""
    images_K = _images(part)
    present = int((images_K > 0).sum())
    return present > 1 and float(images_K.max()) >= HIDDEN_SHARE / present * float(images_K.sum())


RULES: tuple[Rule, ...] = (
    labels_do_not_fit,
    leakage,
    validation_leakage,
    accuracy_hides_classes,
    small_test_set,
    shortcut,
    validation_far_from_test,
)
"""Root causes first: on a few images nothing can be told from anything."""

EXPLAINS: dict[str, tuple[str, ...]] = {
    "labels-do-not-fit": (
        "overfitting", "underfitting", "class-imbalance", "no-better-than-majority", "hardly-better-than-shortcut",
    ),
    "leakage": ("validation-above-test", "validation-below-test"),
    "validation-leakage": ("validation-above-test",),
    "validation-above-test": ("overfitting",),
    "class-imbalance": ("underfitting", "no-better-than-majority", "hardly-better-than-shortcut"),
}  # fmt: skip
"""Codes of findings to codes of what follows from them."""
