"""Studies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tintype.cli.options import AsJson, Output, Settings, Workers
from tintype.cli.ranks import start_workers, watching
from tintype.cli.telling import print_json
from tintype.ranks.torchrun import is_first

if TYPE_CHECKING:
    from tintype.studies import StudyResult
    from tintype.watch import Watch


def study(
    file: Annotated[Path, typer.Argument(help="a study: base settings, axes, seeds (TOML)")],
    data: Annotated[str | None, typer.Option(help="images, instead of those that the file names")] = None,
    output: Output = None,
    quick: Annotated[bool, typer.Option("--quick", help="the small size that the file describes")] = False,
    jobs: Annotated[int, typer.Option(help="runs at a time, each a process with its share of the cores")] = 1,
    workers: Workers = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Do a whole experiment: many runs, one table, one report."""
    start_workers(workers)

    def work(watch: Watch) -> StudyResult:
        from tintype import api
        from tintype.config import parse_assignments

        changes = parse_assignments(settings or [])
        return api.study(file, data=data, output=output, settings=changes, quick=quick, jobs=jobs, watch=watch)

    study_and_tell(work, as_json)


def study_and_tell(work: Callable[[Watch], StudyResult], as_json: bool) -> None:
    """Do a study, then show its table."""
    from tintype.console import error_console, show_study

    with watching(as_json) as watch:
        result = work(watch)
    if not is_first():
        return
    if as_json:
        print_json({"study": result.path, "table": result.table})
        return
    show_study(result.table)
    error_console.print(f"report: {result.report}", soft_wrap=True)
