"""The network beside simple shortcuts: what it does better than a look at colours, a blur or the border."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tintype.evaluation.baselines import MAJORITY, Baseline, Baselines, baselines_of
from tintype.records import Interval
from tintype.report import text
from tintype.report.figures import strip
from tintype.report.reading import of_this_version

_LABELS = {
    MAJORITY: "Always the class most frequent in training",
    "colours": "Colours alone",
    "blurred": "8 × 8 blur",
    "border": "Border alone",
}


@dataclass(frozen=True)
class BaselineRow:
    """A line of the graphic: what, the drawing, its figures in words, and the network's advantage over it."""

    label: str
    svg: Markup
    value: str
    interval: str
    advantage: str
    advantage_interval: str
    p: str
    is_sure: bool
    style: str


@dataclass(frozen=True)
class BaselinesView:
    """The section's content.

    Attributes:
        lead: What is compared, and what came out.
        network: The network's own line.
        rows: The shortcuts, the best first.
        notes: What the reader must know of how it was done.
    """

    lead: str
    network: BaselineRow
    rows: tuple[BaselineRow, ...]
    notes: tuple[str, ...]


def baselines_view(content: Mapping[str, Any]) -> BaselinesView | None:
    """The section on shortcuts; None where none were tried.

    Args:
        content: Of ``baselines.json``, or nothing.

    Raises:
        RunError: The file is from another version.
    """
    if not content:
        return None
    with of_this_version("baselines.json"):
        found = baselines_of(content)
    mark = found.rows[0].accuracy.value
    rows = sorted(found.rows, key=lambda row: -row.accuracy.value)
    network = BaselineRow(
        "The network", _drawing(found.network, mark, ""), *_figures(found.network), "", "", "", True, ""
    )
    return BaselinesView(_lead(found), network, tuple(_row(row, mark) for row in rows), _notes(found))


def _lead(found: Baselines) -> str:
    best = found.best
    kind = text.SPLIT_WORDS[found.split]
    words = (
        "What classifiers reach that cannot see what a picture shows, on the same "
        f"{text.plural(found.judged, f'{kind} image')}. "
    )
    if best.advantage.low > 0:
        return f"{words}The network is {_reach(best.advantage, sign=False)} above the best of them ({_name(best)})."
    return f"{words}The network cannot be told from the best of them ({_name(best)})."


def _row(row: Baseline, mark: float) -> BaselineRow:
    return BaselineRow(
        _label(row),
        _drawing(row.accuracy, mark, "second"),
        *_figures(row.accuracy),
        text.points(row.advantage.value),
        _reach(row.advantage),
        "< 0.0001" if row.p < 0.0001 else f"{row.p:.2g}",
        row.advantage.low > 0,
        "plain" if row.name == MAJORITY else "",
    )


def _drawing(interval: Interval, mark: float, style: str) -> Markup:
    return strip((interval.value, interval.low, interval.high), "", mark=mark, style=style)


def _figures(interval: Interval) -> tuple[str, str]:
    return text.percent(interval.value, interval.n), text.interval_range("accuracy", interval)


def _label(row: Baseline) -> str:
    return _LABELS.get(row.name, row.description)


def _name(row: Baseline) -> str:
    label = _label(row)
    return label[:1].lower() + label[1:]


def _reach(interval: Interval, *, sign: bool = True) -> str:
    """``+29.7 to +35.7 points``."""
    low, high = (text.points(value, sign=sign) for value in (interval.low, interval.high))
    return f"{low.removesuffix(f'{text.NBSP}points')} to {high}"


def _notes(found: Baselines) -> tuple[str, ...]:
    fitted = (
        f"Logistic regressions, fitted on {text.plural(found.trained, 'training image')}"
        + (f" drawn from {text.count(found.trained_of)}" if found.trained < found.trained_of else "")
        + ", the penalty chosen by cross-validation among them. The dashed mark is the most frequent class."
    )
    drawn = (
        f"Judged on {text.count(found.judged)} images drawn from {text.count(found.judged_of)}, every class in "
        "proportion; the network’s accuracy here is that on the same images."
    )
    notes = [fitted] + ([drawn] if found.judged < found.judged_of else [])
    return (*notes, *(f"{reason[:1].upper()}{reason[1:]}." for reason in found.left_out))
