"""Experiments of many runs: settings that vary, over seeds, with one table and one report."""

from tintype.studies.file import load_study
from tintype.studies.plan import Study
from tintype.studies.runner import compare_settings, run_study
from tintype.studies.work import StudyResult

__all__ = ["Study", "StudyResult", "compare_settings", "load_study", "run_study"]
