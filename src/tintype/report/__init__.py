"""From a run directory to a report that can be shown to others: one HTML file, no script, no torch."""

from pathlib import Path

from tintype.report.html import write_evaluation_report, write_report
from tintype.report.runs_page import write_runs_report
from tintype.report.runsfile import COMPARISON_FILE
from tintype.report.study import write_study_report
from tintype.report.studyfile import STUDY_FILE
from tintype.rundir import RunDir

__all__ = ["rewrite_report", "write_evaluation_report", "write_report"]


def rewrite_report(folder: Path) -> Path:
    """Write the report of a finished run, of a study, or of a comparison anew from its directory alone.

    Raises:
        RunError: There is no such directory, or the run is not finished.
    """
    if (folder / STUDY_FILE).is_file():
        return write_study_report(folder)
    if (folder / COMPARISON_FILE).is_file():
        return write_runs_report(folder)
    run_dir = RunDir(folder)
    run_dir.require_complete()
    return write_report(run_dir)
