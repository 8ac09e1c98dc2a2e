"""Finished runs beside each other on the same test images, from their directories alone; without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tintype.errors import ConfigError, RunError
from tintype.evaluation.compare import Comparison, align, compare_metrics
from tintype.evaluation.metrics import evaluate
from tintype.evaluation.power import detectable_difference, images_needed
from tintype.evaluation.weighted import metrics_of
from tintype.records import Predictions, SplitName
from tintype.report.runs_page import write_runs_report
from tintype.report.runsfile import (
    COMPARISON_FORMAT,
    BesideReference,
    ComparedRun,
    Crosstab,
    RunsTable,
    write_runs_table,
)
from tintype.report.studyfile import STUDY_FILE, Difference
from tintype.rundir import RunDir


@dataclass(frozen=True)
class RunComparison:
    """Runs beside each other.

    Attributes:
        table: Figures, differences, p-values, and the images that only one got right.
        path: The folder with ``comparison.json`` and the report; None where none was asked for.
    """

    table: RunsTable
    path: Path | None

    @property
    def report(self) -> Path | None:
        """The report's path."""
        return None if self.path is None else self.path / "report.html"


def compare_runs(
    runs: Sequence[Path], *, common: bool = False, metric: str = "accuracy", output: Path | None = None
) -> RunComparison:
    """Compare finished runs with the first of them on the same test images.

    Args:
        runs: At least two run directories, or folders that an evaluation on other images wrote.
        common: Compare on the images that all runs have, instead of refusing runs whose images differ.
        metric: What the verdict goes by.
        output: Where ``comparison.json`` and the report go; None writes nothing.

    Raises:
        RunError: A run is missing, unfinished, named twice, or a study.
        DataError: The runs' classes or images differ.
        ConfigError: The metric is unknown or not defined for these images.
    """
    named = _named(runs)
    found = {name: _read(folder) for name, folder in named.items()}
    split = _common_split(found)
    given = {name: item[split] for name, item in found.items()}
    aligned = align(given, common=common)
    base = next(iter(aligned.values()))
    metrics = metrics_of(base)
    if metric not in metrics:
        raise ConfigError(f"these runs cannot be compared by {metric!r}. Choose one of {', '.join(metrics)}.")
    if output is not None and (output / "config.toml").exists():
        raise RunError(f"{output} is a run directory, which a comparison would write into. Give another with -o.")
    left_out = {name: int((item.labels >= 0).sum()) - len(base) for name, item in given.items()}
    table = RunsTable(
        format=COMPARISON_FORMAT,
        metric=metric,
        split=split,
        images=len(base),
        classes=base.classes,
        runs=_rows(named, aligned, metrics, left_out),
        remarks=tuple(_remarks(named, aligned, split, left_out)),
    )
    if output is not None:
        write_runs_table(output, table)
        write_runs_report(output)
    return RunComparison(table, output)


def _named(runs: Sequence[Path]) -> dict[str, Path]:
    """Name of each run to its directory."""
    if len(runs) < 2:
        raise RunError("a comparison needs at least two runs, the reference first.")
    seen: set[Path] = set()
    for path in runs:
        if path.resolve() in seen:
            raise RunError(f"{path} is named twice. A run is compared with other runs; name each once.")
        seen.add(path.resolve())
    short = [RunDir(path).name for path in runs]
    return {str(path) if short.count(name) > 1 else name: path for name, path in zip(short, runs, strict=True)}


def _read(folder: Path) -> dict[SplitName, Predictions]:
    """Predictions of a finished run, or of a finished evaluation on other images."""
    run_dir = RunDir(folder)
    if (folder / STUDY_FILE).is_file():
        raise RunError(
            f"{folder} is a study, not a run. Its report compares its runs; to compare single ones, name them, such as "
            f"{folder / 'runs'}/NAME."
        )
    if not (run_dir.is_complete and (run_dir / "predictions.csv").is_file()):
        run_dir.require_complete()
    return {item.split: item for item in run_dir.read_predictions().values()}


def _common_split(found: Mapping[str, Mapping[SplitName, Predictions]]) -> SplitName:
    splits: tuple[SplitName, ...] = ("test", "validation")
    for split in splits:
        have = [name for name, item in found.items() if split in item]
        if len(have) == len(found):
            return split
        if split == "test" and have:
            without = next(name for name in found if name not in have)
            raise RunError(
                f"{without} has no test images and {have[0]} has some, so they cannot be compared. Train {without} "
                "again with a test set."
            )
    raise RunError(f"{', '.join(found)} hold no test images that could be compared.")


def _rows(
    named: Mapping[str, Path], aligned: Mapping[str, Predictions], metrics: tuple[str, ...], left_out: Mapping[str, int]
) -> tuple[ComparedRun, ...]:
    reference = next(iter(named))
    compared = compare_metrics(reference, aligned, metrics)
    rows = []
    for name, path in named.items():
        evaluated = evaluate(aligned[name]).metrics
        differences = {
            metric: _difference(item) for metric, items in compared.items() for item in items if item.name == name
        }
        beside = _beside(aligned[name], aligned[reference], differences) if name != reference else None
        figures = {metric: evaluated[metric] for metric in metrics}
        rows.append(ComparedRun(name, str(path), figures, left_out[name], beside))
    return tuple(rows)


def _difference(item: Comparison) -> Difference:
    return Difference(
        **asdict(item.difference), p=item.p, adjusted_p=item.adjusted_p, verdict=item.verdict,
        covers_seeds=item.covers_seeds,
    )  # fmt: skip


def _beside(run: Predictions, reference: Predictions, differences: dict[str, Difference]) -> BesideReference:
    ours, theirs = (item.predicted == item.labels for item in (run, reference))
    only_run, only_reference = (np.flatnonzero(mask).tolist() for mask in (ours & ~theirs, theirs & ~ours))
    n, told = len(run), len(only_run) + len(only_reference)
    difference = (len(only_run) - len(only_reference)) / n
    return BesideReference(
        differences=differences,
        crosstab=Crosstab(int((ours & theirs).sum()), len(only_run), len(only_reference), int((~ours & ~theirs).sum())),
        only_run=tuple(run.paths[place] for place in only_run),
        only_reference=tuple(run.paths[place] for place in only_reference),
        detectable=detectable_difference(n, told / n),
        images_needed=images_needed(difference, told / n) if difference else None,
    )


def _remarks(
    named: Mapping[str, Path], aligned: Mapping[str, Predictions], split: SplitName, left_out: Mapping[str, int]
) -> list[str]:
    remarks = []
    n = len(next(iter(aligned.values())))
    if any(left_out.values()):
        counts = ", ".join(f"{number:,} of {name}" for name, number in left_out.items() if number)
        remarks.append(f"Compared on the {n:,} images that all runs have; left out: {counts}.")
    if split == "validation":
        remarks.append(
            "These are validation images: the runs were tuned on them, so all figures are too good, and a run that was "
            "tuned longer looks better than it is."
        )
    for name, path in named.items():
        leaked = RunDir(path).read_evaluation()[split].metrics.get("accuracy_leaked")
        if leaked is not None:
            remarks.append(
                f"{leaked.n:,} of the {split} images of {name} also stand in its training images, and count here."
            )
    reference, *others = aligned.items()
    for name, item in others:
        if np.array_equal(item.probabilities, reference[1].probabilities):
            remarks.append(
                f"{name} and {reference[0]} give the same probabilities for every image: they are one network."
            )
    if len(others) > 1:
        remarks.append(f"P-values are adjusted for {len(others)} comparisons (Holm), for each metric by itself.")
    remarks.append(
        "Each run is one network: what is found holds for these networks, not for the settings behind them. Another "
        "seed gives another network; `tintype study` repeats settings over seeds."
    )
    return remarks
