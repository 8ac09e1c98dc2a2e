"""The report of a study: from its directory to one HTML file, without scripts and without torch."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tintype.records import EpochRecord, Finding, Interval
from tintype.report import text
from tintype.report.figures import Chart
from tintype.report.html import write_page
from tintype.report.results import Cell, StripRow, scale_floor
from tintype.report.study_figures import (
    MOST_SERIES,
    Measured,
    accuracy_against,
    accuracy_against_cost,
    learning_curves,
    seed_strip,
)
from tintype.report.studyfile import Difference, PointRow, RunRow, RunState, StudyTable, read_study_table
from tintype.rundir import RunDir, sort_findings

_MOST_STRIPS = 8
_MOST_NAMED = 3  # runs that a finding names
_DEPTH = "model.depth"
_UNFINISHED: dict[RunState, str] = {
    "diverged": "diverged",
    "failed": "failed",
    "interrupted": "interrupted",
    "waiting": "not made yet",
}


@dataclass(frozen=True)
class PointView:
    """A row of the table of results.

    Attributes:
        names: The value on each axis.
        note: ``reference``, ``best`` or nothing.
        accuracy: With its interval and drawing.
        spread: Least and greatest accuracy over the seeds.
        loss: With its interval.
        difference: To the reference, with its interval.
        verdict: Whether it can be told from chance, with the p-value.
        sure: Whether it can.
        runs: Words and relative address of the report of each finished run.
        missing: What is not there: runs that failed, or that have not been made yet.
    """

    names: tuple[str, ...]
    note: str
    accuracy: Cell
    spread: str
    loss: Cell
    difference: Cell
    verdict: str
    sure: bool
    runs: tuple[tuple[str, str], ...]
    missing: str


@dataclass(frozen=True)
class StudyHeadline:
    """The answer in a sentence, its interval, whether it can be told from the reference, and drawings."""

    result: str
    interval: str
    verdict: str
    strips: tuple[StripRow, ...]


def write_study_report(folder: Path) -> Path:
    """Write ``report.html`` of a study from its directory alone, atomically.

    Returns:
        The path of the report.

    Raises:
        RunError: There is no such study, or a file in it is damaged.
    """
    return write_page(RunDir(folder), "study.html", study_context(folder))


def study_context(folder: Path) -> dict[str, Any]:
    """Everything that the template of a study's report shows."""
    table = read_study_table(folder)
    done = [RunDir(folder / "runs" / run.name) for run in table.runs if run.state == "finished"]
    environment = text.printable(done[0].read_json("environment.json")) if done else {}
    file = folder / "study.toml"
    context: dict[str, Any] = {
        "name": table.name,
        "version": environment.get("tintype", ""),
        "headline": _headline(table) if table.best else None,
        "facts": _facts(table, environment, done),
        "axes": [axis.label for axis in table.axes],
        "reference": table.reference,
        "images": f"{text.count(table.images)} {text.SPLIT_WORDS.get(table.split, '')} images",
        "seeds": len(table.seeds),
        "rows": _point_views(table),
        "scale": f"{_floor(table) * 100:.0f} to 100{text.NBSP}%",
        "charts": _charts(table, folder),
        "costs": [_cost_row(row) for row in table.finished],
        "findings": _findings(table, folder),
        "command": f"tintype study {shlex.quote(text.printable(str(file)))} -o NEW",
        "study_toml": text.printable(file.read_text("utf-8", errors="surrogateescape")) if file.is_file() else "",
    }
    sections = [("results", "Results", "rows"), ("figures", "Figures", "charts"), ("costs", "Costs", "costs")]
    sections += [("findings", "Findings", ""), ("repeat", "Repeat", "")]
    context["sections"] = [(anchor, words) for anchor, words, needs in sections if not needs or context[needs]]
    return context


def difference_words(item: Difference, reference: str) -> str:
    """A comparison as a sentence without its end: what differs, by how much, and how surely."""
    p = p_value(item.adjusted_p)
    if item.verdict == "cannot be told apart":
        words = f"cannot be told apart from {reference}: {text.points(item.value)}"
        return f"{words} (95{text.NBSP}% interval {_points_range(item)}, {p})"
    way = "above" if item.verdict == "better" else "below"
    least, most = (_without_unit(text.points(end, sign=False)) for end in sorted((item.low, item.high), key=abs))
    words = f"{text.points(item.value, sign=False)} {way} {reference}"
    return f"{words} (95{text.NBSP}% interval {least} to {most}, {p})"


def p_value(p: float) -> str:
    """``p = 0.013``, ``p < 0.001``; never rounded across 0.05."""
    if p < 0.001:
        return f"p{text.NBSP}<{text.NBSP}0.001"
    shown = f"{p:.2f}" if p >= 0.1 else f"{p:.3f}"
    if (float(shown) >= 0.05) != (p >= 0.05):
        shown = f"{p:.5f}"
    return f"p{text.NBSP}={text.NBSP}{shown}"


def _headline(table: StudyTable) -> StudyHeadline:
    best = table.point(table.best)
    assert best is not None
    assert best.accuracy is not None
    accuracy = best.accuracy
    kind = text.SPLIT_WORDS[table.split]
    images = f"{text.count(accuracy.n)} {kind} image{'' if accuracy.n == 1 else 's'}"
    if len(table.finished) == 1:
        verdict = "No other point has finished yet, so nothing is compared."
    elif best.label == table.reference:
        verdict = _verdict_of_reference(table)
    elif best.difference is None:
        verdict = f"It is not compared with {table.reference}."
    else:
        words = difference_words(best.difference, _said(table, table.reference))
        verdict = f"{'It ' if best.difference.verdict == 'cannot be told apart' else ''}{words}."
    shown = table.finished if len(table.finished) <= _MOST_STRIPS else _best_and_reference(table, _MOST_STRIPS)
    return StudyHeadline(
        result=f"{text.percent(accuracy.value, accuracy.n)} of {images} right with {_said(table, best.label)}",
        interval=f"95{text.NBSP}% interval {text.interval_range('accuracy', accuracy)}; {_seed_words(best)}",
        verdict=verdict,
        strips=tuple(_strip_row(row, table) for row in shown if row.accuracy is not None),
    )


def _verdict_of_reference(table: StudyTable) -> str:
    others = [row for row in table.finished if row.label != table.reference and row.difference is not None]
    words = "It is what the others are compared with"
    if not others:
        return f"{words}."
    alike = [row.label for row in others if row.difference and row.difference.verdict == "cannot be told apart"]
    if not alike:
        return f"{words}, and every one of them is worse."
    if len(alike) == len(others):
        return f"{words}, and none of them can be told apart from it."
    return f"{words}; {_listed(alike)} cannot be told apart from it."


def _said(table: StudyTable, label: str) -> str:
    """A point as it stands in a sentence: a trained depth in words, anything else under its label."""
    row = table.point(label)
    if row is None or list(row.names) != [_DEPTH]:
        return label
    depth = row.names[_DEPTH]
    if depth == "0":
        return "the head alone trained"
    return "every layer trained" if depth == "all" else f"the last {depth} layer{'' if depth == '1' else 's'} trained"


def _seed_words(row: PointRow) -> str:
    if len(row.accuracy_by_seed) < 2:
        return "one seed"
    accuracy = row.accuracy
    assert accuracy is not None
    ends = [text.percent(end, accuracy.n, unit=end == max(row.accuracy_by_seed)) for end in _ends(row)]
    return f"{len(row.accuracy_by_seed)} seeds: {ends[0]} to {ends[1]}"


def _ends(row: PointRow) -> tuple[float, float]:
    return min(row.accuracy_by_seed), max(row.accuracy_by_seed)


def _strip_row(row: PointRow, table: StudyTable) -> StripRow:
    assert row.accuracy is not None
    style = "second" if row.label == table.reference else ""
    drawing = seed_strip(row.accuracy, row.accuracy_by_seed, style=style)
    label = f"{row.label} (reference)" if style else row.label
    interval = text.interval_range("accuracy", row.accuracy)
    return StripRow(label, drawing, text.percent(row.accuracy.value, row.accuracy.n), interval, style)


def _best_and_reference(table: StudyTable, most: int) -> list[PointRow]:
    """The reference and the most accurate points, in the table's order."""
    ranked = sorted(table.finished, key=lambda row: (row.label != table.reference, -_value(row.accuracy)))
    kept = {row.label for row in ranked[:most]}
    return [row for row in table.finished if row.label in kept]


def _facts(table: StudyTable, environment: Mapping[str, Any], done: Sequence[RunDir]) -> list[tuple[str, str]]:
    axes = [f"{axis.setting}: {_listed(axis.values, 12)}" for axis in table.axes]
    states = Counter(run.state for run in table.runs)
    runs = f"{states['finished']} of {len(table.runs)} finished"
    if failed := states["failed"] + states["diverged"]:
        runs += f", {failed} failed"
    facts = [("Varied", "; ".join(axes)), ("Runs", runs), ("Seeds", _listed([str(seed) for seed in table.seeds], 12))]
    if done:
        data = text.printable(done[0].read_json("data.json"))
        facts.append(("Data", str(data.get("source", ""))))
    if seconds := sum(run.seconds or 0.0 for run in table.runs):
        facts.append(("All runs together", text.duration(seconds)))
    machine = [str(environment[key]) for key in ("processor", "hardware") if environment.get(key)][:1]
    if isinstance(environment.get("cores"), int):
        machine.append(text.plural(environment["cores"], "core"))
    if environment.get("device") not in (None, "", "cpu"):
        machine.insert(0, str(environment["device"]))
    return [*facts, ("Machine", ", ".join(machine))] if machine else facts


def _point_views(table: StudyTable) -> list[PointView]:
    floor = _floor(table)
    return [_point_view(row, table, floor) for row in table.points]


def _point_view(row: PointRow, table: StudyTable, floor: float) -> PointView:
    runs = [run for run in table.runs if run.point == row.label]
    accuracy, loss = row.accuracy, row.loss
    cell, spread = Cell(text.ABSENT), text.ABSENT
    if accuracy is not None:
        drawing = seed_strip(accuracy, row.accuracy_by_seed, floor, "small")
        value, interval = text.percent(accuracy.value, accuracy.n), text.interval_range("accuracy", accuracy)
        cell = Cell(value, interval, text.count(accuracy.n), drawing)
        if len(row.accuracy_by_seed) > 1:
            low, high = _ends(row)
            spread = f"{text.percent(low, accuracy.n, unit=False)} to {text.percent(high, accuracy.n)}"
    difference, verdict, sure = Cell(text.ABSENT), "", False
    if row.difference is not None:
        difference = Cell(text.points(row.difference.value), _points_range(row.difference))
        verdict = f"{row.difference.verdict}, {p_value(row.difference.adjusted_p)}"
        sure = row.difference.verdict != "cannot be told apart"
    note = "reference" if row.label == table.reference else ""
    if row.label == table.best and len(table.finished) > 1:
        note = f"{note}, best" if note else "best"
    finished = [run for run in runs if run.state == "finished"]
    return PointView(
        names=tuple(row.names[axis.setting] for axis in table.axes),
        note=note,
        accuracy=cell,
        spread=spread,
        loss=Cell(text.number(loss.value), text.interval_range("loss", loss)) if loss else Cell(text.ABSENT),
        difference=difference,
        verdict=verdict,
        sure=sure,
        runs=tuple((str(run.seed), f"runs/{quote(run.name)}/report.html") for run in finished),
        missing=_missing(runs),
    )


def _missing(runs: Sequence[RunRow]) -> str:
    states = Counter(run.state for run in runs)
    return ", ".join(f"{states[state]} {words}" for state, words in _UNFINISHED.items() if states[state])


def _cost_row(row: PointRow) -> tuple[str, tuple[str, ...]]:
    """A row of the table of costs: the label, then the figures as text."""
    step = row.seconds_per_step
    return row.label, (
        text.count(row.total_parameters) if row.total_parameters is not None else text.ABSENT,
        text.count(row.trainable_parameters) if row.trainable_parameters is not None else text.ABSENT,
        f"{row.epochs:g}" if row.epochs else text.ABSENT,
        _seconds(row.seconds_per_epoch),
        f"{step * 1000:,.1f}{text.NBSP}ms" if step is not None else text.ABSENT,
        text.count(round(row.images_per_second)) if row.images_per_second is not None else text.ABSENT,
        _seconds(row.training_seconds),
        text.megabytes(row.peak_memory_mb) if row.peak_memory_mb is not None else text.ABSENT,
    )


def _seconds(value: float | None) -> str:
    if value is None:
        return text.ABSENT
    return f"{value:.2f}{text.NBSP}s" if value < 9.95 else text.duration(value)


def _charts(table: StudyTable, folder: Path) -> list[Chart]:
    along = _axis_to_draw_along(table)
    series = _series(table, along)
    charts: list[Chart] = []
    if not series:
        return charts
    if along is not None and len(table.finished) > 1:
        axis = next(item for item in table.axes if item.setting == along)
        label = "trained layers of the backbone" if along == _DEPTH else axis.label
        charts.append(accuracy_against(label, axis.values, series))
    if len(table.finished) > 1 and (cost := accuracy_against_cost(series)):
        charts.append(cost)
    shown = table.finished if len(table.finished) <= MOST_SERIES else _best_and_reference(table, MOST_SERIES)
    histories = {row.label: [_history(folder, run) for run in _finished_runs(table, row)] for row in shown}
    if curves := learning_curves(histories, len(table.finished) - len(shown)):
        charts.append(curves)
    return charts


def _axis_to_draw_along(table: StudyTable) -> str | None:
    """The depth, or in a grid the first axis of at least three numbers."""
    if table.kind == "depth":
        return _DEPTH
    if table.kind == "models":
        return None
    numeric = (axis.setting for axis in table.axes if len(axis.values) > 2 and all(map(_is_number, axis.values)))
    return next(numeric, None)


def _series(table: StudyTable, along: str | None) -> dict[str, list[Measured]]:
    """The points by what they have on the other axes; all in one where there is no axis to draw along."""
    found: dict[str, list[Measured]] = {}
    for row in table.finished:
        assert row.accuracy is not None
        others = [name for setting, name in row.names.items() if along is not None and setting != along]
        place = row.names[along] if along is not None else ", ".join(row.names.values())
        item = Measured(row.label, place, row.accuracy, row.accuracy_by_seed, row.training_seconds)
        found.setdefault(", ".join(others), []).append(item)
    return found


def _history(folder: Path, run: RunRow) -> list[EpochRecord]:
    run_dir = RunDir(folder / "runs" / run.name)
    return run_dir.read_history() if (run_dir / "history.jsonl").is_file() else []


def _finished_runs(table: StudyTable, row: PointRow) -> list[RunRow]:
    return [run for run in table.runs if run.point == row.label and run.state == "finished"]


def _findings(table: StudyTable, folder: Path) -> list[Finding]:
    """Runs that failed, what the audit and the diagnosis of the runs found, and what the table cannot say."""
    found = [
        Finding(
            "run-failed",
            "warning",
            f"{run.point}, seed {run.seed} {'diverged' if run.state == 'diverged' else 'failed'}: {run.reason}",
        )
        for run in table.runs
        if run.state in ("diverged", "failed")
    ]
    seen: dict[tuple[str, str], tuple[Finding, list[str]]] = {}
    for run in table.runs:
        if run.state == "finished":
            for item in _findings_of(folder, run):
                seen.setdefault((item.code, item.title), (item, []))[1].append(f"{run.point}, seed {run.seed}")
    runs = sum(run.state == "finished" for run in table.runs)
    for item, where in seen.values():
        place = f"In all {runs} runs" if len(where) == runs else f"In {_listed(where, _MOST_NAMED)}"
        words = f"{place}. {item.remedy}".strip() if runs > 1 else item.remedy
        found.append(Finding(item.code, item.severity, item.title, item.evidence, words))
    found += [Finding("study-remark", "info", remark) for remark in table.remarks]
    return sort_findings(found)


def _findings_of(folder: Path, run: RunRow) -> Iterable[Finding]:
    run_dir = RunDir(folder / "runs" / run.name)
    if not (run_dir / "findings.json").is_file():
        return
    for item in run_dir.read_findings():
        if item.severity != "info":
            evidence = tuple(text.printable(line) for line in item.evidence)
            yield Finding(item.code, item.severity, text.printable(item.title), evidence, text.printable(item.remedy))


def _floor(table: StudyTable) -> float:
    return scale_floor([min(row.accuracy.low, *row.accuracy_by_seed) for row in table.finished if row.accuracy])


def _points_range(item: Difference) -> str:
    return f"{_without_unit(text.points(item.low))} to {_without_unit(text.points(item.high))}"


def _without_unit(words: str) -> str:
    return words.removesuffix(f"{text.NBSP}points")


def _value(interval: Interval | None) -> float:
    return interval.value if interval is not None else 0.0


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _listed(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
