"""Experiments of many runs: every setting of a grid, over seeds, with one table and one report."""

from tintype.studies.plan import Study, load_study
from tintype.studies.runner import StudyResult, compare_settings, run_study

__all__ = ["Study", "StudyResult", "compare_settings", "load_study", "run_study"]
