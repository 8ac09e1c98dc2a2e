"""The figures of a study of scaling: where a step's time goes, and what more ranks gain. Pure functions to a chart."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tintype.evaluation.scaling import Projection, ScalingPoint
from tintype.evaluation.scaling_model import Parts
from tintype.report import text
from tintype.report.figures import Chart, Frame, draw_frame
from tintype.report.svg import Axis, element, join, linear_axis, path

PARTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("s6", "input", ("input",)),
    ("s1", "forward", ("forward",)),
    ("s7", "backward", ("backward",)),
    ("s3", "communication’s work on the same cores", ("work",)),
    ("s2", "communication, exposed", ("exposed",)),
    ("s5", "waiting for the slowest rank", ("waiting",)),
    ("s8", "agreement and bookkeeping", ("agreement", "bookkeeping")),
    ("s4", "optimiser", ("optimiser",)),
)
"""Style, words and fields of each part of a step, in the order in which they are stacked."""

MODE_WORDS = {"strong": "one batch shared", "weak": "a batch on each rank"}
_MODE_STYLES = {"strong": "s1", "weak": "s2"}
_WIDEST = 56.0  # of a bar
_HINT = 2.4  # radius of a small dot


def part_seconds(parts: Parts, fields: Sequence[str]) -> float:
    """Seconds of a step that these fields have together."""
    return float(sum(getattr(parts, field) for field in fields))


def step_chart(points: Sequence[ScalingPoint], projections: Sequence[Projection]) -> Chart:
    """A bar for each number of ranks, stacked from the parts of a step; projected ones fainter, behind the measured.

    Args:
        points: Of one mode, at least one.
        projections: Of the same mode.
    """
    mode = points[0].mode
    measured = max(point.ranks for point in points)
    bars = [(str(point.ranks), point.parts, "", "measured") for point in points]
    bars += [
        (str(item.machines), item.parts, " projected", "projected") for item in projections if item.machines > measured
    ]
    y_axis = linear_axis("milliseconds a step", [parts.total * 1000 for _, parts, _, _ in bars], floor=0.0)
    ticks = tuple((float(number), name) for number, (name, _, _, _) in enumerate(bars))
    frame = Frame(Axis("ranks", -0.6, len(bars) - 0.4, ticks), y_axis)
    width = min(_WIDEST, 0.62 * (frame.x(1) - frame.x(0)))
    drawn = [
        _bar(frame, float(number), width, parts, f"{name} ranks, {how}", style)
        for number, (name, parts, style, how) in enumerate(bars)
    ]
    shown = [item for item in PARTS if any(part_seconds(parts, item[2]) * 1000 >= 0.05 for _, parts, _, _ in bars)]
    spoken = "Milliseconds of a step: " + ", ".join(
        f"{name} ranks {parts.total * 1000:.0f} ({how})" for name, parts, _, how in bars
    )
    svg = draw_frame(frame, join(drawn), f"{spoken}.", x_title="ranks")
    caption = (
        f"Means of a step over ranks and steps, {MODE_WORDS[mode]}, stacked from the bottom in the order of the key."
    )
    if len(bars) > len(points):
        caption += " Fainter bars are projected."
    caption += " The thin line beside a bar is communication that the backward pass hides."
    return Chart(
        f"A step, {MODE_WORDS[mode]}", svg, caption, tuple((f"block {style}", words) for style, words, _ in shown)
    )


def speed_up_chart(points: Sequence[ScalingPoint], projections: Sequence[Projection]) -> Chart:
    """Speed-up against ranks on logarithmic axes, with the ideal line; dashed where it is projected.

    Args:
        points: Of all modes.
        projections: Likewise.
    """
    counts = sorted({point.ranks for point in points} | {item.machines for item in projections})
    values = [point.speed_up.low for point in points] + [item.speed_up for item in projections]
    low, high = min(0.9, *values) * 0.95, counts[-1] * 1.12
    ticks = tuple((float(count), str(count)) for count in _spaced(counts))
    frame = Frame(
        Axis("ranks", 0.88, high, ticks, log=True),
        Axis("speed-up", low, high, tuple(tick for tick in ticks if tick[0] >= low), log=True),
    )
    ends = [1.0, float(counts[-1])]
    parts = [element("path", d=path([frame.x(end) for end in ends], [frame.y(end) for end in ends]), class_="ideal")]
    for mode, style in _MODE_STYLES.items():
        parts += _line(frame, mode, style, points, projections)
    spoken = "Speed-up: " + ", ".join(
        f"{point.ranks} ranks {point.speed_up.value:.2f} ({MODE_WORDS[point.mode]})" for point in points
    )
    svg = draw_frame(frame, join(parts), f"{spoken}.", x_title="ranks, log scale")
    modes = dict.fromkeys(point.mode for point in points)
    legend = tuple((_MODE_STYLES[mode], MODE_WORDS[mode]) for mode in modes) if len(modes) > 1 else ()
    caption = (
        "Images a second beside those of one rank, with 95 % intervals over the blocks. The dashed straight line is "
        "ideal."
    )
    return Chart("Speed-up", svg, f"{caption} Rings on dashed lines are projected." if projections else caption, legend)


def _bar(frame: Frame, place: float, width: float, parts: Parts, label: str, style: str) -> Markup:
    left, base = frame.x(place) - width / 2, 0.0
    drawn: list[Markup] = []
    for series, words, fields in PARTS:
        height = part_seconds(parts, fields) * 1000
        top, bottom = frame.y(base + height), frame.y(base)
        hint = element("title", f"{label}: {words} {milliseconds(height / 1000)}")
        box = {"x": left, "y": top, "width": width, "height": max(0.0, bottom - top)}
        drawn.append(element("rect", hint, **box, class_=f"segment {series}{style}"))
        base += height
    if parts.hidden > 0:
        end = (parts.input + parts.forward + parts.backward + parts.work) * 1000
        span = [frame.y(end), frame.y(end - min(parts.hidden * 1000, end))]
        hint = element("title", f"{label}: hidden communication {milliseconds(parts.hidden)}")
        drawn.append(element("path", hint, d=path([left - 4, left - 4], span), class_=f"line s2{style}"))
    return element("g", *drawn)


def _line(
    frame: Frame, mode: str, style: str, points: Sequence[ScalingPoint], projections: Sequence[Projection]
) -> list[Markup]:
    mine = [point for point in points if point.mode == mode]
    if not mine:
        return []
    ahead = [item for item in projections if item.mode == mode and item.machines > mine[-1].ranks]
    xs, ys = [frame.x(point.ranks) for point in mine], [frame.y(point.speed_up.value) for point in mine]
    drawn = [element("path", d=path(xs, ys), class_=f"line thin {style}")]
    if ahead:
        far_xs, far_ys = [frame.x(item.machines) for item in ahead], [frame.y(item.speed_up) for item in ahead]
        drawn.append(element("path", d=path([xs[-1], *far_xs], [ys[-1], *far_ys]), class_=f"line thin beyond {style}"))
        for item, x, y in zip(ahead, far_xs, far_ys, strict=True):
            hint = element("title", f"{item.machines} machines, projected: {item.speed_up:.2f}")
            drawn.append(element("circle", hint, cx=x, cy=y, r=_HINT, class_=f"seed {style}"))
    for point, x, y in zip(mine, xs, ys, strict=True):
        interval = point.speed_up
        words = f"{point.ranks} ranks: {interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"
        ends = [frame.y(interval.low), frame.y(interval.high)]
        drawn.append(
            element(
                "g",
                element("title", words),
                element("path", d=path([x, x], ends), class_=f"whisker {style}"),
                element("circle", cx=x, cy=y, r=3.2, class_=f"dot {style}"),
            )
        )
    return drawn


def milliseconds(seconds: float) -> str:
    """``412.3 ms``."""
    return f"{seconds * 1000:,.1f}{text.NBSP}ms"


def _spaced(counts: Sequence[int]) -> list[int]:
    """Numbers that stand far enough from each other on a logarithmic axis, the last one always."""
    kept: list[int] = []
    for count in reversed(counts):
        if not kept or count * 1.25 <= kept[-1]:
            kept.append(count)
    return kept[::-1]
