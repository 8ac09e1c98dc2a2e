"""Withholding unsure answers: what the model's threshold gives, in a sentence and as a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tintype.evaluation.stats import wilson_bounds
from tintype.records import Interval
from tintype.report import text
from tintype.report.figures import Chart, Frame, Line, draw_frame, draw_line
from tintype.report.reading import of_this_version
from tintype.report.svg import element, join, linear_axis, path


@dataclass(frozen=True)
class AbstentionView:
    """The section on withheld answers.

    Attributes:
        lead: What the threshold gives.
        remark: Whether that is what was wanted, or why there is no threshold; may be empty.
        chart: Mistakes among the answered against the share that is answered.
        facts: Name and value of what the sentence leaves out.
    """

    lead: str
    remark: str
    chart: Chart
    facts: tuple[tuple[str, str], ...]


@of_this_version("abstention.json")
def abstention_view(content: Mapping[str, Any]) -> AbstentionView | None:
    """The section from ``abstention.json``.

    Args:
        content: ``chosen``, the threshold on the validation images, and ``test``, the same on the test images; either
            may be absent or None.

    Returns:
        None where no image was judged.

    Raises:
        RunError: The file is from another version.
    """
    chosen, test = content.get("chosen") or {}, content.get("test") or {}
    kind, judged = ("test", test) if test.get("curve") else ("validation", chosen)
    if not judged.get("curve"):
        return None
    coverage, error_rate = Interval(**judged["coverage"]), Interval(**judged["error_rate"])
    return AbstentionView(
        lead=_lead(judged, kind, coverage, error_rate),
        remark=_remark(judged, kind, error_rate),
        chart=_chart(chosen if chosen.get("curve") else None, judged, kind, coverage, error_rate),
        facts=_facts(judged, kind, coverage, error_rate),
    )


def _lead(judged: Mapping[str, Any], kind: str, coverage: Interval, error_rate: Interval) -> str:
    images = text.plural(judged["n"], f"{kind} image")
    wrong = f"is wrong on {_with_range(error_rate)}"
    if not judged["threshold"]:
        return f"The model answers every image, and {wrong} of {images}."
    if error_rate.n == 0:
        return f"The model withholds its answer on all {images}."
    if error_rate.n == judged["n"]:
        return f"The model withholds its answer on none of {images}, and {wrong} of them."
    withheld = Interval(1 - coverage.value, 1 - coverage.high, 1 - coverage.low, coverage.n)
    return f"Withholding its answer on {_with_range(withheld)} of {images}, the model {wrong} of the others."


def _remark(judged: Mapping[str, Any], kind: str, error_rate: Interval) -> str:
    wanted = text.percent(judged["wanted_error_rate"])
    if judged["reason"]:
        return f"There is no threshold for at most {wanted} mistakes: {judged['reason']}."
    flattered = " The threshold was chosen on these images, which flatters it." if kind == "validation" else ""
    if not judged["threshold"]:
        return f"No answer is withheld: at most {wanted} mistakes were wanted, and validation had no more.{flattered}"
    if error_rate.n == 0:
        return "No image here was one to be sure of."
    if error_rate.low > judged["wanted_error_rate"]:
        return f"That is more than the {wanted} that was wanted, also at the lower end of the interval.{flattered}"
    if error_rate.high > judged["wanted_error_rate"]:
        return f"At most {wanted} was wanted: the interval leaves open whether that is reached.{flattered}"
    return f"At most {wanted} was wanted: the whole interval is below it.{flattered}"


def _facts(
    judged: Mapping[str, Any], kind: str, coverage: Interval, error_rate: Interval
) -> tuple[tuple[str, str], ...]:
    threshold, n = judged["threshold"], judged["n"]
    everything = _with_range(_share(judged["curve"][-1]["error_rate"], n))
    rows = [
        ("Threshold", text.number(threshold) if threshold else "none, every image is answered"),
        ("Wanted, at most", f"{text.percent(judged['wanted_error_rate'])} mistakes among the answered"),
        (f"Wrong, of all {kind} images", f"{everything} {_of(n)}"),
    ]
    if threshold:
        rows.insert(2, ("Answered", f"{_with_range(coverage)} {_of(n)}"))
        rows.insert(3, ("Wrong, of the answered", f"{_with_range(error_rate)} {_of(error_rate.n)}"))
    return tuple(rows)


def _chart(
    chosen: Mapping[str, Any] | None, judged: Mapping[str, Any], kind: str, coverage: Interval, error_rate: Interval
) -> Chart:
    """Share of mistakes against share of images answered: test with its band, validation beside it."""
    lines = [_line(judged["curve"], "validation", judged["n"])]
    legend: tuple[tuple[str, str], ...] = ()
    if kind == "test" and chosen is not None:
        lines.insert(0, _line(chosen["curve"], "train", None))
        legend = (("validation", "test"), ("train", "validation"))
    wanted = judged["wanted_error_rate"]
    # A few sure mistakes put the curve's beginning at 100 %, which would press all the rest flat.
    most = max(wanted, *(max(line.ys[len(line.ys) // 10 :]) for line in lines))
    frame = Frame(
        linear_axis("", [0.0, 1.0], percent=True),
        linear_axis("wrong among the answered, %", [0.0, min(1.0, 1.1 * most)], floor=0.0, percent=True),
    )
    level = frame.y(wanted)
    parts = [element("path", d=path([frame.x(0), frame.x(1)], [level, level]), class_="ideal")]
    low_high = lines[-1].band
    assert low_high is not None
    xs = [frame.x(x) for x in lines[-1].xs]
    outline = path(xs + xs[::-1], [frame.y(y) for y in low_high[1]] + [frame.y(y) for y in low_high[0]][::-1])
    parts.append(element("path", d=f"{outline}Z", class_="band validation"))
    parts += [draw_line(frame, line) for line in lines]
    if judged["threshold"] and error_rate.n:
        x = frame.x(coverage.value)
        parts.append(element("path", d=path([x, x], [frame.y(0), frame.y(frame.y_axis.high)]), class_="kept"))
        parts.append(element("circle", cx=x, cy=frame.y(error_rate.value), r=3.6, class_="dot validation"))
    spoken = f"{_lead(judged, kind, coverage, error_rate)} Share of mistakes against share of images answered."
    svg = draw_frame(frame, join(parts), spoken, x_title="images answered, the surest first, %")
    caption = f"The level line is the wanted {text.percent(wanted)}; the band is the {kind} images’ 95 % interval."
    if judged["threshold"]:
        caption += " The upright line is the threshold."
    return Chart("Mistakes against answers", svg, caption, legend)


def _line(curve: Sequence[Mapping[str, float]], style: str, band_n: int | None) -> Line:
    """A curve, with its pointwise interval where the number of images is given."""
    xs, ys = [point["coverage"] for point in curve], [point["error_rate"] for point in curve]
    if band_n is None:
        return Line(style, xs, ys)
    low, high = wilson_bounds(ys, [band_n * x for x in xs])
    return Line(style, xs, ys, (low.tolist(), high.tolist()))


def _share(value: float, n: int) -> Interval:
    low, high = wilson_bounds(value, n)
    return Interval(value, float(low), float(high), n)


def _of(n: int) -> str:
    return f"· n{text.NBSP}={text.NBSP}{text.count(n)}"


def _with_range(interval: Interval) -> str:
    """``0.6 % (0.2 to 1.5 %)``."""
    shown = text.percent(interval.value, interval.n)
    reach = text.interval_range("accuracy", interval)
    return f"{shown} ({reach})" if reach else shown
