"""``study.json``: the table of a study as records, written by :mod:`tintype.studies` and read for the report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tintype.records import Interval
from tintype.report.reading import read_table
from tintype.rundir import write_json

STUDY_FORMAT = 1
STUDY_FILE = "study.json"

StudyKind = Literal["data size", "ablation", "models", "depth", "learning rate", "devices", "scaling", "grid"]
STUDY_KINDS: tuple[StudyKind, ...] = get_args(StudyKind)

_FIGURES = re.compile(r"[\d.,]*\d")
RunState = Literal["finished", "diverged", "failed", "interrupted", "waiting"]


@dataclass(frozen=True)
class AxisRow:
    """A setting that varies, what it is called, and the names of its values."""

    setting: str
    label: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """The accuracy of a point beside the reference's, on the same images.

    Attributes:
        value: Accuracy minus the reference's, with its 95 % interval from ``low`` to ``high``.
        low: Lower end.
        high: Upper end.
        n: Images.
        p: Two-sided p-value of no difference.
        adjusted_p: The same, adjusted for all comparisons of the study (Holm).
        verdict: ``better``, ``worse`` or ``cannot be told apart``.
        covers_seeds: Whether the choice of seeds is counted; else it holds for these networks only.
    """

    value: float
    low: float
    high: float
    n: int
    p: float
    adjusted_p: float
    verdict: str
    covers_seeds: bool


@dataclass(frozen=True)
class PointRow:
    """One combination of settings over its seeds. Figures are None while no run of it has finished.

    Attributes:
        label: In words.
        names: Setting to the name of its value.
        settings: Setting to its value.
        seeds: Those whose runs finished.
        failed: How many runs did not.
        accuracy: Mean over the seeds; the interval is for other images and other seeds.
        accuracy_by_seed: In the order of ``seeds``.
        accuracy_deviation: Standard deviation over the seeds; None with fewer than two.
        loss: As ``accuracy``, cross-entropy in nats.
        loss_by_seed: In the order of ``seeds``.
        total_parameters: Of the network.
        trainable_parameters: Of them, those that train.
        epochs: Trained, median over the seeds.
        seconds_per_epoch: With validation. Times and memory are medians over the seeds.
        seconds_per_step: Per optimiser step, without validation.
        images_per_second: In training.
        training_seconds: From the first step, features of frozen layers included, to the last.
        peak_memory_mb: Resident memory of the process during the run.
        difference: Beside the reference; None for the reference itself, and where the images differ.
        changes: What differs from the reference, in words; empty for the reference itself.
        train_images: How many images it was trained on, median over the seeds.
        train_accuracy: As ``accuracy``, on its training images (a sample of them, where there are many).
        train_accuracy_by_seed: In the order of ``seeds``, where every seed has one.
        device: What it was computed on, such as ``cpu`` or the GPU's name.
        speed_up: In a study of devices, how many times as fast as the reference an epoch is (the whole training, where
            a run has no epochs); None for the reference.
    """

    label: str
    names: dict[str, str]
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    failed: int
    accuracy: Interval | None = None
    accuracy_by_seed: tuple[float, ...] = ()
    accuracy_deviation: float | None = None
    loss: Interval | None = None
    loss_by_seed: tuple[float, ...] = ()
    total_parameters: int | None = None
    trainable_parameters: int | None = None
    epochs: float | None = None
    seconds_per_epoch: float | None = None
    seconds_per_step: float | None = None
    images_per_second: float | None = None
    training_seconds: float | None = None
    peak_memory_mb: float | None = None
    difference: Difference | None = None
    changes: str = ""
    train_images: int | None = None
    train_accuracy: Interval | None = None
    train_accuracy_by_seed: tuple[float, ...] = ()
    device: str | None = None
    speed_up: float | None = None


@dataclass(frozen=True)
class RunRow:
    """One run of a point and a seed.

    Attributes:
        name: Its folder under ``runs/``; points that ask for the very same run have the same.
        point: Label of its point.
        seed: Its seed.
        state: How it stands.
        reason: Why it failed.
        accuracy: Of the finished run.
        loss: Of the finished run, cross-entropy in nats.
        seconds: Of the whole run.
        jobs: How many runs were made at a time while it was made; with more than one its times are not its own.
    """

    name: str
    point: str
    seed: int
    state: RunState
    reason: str = ""
    accuracy: float | None = None
    loss: float | None = None
    seconds: float | None = None
    jobs: int = 1


@dataclass(frozen=True)
class StudyTable:
    """The table of a study.

    Attributes:
        format: Changes when this format does.
        name: Of the study.
        kind: What was asked: one of :data:`STUDY_KINDS`.
        quick: Whether it is the short form.
        split: What was measured: ``test``, or ``validation`` where there is no test set; empty before the first run.
        images: How many images.
        reference: Label of the point that the others are compared with.
        best: Label of the most accurate point; empty before the first run.
        axes: What varies.
        seeds: The seeds of every point.
        points: A row for each combination.
        runs: A row for each run, in the order of work.
        remarks: What a reader should know before believing the table.
        groups: Labels of points that cannot be told apart from each other: maximal sets in which no pair differs after
            Holm's adjustment for all pairs, the most accurate first. A point can stand in several.
        law: The learning curve that was fitted to a study of the data's size, as plain values
            (:class:`tintype.evaluation.power_law.LearningCurve`).
        range_test: The learning-rate range test made before a study of the learning rate, as plain values
            (:class:`tintype.training.range_test.RangeTest`).
    """

    format: int
    name: str
    kind: str
    quick: bool
    split: str
    images: int
    reference: str
    best: str
    axes: tuple[AxisRow, ...]
    seeds: tuple[int, ...]
    points: tuple[PointRow, ...]
    runs: tuple[RunRow, ...]
    remarks: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...] = ()
    law: dict[str, Any] | None = None
    range_test: dict[str, Any] | None = None

    def point(self, label: str) -> PointRow | None:
        """The row of a label."""
        return next((row for row in self.points if row.label == label), None)

    @property
    def finished(self) -> tuple[PointRow, ...]:
        """The points that have an accuracy."""
        return tuple(row for row in self.points if row.accuracy is not None)


def failures(table: StudyTable) -> list[str]:
    """A line for each reason for which runs of a point failed; reasons that differ in their figures alone are one."""
    found: dict[tuple[str, RunState, str], list[RunRow]] = {}
    for run in table.runs:
        if run.state in ("diverged", "failed"):
            found.setdefault((run.point, run.state, _FIGURES.sub("", run.reason)), []).append(run)
    lines = []
    for (point, state, _), runs in found.items():
        seeds = ("seed " if len(runs) == 1 else "seeds ") + ", ".join(str(run.seed) for run in runs)
        first = "" if len({run.reason for run in runs}) == 1 else f"; seed {runs[0].seed}"
        lines.append(f"{point}, {seeds} {state}{first}: {runs[0].reason}")
    return lines


def write_study_table(folder: Path, table: StudyTable) -> None:
    """Write ``study.json`` atomically."""
    write_json(folder / STUDY_FILE, table)


def read_study_table(folder: Path) -> StudyTable:
    """Read ``study.json``; what no text file can hold, such as control characters in labels, comes back replaced.

    Raises:
        RunError: There is none, it is damaged, or it is from another version.
    """
    return read_table(folder, STUDY_FILE, STUDY_FORMAT, "study", study_table)


def study_table(content: dict[str, Any]) -> StudyTable:
    """The table as :func:`tintype.records.to_plain` wrote it."""
    return StudyTable(
        **{
            **content,
            "axes": tuple(AxisRow(**{**item, "values": tuple(item["values"])}) for item in content["axes"]),
            "seeds": tuple(content["seeds"]),
            "points": tuple(_point(item) for item in content["points"]),
            "runs": tuple(RunRow(**item) for item in content["runs"]),
            "remarks": tuple(content["remarks"]),
            "groups": tuple(tuple(group) for group in content.get("groups", ())),
        }
    )


def _point(content: dict[str, Any]) -> PointRow:
    return PointRow(
        **{
            **content,
            "seeds": tuple(content["seeds"]),
            "accuracy": Interval(**content["accuracy"]) if content["accuracy"] else None,
            "accuracy_by_seed": tuple(content["accuracy_by_seed"]),
            "loss": Interval(**content["loss"]) if content["loss"] else None,
            "loss_by_seed": tuple(content["loss_by_seed"]),
            "difference": Difference(**content["difference"]) if content["difference"] else None,
            "train_accuracy": Interval(**content["train_accuracy"]) if content.get("train_accuracy") else None,
            "train_accuracy_by_seed": tuple(content.get("train_accuracy_by_seed", ())),
        }
    )
