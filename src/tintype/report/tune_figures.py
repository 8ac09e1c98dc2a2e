"""The figures of a search: what was found when, and which settings mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from tintype.report import text
from tintype.report.figures import WIDTH, Chart, Frame, draw_frame
from tintype.report.svg import Axis, element, join, linear_axis, path
from tintype.report.tune_board import BASELINES
from tintype.report.tunefile import TrialRow, TuneTable

_UNITS = ((1.0, "seconds"), (60.0, "minutes"), (3600.0, "hours"))
_SHOWN = 0.75  # share of the dots that the vertical axis must hold
_MUCH = 2.0  # how many times as long an axis for all of them may be
_STYLES = {"default": "s2", "logistic": "s4"}
_ROW, _HEAD = 24.0, 6.0
_LETTER = 5.9  # mean width of a letter at the labels' size
_LONGEST = 22  # letters of a name
_MOST_BARS = 12


def history_chart(table: TuneTable) -> Chart | None:
    """Every trial as a dot where it ended, the best so far as a line; None before the first has ended."""
    ended = sorted((row for row in table.trials if _is_dot(row)), key=lambda row: row.ended or 0.0)
    if not ended:
        return None
    baselines = [row for row in table.trials if row.role in BASELINES and row.accuracy]
    end = max(table.seconds, *(row.ended or 0.0 for row in ended))
    unit, words = next(item for item in _UNITS if end < 180 * item[0] or item is _UNITS[-1])
    y_axis = _accuracy_axis([_value(row) for row in ended], [_value(row) for row in baselines])
    shown = [row for row in baselines if _value(row) >= y_axis.low]
    frame = Frame(linear_axis(f"searching, {words}", [end / unit], floor=0.0), y_axis)
    parts = [_baseline(frame, row) for row in shown]
    parts += [_dot(frame, row, (row.ended or 0.0) / unit) for row in ended]
    complete = [row for row in ended if row.state == "complete"]
    if complete:
        parts.append(element("path", d=_steps(frame, complete, end, unit), class_="line s1"))
        best = max(complete, key=_value)
        spoken = f"{_percent(best)} after {text.duration(best.ended or 0.0)}, the best of {len(complete)}"
    else:
        spoken = "none is complete"
    svg = draw_frame(
        frame, join(parts), f"Validation accuracy of the trials by time: {spoken}.", x_title=f"searching, {words}"
    )
    legend = [("s1", "best so far"), *((f"{_STYLES[row.role]} level", BASELINES[row.role]) for row in shown)]
    below = [row for row in baselines if row not in shown]
    return Chart("What was found when", svg, _caption(ended, y_axis.low, below), tuple(legend))


def importance_chart(importance: Mapping[str, float], names: Mapping[str, str]) -> Chart | None:
    """How much of the differences in accuracy goes with each setting, as bars; None where that is not known.

    Args:
        importance: Dotted name to share.
        names: Dotted name to the words for it, where there are any.
    """
    ordered = sorted(importance.items(), key=lambda item: -item[1])[:_MOST_BARS]
    if not ordered:
        return None
    labels = [_cut(names.get(name, name)) for name, _ in ordered]
    left = 10 + _LETTER * max(map(len, labels))
    most = max(share for _, share in ordered) or 1.0
    room = WIDTH - 42 - left
    parts: list[Markup] = []
    for number, (label, (name, share)) in enumerate(zip(labels, ordered, strict=True)):
        y, length = _HEAD + _ROW * (number + 0.5), room * share / most
        bar = element("rect", x=left, y=y - 7, width=max(length, 1.0), height=14, rx=2, class_="quantity")
        value = element("text", f"{share * 100:.0f} %", x=left + length + 6, y=y + 3.8)
        parts.append(element("text", label, x=left - 8, y=y + 3.8, text_anchor="end", class_="name"))
        parts.append(element("g", element("title", f"{name}: {share * 100:.1f} %"), bar, value))
    spoken = "Share of the differences in accuracy: " + ", ".join(
        f"{label} {share * 100:.0f} %" for label, (_, share) in zip(labels, ordered, strict=True)
    )
    box = f"0 0 {WIDTH:.0f} {_HEAD * 2 + _ROW * len(ordered):.0f}"
    svg = element("svg", *parts, viewBox=box, class_="chart", role="img", aria_label=f"{spoken}.")
    more = len(importance) - len(ordered)
    words = (
        "The share of the differences in validation accuracy that goes with each setting, over all that was tried. "
        "It tells where a search pays, not which value is best"
    )
    return Chart("Which settings mattered", svg, f"{words}{f'; {more} smaller ones are left out' if more > 0 else ''}.")


def _is_dot(row: TrialRow) -> bool:
    return row.accuracy is not None and row.ended is not None and row.role == "search"


def _value(row: TrialRow) -> float:
    assert row.accuracy is not None
    return row.accuracy.value


def _percent(row: TrialRow) -> str:
    assert row.accuracy is not None
    return text.percent(row.accuracy.value, row.accuracy.n)


def _accuracy_axis(values: Sequence[float], baselines: Sequence[float]) -> Axis:
    """An axis that holds every dot and baseline, but for a few low ones that would press the others together."""
    better = sorted(values)[int(len(values) * (1 - _SHOWN)) :]
    most = max(*better, *baselines)
    floor = most - _MUCH * (most - better[0])
    held = [value for value in (*values, *baselines) if value >= floor]
    return linear_axis("validation accuracy, %", held, percent=True)


def _baseline(frame: Frame, row: TrialRow) -> Markup:
    y = frame.y(_value(row))
    ends = path([frame.left, frame.x(frame.x_axis.high)], [y, y])
    hint = element("title", f"{BASELINES[row.role]}: {_percent(row)}")
    return element("path", hint, d=ends, class_=f"line thin {_STYLES[row.role]} level")


def _dot(frame: Frame, row: TrialRow, time: float) -> Markup:
    """Filled where the trial is complete, a ring where it was stopped, small at the edge where it lies below."""
    stopped = f", stopped after stage {row.stage}" if row.state != "complete" else ""
    hint = f"trial {row.number}: {_percent(row)} after {text.duration(row.ended or 0.0)}{stopped}"
    is_below = _value(row) < frame.y_axis.low
    style = "seed s1" if row.state != "complete" else "dot s1 trial"
    radius = 1.8 if is_below else 2.8
    return element("circle", element("title", hint), cx=frame.x(time), cy=frame.y(_value(row)), r=radius, class_=style)


def _steps(frame: Frame, complete: Sequence[TrialRow], end: float, unit: float) -> str:
    """The best accuracy so far, from the first trial on to the end of the search."""
    xs: list[float] = []
    ys: list[float] = []
    best = -1.0
    for row in complete:
        if _value(row) > best:
            x = frame.x((row.ended or 0.0) / unit)
            if xs:
                xs.append(x)
                ys.append(frame.y(best))
            best = _value(row)
            xs.append(x)
            ys.append(frame.y(best))
    return path([*xs, frame.x(end / unit)], [*ys, frame.y(best)])


def _caption(ended: Sequence[TrialRow], floor: float, baselines: Sequence[TrialRow]) -> str:
    """What the marks are, and what lies below the axis."""
    words = ["A dot is a candidate, where its training ended."]
    if any(row.state != "complete" for row in ended):
        words.append("Rings were stopped before the last stage.")
    if below := sum(_value(row) < floor for row in ended):
        words.append(
            f"{text.plural(below, 'candidate')} below the axis {'stands' if below == 1 else 'stand'} at its edge."
        )
    words += [f"Below it lies {BASELINES[row.role]}: {_percent(row)}." for row in baselines]
    return " ".join(words)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
