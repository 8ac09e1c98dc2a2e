"""From a run directory to a report that can be shown to others: one HTML file, no script, no torch."""

from pathlib import Path

from tintype.errors import RunError
from tintype.report.assessment import ASSESSMENT_FILE
from tintype.report.embedding import EMBEDDING_FILE
from tintype.report.embedding_page import write_embedding_page
from tintype.report.html import write_evaluation_report, write_report
from tintype.report.runs_page import write_runs_report
from tintype.report.runsfile import COMPARISON_FILE
from tintype.report.study import write_study_report
from tintype.report.studyfile import STUDY_FILE
from tintype.report.tune import write_tune_report
from tintype.report.tunefile import TUNE_FILE
from tintype.rundir import RunDir

__all__ = ["rewrite_report", "write_evaluation_report", "write_report"]


def rewrite_report(folder: Path) -> Path:
    """Write the report of a run, evaluation, map, study, search or comparison anew from its directory alone.

    Raises:
        RunError: There is no such directory, the run is not finished, or an evaluation stands outside its run.
    """
    if (folder / STUDY_FILE).is_file():
        return write_study_report(folder)
    if (folder / TUNE_FILE).is_file():
        return write_tune_report(folder)
    if (folder / COMPARISON_FILE).is_file():
        return write_runs_report(folder)
    run_dir = RunDir(folder)
    if (folder / EMBEDDING_FILE).is_file():
        return write_embedding_page(run_dir)
    if (folder / ASSESSMENT_FILE).is_file():
        return write_evaluation_report(run_dir, _judged_run(folder))
    run_dir.require_complete()
    return write_report(run_dir)


def _judged_run(folder: Path) -> RunDir:
    """The run that an evaluation belongs to, which it lies in unless it was asked for elsewhere."""
    run = next((place for place in folder.absolute().parents[:2] if (place / "config.toml").is_file()), None)
    if run is None:
        raise RunError(f"{folder} lies outside the run that it evaluates. `tintype evaluate` writes its report.")
    return RunDir(run)
