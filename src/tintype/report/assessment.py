"""What an evaluation on other images says beside its figures: verdict, gap, how the images differ, near mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tintype.records import Evaluation, Interval, Shift
from tintype.report import text
from tintype.report.comparison import comparison_headline, difference
from tintype.report.reading import of_this_version
from tintype.rundir import RunDir

FORMAT = 1
ASSESSMENT_FILE = "assessment.json"
FAR = 2.0
"""Deviations from which on a figure of the images is in bold type."""
_MEDIA_TYPES = ("image/png", "image/jpeg")
_PIXELATED = 64


@dataclass(frozen=True)
class ShiftRow:
    """A figure of the images here and in training, and how far apart they are."""

    figure: str
    here: str
    trained: str
    apart: str
    far: bool


@dataclass(frozen=True)
class Picture:
    """A thumbnail with what is to be said of it."""

    url: str
    width: int
    height: int
    style: str
    path: str
    caption: str


@dataclass(frozen=True)
class MistakeView:
    """A mistake and its nearest training images."""

    picture: Picture
    lookalikes: tuple[Picture, ...]


@dataclass(frozen=True)
class AssessmentView:
    """The sections that only an evaluation on other images has.

    Attributes:
        remark: Which figure of the images differs most; empty where none is known to.
        shifts: The images here beside those of training.
        knows_spread: Whether it is known by how much training images differ among themselves.
        inverted: How many images were shown to the network as negatives.
        confidence: What the network claims, and what it reaches; empty where nothing is known.
        mistakes: With their nearest training images.
        lead: What was searched, and how often the nearest training image has the class that was answered.
    """

    remark: str
    shifts: tuple[ShiftRow, ...]
    knows_spread: bool
    inverted: int
    confidence: str
    mistakes: tuple[MistakeView, ...]
    lead: str


def assessment_content(
    here: Evaluation,
    there: Evaluation | None,
    classes: Sequence[str],
    kind: str,
    shifts: Sequence[Shift],
    *,
    inverted: int,
) -> dict[str, Any]:
    """The content of ``assessment.json``.

    Args:
        here: The evaluation on the other images.
        there: That of the run's own images; None where there is none.
        classes: In the order of the confusion matrix.
        kind: Split of the run's own images.
        shifts: The images side by side.
        inverted: How many images were shown to the network as negatives.
    """
    verdict = comparison_headline(here, there, classes, text.SPLIT_WORDS[kind]).verdict.replace(text.NBSP, " ")
    accuracy = here.accuracy
    alone = f"{text.percent(accuracy.value, accuracy.n)} of {text.plural(accuracy.n, 'image')} right".replace(
        text.NBSP, " "
    )
    names = [name for name in classes if f"recall/{name}" in here.metrics]
    return {
        "format": FORMAT,
        "verdict": verdict or f"{alone}; the run has no figures of its own to hold this against.",
        "gap": difference(here.accuracy, there.accuracy) if there else None,
        "classes": [{"name": name, **_beside(f"recall/{name}", here, there)} for name in names],
        "calibration": {
            "ece": _beside("ece", here, there),
            "overconfidence": {"here": overconfidence(here), "original": overconfidence(there) if there else None},
        },
        "images": list(shifts),
        "inverted": inverted,
    }


def overconfidence(evaluation: Evaluation) -> Interval | None:
    """Mean confidence minus accuracy: above 0 the network claims more than it reaches.

    The interval is the accuracy's, since the mean confidence is known for these images; None without a reliability
    curve.
    """
    bins = [item for item in evaluation.curves.get("reliability", []) if item["n"]]
    n = sum(item["n"] for item in bins)
    if not n:
        return None
    confidence = sum(item["confidence"] * item["n"] for item in bins) / n
    accuracy = evaluation.accuracy
    return Interval(confidence - accuracy.value, confidence - accuracy.high, confidence - accuracy.low, n)


def assessment_view(folder: RunDir, evaluation: Evaluation | None) -> AssessmentView | None:
    """Read ``assessment.json`` and ``neighbours.json``; None for an evaluation of an earlier version.

    Raises:
        RunError: A file is damaged or from another version.
    """
    if not (folder / ASSESSMENT_FILE).is_file():
        return None
    content = text.printable(folder.read_json(ASSESSMENT_FILE))
    near = text.printable(folder.read_json("neighbours.json")) if (folder / "neighbours.json").is_file() else {}
    with of_this_version(str(folder.path)):
        shifts = [Shift(**item) for item in content["images"]]
        mistakes = tuple(_mistake(item) for item in near.get("mistakes", ()))
        lead = _lead(near, len(mistakes)) if near else ""
        inverted = int(content["inverted"])
    return AssessmentView(
        remark=_remark(shifts),
        shifts=tuple(_shift_row(item) for item in shifts),
        knows_spread=any(item.apart is not None for item in shifts),
        inverted=inverted,
        confidence=_confidence(evaluation) if evaluation else "",
        mistakes=mistakes,
        lead=lead,
    )


def _beside(metric: str, here: Evaluation, there: Evaluation | None) -> dict[str, Interval | None]:
    one = here.metrics.get(metric)
    other = there.metrics.get(metric) if there else None
    return {"here": one, "original": other, "difference": difference(one, other) if one and other else None}


def _remark(shifts: Sequence[Shift]) -> str:
    known = [item for item in shifts if item.apart is not None]
    if not known:
        return ""
    most = max(known, key=lambda item: abs(item.apart or 0.0))
    assert most.apart is not None
    if abs(most.apart) < 1:
        return (
            "In brightness, contrast, background and size these images lie within one deviation of the training "
            "images, so a gap has to come from what they show."
        )
    return (
        f"The images differ most in {most.figure.split(' (')[0]}: {_figure(most, most.other)} against "
        f"{_figure(most, most.trained)}, {_deviations(most.apart)} deviations of the training images."
    )


def _shift_row(item: Shift) -> ShiftRow:
    apart = text.ABSENT if item.apart is None else f"{'+' if item.apart > 0 else '−'}{_deviations(item.apart)}"
    far = item.apart is not None and abs(item.apart) >= FAR
    return ShiftRow(item.figure, _figure(item, item.other), _figure(item, item.trained), apart, far)


def _deviations(apart: float) -> str:
    return f"{abs(apart):.1f}" if abs(apart) < 10 else f"{abs(apart):,.0f}"


def _figure(item: Shift, value: float) -> str:
    if item.kind == "share":
        return text.percent(value)
    return f"{value:.0f}{text.NBSP}px" if item.kind == "pixels" else f"{value:.0f}"


def _confidence(evaluation: Evaluation) -> str:
    over = overconfidence(evaluation)
    if over is None:
        return ""
    accuracy = evaluation.accuracy
    claimed, reached = text.percent(accuracy.value + over.value, over.n), text.percent(accuracy.value, over.n)
    words = f"Here the network claims to be right in {claimed} on average, and is in {reached}"
    if over.low <= 0 <= over.high:
        return f"{words}: the two cannot be told apart on {text.plural(over.n, 'image')}."
    way = "overconfident" if over.value > 0 else "underconfident"
    ends = sorted(abs(end) * 100 for end in (over.low, over.high))
    amount = text.points(over.value, sign=False)
    return f"{words}: {way} by {amount} (95{text.NBSP}% interval {ends[0]:.1f} to {ends[1]:.1f})."


def _lead(near: Mapping[str, Any], shown: int) -> str:
    if not shown:
        reason = str(near["reason"]).rstrip(".")
        return f"None can be shown: {reason}."
    of_the_answer = sum(item["lookalikes"][0]["label"] == item["predicted"] for item in near["mistakes"])
    searched, training = near["searched"], near["training"]
    among = "all" if searched >= training else f"{text.count(searched)} of"
    usual, middle = near["usual"], median(item["lookalikes"][0]["distance"] for item in near["mistakes"])
    unlike = f" Training images lie {usual:.3f} from their nearest one (median); these mistakes lie {middle:.3f}."
    return (
        f"What the output layer sees of each mistake, compared with {among} {text.count(training)} training images "
        f"by cosine distance (0: the same direction, 1: nothing in common). In {of_the_answer} of "
        f"{text.plural(shown, 'mistake')} the nearest training image has the class that was answered.{unlike}"
    )


def _mistake(item: Mapping[str, Any]) -> MistakeView:
    caption = f"is {item['label']}, taken for {item['predicted']} ({100 * item['confidence']:.0f}{text.NBSP}%)"
    lookalikes = tuple(
        _picture(near["picture"], near["path"], f"{near['label']}, distance {near['distance']:.2f}")
        for near in item["lookalikes"]
    )
    return MistakeView(_picture(item["picture"], item["path"], caption), lookalikes)


def _picture(content: Mapping[str, Any], path: str, caption: str) -> Picture:
    if content["media_type"] not in _MEDIA_TYPES:
        raise ValueError(f"a picture of type {content['media_type']!r}")
    width, height = int(content["width"]), int(content["height"])
    style = "hard" if max(width, height) <= _PIXELATED else ""
    url = f"data:{content['media_type']};base64,{content['data']}"
    return Picture(url, width, height, style, path, caption)
