"""A model on another set beside its original test: every figure's difference with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tintype.records import Evaluation, Interval
from tintype.report import text
from tintype.report.figures import strip
from tintype.report.results import Cell, StripRow, baseline, plain_cell, scale_floor, share_cell


@dataclass(frozen=True)
class DifferenceRow:
    """A figure on the other set and on the original test, and by how much they differ.

    ``sure`` is True when the interval of the difference leaves zero out.
    """

    name: str
    other: Cell
    original: Cell
    difference: str
    interval: str
    sure: bool


@dataclass(frozen=True)
class ComparisonHeadline:
    """The result on the other set, what it was on the original test, and the verdict."""

    result: str
    interval: str
    verdict: str
    strips: tuple[StripRow, ...]
    remarks: tuple[str, ...]


def difference(other: Interval, original: Interval) -> Interval:
    """Difference of two figures of independent samples, with an interval from the intervals of both.

    The method of variance estimates recovery (Newcombe 1998, method 10; Zou and Donner 2008): right for Wilson
    and for bootstrap intervals alike, which need not be symmetric. ``n`` is the other set's.
    """
    value = other.value - original.value
    low = value - math.hypot(other.value - other.low, original.high - original.value)
    high = value + math.hypot(other.high - other.value, original.value - original.low)
    return Interval(value, low, high, other.n)


def comparison_headline(
    other: Evaluation, original: Evaluation | None, classes: Sequence[str], original_kind: str
) -> ComparisonHeadline:
    """Put the accuracy on the other set beside the original one.

    Args:
        other: The evaluation on the other set.
        original: The evaluation in the original run; ``None`` where there was none.
        classes: In the order of the confusion matrix.
        original_kind: Word for the original split, such as ``test``.
    """
    here = other.accuracy
    largest = baseline(other.curves.get("confusion_matrix", []), classes)
    mark = largest[1] if largest else None
    strips = [_row(f"Here, {text.plural(here.n, 'image')}", here, mark)]
    verdict, remarks = "", []
    if original:
        there = original.accuracy
        strips.append(_row(f"Original {original_kind}, {text.plural(there.n, 'image')}", there, None, "second"))
        verdict = _verdict(here, there, original_kind)
    if largest:
        name, share = largest
        strips.append(_row(f"Always answering “{name}”", Interval(share, share, share, here.n), None, "plain"))
        if here.low <= share:
            remarks.append(
                f"The interval reaches down to what always answering “{name}” would give here "
                f"({text.percent(share, here.n)}): on these images the network is not shown to be of use."
            )
    return ComparisonHeadline(
        result=f"{text.percent(here.value, here.n)} of {text.plural(here.n, 'image')} right",
        interval=f"95{text.NBSP}% interval {text.interval_range('accuracy', here)}",
        verdict=verdict,
        strips=tuple(strips),
        remarks=tuple(remarks),
    )


def difference_rows(other: Evaluation, original: Evaluation) -> list[DifferenceRow]:
    """All figures that both have and that are not per class."""
    return [
        difference_row(text.metric_name(name), name, other.metrics[name], original.metrics[name])
        for name in text.METRIC_NAMES
        if name in other.metrics and name in original.metrics
    ]


def class_difference_rows(other: Evaluation, original: Evaluation, classes: Sequence[str]) -> list[DifferenceRow]:
    """Recall of each class that the other set has, the largest fall first."""
    names = [name for name in classes if f"recall/{name}" in other.metrics and other.metrics[f"recall/{name}"].n]
    pairs = [
        (name, other.metrics[f"recall/{name}"], original.metrics[f"recall/{name}"])
        for name in names
        if f"recall/{name}" in original.metrics
    ]
    floor = scale_floor([item.low for _, a, b in pairs for item in (a, b)])
    rows = [
        (a.value - b.value, difference_row(name, "recall", a, b, share_cell(a, floor), share_cell(b, floor)))
        for name, a, b in pairs
    ]
    return [row for _, row in sorted(rows, key=lambda item: item[0])]


def difference_row(
    name: str,
    metric: str,
    other: Interval,
    original: Interval,
    other_cell: Cell | None = None,
    original_cell: Cell | None = None,
) -> DifferenceRow:
    """One row: shares differ in percentage points, other figures in their own unit."""
    change = difference(other, original)
    if text.is_share(metric):
        shown = text.points(change.value)
        interval = f"{_without_unit(text.points(change.low))} to {_without_unit(text.points(change.high))}"
    else:
        shown, interval = text.signed(change.value), f"{text.signed(change.low)} to {text.signed(change.high)}"
    return DifferenceRow(
        name,
        other_cell or plain_cell(metric, other),
        original_cell or plain_cell(metric, original),
        shown,
        interval,
        change.low > 0 or change.high < 0,
    )


def _verdict(here: Interval, there: Interval, original_kind: str) -> str:
    change = difference(here, there)
    original = f"the {text.percent(there.value, there.n)} of the original {original_kind}"
    if change.low > 0 or change.high < 0:
        way = "below" if change.value < 0 else "above"
        ends = [text.points(end, sign=False) for end in sorted((change.low, change.high), key=abs)]
        words = f"{text.points(change.value, sign=False)} {way} {original}"
    else:
        ends = [text.points(end) for end in (change.low, change.high)]
        words = f"Not distinguishable from {original}: {text.points(change.value)}"
    return f"{words} (95{text.NBSP}% interval {_without_unit(ends[0])} to {_without_unit(ends[1])})."


def _without_unit(words: str) -> str:
    return words.removesuffix(f"{text.NBSP}points")


def _row(label: str, interval: Interval, mark: float | None, style: str = "") -> StripRow:
    drawing: Markup = strip((interval.value, interval.low, interval.high), "", mark=mark, style=style)
    return StripRow(
        label,
        drawing,
        text.percent(interval.value, interval.n),
        text.interval_range("accuracy", interval),
        style,
    )
