"""``tune.json``: a search as records, written by :mod:`tintype.tuning` and read for the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from tintype.evaluation.selection import Selection
from tintype.records import Interval
from tintype.report.reading import read_table
from tintype.rundir import write_json

TUNE_FORMAT = 1
TUNE_FILE = "tune.json"
WINNER_FILE = "winner.toml"  # the winner's settings, ready for `tintype train --config`

TrialRole = Literal["search", "default", "logistic", "repeat", "final"]
TrialState = Literal["complete", "pruned", "failed", "running", "waiting"]
TuneState = Literal["running", "finished", "interrupted"]

T = TypeVar("T")


@dataclass(frozen=True)
class TrialRow:
    """One candidate, trained once. Figures are None, or empty, until they are known.

    Attributes:
        number: Its place in the search, from 0.
        role: Why it was trained: ``search`` (drawn from the space), ``default`` (what `tintype train` would take),
            ``logistic`` (a logistic head), ``repeat`` (a finalist with another seed) or ``final`` (the winner's last
            training).
        state: ``complete``, ``pruned`` (stopped after a stage), ``failed``, ``running`` or ``waiting``.
        stage: The last stage it was trained in, from 1; 0 where it reached none.
        accuracy: On the validation images, after that stage.
        loss: The same, cross-entropy in nats.
        seconds: Of training and validating, all its stages.
        ended: Seconds of searching that had gone by when it ended.
        settings: What was varied, by dotted name.
        parameters: Of the network.
        epochs: Passes over the training images in its last stage.
        image_size: Side in pixels in its last stage.
        seed: It was trained with.
        repeat_of: Number of the trial that it repeats; of a final training, the winner's.
        cause: Why it failed, in one line.
        worker: Who trained it; empty where one process searches.
    """

    number: int
    role: TrialRole
    state: TrialState
    stage: int = 0
    accuracy: Interval | None = None
    loss: float | None = None
    seconds: float = 0.0
    ended: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    epochs: float | None = None
    image_size: int | None = None
    seed: int = 0
    repeat_of: int | None = None
    cause: str = ""
    worker: str = ""


@dataclass(frozen=True)
class StageRow:
    """A stage of successive halving.

    Attributes:
        seconds: That a candidate trains in it, as planned.
        image_size: Side in pixels.
        reached: Trials of the search that were trained in it.
    """

    seconds: float
    image_size: int
    reached: int


@dataclass(frozen=True)
class TuneTable:
    """A search, finished or under way.

    Attributes:
        format: Changes when this format does.
        name: Of the search.
        data: The path of the images, as given.
        space: ``scratch``, ``transfer`` or ``own``.
        reason: Why this space, a clause.
        images: Validation images, by which candidates are chosen.
        seed: Of the search.
        budget: Seconds that it may take; None where only trials are counted.
        wanted: Trials that were asked for; None where only time counts.
        seconds: That it has taken so far.
        state: ``running``, ``finished`` or ``interrupted``.
        trials: By their number.
        stages: In their order; one or none where nothing is halved.
        importance: Setting to its share of what the accuracy varies with, the largest first; empty before there are
            enough trials.
        selection: The winner's curse; None before two candidates are complete.
        winner: Number of the trial that was chosen; None before one is complete.
        result: Path of the winner's run directory relative to that of the search; None before there is one.
        version: Of tintype.
        notes: What a reader should know before believing the table.
    """

    format: int
    name: str
    data: str
    space: str
    reason: str
    images: int
    seed: int
    budget: float | None
    wanted: int | None
    seconds: float
    state: TuneState
    trials: tuple[TrialRow, ...]
    stages: tuple[StageRow, ...] = ()
    importance: dict[str, float] = field(default_factory=dict)
    selection: Selection | None = None
    winner: int | None = None
    result: str | None = None
    version: str = ""
    notes: tuple[str, ...] = ()

    def trial(self, number: int | None) -> TrialRow | None:
        """The row of a number."""
        return next((row for row in self.trials if row.number == number), None)

    def repeats_of(self, number: int) -> tuple[TrialRow, ...]:
        """The finished trainings of a candidate with other seeds."""
        return tuple(row for row in self.trials if row.role == "repeat" and row.repeat_of == number and row.accuracy)


def write_tune_table(folder: Path, table: TuneTable) -> None:
    """Write ``tune.json`` atomically."""
    write_json(folder / TUNE_FILE, table)


def read_tune_table(folder: Path) -> TuneTable:
    """Read ``tune.json``; what no text file can hold, such as control characters in names, comes back replaced.

    Raises:
        RunError: There is none, it is damaged, or it is from another version.
    """
    return read_table(folder, TUNE_FILE, TUNE_FORMAT, "search", _table)


def _table(content: dict[str, Any]) -> TuneTable:
    return TuneTable(
        **{
            **content,
            "trials": tuple(_trial(item) for item in content["trials"]),
            "stages": tuple(StageRow(**item) for item in content["stages"]),
            "selection": _optional(Selection, content["selection"]),
            "notes": tuple(content["notes"]),
        }
    )


def _trial(content: dict[str, Any]) -> TrialRow:
    return TrialRow(**{**content, "accuracy": _optional(Interval, content["accuracy"])})


def _optional(make: Callable[..., T], content: dict[str, Any] | None) -> T | None:
    return make(**content) if content is not None else None
