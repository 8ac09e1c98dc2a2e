"""From a run directory to a report that can be shown to others: one HTML file, no script, no torch."""

from tintype.report.html import write_evaluation_report, write_report

__all__ = ["write_evaluation_report", "write_report"]
