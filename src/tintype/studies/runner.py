"""Doing a study, whatever its kind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tintype.config import RunConfig
from tintype.errors import ConfigError
from tintype.ranks.torchrun import rank_of_process
from tintype.studies.plan import Study, models_study
from tintype.studies.scaling import run_scaling
from tintype.studies.work import StudyResult, do_study
from tintype.watch import Watch


def run_study(study: Study, output: Path | None = None, watch: Watch = Watch(), *, jobs: int = 1) -> StudyResult:
    """Do every run of a study that is not done yet, and write its table and report.

    A run that fails is recorded with its reason, and the study goes on. One whose loss was not finite has failed for
    good; other failures, such as missing weights, are tried again when the study is started again.

    Args:
        study: What to do.
        output: The study's directory; None for ``runs/NAME``. What stands there of the same study is gone on with.
        watch: Progress, messages and stopping.
        jobs: Runs at a time. With more than one each is a process of its own with an equal share of the cores.

    Raises:
        ConfigError: ``jobs`` is no number from 1, or times are to be measured and it is more than 1; or the ranks are
            too few for the study, or too many.
        RunError: The directory holds something else, or runs with other settings; or no run at all succeeded.
        RunInterrupted: ``watch.should_stop`` said so, or Ctrl-C was pressed; the same command goes on.
    """
    if jobs < 1:
        raise ConfigError(f"jobs must be a number from 1. Got {jobs}.")
    if jobs > 1 and study.kind == "devices":
        raise ConfigError("a study of devices measures times, so its runs are made one after another. Take --jobs out.")
    if study.scaling is not None:
        return run_scaling(study, output, watch, jobs)
    if rank_of_process() is not None:
        raise ConfigError("of the studies only one of scaling runs on several ranks. Take --workers or torchrun out.")
    return do_study(study, output, watch, jobs=jobs)


def compare_settings(
    config: RunConfig, setting: str, values: Iterable[Any], output: Path | None = None, watch: Watch = Watch()
) -> StudyResult:
    """Train once with each value of a setting, such as ``model.backbone``, and put the results into one table.

    Args:
        config: Everything else.
        setting: Dotted name.
        values: At least two; the first is the reference.
        output: As for :func:`run_study`.
        watch: As for :func:`run_study`.

    Raises:
        TintypeError: As :func:`run_study`; and for fewer than two values, or one that the setting cannot have.
    """
    return run_study(models_study(config, setting, tuple(values)), output, watch)
