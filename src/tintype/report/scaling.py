"""What the report of a study of scaling shows beside the accuracy of its runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tintype.evaluation.scaling import ScalingPoint
from tintype.records import Interval
from tintype.report import text
from tintype.report.figures import Chart
from tintype.report.scaling_figures import (
    MODE_WORDS,
    PARTS,
    milliseconds,
    part_seconds,
    speed_up_chart,
    step_chart,
)
from tintype.report.scalingfile import Scaling

_LOSSES = ("work", "exposed", "waiting", "agreement")
_LOSS_WORDS = {
    "work": "communication’s work on the cores that compute",
    "exposed": "gradients that are on their way when nothing is left to compute",
    "waiting": "waiting for the slowest rank",
    "agreement": "the messages by which the ranks agree",
}


@dataclass(frozen=True)
class Table:
    """A table with a heading: the words above its columns, and for each row its label and its figures as text."""

    title: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class ScalingView:
    """What the page shows.

    Attributes:
        result: The answer in a sentence.
        interval: Its interval, and of what.
        verdict: Why it is not all.
        facts: About the ranks and their link.
        charts: A bar chart for each mode, and the speed-ups.
        gains: What was reached, a table for each mode.
        steps: Where a step's time goes, likewise.
        projections: What more machines would reach, likewise.
        checks: The projection beside what was measured, a line each.
        assumptions: Of the projections.
    """

    result: str
    interval: str
    verdict: str
    facts: tuple[tuple[str, str], ...]
    charts: tuple[Chart, ...]
    gains: tuple[Table, ...]
    steps: tuple[Table, ...]
    projections: tuple[Table, ...]
    checks: tuple[str, ...]
    assumptions: tuple[str, ...]


def scaling_view(scaling: Scaling) -> ScalingView:
    """Everything that the page shows of ``scaling.json``."""
    first = scaling.of(scaling.modes[0])
    best, rate = first[-1], first[-1].speed_up
    charts = [
        step_chart(scaling.of(mode), [item for item in scaling.projections if item.mode == mode])
        for mode in scaling.modes
    ]
    return ScalingView(
        result=f"{text.plural(best.ranks, 'rank')} are {rate.value:.2f} times as fast as one",
        interval=f"95{text.NBSP}% interval {rate.low:.2f} to {rate.high:.2f}, n = {text.plural(rate.n, 'block')} of "
        f"steps; {MODE_WORDS[best.mode]}",
        verdict=_verdict(best),
        facts=_facts(scaling),
        charts=(*charts, speed_up_chart(scaling.points, scaling.projections)),
        gains=tuple(_gains(scaling, mode) for mode in scaling.modes),
        steps=tuple(_steps(scaling, mode) for mode in scaling.modes),
        projections=tuple(_projections(scaling, mode) for mode in scaling.modes if scaling.projections),
        checks=tuple(_check(point) for point in scaling.points if point.predicted is not None),
        assumptions=scaling.assumptions,
    )


def _verdict(point: ScalingPoint) -> str:
    """Where the rest of the ideal went."""
    reached = f"That is {text.percent(point.efficiency.value)} of {point.ranks}."
    losses = sorted(((getattr(point.parts, name), name) for name in _LOSSES), reverse=True)
    named = [
        f"{milliseconds(seconds)} are {_LOSS_WORDS[name]}"
        for seconds, name in losses[:2]
        if seconds > 0.005 * point.seconds.value
    ]
    words = f"Of a step’s {milliseconds(point.seconds.value)}, {' and '.join(named)}." if named else ""
    infinite = point.images / point.infinite
    rest = f"Over a network that costs nothing it would be {infinite:,.1f} images a second, not "
    rest += f"{point.images_per_second.value:,.1f}."
    return " ".join(filter(None, (reached, words, rest)))


def _facts(scaling: Scaling) -> tuple[tuple[str, str], ...]:
    link, hosts = scaling.link, tuple(dict.fromkeys(scaling.hosts))
    sent = "" if scaling.wire in (None, 1.0) else f", {scaling.wire:g} of that on the link"
    if scaling.factored:
        sent += f"; those of {', '.join(scaling.factored)} as factors where these are less"
    return (
        ("Ranks", f"{len(scaling.hosts)} on {', '.join(hosts)}, {text.plural(scaling.threads, 'thread')} each"),
        ("A step of one rank", f"{text.plural(scaling.batch, 'image')}, {scaling.precision}"),
        ("Gradients", f"{text.megabytes(scaling.gradient_bytes / 1e6)} a step ({scaling.comm}){sent}"),
        ("Bandwidth", f"{link.bytes_per_second * 8 / 1e6:,.0f}{text.NBSP}Mbit/s each way"),
        ("Latency", f"{link.latency * 1e6:,.0f}{text.NBSP}µs a message"),
        ("Work of sending", f"{link.work_per_byte * 1e9:.2f}{text.NBSP}s of a core for a GB"),
        ("A transfer beside computing", f"takes {link.slowed:.2f} times as long"),
        ("A message after computing", f"{(link.latency + link.wake) * 1e3:.1f}{text.NBSP}ms"),
        (
            "Beside each other",
            f"a rank by itself takes {scaling.sharing:.2f} times as long while the others compute too",
        ),
    )


def _gains(scaling: Scaling, mode: str) -> Table:
    rows = tuple(
        (
            str(point.ranks),
            (
                text.count(point.images),
                _with_range(point.seconds, lambda value: f"{value * 1000:,.1f}"),
                _with_range(point.images_per_second, lambda value: f"{value:,.1f}"),
                _with_range(point.speed_up, lambda value: f"{value:.2f}") if point.ranks > 1 else "1",
                text.percent(point.efficiency.value),
                f"{point.images / point.ideal:,.1f}",
                f"{point.images / point.infinite:,.1f}",
            ),
        )
        for point in scaling.of(mode)
    )
    heads = (
        "Ranks", "Images a step", "A step, ms", "Images a second", "Speed-up", "Efficiency", "without latency",
        "infinitely fast",
    )  # fmt: skip
    note = (
        "Intervals are 95 % over the blocks. The last two columns are images a second over a network of the measured "
        "bandwidth without latency, and over one that costs nothing: neither time nor the cores’ work. Waiting for the "
        "slowest rank stays."
    )
    return Table(MODE_WORDS[mode].capitalize(), note, heads, rows)


def _steps(scaling: Scaling, mode: str) -> Table:
    points = scaling.of(mode)

    def row(words: str, value: Callable[[ScalingPoint], float]) -> tuple[str, tuple[str, ...]]:
        return words, tuple(f"{value(point) * 1000:,.1f}" for point in points)

    rows = [
        row(words.capitalize(), lambda point, fields=fields: part_seconds(point.parts, fields))  # type: ignore[misc]
        for _, words, fields in PARTS
    ]
    rows += [
        row("Sum of the parts", lambda point: point.parts.total),
        row("Measured", lambda point: point.seconds.value),
        ("Not accounted for", tuple(_share(point.unaccounted / point.seconds.value) for point in points)),
        row("Communication hidden by the backward pass, not in the sum", lambda point: point.parts.hidden),
    ]
    heads = ("Milliseconds of a step", *(text.plural(point.ranks, "rank") for point in points))
    note = (
        "Means over ranks and steps. Measured is the time that the training loop counts for a block of steps, by their "
        "number; the parts are the clock’s."
    )
    return Table(f"A step, {MODE_WORDS[mode]}", note, heads, tuple(rows))


def _projections(scaling: Scaling, mode: str) -> Table:
    rows = tuple(
        (
            str(item.machines),
            (
                text.count(item.images),
                f"{item.parts.total * 1000:,.1f}",
                f"{(item.parts.exposed + item.parts.work) * 1000:,.1f}",
                f"{item.parts.waiting * 1000:,.1f}",
                f"{item.images_per_second:,.1f}",
                f"{item.speed_up:.2f}",
                text.percent(item.efficiency),
                f"{item.images / item.ideal:,.1f}",
                f"{item.images / item.infinite:,.1f}",
            ),
        )
        for item in scaling.projections
        if item.mode == mode
    )
    heads = (
        "Machines", "Images a step", "A step, ms", "communication", "waiting", "Images a second", "Speed-up",
        "Efficiency", "without latency", "infinitely fast",
    )  # fmt: skip
    return Table(MODE_WORDS[mode].capitalize(), "", heads, rows)


def _check(point: ScalingPoint) -> str:
    assert point.predicted is not None
    assert point.prediction_error is not None
    predicted, error = point.predicted.total, point.prediction_error
    way = "more" if error > 0 else "less"
    return (
        f"{point.ranks} ranks, {MODE_WORDS[point.mode]}: {milliseconds(predicted)} a step predicted from one rank, "
        f"{milliseconds(point.seconds.value)} measured; predicted is {text.percent(abs(error))} {way}."
    )


def _with_range(interval: Interval, shown: Callable[[float], str]) -> str:
    return f"{shown(interval.value)} ({shown(interval.low)} to {shown(interval.high)})"


def _share(value: float) -> str:
    return f"{'−' if value < 0 else ''}{abs(value) * 100:.1f}{text.NBSP}%"
