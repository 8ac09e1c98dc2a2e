"""The figure of an ablation: every variant on a line of its own, and which of them cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tintype.report import text
from tintype.report.figures import WIDTH, Chart
from tintype.report.study_curves import log_ticks
from tintype.report.study_figures import Measured, accuracy_axis, seed_caption
from tintype.report.svg import Axis, element, path

_REFERENCE, _OTHER = "s2", "s1"
_ROW, _HEAD, _FOOT = 22.0, 14.0, 36.0
_LETTER = 5.9  # mean width of a letter at the labels' size
_LONGEST = 24  # letters of a name
_BAR = 9.0  # width that the bar of a group takes
_MOST_BARS = 8
_MOST_TICKS = 6
_MUCH = 4.0  # from this ratio of the largest error to the smallest on, the error's logarithm is drawn


@dataclass(frozen=True)
class _Scale:
    """Where an accuracy stands between two coordinates: by itself, or by the logarithm of its error.

    Among networks that are nearly all right, one that is not would press the others into one place.
    """

    axis: Axis
    left: float
    right: float
    by_error: bool

    @classmethod
    def of(cls, points: Sequence[Measured], left: float, right: float) -> _Scale:
        errors = [1 - point.accuracy.value for point in points]
        if min(errors) <= 0 or max(errors) < _MUCH * min(errors):
            return cls(accuracy_axis([points]), left, right, by_error=False)
        ends = [1 - end for point in points for end in (point.accuracy.low, point.accuracy.high, *point.by_seed)]
        floor = min(0.5 / point.accuracy.n for point in points)
        low, high = max(min(ends), floor) / 1.1, min(max(ends) * 1.1, 1.0)
        ticks = tuple((1 - error, f"{100 - error * 100:.4g}") for error in log_ticks(low, high, _MOST_TICKS))
        return cls(Axis("", low, high, ticks, log=True), left, right, by_error=True)

    def x(self, accuracy: float) -> float:
        if self.by_error:
            return self.axis.place(1 - accuracy, self.right, self.left)
        return self.axis.place(accuracy, self.left, self.right)

    def ticks(self) -> list[tuple[float, str]]:
        """As many as there is room for."""
        width = _LETTER * (max(len(label) for _, label in self.axis.ticks) + 1.5)
        step = max(1, math.ceil(len(self.axis.ticks) * width / (self.right - self.left)))
        return list(self.axis.ticks)[::step]


def grouped_points(points: Sequence[Measured], groups: Sequence[Sequence[str]], reference: str) -> Chart:
    """Every point on a line of its own, the best first, and a bar for each group that cannot be told apart.

    Args:
        points: At least one.
        groups: Labels of the points of each group.
        reference: Label of the point that the others are compared with.
    """
    ordered = sorted(points, key=lambda point: -point.accuracy.value)
    row_of = {point.label: _HEAD + _ROW * (number + 0.5) for number, point in enumerate(ordered)}
    bars = [rows for group in groups if len(rows := [row_of[label] for label in group if label in row_of]) > 1]
    bars = sorted(bars)[:_MOST_BARS]
    left = 6 + _LETTER * min(_LONGEST, max(len(point.label) for point in ordered))
    scale = _Scale.of(ordered, left, WIDTH - 10 - _BAR * len(bars))
    bottom = _HEAD + _ROW * len(ordered)
    parts: list[Markup] = []
    for value, label in scale.ticks():
        x = scale.x(value)
        parts.append(element("path", d=path([x, x], [_HEAD, bottom]), class_="grid"))
        parts.append(element("text", label, x=x, y=bottom + 15, text_anchor="middle"))
    for point in ordered:
        y = row_of[point.label]
        name = point.label if len(point.label) <= _LONGEST else point.label[: _LONGEST - 1] + "…"
        parts.append(element("text", name, x=left - 8, y=y + 3.8, text_anchor="end", class_="name"))
        parts.append(_mark(scale, point, y, _REFERENCE if point.label == reference else _OTHER))
    parts += [_bar(rows, scale.right + _BAR * (number + 1)) for number, rows in enumerate(bars)]
    title = "accuracy, %, log scale of the error" if scale.by_error else "accuracy, %"
    parts.append(element("text", title, x=scale.right, y=bottom + _FOOT - 4, text_anchor="end", class_="title"))
    spoken = "Accuracy, the best first: " + ", ".join(
        f"{point.label} {text.percent(point.accuracy.value, point.accuracy.n)}" for point in ordered
    )
    box = f"0 0 {WIDTH:.0f} {bottom + _FOOT:.0f}"
    svg = element("svg", *parts, viewBox=box, class_="chart", role="img", aria_label=f"{spoken}.")
    words = "A bar joins points that cannot be told apart: no pair of them differs, adjusted for all pairs."
    caption = f"{seed_caption([ordered])} {words if bars else 'Every pair can be told apart.'}"
    legend = ((_REFERENCE, "reference"), (_OTHER, "the others"))
    return Chart("Who can be told apart", svg, caption, legend if reference in row_of and len(ordered) > 1 else ())


def _bar(rows: Sequence[float], x: float) -> Markup:
    line = element("path", d=path([x, x], [min(rows) - 6, max(rows) + 6]), class_="group")
    dots = (element("circle", cx=x, cy=row, r=2.6, class_="dot") for row in rows)
    return element("g", element("title", f"{len(rows)} that cannot be told apart"), line, *dots)


def _mark(scale: _Scale, point: Measured, y: float, style: str) -> Markup:
    """A dot with its interval along a row, a ring for each seed beneath."""
    accuracy = point.accuracy
    hint = (
        f"{point.label}: {text.percent(accuracy.value, accuracy.n)} "
        f"({text.interval_range('accuracy', accuracy)}, n = {text.count(accuracy.n)})"
    )
    seeds = point.by_seed if len(point.by_seed) > 1 else ()
    return element(
        "g",
        element("title", hint),
        element("path", d=path([scale.x(accuracy.low), scale.x(accuracy.high)], [y, y]), class_=f"whisker {style}"),
        *(element("circle", cx=scale.x(one), cy=y + 6, r=2, class_=f"seed {style}") for one in seeds),
        element("circle", cx=scale.x(accuracy.value), cy=y, r=3.6, class_=f"dot {style}"),
    )
