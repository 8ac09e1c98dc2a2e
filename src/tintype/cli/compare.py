"""Finished runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tintype.cli.options import AsJson
from tintype.cli.telling import print_json

if TYPE_CHECKING:
    from tintype.report.runsfile import RunsTable


def compare(
    runs: Annotated[list[Path], typer.Argument(help="run directories, the reference first")],
    common: Annotated[bool, typer.Option("--common", help="compare on the test images that all runs have")] = False,
    metric: Annotated[str, typer.Option(help="what decides: accuracy, macro_f1, auc, loss, ...")] = "accuracy",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="folder for comparison.json and a report")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare finished RUNs on the same test images: is one better, or can they not be told apart?"""
    from tintype.comparing import compare_runs
    from tintype.console import error_console

    found = compare_runs(runs, common=common, metric=metric, output=output)
    if as_json:
        print_json({"comparison": found.path, **vars(found.table)})
        return
    show_runs(found.table)
    if found.report is not None:
        error_console.print(f"report: {found.report}", soft_wrap=True)


def show_runs(table: RunsTable) -> None:
    """Print the runs by the metric that decides, all other figures, and what the images could show."""
    from rich.markup import escape

    from tintype.console import print_table, stdout_console
    from tintype.report import text
    from tintype.report.runs_page import difference_shown, power_words
    from tintype.report.study_rows import p_value

    console = stdout_console()
    metric, reference = table.metric, table.reference
    columns = [("run", "left"), (text.metric_name(metric).lower(), "right"), ("95 % interval", "right")]
    columns += [(f"difference to {reference.name}", "right"), ("95 % interval", "right"), ("verdict", "left")]
    rows = []
    for run in table.runs:
        figure = run.figures[metric]
        cells = [run.name, text.figure(metric, figure), text.interval_range(metric, figure)]
        if run.beside is None:
            cells += ["", "", "reference"]
        else:
            item = run.beside.differences[metric]
            cells += [*difference_shown(metric, item), f"{item.verdict}, {p_value(item.adjusted_p)}"]
        rows.append(cells)
    console.print(f"{table.images:,} {text.SPLIT_WORDS[table.split]} images", style="bold")
    print_table(columns, rows, console)
    for run, beside in table.others:
        cross = beside.crosstab
        console.print(
            f"{escape(run.name)}: {cross.both:,} right by both, {cross.only_run:,} by it alone, "
            f"{cross.only_reference:,} by {escape(reference.name)} alone, {cross.neither:,} by neither. "
            f"{power_words(beside, table.images)}",
            soft_wrap=True,
        )
    others = []
    for name in (name for name in reference.figures if name != metric):
        for run, beside in table.others:
            item, theirs = beside.differences[name], text.figure(name, reference.figures[name])
            words = [text.metric_name(name), theirs, run.name, text.figure(name, run.figures[name])]
            others.append([*words, *difference_shown(name, item), f"{item.verdict}, {p_value(item.adjusted_p)}"])
    columns = [("figure", "left"), (reference.name, "right"), ("run", "left"), ("", "right")]
    columns += [("difference", "right"), ("95 % interval", "right"), ("verdict", "left")]
    print_table(columns, others, console)
    for remark in table.remarks:
        console.print(escape(remark), style="dim", soft_wrap=True)
