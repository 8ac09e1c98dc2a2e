"""Tuning: the best model for a time budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tintype.cli.options import (
    AllowSmall,
    AsJson,
    Classes,
    Device,
    ImageSize,
    OptionalData,
    Output,
    Resize,
    Seed,
    Settings,
    SkipBad,
    Weights,
)
from tintype.cli.ranks import watching
from tintype.cli.telling import comma_separated, print_json, worth_showing

if TYPE_CHECKING:
    from tintype.tuning.tune import Tuned
    from tintype.watch import Watch

STARTED = time.monotonic()
"""When the command began: what is imported counts as well."""


def tune(
    data: OptionalData = None,
    budget: Annotated[str | None, typer.Option(help="time for all of it, such as 90s, 30m or 1h30m")] = None,
    trials: Annotated[int | None, typer.Option(help="candidates to try, instead of a time")] = None,
    space: Annotated[Path | None, typer.Option(help="a search space of your own (TOML)")] = None,
    storage: Annotated[str | None, typer.Option(help="URL of a database that several workers share")] = None,
    study: Annotated[str | None, typer.Option(help="name of the search in that database")] = None,
    output: Output = None,
    resume: Annotated[Path | None, typer.Option(help="go on with a search that was stopped")] = None,
    config: Annotated[Path | None, typer.Option(help="settings of all candidates (TOML)")] = None,
    weights: Weights = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    resize: Resize = None,
    seed: Seed = None,
    device: Device = None,
    skip_bad: SkipBad = False,
    allow_small: AllowSmall = False,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Search for the best model on DATA in a time budget."""
    options: dict[str, Any] = {
        "weights": weights, "classes": comma_separated(classes), "image_size": image_size, "resize": resize,
        "seed": seed, "device": device, "skip_bad": skip_bad or None, "allow_small": allow_small or None,
    }  # fmt: skip

    def work(watch: Watch) -> Tuned:
        from tintype import api
        from tintype.config import parse_assignments

        if resume is not None:
            _refuse_with_resume(data, output, config, settings, space, study, *options.values())
            return api.resume_tune(resume, budget=budget, trials=trials, storage=storage, watch=watch, started=STARTED)
        return api.tune(
            data, budget=budget, trials=trials, space=space, storage=storage, study=study, output=output,
            config=config, settings=parse_assignments(settings or []), watch=watch, started=STARTED, **options,
        )  # fmt: skip

    _tune_and_tell(work, as_json)


def _refuse_with_resume(*given: Any) -> None:
    if any(item is not None and item != [] for item in given):
        from tintype.errors import ConfigError

        raise ConfigError(
            "--resume goes on with a search as it was set: only --budget, --trials and --storage go with it."
        )


def _tune_and_tell(work: Callable[[Watch], Tuned], as_json: bool) -> None:
    from tintype.console import error_console, headline, show_findings, show_tuning

    with watching(as_json) as watch:
        tuned = work(watch)
    if as_json:
        evaluation = {} if tuned.run is None else {name: item.metrics for name, item in tuned.run.evaluations.items()}
        print_json(
            {"tune": tuned.path, "table": tuned.table, "run": tuned.run and tuned.run.path, "evaluation": evaluation}
        )
        return
    show_tuning(tuned.table)
    if tuned.run is None:
        error_console.print("the worker that began this search makes the model.", soft_wrap=True)
    else:
        show_findings(worth_showing(tuned.run.findings))
        error_console.print(f"[bold]{headline(tuned.run.evaluation)}[/]", soft_wrap=True)
    error_console.print(f"report: {tuned.report}", soft_wrap=True)
