"""The report of a search: from its directory to one HTML file, at any moment, without scripts and without torch."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tintype.records import Evaluation, Finding, Interval
from tintype.report import text
from tintype.report.figures import strip
from tintype.report.html import write_page
from tintype.report.inputs import ReportInput, read_inputs
from tintype.report.results import Cell, StripRow, plain_cell
from tintype.report.study_rows import listed
from tintype.report.tune_board import BASELINES, board, named_settings, short_names, standings
from tintype.report.tune_figures import history_chart, importance_chart
from tintype.report.tune_network import network_picture
from tintype.report.tunefile import WINNER_FILE, TrialRow, TrialState, TuneTable, read_tune_table
from tintype.rundir import RunDir, sort_findings

_MOST_TRIALS = 6  # numbers of trials that a line names
_SPACES = {"scratch": "networks from scratch", "transfer": "pretrained networks", "own": "a space of your own"}
_STATES: tuple[tuple[TrialState, str], ...] = (
    ("complete", "complete"),
    ("pruned", "stopped early"),
    ("failed", "failed"),
    ("running", "running"),
    ("waiting", "waiting"),
)
_AVERAGES = ("macro", "weighted", "micro")


@dataclass(frozen=True)
class TuneHeadline:
    """The answer in a sentence, its interval, what choosing the best has added to it, and drawings."""

    result: str
    interval: str
    verdict: str
    strips: tuple[StripRow, ...]


@dataclass(frozen=True)
class FailureRow:
    """Trials that failed for one reason: how many, their numbers, the reason."""

    count: str
    trials: str
    cause: str


def write_tune_report(folder: Path) -> Path:
    """Write ``report.html`` of a search from its directory alone, atomically; also while it is under way.

    Returns:
        The path of the report.

    Raises:
        RunError: There is no such search, or a file in it is damaged.
    """
    return write_page(RunDir(folder), "tune.html", tune_context(folder))


def tune_context(folder: Path) -> dict[str, Any]:
    """Everything that the template of a search's report shows."""
    table = read_tune_table(folder)
    final = _final(folder, table)
    evaluation = final.evaluation if final else None
    names = short_names(list(table.importance))
    toml = folder / WINNER_FILE
    picture = network_picture(final.summary, _image(final)) if final and final.summary else None
    context: dict[str, Any] = {
        "name": table.name,
        "version": table.version,
        "headline": _headline(table, evaluation),
        "facts": _facts(table),
        "board": board(table),
        "images": text.plural(table.images, "validation image"),
        "charts": [item for item in (history_chart(table), importance_chart(table.importance, names)) if item],
        "stages": _stages(table),
        "picture": picture,
        "network": _network_words(table, final) if picture else "",
        "averages": _averages(evaluation) if evaluation else [],
        "average_heads": [kind.capitalize() for kind in _AVERAGES],
        "kind": text.SPLIT_WORDS.get(evaluation.split, "") if evaluation else "",
        "classes": len(final.classes) if final else 0,
        "failures": _failures(table.trials),
        "findings": _findings(table, final),
        "run": f"{quote(table.result)}/report.html" if table.result and final else "",
        "toml": text.printable(toml.read_text("utf-8", errors="surrogateescape")) if toml.is_file() else "",
        "command": f"tintype train --config {shlex.quote(text.printable(str(toml)))}",
    }
    sections = [("candidates", "Candidates", "board"), ("search", "The search", "charts")]
    sections += [("network", "The network", "picture"), ("scores", "Precision and recall", "averages")]
    sections += [("failures", "Failed trials", "failures"), ("findings", "Findings", "")]
    sections += [("settings", "The winner’s settings", "toml")]
    context["sections"] = [(anchor, words) for anchor, words, needs in sections if not needs or context[needs]]
    return context


def _final(folder: Path, table: TuneTable) -> ReportInput | None:
    """The winner's run directory, once its training has been judged."""
    if not table.result:
        return None
    run_dir = RunDir(folder / table.result)
    return read_inputs(run_dir) if run_dir.is_complete else None


def _image(final: ReportInput) -> tuple[int, int, int] | None:
    return (final.data.channels, final.data.image_size, final.data.image_size) if final.data else None


def _headline(table: TuneTable, evaluation: Evaluation | None) -> TuneHeadline | None:
    """What the winner reached on test images; before its final training, on validation images so far."""
    found = {item.trial.number: item for item in standings(table)}
    winner = found.get(table.winner) if table.winner is not None else None
    if evaluation is not None and "accuracy" in evaluation.metrics:
        accuracy = evaluation.accuracy
        kind = text.SPLIT_WORDS[evaluation.split]
        result = f"{text.percent(accuracy.value, accuracy.n)} of {text.plural(accuracy.n, f'{kind} image')} right"
        strips = [_strip(f"The winner, {kind} images", accuracy)]
    elif winner is not None:
        accuracy = winner.accuracy
        result = f"{text.percent(accuracy.value, accuracy.n)} of {text.plural(accuracy.n, 'validation image')} right"
        result += " so far" if table.state == "running" else ""
        strips = []
    else:
        return None
    if winner is not None:
        strips.append(_strip(f"Trial {winner.trial.number}, validation images", winner.accuracy))
    for item in found.values():
        if item.trial.role in BASELINES and item is not winner:
            words = BASELINES[item.trial.role]
            strips.append(_strip(f"{words[0].upper()}{words[1:]}, validation images", item.accuracy, "second"))
    interval = f"95{text.NBSP}% interval {text.interval_range('accuracy', accuracy)}"
    return TuneHeadline(result, interval, _verdict(table), tuple(strips))


def _strip(label: str, accuracy: Interval, style: str = "") -> StripRow:
    drawing = strip((accuracy.value, accuracy.low, accuracy.high), "", style=style)
    words = f"{text.interval_range('accuracy', accuracy)}, n{text.NBSP}={text.NBSP}{text.count(accuracy.n)}"
    return StripRow(label, drawing, text.percent(accuracy.value, accuracy.n), words, style)


def _verdict(table: TuneTable) -> str:
    """The winner's curse in words."""
    chosen = table.selection
    if chosen is None:
        return ""
    seen = f"Chosen among {text.plural(chosen.candidates, 'candidate')} by {text.plural(chosen.n, 'validation image')}"
    had = f"of which {text.percent(chosen.observed, chosen.n)} were right"
    if round(chosen.optimism * 100, text.decimals_for(chosen.n)) <= 0:
        return f"{seen}, {had}. Next to nothing of that is owed to having been the best of them."
    span = Interval(chosen.expected, chosen.low, chosen.high, chosen.n)
    points = f"{chosen.optimism * 100:.{text.decimals_for(chosen.n)}f}{text.NBSP}points"
    return (
        f"{seen}, {had}. The best of many looks better than it is: about {points} are owed to the choice, so that "
        f"{text.percent(chosen.expected, chosen.n)} ({text.interval_range('accuracy', span)}) is to be expected "
        "on other images."
    )


def _facts(table: TuneTable) -> list[tuple[str, str]]:
    states = Counter(row.state for row in table.trials if row.role == "search")
    parts = [f"{text.count(states[state])} {words}" for state, words in _STATES if states[state]]
    trials = f"{sum(states.values()):,}" + (f" of {table.wanted:,}" if table.wanted else "")
    took = text.duration(table.seconds) + (f" of {text.duration(table.budget)}" if table.budget else "")
    took += {"running": ", still searching", "interrupted": ", interrupted", "finished": ""}[table.state]
    facts = [
        ("Data", table.data),
        ("Searched", f"{_SPACES.get(table.space, table.space)}: {table.reason}"),
        ("Trials", f"{trials}: {', '.join(parts)}" if parts else trials),
        ("Time", took),
    ]
    workers = {row.worker for row in table.trials if row.worker}
    if len(workers) > 1:
        facts.append(("Workers", text.count(len(workers))))
    return [*facts, ("Seed", str(table.seed))]


def _stages(table: TuneTable) -> list[tuple[str, str, str, str]]:
    """A row a stage: its number, seconds, image size and how many reached it; none where there is one stage."""
    if len(table.stages) < 2:
        return []
    first = max(table.stages[0].reached, 1)
    return [
        (
            str(number),
            text.duration(stage.seconds),
            f"{stage.image_size} × {stage.image_size}",
            f"{text.count(stage.reached)} ({text.percent(stage.reached / first)})",
        )
        for number, stage in enumerate(table.stages, start=1)
    ]


def _network_words(table: TuneTable, final: ReportInput | None) -> str:
    assert final is not None
    assert final.summary is not None
    summary = final.summary
    some = (
        f"of which {text.count(summary.trainable_parameters)}" if summary.non_trainable_parameters else "all of which"
    )
    words = f"{text.count(summary.total_parameters)} parameters, {some} train."
    settings = ", ".join(f"{name} {value}" for name, value in _chosen(table.trial(table.winner)) if name != "layers")
    return f"{words} Chosen with it: {settings}." if settings else words


def _chosen(winner: TrialRow | None) -> tuple[tuple[str, str], ...]:
    return named_settings(winner.settings, short_names(list(winner.settings))) if winner is not None else ()


def _averages(evaluation: Evaluation) -> list[tuple[str, list[Cell]]]:
    """Precision, recall and F1, each averaged over the classes in three ways."""
    rows = []
    for figure, words in (("precision", "Precision"), ("recall", "Recall"), ("f1", "F1")):
        found = [evaluation.metrics.get(f"{kind}_{figure}") for kind in _AVERAGES]
        if all(found):
            rows.append((words, [plain_cell(figure, item) for item in found if item is not None]))
    return rows


def _failures(trials: Sequence[TrialRow]) -> list[FailureRow]:
    """Trials that failed, by their cause, the most frequent first."""
    causes: dict[str, list[str]] = {}
    for row in trials:
        if row.state == "failed":
            causes.setdefault(row.cause, []).append(str(row.number))
    ordered = sorted(causes.items(), key=lambda item: -len(item[1]))
    return [FailureRow(text.count(len(found)), listed(found, _MOST_TRIALS), cause) for cause, found in ordered]


def _findings(table: TuneTable, final: ReportInput | None) -> list[Finding]:
    """What a reader must know: of the search, and of the winner's run what is more than a note."""
    found = [Finding("search-note", "info", note) for note in table.notes]
    if table.state == "interrupted":
        found.append(Finding("search-interrupted", "warning", "The search was interrupted.", (), "It can be resumed."))
    if final is not None:
        found += [item for item in final.findings if item.severity != "info"]
    return sort_findings(found)
