"""The result as a reader wants it: the headline, the table of figures and the table of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tintype.records import SPLITS, Evaluation, Interval
from tintype.report import text
from tintype.report.figures import strip
from tintype.report.inputs import ReportInput

_FLOORS = (0.95, 0.9, 0.8, 0.5, 0.0)
_FIRST_CLASSES = 40


@dataclass(frozen=True)
class StripRow:
    """A line of the headline's graphic: what, the drawing, its figures in words."""

    label: str
    svg: Markup
    value: str
    interval: str
    style: str = ""


@dataclass(frozen=True)
class Headline:
    """The result in a sentence that can be quoted, and what to hold it against.

    Attributes:
        result: ``98.9 % of 360 test images right``.
        interval: ``95 % interval 97.2 to 99.6 %``.
        strips: The accuracy, the accuracy without leaked images, the largest class.
        remarks: Sentences that belong beside the result, such as that it does not beat the largest class.
    """

    result: str
    interval: str
    strips: tuple[StripRow, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """A figure in a table: value, interval, n and, where it is a share, its drawing."""

    value: str
    interval: str = ""
    n: str = ""
    svg: Markup | str = ""


@dataclass(frozen=True)
class ClassRow:
    """A class: how many images are of it, how many answers name it, and its recall, precision and F1."""

    name: str
    images: str
    answers: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ClassTable:
    """The classes, the weakest first.

    Attributes:
        columns: Headings of the figures.
        first: Rows that are always shown.
        rest: Rows that are folded away, because there are many.
        scale: The range of the drawings in words.
    """

    columns: tuple[str, ...]
    first: tuple[ClassRow, ...]
    rest: tuple[ClassRow, ...]
    scale: str


def baseline(confusion: Sequence[Sequence[float]], classes: Sequence[str]) -> tuple[str, float] | None:
    """The most frequent true class and its share: what always giving that answer would reach."""
    totals = [sum(row) for row in confusion]
    if not totals or not sum(totals):
        return None
    largest = max(range(len(totals)), key=totals.__getitem__)
    return classes[largest], totals[largest] / sum(totals)


def headline(evaluation: Evaluation, classes: Sequence[str], kind: str) -> Headline:
    """Put the accuracy into words and hold it against the largest class.

    Args:
        evaluation: Must have an accuracy.
        classes: In the order of the confusion matrix.
        kind: Word before "images": ``test``, ``validation``.
    """
    accuracy = evaluation.accuracy
    n = accuracy.n
    images = f"{text.count(n)} {kind} {'image' if n == 1 else 'images'}".replace("  ", " ")
    largest = baseline(evaluation.curves.get("confusion_matrix", []), classes)
    mark = largest[1] if largest else None
    strips = [_strip_row(f"All {images}", accuracy, mark)]
    remarks = []
    if largest:
        name, share = largest
        strips.append(_strip_row(f"Always answering “{name}”", Interval(share, share, share, n), None, "plain"))
        if accuracy.low <= share:
            remarks.append(
                f"The interval reaches down to what always answering “{name}” would give ({text.percent(share, n)}): "
                f"on {images}, nothing shows that the network has learnt more than that."
            )
    without = evaluation.metrics.get("accuracy_without_leaked")
    if without and without.n < n:
        leaked = text.plural(n - without.n, f"{kind} image")
        verb = "stands" if n - without.n == 1 else "stand"
        strips.insert(1, _strip_row(f"Without the {leaked} that also {verb} in training", without, mark))
    return Headline(
        result=f"{text.percent(accuracy.value, n)} of {images} right",
        interval=f"95{text.NBSP}% interval {text.interval_range('accuracy', accuracy)}",
        strips=tuple(strips),
        remarks=tuple(remarks),
    )


def figure_rows(evaluations: dict[str, Evaluation]) -> tuple[tuple[str, ...], list[tuple[str, list[Cell | None]]]]:
    """All figures that are not per class: splits as columns (the main one first), metrics as rows."""
    splits = tuple(split for split in reversed(SPLITS) if split in evaluations)
    present = {name for split in splits for name in evaluations[split].metrics if "/" not in name}
    ordered = [name for name in text.METRIC_NAMES if name in present]
    ordered += sorted(present - set(ordered))
    rows = []
    for name in ordered:
        found = [evaluations[split].metrics.get(name) for split in splits]
        cells = [plain_cell(name, item) if item else None for item in found]
        rows.append((text.metric_name(name), cells))
    return splits, rows


def class_table(evaluation: Evaluation, classes: Sequence[str]) -> ClassTable | None:
    """Precision, recall and F1 of each class with intervals, the weakest F1 first."""
    metrics = evaluation.metrics
    known = [name for name in classes if f"f1/{name}" in metrics]
    if not known:
        return None
    columns = ("recall", "precision", "f1")
    confusion = evaluation.curves.get("confusion_matrix", [])
    images = {name: sum(row) for name, row in zip(classes, confusion, strict=False)}
    answers = {name: sum(column) for name, column in zip(classes, zip(*confusion, strict=True), strict=False)}
    lows = [item.low for name in known for c in columns if (item := metrics.get(f"{c}/{name}")) and _usable(item)]
    floor = scale_floor(lows)
    rows = tuple(
        ClassRow(
            name,
            text.count(images[name]) if name in images else text.ABSENT,
            text.count(answers[name]) if name in answers else text.ABSENT,
            tuple(share_cell(metrics.get(f"{column}/{name}"), floor) for column in columns),
        )
        for name in sorted(known, key=lambda name: _sort_value(metrics[f"f1/{name}"]))
    )
    fold = len(rows) if len(rows) <= _FIRST_CLASSES * 1.5 else _FIRST_CLASSES
    scale = f"{floor * 100:.0f} to 100{text.NBSP}%"
    return ClassTable(("Recall", "Precision", "F1"), rows[:fold], rows[fold:], scale)


def scale_floor(lows: Sequence[float]) -> float:
    """Where the drawings of a table begin: the highest round share that is below every interval."""
    return next(floor for floor in _FLOORS if floor == 0 or floor <= min(lows, default=0))


def share_cell(interval: Interval | None, floor: float) -> Cell:
    """A share with its interval and drawing; a dash where it is not defined."""
    if interval is None or not _usable(interval):
        return Cell(text.ABSENT)
    drawing = strip((interval.value, interval.low, interval.high), "", floor=floor, style="small")
    return Cell(
        text.percent(interval.value, interval.n),
        text.interval_range("accuracy", interval),
        text.count(interval.n),
        drawing,
    )


def plain_cell(metric: str, interval: Interval) -> Cell:
    """A figure in words, without a drawing."""
    return Cell(text.figure(metric, interval), text.interval_range(metric, interval), text.count(interval.n))


def quotation(inputs: ReportInput) -> Headline | None:
    """The headline of a run, where something was evaluated."""
    evaluation, split = inputs.evaluation, inputs.split
    if evaluation is None or split is None or "accuracy" not in evaluation.metrics:
        return None
    return headline(evaluation, inputs.classes, text.SPLIT_WORDS[split])


def _strip_row(label: str, interval: Interval, mark: float | None, style: str = "") -> StripRow:
    drawing = strip((interval.value, interval.low, interval.high), "", mark=mark, style=style)
    n = f", n{text.NBSP}={text.NBSP}{text.count(interval.n)}" if style != "plain" else ""
    words = text.interval_range("accuracy", interval)
    return StripRow(label, drawing, text.percent(interval.value, interval.n), f"{words}{n}" if words else "", style)


def _usable(interval: Interval) -> bool:
    return all(value is not None and value == value for value in (interval.value, interval.low, interval.high))


def _sort_value(interval: Interval) -> float:
    return interval.value if _usable(interval) else -1.0
