"""Judging data and finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tintype.cli.options import (
    AllowSmall,
    AsJson,
    Classes,
    Data,
    Device,
    ImageSize,
    Output,
    RunPath,
    Settings,
    SkipBad,
)
from tintype.cli.telling import comma_separated, print_json

Labels = Annotated[bool, typer.Option("--labels", help="look for labels that are likely to be wrong, too")]
LabelTable = Annotated[Path | None, typer.Option("--csv", help="with --labels: a file for the list of them")]
LabelFolder = Annotated[
    Path | None, typer.Option("--output", "-o", help="with --labels: a folder for the list and a page of pictures")
]


def check(
    data: Data,
    classes: Classes = None,
    image_size: ImageSize = None,
    skip_bad: SkipBad = False,
    allow_small: AllowSmall = False,
    labels: Labels = False,
    csv: LabelTable = None,
    output: LabelFolder = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Audit DATA: counts, unreadable files, duplicates, leakage across splits, imbalance, odd images."""
    from tintype.console import Display, show_check

    display = Display(quiet=as_json)
    with display.watching() as watch:
        from tintype import api
        from tintype.config import parse_assignments

        found = api.check(
            data, labels=labels, csv=csv, output=output, settings=parse_assignments(settings or []), watch=watch,
            classes=comma_separated(classes), image_size=image_size,
            skip_bad=skip_bad or None, allow_small=allow_small or None,
        )  # fmt: skip
    if as_json:
        print_json(found)
    else:
        show_check(found.summary, found.findings)


def evaluate(
    run: RunPath,
    data: Data,
    output: Output = None,
    skip_bad: SkipBad = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a finished RUN on other labelled images, beside its original figures."""
    from tintype.console import Display, error_console, headline, show_findings

    display = Display(quiet=as_json)
    with display.watching() as watch:
        from tintype import api

        result = api.evaluate(run, data, output=output, skip_bad=skip_bad, device=device or "auto", watch=watch)
    if as_json:
        print_json(result.to_plain())
        return
    show_findings(result.findings)
    if result.original is not None:
        error_console.print(f"originally: {headline(result.original)}", soft_wrap=True)
    error_console.print(f"here: {headline(result.evaluation)}", soft_wrap=True)
    error_console.print(f"{result.verdict}\nreport: {result.report}", soft_wrap=True, markup=False)
