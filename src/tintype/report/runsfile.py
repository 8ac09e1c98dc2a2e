"""``comparison.json``: runs on the same test images as records, written by :mod:`tintype.comparing` for the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tintype.records import Interval, SplitName
from tintype.report.reading import read_table
from tintype.report.studyfile import Difference
from tintype.rundir import write_json

COMPARISON_FORMAT = 1
COMPARISON_FILE = "comparison.json"


@dataclass(frozen=True)
class Crosstab:
    """Images by which of two networks got them right.

    Attributes:
        both: Right by the run and by the reference.
        only_run: Right by the run alone.
        only_reference: Right by the reference alone.
        neither: Wrong by both.
    """

    both: int
    only_run: int
    only_reference: int
    neither: int


@dataclass(frozen=True)
class BesideReference:
    """A run beside the reference.

    Attributes:
        differences: Metric to the run's figure minus the reference's. P-values are adjusted for the number of runs.
        crosstab: Who got how many images right.
        only_run: Images that the run alone got right.
        only_reference: Images that the reference alone got right.
        detectable: The least difference of the two accuracies that these images would show in four of five cases;
            None where they would show none, because too few tell the two networks apart.
        images_needed: How many images like these would show a difference as large as the one seen, in four of five
            cases; None where no number would.
    """

    differences: dict[str, Difference]
    crosstab: Crosstab
    only_run: tuple[str, ...]
    only_reference: tuple[str, ...]
    detectable: float | None
    images_needed: int | None


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs.

    Attributes:
        name: What it is called here: its folder's name, or its path where two have the same name.
        path: Its directory, as given.
        figures: Metric to its value and interval on the images compared.
        left_out: Labelled images of the run that are not compared, because another run does not have them.
        beside: The run beside the reference; None for the reference itself.
    """

    name: str
    path: str
    figures: dict[str, Interval]
    left_out: int
    beside: BesideReference | None = None


@dataclass(frozen=True)
class RunsTable:
    """Several runs on the same images.

    Attributes:
        format: Changes when this format does.
        metric: What the verdict goes by.
        split: Which images: ``test``, or ``validation`` where no run has a test set.
        images: How many are compared.
        classes: Their classes.
        runs: The reference first, then the others as given.
        remarks: What a reader should know before believing the table.
    """

    format: int
    metric: str
    split: SplitName
    images: int
    classes: tuple[str, ...]
    runs: tuple[ComparedRun, ...]
    remarks: tuple[str, ...]

    @property
    def reference(self) -> ComparedRun:
        """The run that the others are held against."""
        return self.runs[0]

    @property
    def others(self) -> tuple[tuple[ComparedRun, BesideReference], ...]:
        """All runs but the reference, with what they are beside it."""
        return tuple((run, run.beside) for run in self.runs if run.beside is not None)


def write_runs_table(folder: Path, table: RunsTable) -> None:
    """Write ``comparison.json`` atomically."""
    write_json(folder / COMPARISON_FILE, table)


def read_runs_table(folder: Path) -> RunsTable:
    """Read ``comparison.json``; what no text file can hold comes back replaced.

    Raises:
        RunError: There is none, it is damaged, or it is from another version.
    """
    return read_table(folder, COMPARISON_FILE, COMPARISON_FORMAT, "comparison", _table)


def _table(content: dict[str, Any]) -> RunsTable:
    return RunsTable(
        **{
            **content,
            "classes": tuple(content["classes"]),
            "runs": tuple(_run(item) for item in content["runs"]),
            "remarks": tuple(content["remarks"]),
        }
    )


def _run(content: dict[str, Any]) -> ComparedRun:
    figures = {metric: Interval(**item) for metric, item in content["figures"].items()}
    beside = content["beside"]
    if beside is not None:
        beside = BesideReference(
            **{
                **beside,
                "differences": {metric: Difference(**item) for metric, item in beside["differences"].items()},
                "crosstab": Crosstab(**beside["crosstab"]),
                "only_run": tuple(beside["only_run"]),
                "only_reference": tuple(beside["only_reference"]),
            }
        )
    return ComparedRun(**{**content, "figures": figures, "beside": beside})
