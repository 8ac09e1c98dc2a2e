"""The figures of a report: pure functions from data to a :class:`Chart`.

A chart is drawn 340 units wide, about what a phone or a third of a page gives it, so that its text keeps its
size. Colours, line styles and the dark theme are the style sheet's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tintype.records import EpochRecord
from tintype.report import text
from tintype.report.svg import Axis, element, epoch_axis, join, linear_axis, log_axis, path, share

WIDTH, HEIGHT = 340.0, 236.0
_TOP, _RIGHT, _BOTTOM = 28.0, 10.0, 36.0
_CHARACTER = 6.3  # width of a digit at the tick labels' size
_MOST_HINTS = 200
_MOST_DOTS = 15


@dataclass(frozen=True)
class Chart:
    """A figure and the words that belong to it.

    Attributes:
        title: Heading of the figure.
        svg: The drawing, with an accessible label.
        caption: What stands beneath it.
        legend: Style class and words of each line, where there is more than one.
    """

    title: str
    svg: Markup
    caption: str
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Line:
    """A line of a chart. ``style`` is its class in the style sheet; ``band`` an interval about it."""

    style: str
    xs: Sequence[float]
    ys: Sequence[float]
    band: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True)
class Frame:
    """Where the data stand inside a drawing."""

    x_axis: Axis
    y_axis: Axis

    @property
    def left(self) -> float:
        """Where the horizontal axis begins."""
        return 12 + _CHARACTER * max(len(label) for _, label in self.y_axis.ticks)

    def x(self, value: float) -> float:
        """Horizontal coordinate of a value."""
        return self.x_axis.place(value, self.left, WIDTH - _RIGHT)

    def y(self, value: float) -> float:
        """Vertical coordinate of a value."""
        return self.y_axis.place(value, HEIGHT - _BOTTOM, _TOP)


def loss_chart(history: Sequence[EpochRecord], kept: int | None, validation_n: int) -> Chart:
    """Training and validation loss by epoch, the kept epoch marked."""
    lines = _history_lines(history, "loss")
    values = [y for line in lines for y in line.ys]
    if _spans_much(values):
        y_axis = log_axis("loss, log scale", values)
    else:
        y_axis = linear_axis("loss", values, floor=min(0.0, *values))
    hints = [(row.epoch, _epoch_hint(row, "loss")) for row in history]
    spoken = (
        f"Loss over {text.plural(len(history), 'epoch')}: training {text.number(history[-1].train_loss)} at the end"
    )
    if len(lines) > 1:
        lowest = min((row for row in history if row.validation_loss is not None), key=_validation_loss)
        spoken += f", validation lowest with {text.number(lowest.validation_loss)} after epoch {lowest.epoch}"
    svg = _chart(Frame(epoch_axis([row.epoch for row in history]), y_axis), lines, f"{spoken}.", kept, hints)
    return Chart("Loss", svg, _history_caption(lines, kept, validation_n, band=False), _legend(lines))


def accuracy_chart(history: Sequence[EpochRecord], kept: int | None, validation_n: int) -> Chart:
    """Training and validation accuracy by epoch, validation with its 95 % interval."""
    lines = _history_lines(history, "accuracy")
    if len(lines) > 1 and validation_n:
        ends = [wilson(value, validation_n) for value in lines[1].ys]
        lows, highs = [low for low, _ in ends], [high for _, high in ends]
        lines[1] = Line(lines[1].style, lines[1].xs, lines[1].ys, (lows, highs))
    values = [y for line in lines for y in line.ys] + [0.0 if len(history) < 2 else 1.0]
    y_axis = linear_axis("accuracy, %", values, percent=True)
    hints = [(row.epoch, _epoch_hint(row, "accuracy")) for row in history]
    spoken = f"Accuracy over {text.plural(len(history), 'epoch')}: training {text.percent(history[-1].train_accuracy)}"
    if len(lines) > 1:
        spoken += f", validation {text.percent(lines[1].ys[-1], validation_n)}"
    svg = _chart(Frame(epoch_axis([row.epoch for row in history]), y_axis), lines, f"{spoken} at the end.", kept, hints)
    return Chart("Accuracy", svg, _history_caption(lines, kept, validation_n, band=True), _legend(lines))


def learning_rate_chart(history: Sequence[EpochRecord], kept: int | None) -> Chart:
    """The learning rate by epoch."""
    epochs, rates = [row.epoch for row in history], [row.learning_rate for row in history]
    frame = Frame(epoch_axis(epochs), linear_axis("learning rate", rates, floor=0.0))
    hints = [(row.epoch, f"epoch {row.epoch}: learning rate {row.learning_rate:.3g}") for row in history]
    spoken = f"Learning rate, at most {max(rates):.3g} and {rates[-1]:.3g} in the last epoch."
    svg = _chart(frame, [Line("plain", epochs, rates)], spoken, kept, hints)
    per_second = sorted(row.images_per_second for row in history)[len(history) // 2]
    total = sum(row.seconds for row in history)
    caption = (
        f"{text.duration(total)} for {text.plural(len(history), 'epoch')}, {text.count(per_second)} images a second."
    )
    return Chart("Learning rate", svg, caption)


def reliability_chart(bins: Sequence[Mapping[str, Any]]) -> Chart:
    """Accuracy against confidence with intervals, and how many images stand in each bin.

    Args:
        bins: Mappings with ``confidence``, ``accuracy``, ``low``, ``high`` (shares) and ``n``, none of them empty.
    """
    axis = linear_axis("", [0.0, 1.0], percent=True)
    frame = Frame(axis, Axis("right, %", 0.0, 1.0, axis.ticks))
    most = max(item["n"] for item in bins)
    base = frame.y(0)
    parts = [
        element("path", d=path([frame.x(0), frame.x(1)], [frame.y(0), frame.y(1)]), class_="ideal"),
    ]
    for item in bins:
        x = frame.x(item["confidence"])
        height = 44 * item["n"] / most
        parts.append(element("rect", x=x - 5, y=base - height, width=10, height=height, class_="amount"))
    for item in bins:
        x, y = frame.x(item["confidence"]), frame.y(item["accuracy"])
        hint = (
            f"confidence {text.percent(item['confidence'])}: {text.percent(item['accuracy'], item['n'])} right, "
            f"{text.percent(item['low'])} to {text.percent(item['high'])}, n = {text.count(item['n'])}"
        )
        whisker = element("path", d=path([x, x], [frame.y(item["low"]), frame.y(item["high"])]), class_="whisker")
        dot = element("circle", cx=x, cy=y, r=2.2 + 2.6 * math.sqrt(item["n"] / most), class_="dot validation")
        parts.append(element("g", element("title", hint), whisker, dot))
    total = sum(item["n"] for item in bins)
    spoken = (
        f"Share of right answers against confidence in {text.plural(len(bins), 'bin')}, {text.count(total)} images."
    )
    svg = draw_frame(frame, join(parts), spoken, x_title="confidence, %")
    caption = (
        f"A well calibrated network lies on the diagonal. Whiskers are 95 % intervals; grey bars show where the "
        f"{text.count(total)} images stand."
    )
    return Chart("Confidence against outcome", svg, caption)


def curve_chart(
    title: str, caption: str, xs: Sequence[float], ys: Sequence[float], labels: tuple[str, str], *, diagonal: bool
) -> Chart:
    """A curve in the unit square: ROC, or precision against recall.

    Args:
        title: Heading.
        caption: What stands beneath.
        xs: Shares along the horizontal axis.
        ys: Shares along the vertical axis.
        labels: Names of the two axes.
        diagonal: Draw the line of a network that guesses.
    """
    axis = linear_axis("", [0.0, 1.0], percent=True)
    frame = Frame(axis, Axis(f"{labels[1]}, %", 0.0, 1.0, axis.ticks))
    parts = [draw_line(frame, Line("validation", xs, ys))]
    if diagonal:
        parts.insert(0, element("path", d=path([frame.x(0), frame.x(1)], [frame.y(0), frame.y(1)]), class_="ideal"))
    spoken = f"{title}: {labels[1]} against {labels[0]}. {caption}"
    svg = draw_frame(frame, join(parts), spoken, x_title=f"{labels[0]}, %")
    return Chart(title, svg, caption)


def strip(
    interval: tuple[float, float, float], label: str, *, floor: float = 0.0, mark: float | None = None, style: str = ""
) -> Markup:
    """An interval on one line: a band from low to high, a dot at the value.

    Args:
        interval: Value, low and high.
        label: What a screen reader says; empty where the figures stand beside it as text.
        floor: Value at the left end of the line; the right end is 1.
        mark: A value to mark with a small vertical line, such as the baseline.
        style: Further style class.
    """

    def at(value: float) -> str:
        return share((value - floor) / (1 - floor))

    value, low, high = interval
    parts = [element("line", x1=0, x2="100%", y1=8, y2=8, class_="track")]
    if mark is not None and mark >= floor:
        parts.append(element("line", x1=at(mark), x2=at(mark), y1=1, y2=15, class_="baseline"))
    parts.append(element("line", x1=at(low), x2=at(high), y1=8, y2=8, class_="range"))
    parts.append(element("circle", cx=at(value), cy=8, r=4, class_="value"))
    spoken = {"role": "img", "aria_label": label} if label else {"aria_hidden": "true"}
    return element("svg", *parts, class_=f"strip {style}".strip(), height=16, width="100%", **spoken)


def stacked_bar(parts: Sequence[tuple[str, int]], most: int) -> Markup:
    """A bar made of segments: style class and amount each; ``most`` images fill the whole width."""
    drawn, start = [], 0.0
    for style, amount in parts:
        if amount:
            drawn.append(element("rect", x=share(start), width=share(amount / most), height=10, class_=f"part {style}"))
            start += amount / most
    return element("svg", *drawn, class_="bar", height=10, width="100%", aria_hidden="true")


def wilson(value: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of ``n`` (Wilson 1927), for the bands of validation curves."""
    z2 = 1.959963984540054**2
    centre = (value + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (value * (1 - value) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _history_lines(history: Sequence[EpochRecord], what: str) -> list[Line]:
    lines = [Line("train", [row.epoch for row in history], [getattr(row, f"train_{what}") for row in history])]
    known = [row for row in history if getattr(row, f"validation_{what}") is not None]
    if known:
        ys = [getattr(row, f"validation_{what}") for row in known]
        lines.append(Line("validation", [row.epoch for row in known], ys))
    return lines


def _history_caption(lines: Sequence[Line], kept: int | None, validation_n: int, *, band: bool) -> str:
    words = ["Training is averaged over the epoch, on augmented images."]
    if len(lines) > 1 and validation_n:
        tail = "; the band is its 95 % interval" if band else ""
        words.append(f"Validation: {text.plural(validation_n, 'image')}{tail}.")
    elif len(lines) == 1:
        words.append("There was no validation set.")
    if kept is not None:
        words.append(f"The weights after epoch {kept} were kept.")
    return " ".join(words)


def _legend(lines: Sequence[Line]) -> tuple[tuple[str, str], ...]:
    return (("train", "training"), ("validation", "validation")) if len(lines) > 1 else ()


def _epoch_hint(row: EpochRecord, what: str) -> str:
    show = text.number if what == "loss" else text.percent
    words = f"epoch {row.epoch}: training {show(getattr(row, f'train_{what}'))}"
    validation = getattr(row, f"validation_{what}")
    return words if validation is None else f"{words}, validation {show(validation)}"


def _validation_loss(row: EpochRecord) -> float:
    assert row.validation_loss is not None
    return row.validation_loss


def _spans_much(values: Sequence[float]) -> bool:
    """True when a linear axis would press all but a few values flat."""
    middle = sorted(values)[len(values) // 2]
    return min(values) > 0 and max(values) > 20 * middle


def _chart(
    frame: Frame, lines: Sequence[Line], spoken: str, kept: int | None, hints: Sequence[tuple[int, str]]
) -> Markup:
    parts: list[Markup] = []
    for line in lines:
        if line.band:
            lows, highs = line.band
            xs = [frame.x(x) for x in line.xs]
            outline = path(xs + xs[::-1], [frame.y(y) for y in highs] + [frame.y(y) for y in lows][::-1])
            parts.append(element("path", d=f"{outline}Z", class_=f"band {line.style}"))
    if kept is not None and frame.x_axis.low <= kept <= frame.x_axis.high:
        x = frame.x(kept)
        x_text, anchor = (x + 2, "end") if x > WIDTH / 2 else (x - 2, "start")
        parts.append(element("path", d=path([x, x], [_TOP, HEIGHT - _BOTTOM]), class_="kept"))
        parts.append(element("text", f"kept: {kept}", x=x_text, y=_TOP - 3, class_="note", text_anchor=anchor))
    parts += [draw_line(frame, line) for line in lines]
    if len(hints) <= _MOST_HINTS:
        half = (WIDTH - _RIGHT - frame.left) / max(len(hints) - 1, 1) / 2
        for epoch, words in hints:
            box = {"x": frame.x(epoch) - half, "width": 2 * half, "y": _TOP, "height": HEIGHT - _TOP - _BOTTOM}
            parts.append(element("rect", element("title", words), class_="hint", **box))
    return draw_frame(frame, join(parts), spoken, x_title=frame.x_axis.label)


def draw_line(frame: Frame, line: Line) -> Markup:
    """A line, with a dot at each of its points where they are few."""
    xs, ys = [frame.x(x) for x in line.xs], [frame.y(y) for y in line.ys]
    drawn = element("path", d=path(xs, ys), class_=f"line {line.style}")
    if len(xs) <= _MOST_DOTS:
        dots = (element("circle", cx=x, cy=y, r=2.4) for x, y in zip(xs, ys, strict=True))
        drawn += element("g", *dots, class_=f"dot {line.style}")
    return drawn


def draw_frame(frame: Frame, content: Markup, spoken: str, *, x_title: str) -> Markup:
    """Axes, grid and labels about the content.

    Args:
        frame: The axes.
        content: Drawn above the grid.
        spoken: What a screen reader says.
        x_title: Name of the horizontal axis.
    """
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts: list[Markup] = []
    for value, label in frame.y_axis.ticks:
        y = frame.y(value)
        parts.append(element("path", d=path([frame.left, right], [y, y]), class_="grid"))
        parts.append(element("text", label, x=frame.left - 6, y=y + 3.8, text_anchor="end"))
    for value, label in frame.x_axis.ticks:
        parts.append(element("text", label, x=frame.x(value), y=bottom + 15, text_anchor="middle"))
    parts.append(element("path", d=path([frame.left, right], [bottom, bottom]), class_="axis"))
    parts.append(element("text", frame.y_axis.label, x=0, y=11, class_="title"))
    parts.append(element("text", x_title, x=right, y=HEIGHT - 4, text_anchor="end", class_="title"))
    box = f"0 0 {WIDTH:.0f} {HEIGHT:.0f}"
    return element("svg", *parts, content, viewBox=box, class_="chart", role="img", aria_label=spoken)
