"""The figures of studies of the data's size and of learning rates: pure functions to a :class:`Chart`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from tintype.records import Interval
from tintype.report import text
from tintype.report.figures import HEIGHT, WIDTH, Chart, Frame, Line, draw_frame, draw_line
from tintype.report.study_figures import (
    Measured,
    accuracy_axis,
    draw_mark,
    legend_of,
    seed_caption,
    series_styles,
)
from tintype.report.svg import Axis, element, join, linear_axis, log_axis, path

_TEST, _TRAINING = "s1", "s2"
_RISE = 1.3  # a loss is drawn up to this many times that of the start


def accuracy_against_images(series: Mapping[str, Sequence[Measured]], law: Mapping[str, Any] | None) -> Chart:
    """Test accuracy against training images; with a single series the training accuracy and the law too.

    Args:
        series: Name of each line (empty where there is only one) to its points, which all have ``images``.
        law: Plain values of :class:`tintype.evaluation.power_law.LearningCurve`, or None.
    """
    training = [_of_training(point) for point in _all(series) if point.training is not None]
    if len(series) > 1:
        training = []
    drawn = law["points"] if law else []
    frame = Frame(_images_axis(series, drawn), accuracy_axis([*series.values(), training]))
    parts = _law_parts(frame, law, lambda error: 1 - error)
    for style, points in zip(series_styles(series), series.values(), strict=True):
        parts += _size_parts(frame, points, style, "right", joined=law is None)
    parts += _size_parts(frame, training, _TRAINING, "right of the training images")
    spoken = "Test accuracy against training images: " + ", ".join(
        f"{name + ' ' if name else ''}{text.count(point.images or 0)} images "
        f"{text.percent(point.accuracy.value, point.accuracy.n)}"
        for name, points in series.items()
        for point in points
    )
    legend = legend_of(series) or (((_TEST, "test"), (_TRAINING, "training")) if training else ())
    svg = draw_frame(frame, join(parts), f"{spoken}.", x_title="training images, log scale")
    caption = seed_caption([*series.values(), training])
    return Chart("Accuracy against training images", svg, f"{caption}{_law_words(law)}", legend)


def error_against_images(series: Mapping[str, Sequence[Measured]], law: Mapping[str, Any] | None) -> Chart:
    """Test error against training images, both on logarithmic axes, where a power law is a straight line.

    Args:
        series: As for :func:`accuracy_against_images`.
        law: As for :func:`accuracy_against_images`.
    """
    flipped = {name: [_as_error(point) for point in points] for name, points in series.items()}
    drawn = law["points"] if law else []
    floor = min(0.5 / point.accuracy.n for point in _all(series))
    ends = [end for point in _all(flipped) for end in (point.accuracy.high, point.accuracy.value, *point.by_seed)]
    ends += [point["error"] for point in drawn] + [point.accuracy.low for point in _all(flipped)]
    frame = Frame(_images_axis(series, drawn), _error_axis([max(end, floor) for end in ends]))
    parts = _law_parts(frame, law, lambda error: error)
    for style, points in zip(series_styles(series), flipped.values(), strict=True):
        parts += _size_parts(frame, points, style, "wrong", joined=law is None)
    spoken = "Test error against training images: " + ", ".join(
        f"{text.count(point.images or 0)} images {text.percent(point.accuracy.value, point.accuracy.n)}"
        for point in _all(flipped)
    )
    svg = draw_frame(frame, join(parts), f"{spoken}.", x_title="training images, log scale")
    words = " The straighter the points lie, the better a power law describes them."
    return Chart("Error against training images", svg, f"Both axes are logarithmic.{words}", legend_of(series))


def range_test_chart(found: Mapping[str, Any]) -> Chart:
    """Loss against a rising learning rate, the proposed rate marked.

    Args:
        found: Plain values of :class:`tintype.training.range_test.RangeTest`, with at least one step.
    """
    rates, losses, smoothed = found["rates"], found["losses"], found["smoothed"]
    most = _RISE * max(smoothed[0], losses[0])
    y_axis = linear_axis("training loss", [min(most, loss) for loss in (*smoothed, *losses)], floor=0.0)
    frame = Frame(log_axis("learning rate", rates), y_axis)
    shown = [loss for loss in losses if loss <= most]
    kept = [rate for rate, loss in zip(rates, losses, strict=True) if loss <= most]
    smooth_until = next((place for place, loss in enumerate(smoothed) if loss > most), len(smoothed))
    parts = [
        element(
            "path", d=path([frame.x(rate) for rate in kept], [frame.y(loss) for loss in shown]), class_="line faint s8"
        ),
        draw_line(frame, Line(_TEST, rates[:smooth_until], smoothed[:smooth_until])),
    ]
    spoken = (
        f"Training loss over {len(rates)} steps of a learning rate that rises from {rates[0]:.1g} to {rates[-1]:.1g}"
    )
    if found["proposed"] is None:
        caption = "The loss fell at no learning rate."
    else:
        proposed = f"{found['proposed']:.2g}"
        parts.append(_upright(frame, found["proposed"], f"proposed: {proposed}"))
        caption = (
            f"The loss begins to fall at {found['low']:.2g} and is lowest at {found['high']:.2g}, the lag of the "
            f"moving average taken off. Proposed is a rate well below: {proposed}."
        )
        spoken += f"; {proposed} is proposed"
    if found["diverged_at"] is not None:
        caption += f" At {found['diverged_at']:.2g} training ran away."
    caption += " One short training of the run's network, its weights thrown away; a start for a sweep, no result."
    svg = draw_frame(frame, join(parts), f"{spoken}.", x_title="learning rate, log scale")
    return Chart("Learning-rate range test", svg, caption)


def accuracy_against_rate(series: Mapping[str, Sequence[Measured]], range_test: Mapping[str, Any] | None) -> Chart:
    """Accuracy against the learning rate on a logarithmic axis, with the rate that a range test proposed.

    Args:
        series: Name of each line to its points, whose places are numbers greater than 0.
        range_test: Plain values of :class:`tintype.training.range_test.RangeTest`, or None.
    """
    rates = [float(point.place) for point in _all(series)]
    proposed = range_test["proposed"] if range_test else None
    frame = Frame(
        _padded_log("learning rate", [*rates, proposed] if proposed else rates), accuracy_axis(series.values())
    )
    parts = [_upright(frame, proposed, f"range test: {proposed:.2g}")] if proposed else []
    for style, points in zip(series_styles(series), series.values(), strict=True):
        ordered = sorted(points, key=lambda point: float(point.place))
        xs = [frame.x(float(point.place)) for point in ordered]
        parts.append(
            element(
                "path", d=path(xs, [frame.y(point.accuracy.value) for point in ordered]), class_=f"line thin {style}"
            )
        )
        parts += [
            draw_mark(frame, point, x, style, f"learning rate {point.place}")
            for x, point in zip(xs, ordered, strict=True)
        ]
    spoken = "Test accuracy against learning rate: " + ", ".join(
        f"{point.place} {text.percent(point.accuracy.value, point.accuracy.n)}" for point in _all(series)
    )
    svg = draw_frame(frame, join(parts), f"{spoken}.", x_title="learning rate, log scale")
    return Chart("Accuracy against learning rate", svg, seed_caption(series.values()), legend_of(series))


def _law_parts(frame: Frame, law: Mapping[str, Any] | None, shown: Any) -> list[Markup]:
    """The law with its band: a line within the measured sizes, dashed beyond them."""
    if law is None:
        return []
    largest = law["sizes"][-1]
    within = [point for point in law["points"] if point["images"] <= largest]
    beyond = [point for point in law["points"] if point["images"] >= within[-1]["images"]]
    parts = []
    for points, more in ((within, ""), (beyond, " beyond")):
        xs = [frame.x(point["images"]) for point in points]
        lows, highs, middle = ([frame.y(shown(point[key])) for point in points] for key in ("low", "high", "error"))
        parts.append(element("path", d=f"{path(xs + xs[::-1], lows + highs[::-1])}Z", class_=f"band {_TEST}{more}"))
        parts.append(element("path", d=path(xs, middle), class_=f"line thin {_TEST}{more}"))
    return parts


def _size_parts(
    frame: Frame, points: Sequence[Measured], style: str, what: str, *, joined: bool = True
) -> list[Markup]:
    ordered = sorted(points, key=lambda point: point.images or 0)
    at = [frame.x(float(point.images or 0)) for point in ordered]
    parts = [
        draw_mark(frame, point, x, style, f"{text.count(point.images or 0)} training images, {what}")
        for x, point in zip(at, ordered, strict=True)
    ]
    if joined and ordered:
        line = path(at, [frame.y(point.accuracy.value) for point in ordered])
        parts.insert(0, element("path", d=line, class_=f"line thin {style}"))
    return parts


def _law_words(law: Mapping[str, Any] | None) -> str:
    if law is None:
        return ""
    return " The curve is the fitted law with its 95 % band, dashed where it is extrapolated."


def _upright(frame: Frame, value: float, words: str) -> Markup:
    """A dashed line at a value of the horizontal axis, with words above it."""
    x, (top, bottom) = frame.x(value), (28.0, HEIGHT - 36.0)
    at, anchor = (x + 2, "end") if x > WIDTH / 2 else (x - 2, "start")
    line = element("path", d=path([x, x], [top, bottom]), class_="kept")
    return line + element("text", words, x=at, y=top - 3, class_="note", text_anchor=anchor)


def _all(series: Mapping[str, Sequence[Measured]]) -> list[Measured]:
    return [point for points in series.values() for point in points]


def _of_training(point: Measured) -> Measured:
    assert point.training is not None
    return replace(point, accuracy=point.training, by_seed=point.training_by_seed)


def _as_error(point: Measured) -> Measured:
    accuracy = point.accuracy
    error = Interval(1 - accuracy.value, 1 - accuracy.high, 1 - accuracy.low, accuracy.n)
    return replace(point, accuracy=error, by_seed=tuple(1 - one for one in point.by_seed))


def _images_axis(series: Mapping[str, Sequence[Measured]], drawn: Iterable[Mapping[str, Any]]) -> Axis:
    values = [float(point.images or 1) for point in _all(series)] + [float(point["images"]) for point in drawn]
    return _padded_log("training images", values)


def _padded_log(label: str, values: Sequence[float]) -> Axis:
    """A logarithmic axis that ends a little beyond the values, not at whole powers of ten."""
    low, high = min(values), max(values)
    room = max((high / low) ** 0.05, 1.1)
    low, high = low / room, high * room
    ticks = log_ticks(low, high, 6)
    return Axis(
        label,
        low,
        high,
        tuple((value, f"{value:,.12g}" if value >= 1 else f"{value:.3g}") for value in ticks),
        log=True,
    )


def _error_axis(values: Sequence[float]) -> Axis:
    low, high = min(values) / 1.1, min(max(values) * 1.1, 1.0)
    ticks = log_ticks(low, high, 8)
    return Axis("error, %, log scale", low, high, tuple((value, f"{value * 100:.3g}") for value in ticks), log=True)


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round values between the two: 1, 2 and 5 in every decade if that is at most ``most``, else 1 and 3, else 1."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            break
    return ticks[:: max(1, math.ceil(len(ticks) / most))] or [math.sqrt(low * high)]
