"""Rules about the images of the splits: what was put into training, validation and test, whatever was learned of it.

What the audit found by itself, before training, is said here once more only where the figures show what it did; the
finding has the audit's code then, and stands in its place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tintype.data.index import counted, listed, natural_key, shown, split_named
from tintype.diagnosis.facts import Facts, Rule
from tintype.diagnosis.measures import HELD_OUT, MixDifference, accuracy, held_out, in_words, mix_difference
from tintype.evaluation.stats import score_interval
from tintype.records import Finding, Interval, Predictions, SplitName

RARE = 1e-3
"""p-value of a class mix below which chance is ruled out. A split held out by tintype keeps the mix far better than
chance would, so that only given splits can come near."""

MIX_DISTANCE = 0.15
"""Share of images that would have to change class, from which on two mixes are said to differ: the accuracy can move
by at most so much between them, which from here on is more than the usual interval of a test."""

TAIL = 0.995
"""Share of the pairs of a training and another image, in the order of their names, from which on the other images are
the end of a list: 1 where the list was cut once, 0.5 for images drawn from anywhere in it."""

EXPECTED = 5.0
"""Validation images that a class would have, were the mix the training's, from which on it matters that it has none."""

_MOST_EVIDENCE = 24
_GIVEN: tuple[SplitName, ...] = ("validation", "test")
_NAMES: dict[SplitName, str] = {"train": "training", "validation": "validation", "test": "test"}


def cut_from_sorted_list(facts: Facts) -> Finding | None:
    """Validation or test images that are the end (or the beginning) of a list that was sorted before it was cut.

    Two signs are asked for: the class mix differs from the training images' by more than chance, and the names, or
    the classes themselves, come after (or before) those of the training images. Names alone prove nothing: a list
    may have been shuffled before its images were numbered.
    """
    train = facts.data.counts.get("train", ())
    found: list[tuple[SplitName, str, MixDifference]] = []
    for split in _GIVEN:
        images = facts.data.counts.get(split, ())
        mix = mix_difference(train, images) if images else None
        if mix is None or mix.p_value >= RARE or mix.distance < MIX_DISTANCE:
            continue
        end = _end_by_class(train, images) or _end_by_name(facts.predictions or {}, split)
        if end:
            found.append((split, end, mix))
    if not found:
        return None
    parts = " and ".join(f"the {sum(facts.data.counts[split]):,} {_NAMES[split]} images" for split, _, _ in found)
    last, end, mix = found[-1]
    effect = "The figures are those of other classes" if last == "test" else "The best epoch is chosen by other classes"
    shown_splits: tuple[SplitName, ...] = ("train", *(split for split, _, _ in found))
    return Finding(
        "cut-from-sorted-list",
        "critical",
        f"{parts} are the {end} of a sorted list: their classes are mixed otherwise than in training ({mix})",
        (*(f"{_NAMES[split]}: {_span(facts, split)}" for split in shown_splits), *_shares(facts, last)),
        f"{effect} than those that were learned. Shuffle the list before cutting it, or take the given split away and "
        "leave it to tintype, which draws from every class: --set data.validation_fraction=0.1 --set "
        "data.test_fraction=0.2.",
    )


def one_class_split(facts: Facts) -> Finding | None:
    """Validation or test images of a single class, though several are trained."""
    trained = sum(images > 0 for images in facts.data.counts.get("train", ()))
    for name in HELD_OUT:
        images = facts.data.counts.get(name, ())
        present = [label for label, number in enumerate(images) if number]
        if trained < 2 or len(present) != 1:
            continue
        only = shown(facts.data.classes[present[0]])
        part = (facts.predictions or {}).get(name)
        measured = f"; the accuracy {in_words(accuracy(part))} is its recall" if part is not None else ""
        effect = (
            "Nothing is known of the other classes: a network that always answers this one would score 1.0."
            if name == "test"
            else "The epoch is kept that answers this class most often, whatever the image."
        )
        return Finding(
            "one-class-split",
            "critical",
            f"all {images[present[0]]:,} {_NAMES[name]} images are of one class, {only}{measured}",
            tuple(_counts(facts, split) for split in facts.data.counts),
            f"{effect} Give {_NAMES[name]} images of every class, or take the given ones away: "
            f"data.{name}_fraction then holds some out of each class.",
        )
    return None


def class_without_training(facts: Facts) -> Finding | None:
    """Classes that are judged though none of their images was trained on: every one of them counts as wrong."""
    counts = facts.data.counts
    missing = _missing(facts, "train", present_in=HELD_OUT)
    if not missing:
        return None
    evidence = [f"{shown(facts.data.classes[label])}: none of training" for label in missing[:_MOST_EVIDENCE]]
    untrained = ""
    for part in held_out(facts)[:1]:
        of_others = ~np.isin(part.labels, missing) & (part.labels >= 0)
        if of_others.any() and not of_others.all():
            untrained = f": accuracy {in_words(accuracy(part))}, without them {in_words(_accuracy_of(part, of_others))}"
    images = sum(counts[name][label] for name in HELD_OUT if name in counts for label in missing)
    return Finding(
        "class-without-training",
        "critical" if "test" in counts and any(counts["test"][label] for label in missing) else "warning",
        f"{counted(images, 'image')} of {counted(len(missing), 'class')} without any training image "
        f"{'is' if images == 1 else 'are'} judged{untrained}",
        tuple(evidence),
        "Every image of such a class is counted as wrong: add training images, or leave the class out with --classes.",
    )


def class_without_test(facts: Facts) -> Finding | None:
    """Classes that were trained and are not tested."""
    return _untested(facts, "test", "class-without-test", 0.0)


def class_without_validation(facts: Facts) -> Finding | None:
    """Classes that were trained, and of which the choice of the best epoch knows nothing."""
    return _untested(facts, "validation", "class-without-validation", EXPECTED)


def class_mix_differs(facts: Facts) -> Finding | None:
    """A test set with another mix of the classes than training; says what the accuracy would be with that one's."""
    train, test = facts.data.counts.get("train", ()), facts.data.counts.get("test", ())
    if not train or not test:
        return None
    mix = mix_difference(train, test)
    if mix.p_value >= RARE or mix.distance < MIX_DISTANCE:
        return None
    part = (facts.predictions or {}).get("test")
    weighed = None if part is None else _with_mix(part, np.asarray(train))
    told = ""
    if part is not None and weighed is not None:
        told = f"; accuracy {in_words(accuracy(part))}, with training's mix {in_words(weighed)}"
    return Finding(
        "class-mix-differs",
        "warning",
        f"the classes are mixed otherwise in the test images than in training: {100 * mix.distance:.0f} % of them "
        f"would have to change class ({mix}){told}",
        _shares(facts, "test"),
        "The accuracy holds for the mix of the test images alone. Look at the recall of each class and at the balanced "
        "accuracy, or draw the test images as they will come; without a given test set, data.test_fraction does.",
    )


def _untested(facts: Facts, name: SplitName, code: str, least: float) -> Finding | None:
    missing = _missing(facts, name, present_in=("train",))
    train, images = facts.data.counts.get("train", ()), sum(facts.data.counts.get(name, ()))
    expected = {label: images * train[label] / sum(train) for label in missing}
    lacking = [label for label in missing if expected[label] >= least]
    if not lacking:
        return None
    effect = {
        "test": "The test figures say nothing about them: give test images of every class, or no test set, so that "
        "data.test_fraction holds some out of each.",
        "validation": "The best epoch and the temperature of the probabilities are chosen without them: give "
        "validation images of every class, or none, so that data.validation_fraction holds some out of each.",
    }[name]
    names = [facts.data.classes[label] for label in lacking]
    return Finding(
        code,
        "warning",
        f"{counted(len(lacking), 'class')} of {len(facts.data.classes)} without any {_NAMES[name]} image: "
        f"{listed(names)}",
        tuple(
            f"{shown(facts.data.classes[label])}: {train[label]:,} for training, {expected[label]:.1f} of "
            f"{images:,} {_NAMES[name]} images to be expected"
            for label in lacking[:_MOST_EVIDENCE]
        ),
        effect,
    )


def _missing(facts: Facts, name: SplitName, present_in: tuple[SplitName, ...]) -> list[int]:
    """Classes without an image in one split, though that split has images and the others have some of them."""
    counts = facts.data.counts
    if not sum(counts.get(name, ())):
        return []
    return [
        label
        for label, number in enumerate(counts[name])
        if not number and any(counts[other][label] for other in present_in if other in counts)
    ]


def _end_by_class(train: tuple[int, ...], other: tuple[int, ...]) -> str | None:
    """``end`` where no class of the other images comes before the last one trained, ``beginning`` likewise.

    The class where the list was cut may stand on both sides, but a single class that was trained too may as well have
    been given for another reason; :func:`one_class_split` speaks of it.
    """
    trained, others = np.flatnonzero(train), np.flatnonzero(other)
    shared = int(len(others) == 1)
    if others.min() >= trained.max() + shared:
        return "end"
    return "beginning" if others.max() + shared <= trained.min() else None


def _end_by_name(predictions: dict[str, Predictions], name: SplitName) -> str | None:
    """The same by the names: of whole paths, then of the files alone, the folders of the splits left out."""
    if name not in predictions or "train" not in predictions:
        return None
    paths = [_inside(path) for part in ("train", name) for path in predictions[part].paths]
    trained = len(predictions["train"].paths)
    for names in (paths, [path.rsplit("/", 1)[-1] for path in paths]):
        later = _share_later(names, trained)
        if later >= TAIL or later <= 1 - TAIL:
            return "end" if later >= TAIL else "beginning"
    return None


def _share_later(names: list[str], trained: int) -> float:
    """Share of the pairs of a training image (the first ``trained``) and another whose other one sorts later."""
    keys = [natural_key(name)[:-1] for name in names]
    numbers = {key: rank for rank, key in enumerate(sorted(set(keys)))}
    ranks = np.array([numbers[key] for key in keys])
    of_train, of_other = np.sort(ranks[:trained]), ranks[trained:]
    before = np.searchsorted(of_train, of_other, side="left") + np.searchsorted(of_train, of_other, side="right")
    return float(before.mean()) / (2 * trained)


def _inside(path: str) -> str:
    """A path without the folder that names its split."""
    first, slash, rest = path.partition("/")
    return rest if slash and split_named(first) is not None else path


def _span(facts: Facts, name: SplitName) -> str:
    """The first and the last name of a split, or how many there are of each class."""
    part = (facts.predictions or {}).get(name)
    if part is None:
        return _counts(facts, name)
    ordered = sorted(part.paths, key=natural_key)
    return f"{len(ordered):,} images from {shown(ordered[0])} to {shown(ordered[-1])}"


def _counts(facts: Facts, split: str) -> str:
    images = facts.data.counts[split]
    classes = sorted(range(len(images)), key=lambda label: -images[label])
    named = [f"{images[label]:,} {facts.data.classes[label]}" for label in classes if images[label]]
    return f"{split}: {listed(named, 8)}"


def _shares(facts: Facts, name: SplitName) -> tuple[str, ...]:
    """The classes whose shares differ most between training and another split."""
    train, other = (np.asarray(facts.data.counts[split], dtype=np.float64) for split in ("train", name))
    one, two = train / train.sum(), other / other.sum()
    order = np.argsort(-np.abs(one - two), kind="stable")[: _MOST_EVIDENCE // 2]
    return tuple(
        f"{shown(facts.data.classes[label])}: {100 * one[label]:.1f} % of training, {100 * two[label]:.1f} % of "
        f"{_NAMES[name]} ({int(train[label]):,} and {int(other[label]):,} images)"
        for label in order.tolist()
    )


def _accuracy_of(part: Predictions, which: NDArray[np.bool_]) -> Interval:
    """The accuracy on some images of a split."""
    chosen = Predictions(
        part.split,
        part.classes,
        tuple(path for path, is_chosen in zip(part.paths, which.tolist(), strict=True) if is_chosen),
        part.labels[which],
        part.probabilities[which],
    )
    return accuracy(chosen)


def _with_mix(part: Predictions, wanted_K: NDArray[np.int64]) -> Interval | None:
    """The accuracy if the classes were mixed as wanted: the recalls, weighted (direct standardisation).

    None where some of the wanted classes has no image here.
    """
    known = part.labels >= 0
    images_K = np.bincount(part.labels[known], minlength=len(part.classes))
    if ((wanted_K > 0) & (images_K == 0)).any():
        return None
    right_K = np.bincount(part.labels[known & (part.predicted == part.labels)], minlength=len(part.classes))
    weights_K = wanted_K / wanted_K.sum()
    recalls_K = right_K / np.maximum(images_K, 1)
    per_image_K = weights_K**2 / np.maximum(images_K, 1)
    variance = float(per_image_K @ (recalls_K * (1 - recalls_K)))
    return score_interval(float(weights_K @ recalls_K), variance, 1 / float(per_image_K.sum()), int(known.sum()))


RULES: tuple[Rule, ...] = (
    cut_from_sorted_list,
    one_class_split,
    class_without_training,
    class_without_test,
    class_without_validation,
    class_mix_differs,
)
"""Root causes first."""

_UNLIKE = (
    "class-mix-differs", "class-imbalance", "labels-do-not-fit", "validation-above-test", "validation-below-test",
    "overfitting",
)  # fmt: skip
_LACKING = ("class-without-training", "class-without-test", "class-without-validation")
EXPLAINS: dict[str, tuple[str, ...]] = {
    "cut-from-sorted-list": ("one-class-split", *_LACKING, *_UNLIKE),
    "one-class-split": (*_LACKING, *_UNLIKE),
    "class-without-training": _UNLIKE,
    "class-without-test": ("class-mix-differs",),
}
"""Codes of findings to codes of what follows from them."""
