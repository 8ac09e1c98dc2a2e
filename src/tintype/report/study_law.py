"""A fitted learning curve in words: what it says, how far it goes, how it was checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tintype.report import text
from tintype.report.studyfile import PointRow


@dataclass(frozen=True)
class LawView:
    """What the report of a study of the data's size says about its law.

    Attributes:
        answer: How many images the next accuracy needs, a sentence.
        formula: The law with its numbers and their intervals.
        needed: For each target: the accuracy, how many images, and from how many to how many.
        check: The largest size predicted from the smaller ones, a sentence; empty where there was no check.
        holds: Whether that check came out well.
        trust: What the band counts and what it does not.
    """

    answer: str
    formula: str
    needed: tuple[tuple[str, str, str], ...]
    check: str
    holds: bool
    trust: str


def law_view(law: Mapping[str, Any]) -> LawView:
    """The words for a law.

    Args:
        law: Plain values of :class:`tintype.evaluation.power_law.LearningCurve`.
    """
    largest = law["sizes"][-1]
    ahead = [item for item in law["needed"] if item["images"] is None or item["images"] > largest]
    held_out = law["held_out"]
    return LawView(
        answer=_answer(ahead[0], law) if ahead else "",
        formula=_formula(law),
        needed=tuple((_target(item), *_images(item, law["horizon"])) for item in law["needed"]),
        check=_check(held_out, law) if held_out else "",
        holds=bool(held_out and held_out["holds"]),
        trust=_trust(law),
    )


def what_limits(rows: Sequence[PointRow]) -> str:
    """Whether it is the number of images at all that holds the accuracy back, a sentence; empty where it is.

    A network that is no more often right on the images that it was trained on than on others has nothing to gain from
    more of them.

    Args:
        rows: The finished points of a study of the data's size.
    """
    sized = [row for row in rows if row.train_images is not None and row.accuracy and row.train_accuracy]
    if not sized:
        return ""
    largest = max(sized, key=lambda row: row.train_images or 0)
    accuracy, training = largest.accuracy, largest.train_accuracy
    assert accuracy is not None
    assert training is not None
    if training.low > accuracy.value:
        return ""
    return (
        f"With {text.plural(largest.train_images or 0, 'training image')} the network is right on "
        f"{text.percent(training.value, training.n)} of them, which is not surely more than on others "
        f"({text.percent(accuracy.value, accuracy.n)}). So its size or its training holds it back, not the number of "
        "images: more steps or a larger network come before more images, and the law would be another one."
    )


def about(images: int) -> str:
    """A number of images as precisely as it can be known: two digits."""
    digits = max(0, math.floor(math.log10(max(images, 1))) - 1)
    return text.count(round(images, -digits))


def _answer(item: Mapping[str, Any], law: Mapping[str, Any]) -> str:
    target = _target(item)
    if item["images"] is not None:
        start = f"To reach {target}, about {about(item['images'])} training images are needed"
        if item["high"] is None:
            return f"{start}: {about(item['low'])} at least, and how many at most cannot be told."
        return f"{start} (from {about(item['low'])} to {about(item['high'])})."
    if item["is_possible"]:
        return f"{target} would take more than {about(law['horizon'])} training images by the fitted law."
    best = _accuracy(law["a"]["value"], law)
    words = f"By the fitted law no number of images reaches {target}: it levels off at {best}"
    if item["low"] is None:
        return f"{words}."
    return f"{words}, though {about(item['low'])} images or more could do it within its uncertainty."


def _images(item: Mapping[str, Any], horizon: int) -> tuple[str, str]:
    """How many images by the law, and from how many to how many."""
    if item["images"] is not None:
        images = about(item["images"])
    else:
        images = f"more than {about(horizon)}" if item["is_possible"] else "out of reach"
    if item["low"] is None:
        return images, f"more than {about(horizon)}"
    if item["high"] is None:
        return images, f"{about(item['low'])} or more"
    return images, f"{about(item['low'])} to {about(item['high'])}"


def _formula(law: Mapping[str, Any]) -> str:
    a, b, c = law["a"], law["b"], law["c"]
    n = law["test_images"]
    nbsp = text.NBSP
    return (
        f"error = a + b{nbsp}·{nbsp}n^(−c) with a = {text.percent(a['value'], n)} ({_range(a, n)}), "
        f"b = {b['value']:.3g} ({b['low']:.3g} to {b['high']:.3g}), c = {c['value']:.2f} ({c['low']:.2f} to "
        f"{c['high']:.2f}). Ten times the images leave {text.percent(10 ** -c['value'])} of what is above a."
    )


def _check(held_out: Mapping[str, Any], law: Mapping[str, Any]) -> str:
    predicted, n = held_out["predicted"], law["test_images"]
    ends = {"low": 1 - predicted["high"], "high": 1 - predicted["low"]}
    measured = _accuracy(held_out["measured"], law)
    words = (
        f"From the sizes up to {text.count(law['sizes'][-2])} alone the law expects "
        f"{_accuracy(predicted['value'], law)} ({_range(ends, n)}) with {text.count(held_out['images'])} training "
        f"images. Measured: {measured}, "
    )
    if held_out["holds"]:
        return f"{words}inside that interval."
    return f"{words}outside that interval, so what the law says of larger sizes is not to be relied on either."


def _trust(law: Mapping[str, Any]) -> str:
    misfit = text.percent(law["misfit"])
    return (
        "The band is a 95 % interval for other seeds and other test images. A law describes and does not explain: at a "
        f"measured size it is taken to be off by {misfit} of the error (one standard deviation), and by more the "
        f"further from them. Beyond {about(law['horizon'])} images nothing is claimed."
    )


def _target(item: Mapping[str, Any]) -> str:
    return f"{item['accuracy'] * 100:g}{text.NBSP}%"


def _accuracy(error: float, law: Mapping[str, Any]) -> str:
    return text.percent(1 - error, law["test_images"])


def _range(ends: Mapping[str, float], n: int) -> str:
    return f"{text.percent(ends['low'], n, unit=False)} to {text.percent(ends['high'], n)}"
