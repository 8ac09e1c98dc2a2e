"""The report of a study: from its directory to one HTML file, without scripts and without torch."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tintype.records import Finding
from tintype.report import text
from tintype.report.html import write_page
from tintype.report.results import StripRow
from tintype.report.scaling import scaling_view
from tintype.report.scalingfile import SCALING_FILE, read_scaling
from tintype.report.study_charts import DEPTH, law_charts, study_charts
from tintype.report.study_figures import seed_strip
from tintype.report.study_law import law_view, what_limits
from tintype.report.study_rows import (
    accuracy_floor,
    best_and_reference,
    cost_table,
    difference_words,
    listed,
    point_views,
    seed_range,
)
from tintype.report.studyfile import PointRow, RunRow, StudyTable, failures, read_study_table
from tintype.rundir import RunDir, sort_findings

_MOST_STRIPS = 8
_MOST_NAMED = 3  # runs that a finding names


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
    curves = law_charts(table)
    scaling = scaling_view(read_scaling(folder)) if (folder / SCALING_FILE).is_file() else None
    has_results = bool(table.runs) or scaling is None  # a study of scaling may have measured times alone
    context: dict[str, Any] = {
        "name": table.name,
        "version": environment.get("tintype", ""),
        "headline": _headline(table) if table.best else None,
        "facts": [*(scaling.facts if scaling else ()), *(_facts(table, environment, done) if has_results else ())],
        "scaling": scaling,
        "axes": [axis.label for axis in table.axes],
        "columns": _columns(table),
        "reference": table.reference,
        "images": f"{text.count(table.images)} {text.SPLIT_WORDS.get(table.split, '')} images",
        "seeds": len(table.seeds),
        "rows": point_views(table) if has_results else [],
        "scale": f"{accuracy_floor(table) * 100:.0f} to 100{text.NBSP}%",
        "law": law_view(table.law) if table.law is not None else None,
        "limit": what_limits(table.finished) if curves else "",
        "curves": curves,
        "charts": study_charts(table, folder),
        "costs": cost_table(table),
        "findings": _findings(table, folder),
        "command": f"tintype study {shlex.quote(text.printable(str(file)))} -o NEW",
        "study_toml": text.printable(file.read_text("utf-8", errors="surrogateescape")) if file.is_file() else "",
    }
    sections = [("gain", "Gain", "scaling"), ("steps", "Steps", "scaling")]
    sections += [("projection", "More machines", "scaling")] if scaling is not None and scaling.projections else []
    sections += [("curve", "Learning curve", "curves"), ("results", "Results", "rows")]
    sections += [("figures", "Figures", "charts"), ("costs", "Costs", "costs")]
    sections += [("findings", "Findings", ""), ("repeat", "Repeat", "")]
    context["sections"] = [(anchor, words) for anchor, words, needs in sections if not needs or context[needs]]
    return context


def _columns(table: StudyTable) -> set[str]:
    """The columns of the table of results that not every study has."""
    found = {"loss"} if table.kind != "ablation" else {"cost"}
    if table.kind == "ablation" or len(table.axes) > 1:
        found.add("changes")
    if table.kind == "data size" and any(row.train_accuracy for row in table.points):
        found.add("training")
    if table.groups and table.kind != "data size":
        found.add("groups")
    return found


def _headline(table: StudyTable) -> StudyHeadline:
    best = table.point(table.best)
    assert best is not None
    assert best.accuracy is not None
    accuracy = best.accuracy
    kind = text.SPLIT_WORDS[table.split]
    images = f"{text.count(accuracy.n)} {kind} image{'' if accuracy.n == 1 else 's'}"
    needed = law_view(table.law).answer if table.law is not None else ""
    if len(table.finished) == 1:
        verdict = "No other point has finished yet, so nothing is compared."
    elif needed:
        verdict = needed
    elif best.label == table.reference:
        verdict = _verdict_of_reference(table)
    elif best.difference is None:
        verdict = f"It is not compared with {table.reference}."
    else:
        words = difference_words(best.difference, _said(table, table.reference))
        verdict = f"{'It ' if best.difference.verdict == 'cannot be told apart' else ''}{words}."
    shown = best_and_reference(table, _MOST_STRIPS)
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
    return f"{words}; {listed(alike)} cannot be told apart from it."


def _said(table: StudyTable, label: str) -> str:
    """A point as it stands in a sentence: a depth or a number of images in words, others under their label."""
    row = table.point(label)
    if row is not None and table.kind == "data size" and len(row.names) == 1 and row.train_images is not None:
        return text.plural(row.train_images, "training image")
    if row is None or list(row.names) != [DEPTH]:
        return label
    depth = row.names[DEPTH]
    if depth == "0":
        return "the head alone trained"
    return "every layer trained" if depth == "all" else f"the last {depth} layer{'' if depth == '1' else 's'} trained"


def _seed_words(row: PointRow) -> str:
    if len(row.accuracy_by_seed) < 2:
        return "one seed"
    return f"{len(row.accuracy_by_seed)} seeds: {seed_range(row)}"


def _strip_row(row: PointRow, table: StudyTable) -> StripRow:
    assert row.accuracy is not None
    style = "second" if row.label == table.reference else ""
    drawing = seed_strip(row.accuracy, row.accuracy_by_seed, style=style)
    label = f"{row.label} (reference)" if style else row.label
    interval = text.interval_range("accuracy", row.accuracy)
    return StripRow(label, drawing, text.percent(row.accuracy.value, row.accuracy.n), interval, style)


def _facts(table: StudyTable, environment: Mapping[str, Any], done: Sequence[RunDir]) -> list[tuple[str, str]]:
    axes = [f"{axis.setting}: {listed(axis.values, 12)}" for axis in table.axes]
    states = Counter(run.state for run in table.runs)
    runs = f"{states['finished']} of {len(table.runs)} finished"
    if failed := states["failed"] + states["diverged"]:
        runs += f", {failed} failed"
    facts = [("Varied", "; ".join(axes)), ("Runs", runs), ("Seeds", listed([str(seed) for seed in table.seeds], 12))]
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


def _findings(table: StudyTable, folder: Path) -> list[Finding]:
    """Runs that failed, what the audit and the diagnosis of the runs found, and what the table cannot say."""
    found = [Finding("run-failed", "warning", line) for line in failures(table)]
    seen: dict[tuple[str, str], tuple[Finding, list[str]]] = {}
    for run in table.runs:
        if run.state == "finished":
            for item in _findings_of(folder, run):
                seen.setdefault((item.code, item.title), (item, []))[1].append(f"{run.point}, seed {run.seed}")
    runs = sum(run.state == "finished" for run in table.runs)
    for item, where in seen.values():
        place = f"In all {runs} runs" if len(where) == runs else f"In {listed(where, _MOST_NAMED)}"
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
