"""The figures of a study's report: accuracy against what varies, against its cost, and learning curves together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tintype.records import EpochRecord, Interval
from tintype.report import text
from tintype.report.figures import HEIGHT, WIDTH, Chart, Frame, Line, draw_frame, draw_line
from tintype.report.svg import Axis, element, epoch_axis, join, linear_axis, log_axis, path, share

MOST_SERIES = 8
"""Lines that can be told apart by their colours."""

_LETTER = 5.9  # mean width of a letter at the labels' size
_LONGEST = 22  # letters of a name inside a figure
_UNITS = ((1.0, "seconds"), (60.0, "minutes"), (3600.0, "hours"))
_MUCH = 15  # from this ratio of the dearest to the cheapest on, costs stand on a logarithmic scale


@dataclass(frozen=True)
class Measured:
    """A point of a study as the figures show it.

    Attributes:
        label: In words.
        place: Name of its value on the axis that a figure is drawn along.
        accuracy: Mean over the seeds, with its interval.
        by_seed: Accuracy of each seed.
        seconds: Of training, None where that is not known.
        images: That it was trained on, None where that is not what varies.
        training: Accuracy on its training images.
        training_by_seed: The same for each seed.
    """

    label: str
    place: str
    accuracy: Interval
    by_seed: tuple[float, ...]
    seconds: float | None
    images: int | None = None
    training: Interval | None = None
    training_by_seed: tuple[float, ...] = ()


def accuracy_against(axis: str, places: Sequence[str], series: Mapping[str, Sequence[Measured]]) -> Chart:
    """Accuracy against the values of a setting, which stand at equal distances.

    Args:
        axis: What the setting is called.
        places: Names of its values, in their order.
        series: Name of each line (empty where there is only one) to its points.
    """
    last = len(places) - 1
    margin = max(0.35, 0.06 * last)
    frame = Frame(Axis(axis, -margin, last + margin, _ticks(places)), accuracy_axis(series.values()))
    parts = []
    for style, points in zip(series_styles(series), series.values(), strict=True):
        at = {point.place: frame.x(places.index(point.place)) for point in points}
        ordered = sorted(points, key=lambda point: places.index(point.place))
        xs, ys = [at[point.place] for point in ordered], [frame.y(point.accuracy.value) for point in ordered]
        parts.append(element("path", d=path(xs, ys), class_=f"line thin {style}"))
        parts += [draw_mark(frame, point, at[point.place], style, f"{axis} {point.place}") for point in ordered]
    spoken = f"Test accuracy against {axis}: " + ", ".join(
        f"{name + ' ' if name else ''}{point.place} {text.percent(point.accuracy.value, point.accuracy.n)}"
        for name, points in series.items()
        for point in points
    )
    svg = draw_frame(frame, join(parts), f"{spoken}.", x_title=axis)
    return Chart(f"Accuracy against {axis}", svg, seed_caption(series.values()), legend_of(series))


def accuracy_against_cost(series: Mapping[str, Sequence[Measured]]) -> Chart | None:
    """Accuracy against the seconds of training, each point with its name; None where no times are known.

    Args:
        series: Name of each group of points to its points.
    """
    known = {name: [point for point in points if point.seconds] for name, points in series.items()}
    costs = [point.seconds for points in known.values() for point in points if point.seconds]
    if not costs:
        return None
    unit, words = next(item for item in _UNITS if max(costs) < 180 * item[0] or item is _UNITS[-1])
    title = f"training, {words}"
    scaled = [cost / unit for cost in costs]
    x_axis = log_axis(title, scaled) if max(costs) > _MUCH * min(costs) else linear_axis(title, scaled, floor=0.0)
    frame = Frame(x_axis, accuracy_axis(series.values()))
    placed = _Labels(frame)
    marks, labels = [], []
    for style, points in zip(series_styles(known), known.values(), strict=True):
        for point in points:
            assert point.seconds is not None
            x, y = frame.x(point.seconds / unit), frame.y(point.accuracy.value)
            marks.append(
                draw_mark(frame, point, x, style, f"{point.label}, {text.duration(point.seconds)} of training")
            )
            placed.avoid(x, y, frame.y(point.accuracy.high), frame.y(point.accuracy.low))
    for points in known.values():
        for point in points:
            assert point.seconds is not None
            x, y = frame.x(point.seconds / unit), frame.y(point.accuracy.value)
            labels.append(placed.write(point.place, x, y))
    spoken = "Test accuracy against seconds of training: " + ", ".join(
        f"{point.label} {text.percent(point.accuracy.value, point.accuracy.n)} after {text.duration(point.seconds)}"
        for points in known.values()
        for point in points
        if point.seconds
    )
    svg = draw_frame(frame, join([*marks, *labels]), f"{spoken}.", x_title=title)
    times = "Times are medians over the seeds" if _has_seeds(known.values()) else "Times are of one run each"
    caption = f"Up and to the left is better. {times}{', on a logarithmic scale' if x_axis.log else ''}."
    return Chart("Accuracy against cost", svg, caption, legend_of(known))


def learning_curves(histories: Mapping[str, Sequence[Sequence[EpochRecord]]], left_out: int) -> Chart | None:
    """Validation accuracy by epoch, a line for each point (the mean over its seeds), each seed faint behind it.

    Args:
        histories: Label of each point to the histories of its runs; at most :data:`MOST_SERIES` of them.
        left_out: How many points are not shown.
    """
    curves = {
        label: found
        for label, runs in histories.items()
        if (found := [curve for run in runs if len(curve := _validation(run)) > 1])
    }
    if not curves:
        return None
    epochs = sorted({epoch for runs in curves.values() for run in runs for epoch in run})
    values = [value for runs in curves.values() for run in runs for value in run.values()]
    frame = Frame(epoch_axis(epochs), linear_axis("validation accuracy, %", values, percent=True))
    faint, strong = [], []
    for style, (label, runs) in zip(series_styles(curves), curves.items(), strict=True):
        if len(runs) > 1:
            faint += [element("path", d=_curve(frame, run), class_=f"line faint {style}") for run in runs]
        mean = _mean_curve(runs)
        drawn = draw_line(frame, Line(style, list(mean), list(mean.values())))
        strong.append(element("g", element("title", label), drawn))
    ends = ", ".join(f"{label} {text.percent(list(_mean_curve(runs).values())[-1])}" for label, runs in curves.items())
    svg = draw_frame(
        frame, join([*faint, *strong]), f"Validation accuracy by epoch; at the end {ends}.", x_title="epoch"
    )
    words = ["Means over the seeds, each seed faint behind them."] if faint else []
    if left_out:
        words.append(f"{text.plural(left_out, 'more point')} left out: the best and the reference are shown.")
    legend = tuple(zip(series_styles(curves), curves, strict=True))
    return Chart("Learning curves", svg, " ".join(words), legend)


def seed_strip(accuracy: Interval, by_seed: Sequence[float], floor: float = 0.0, style: str = "") -> Markup:
    """An interval on one line with a small mark for each seed; the figures stand beside it as text.

    Args:
        accuracy: Mean over the seeds and its interval.
        by_seed: Accuracy of each seed.
        floor: Value at the left end of the line; the right end is 1.
        style: Further style class.
    """

    def at(value: float) -> str:
        return share((value - floor) / (1 - floor))

    parts = [
        element("line", x1=0, x2="100%", y1=8, y2=8, class_="track"),
        element("line", x1=at(accuracy.low), x2=at(accuracy.high), y1=8, y2=8, class_="range"),
    ]
    if len(by_seed) > 1:
        parts += [element("line", x1=at(one), x2=at(one), y1=3, y2=13, class_="seed") for one in by_seed]
    parts.append(element("circle", cx=at(accuracy.value), cy=8, r=4, class_="value"))
    return element("svg", *parts, class_=f"strip {style}".strip(), height=16, width="100%", aria_hidden="true")


def series_styles(series: Mapping[str, object]) -> list[str]:
    """A style class for each line."""
    return [f"s{number % MOST_SERIES + 1}" for number in range(len(series))]


def accuracy_axis(series: Iterable[Sequence[Measured]]) -> Axis:
    """An axis that holds every accuracy with its interval and its seeds."""
    points = [point for found in series for point in found]
    ends = [end for point in points for end in (point.accuracy.low, point.accuracy.high, *point.by_seed)]
    return linear_axis("accuracy, %", ends, percent=True)


def _ticks(places: Sequence[str]) -> tuple[tuple[float, str], ...]:
    """Every value, or as many as there is room for."""
    room = WIDTH - 60
    step = max(1, math.ceil(len(places) * _LETTER * (max(map(len, places)) + 1.5) / room))
    return tuple((float(number), name) for number, name in enumerate(places) if number % step == 0)


def draw_mark(frame: Frame, point: Measured, x: float, style: str, what: str) -> Markup:
    """A dot with its interval, beside it a ring for each seed.

    Args:
        frame: The axes; the vertical one shows accuracies.
        point: What was measured.
        x: Horizontal coordinate.
        style: Style class of its line.
        what: Begins the words that are shown where a reader points at it.
    """
    accuracy = point.accuracy
    hint = (
        f"{what}: {text.percent(accuracy.value, accuracy.n)} "
        f"({text.interval_range('accuracy', accuracy)}, n = {text.count(accuracy.n)})"
    )
    seeds = point.by_seed if len(point.by_seed) > 1 else ()
    return element(
        "g",
        element("title", hint),
        element("path", d=path([x, x], [frame.y(accuracy.low), frame.y(accuracy.high)]), class_=f"whisker {style}"),
        *(element("circle", cx=x - 6, cy=frame.y(one), r=2, class_=f"seed {style}") for one in seeds),
        element("circle", cx=x, cy=frame.y(accuracy.value), r=3.6, class_=f"dot {style}"),
    )


def seed_caption(series: Iterable[Sequence[Measured]]) -> str:
    """What dots, rings and whiskers are."""
    if _has_seeds(series):
        return "Dots are means over the seeds, rings single seeds, whiskers 95 % intervals for other images and seeds."
    return "Whiskers are 95 % intervals for other images; one seed each."


def _has_seeds(series: Iterable[Sequence[Measured]]) -> bool:
    return any(len(point.by_seed) > 1 for points in series for point in points)


def legend_of(series: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """Style class and name of each line, where there is more than one."""
    return tuple(zip(series_styles(series), series, strict=True)) if len(series) > 1 else ()


def _validation(history: Sequence[EpochRecord]) -> dict[int, float]:
    return {row.epoch: row.validation_accuracy for row in history if row.validation_accuracy is not None}


def _mean_curve(runs: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Mean by epoch, as far as all runs go: where one stopped early, the mean of the others would jump."""
    shared = sorted(set.intersection(*(set(run) for run in runs)))
    return {epoch: sum(run[epoch] for run in runs) / len(runs) for epoch in shared}


def _curve(frame: Frame, run: Mapping[int, float]) -> str:
    return path([frame.x(epoch) for epoch in run], [frame.y(value) for value in run.values()])


class _Labels:
    """Places names beside dots so that none covers a dot or another name; one without room is left to the hint."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._taken: list[tuple[float, float, float, float]] = []

    def avoid(self, x: float, y: float, top: float, bottom: float) -> None:
        """Keep the places of a dot and of its whisker free."""
        self._taken += [(x - 3.5, y - 3.5, x + 3.5, y + 3.5), (x - 1, top, x + 1, bottom)]

    def write(self, name: str, x: float, y: float) -> Markup:
        """A name beside its dot, at the first free place: right, left, above, below, then further away."""
        name = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
        width = _LETTER * len(name)
        spots = [(x + 7, y + 3.5), (x - 7 - width, y + 3.5)]
        spots += [(x + 7 - width * left, y + step) for step in (-8, 14, -19, 25) for left in (0, 1)]
        free = next((spot for spot in spots if self._fits(spot, width)), None)
        if free is None:
            return Markup()
        left, base = free
        self._taken.append((left, base - 9, left + width, base + 2))
        return element("text", name, x=left, y=base, class_="name")

    def _fits(self, spot: tuple[float, float], width: float) -> bool:
        left, base = spot
        if left < self._frame.left or left + width > WIDTH or base < 12 or base > HEIGHT - 38:
            return False
        return all(
            left + width < other[0] or left > other[2] or base + 2 < other[1] or base - 9 > other[3]
            for other in self._taken
        )
