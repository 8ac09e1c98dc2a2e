"""The report of a comparison: from its directory to one HTML file, without scripts and without torch."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tintype.evaluation.power import POWER
from tintype.evaluation.weighted import LOWER_IS_BETTER
from tintype.records import Finding, Interval
from tintype.report import text
from tintype.report.figures import strip
from tintype.report.html import write_page
from tintype.report.results import Cell, StripRow, plain_cell, scale_floor, share_cell
from tintype.report.runsfile import BesideReference, ComparedRun, RunsTable, read_runs_table
from tintype.report.study_rows import p_value
from tintype.report.studyfile import Difference
from tintype.rundir import RunDir

UNDECIDED = "cannot be told apart"
_FIRST_IMAGES = 30
_MOST_IMAGES = 1_000  # that a list holds; comparison.json has all


@dataclass(frozen=True)
class RunsHeadline:
    """The answer in a sentence, its interval, what these images could show, and drawings."""

    result: str
    interval: str
    verdict: str
    strips: tuple[StripRow, ...]


@dataclass(frozen=True)
class RunView:
    """A row of the table of results: a run by the metric that decides."""

    name: str
    path: str
    figure: Cell
    difference: Cell
    verdict: str
    sure: bool
    detectable: str


@dataclass(frozen=True)
class MetricView:
    """A row of the table of all figures: the reference's figure, then each run's with its difference and p-value."""

    name: str
    reference: Cell
    runs: tuple[tuple[Cell, Cell, str, bool], ...]


@dataclass(frozen=True)
class ImagesView:
    """Images that one network alone got right: who, how many, the first of them, and how many are not shown."""

    words: str
    count: int
    first: tuple[str, ...]
    rest: tuple[str, ...]
    left_out: int


@dataclass(frozen=True)
class CrosstabView:
    """The two-by-two table of a run and the reference, and the images off its diagonal."""

    name: str
    cells: tuple[tuple[str, str], tuple[str, str]]
    images: tuple[ImagesView, ...]


def write_runs_report(folder: Path) -> Path:
    """Write ``report.html`` of a comparison from its directory alone, atomically.

    Returns:
        The path of the report.

    Raises:
        RunError: There is no such comparison, or its file is damaged.
    """
    return write_page(RunDir(folder), "compare.html", runs_context(folder))


def runs_context(folder: Path) -> dict[str, Any]:
    """Everything that the template of a comparison's report shows."""
    table = read_runs_table(folder)
    floor = scale_floor([run.figures[table.metric].low for run in table.runs]) if text.is_share(table.metric) else 0.0
    return {
        "name": text.printable(RunDir(folder).name),
        "version": "",
        "metric": text.metric_name(table.metric),
        "images": f"{text.count(table.images)} {text.SPLIT_WORDS[table.split]} images",
        "reference": table.reference.name,
        "headline": _headline(table),
        "facts": _facts(table),
        "rows": [_run_view(run, table, floor) for run in table.runs],
        "scale": f"{floor * 100:.0f} to 100{text.NBSP}%" if text.is_share(table.metric) else "",
        "others": [run.name for run, _ in table.others],
        "metric_rows": [_metric_view(metric, table) for metric in table.reference.figures],
        "crosstabs": [_crosstab_view(run, beside, table.reference.name) for run, beside in table.others],
        "findings": [Finding("comparison-remark", "info", remark) for remark in table.remarks],
        "command": _command(table),
        "sections": [
            ("results", "Results"), ("all", "All figures"), ("images", "Images that only one got right"),
            ("findings", "Findings"), ("repeat", "Repeat"),
        ],
    }  # fmt: skip


def difference_shown(metric: str, item: Difference) -> tuple[str, str]:
    """A difference and its interval in words, in points where the metric is a share."""
    if not text.is_share(metric):
        return text.signed(item.value), f"{text.signed(item.low)} to {text.signed(item.high)}"
    low, high = (_points(end, item.n).removesuffix(f"{text.NBSP}points") for end in (item.low, item.high))
    return _points(item.value, item.n), f"{low} to {high}"


def power_words(beside: BesideReference, n: int) -> str:
    """What the images could show of two accuracies, as a sentence or two."""
    often = f"{POWER * 5:.0f} of 5 cases"
    told = beside.crosstab.only_run + beside.crosstab.only_reference
    images = text.plural(n, "image")
    if beside.detectable is None:
        few = f"Only {told:,}" if told else "None"
        return (
            f"{few} of {images} {'tells' if told < 2 else 'tell'} the two apart, so that no difference of their "
            "accuracies would be found reliably."
        )
    words = f"On these {images} a difference of {_points(beside.detectable, n, sign=False)} would be found in {often}"
    gap = abs(beside.crosstab.only_run - beside.crosstab.only_reference) / n
    if gap == 0 or gap >= beside.detectable or beside.images_needed is None:
        return f"{words}."
    needed = float(f"{beside.images_needed:.2g}")
    return f"{words}; for the {_points(gap, n, sign=False)} seen here, about {text.count(needed)} images are needed."


def _points(value: float, n: int, *, sign: bool = True) -> str:
    """A difference of two shares of n images in percentage points, with as many decimals as the images carry."""
    shown = f"{abs(value) * 100:.{text.decimals_for(n)}f}"
    mark = "" if not sign or float(shown) == 0 else ("+" if value > 0 else "−")
    return f"{mark}{shown}{text.NBSP}points"


def _headline(table: RunsTable) -> RunsHeadline:
    metric, others = table.metric, table.others
    strips = tuple(_strip_row(run, run is table.reference) for run in table.runs)
    if len(others) > 1:
        counts = Counter(beside.differences[metric].verdict for _, beside in others)
        words = ", ".join(f"{counts[kind]} {kind}" for kind in ("better", "worse", UNDECIDED) if counts[kind])
        best = _best(table)
        images = f"{text.count(table.images)} {text.SPLIT_WORDS[table.split]} images"
        return RunsHeadline(
            result=f"{len(others)} runs beside {table.reference.name}: {words}",
            interval=f"by {text.metric_name(metric).lower()}, {images}",
            verdict=f"{best.name} has the best figure, {text.figure(metric, best.figures[metric])}. The best of "
            "several is partly the luckiest: look at the intervals.",
            strips=strips,
        )
    run, beside = others[0]
    item = beside.differences[metric]
    value, interval = difference_shown(metric, item)
    if item.verdict == UNDECIDED:
        result = f"{run.name} and {table.reference.name} cannot be told apart by {text.metric_name(metric).lower()}"
    else:
        result = f"{run.name} is {item.verdict} than {table.reference.name}"
    return RunsHeadline(
        result=result,
        interval=f"{text.metric_name(metric).lower()} {value}, 95{text.NBSP}% interval {interval}, "
        f"{p_value(item.adjusted_p)}, n{text.NBSP}={text.NBSP}{text.count(item.n)}",
        verdict=power_words(beside, table.images),
        strips=strips,
    )


def _best(table: RunsTable) -> ComparedRun:
    """The run with the best figure, the earlier one of equals."""
    sign = 1 if table.metric in LOWER_IS_BETTER else -1
    return min(table.runs, key=lambda run: sign * run.figures[table.metric].value)


def _facts(table: RunsTable) -> list[tuple[str, str]]:
    facts = [("Images", f"{text.count(table.images)} {text.SPLIT_WORDS[table.split]} images of all runs")]
    facts.append(("Classes", text.plural(len(table.classes), "class", "classes")))
    if any(run.left_out for run in table.runs):
        counts = (f"{text.count(run.left_out)} of {run.name}" for run in table.runs if run.left_out)
        facts.append(("Left out", ", ".join(counts)))
    return [*facts, ("Reference", table.reference.path)]


def _strip_row(run: ComparedRun, is_reference: bool) -> StripRow:
    accuracy: Interval = run.figures["accuracy"]
    style = "second" if is_reference else ""
    drawing = strip((accuracy.value, accuracy.low, accuracy.high), "", style=style)
    label = f"{run.name} (reference)" if is_reference else run.name
    interval = text.interval_range("accuracy", accuracy)
    return StripRow(label, drawing, text.percent(accuracy.value, accuracy.n), interval, style)


def _figure_cell(metric: str, figure: Interval, floor: float) -> Cell:
    return share_cell(figure, floor) if text.is_share(metric) else plain_cell(metric, figure)


def _run_view(run: ComparedRun, table: RunsTable, floor: float) -> RunView:
    figure = _figure_cell(table.metric, run.figures[table.metric], floor)
    if run.beside is None:
        return RunView(run.name, run.path, figure, Cell(text.ABSENT), "reference", False, "")
    item = run.beside.differences[table.metric]
    detectable = run.beside.detectable
    return RunView(
        name=run.name,
        path=run.path,
        figure=figure,
        difference=Cell(*difference_shown(table.metric, item)),
        verdict=f"{item.verdict}, {p_value(item.adjusted_p)}",
        sure=item.verdict != UNDECIDED,
        detectable="none" if detectable is None else _points(detectable, table.images, sign=False),
    )


def _metric_view(metric: str, table: RunsTable) -> MetricView:
    runs = []
    for run, beside in table.others:
        item = beside.differences[metric]
        difference = Cell(*difference_shown(metric, item))
        words = f"{item.verdict}, {p_value(item.adjusted_p)}"
        runs.append((plain_cell(metric, run.figures[metric]), difference, words, item.verdict != UNDECIDED))
    return MetricView(text.metric_name(metric), plain_cell(metric, table.reference.figures[metric]), tuple(runs))


def _crosstab_view(run: ComparedRun, beside: BesideReference, reference: str) -> CrosstabView:
    cross = beside.crosstab
    return CrosstabView(
        name=run.name,
        cells=(
            (text.count(cross.both), text.count(cross.only_run)),
            (text.count(cross.only_reference), text.count(cross.neither)),
        ),
        images=(
            _images_view(f"{run.name} alone got right", beside.only_run),
            _images_view(f"{reference} alone got right", beside.only_reference),
        ),
    )


def _images_view(words: str, paths: tuple[str, ...]) -> ImagesView:
    shown = paths[:_MOST_IMAGES]
    return ImagesView(words, len(paths), shown[:_FIRST_IMAGES], shown[_FIRST_IMAGES:], len(paths) - len(shown))


def _command(table: RunsTable) -> str:
    words = ["tintype", "compare", *(run.path for run in table.runs)]
    if any(run.left_out for run in table.runs):
        words.append("--common")
    if table.metric != "accuracy":
        words += ["--metric", table.metric]
    return f"{shlex.join(words)} -o NEW"
