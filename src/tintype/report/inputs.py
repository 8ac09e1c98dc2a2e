"""What a report is made from: the files of a run directory, any of which may be absent."""

from __future__ import annotations

import csv
import heapq
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from tintype.errors import RunError
from tintype.records import (
    SPLITS,
    DataSummary,
    EpochRecord,
    Evaluation,
    Finding,
    GalleryImage,
    ImageStatistics,
    ModelSummary,
)
from tintype.report.reading import of_this_version
from tintype.report.text import printable
from tintype.rundir import RunDir, sort_findings

_LARGEST_PREDICTIONS = 16_000_000  # bytes; reading more would be most of the report's time
_MOST_MISTAKES = 50

T = TypeVar("T")


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: which image, what it is, what the network said and how sure it was (0 to 1)."""

    path: str
    label: str
    predicted: str
    confidence: float


@dataclass(frozen=True)
class ReportInput:
    """Everything a report shows, as read from one run directory.

    Attributes:
        name: Name of the directory.
        path: The directory as it was given.
        evaluations: By split; may be empty.
        history: A row per epoch; empty where nothing was trained.
        findings: The most severe first.
        data: The data summary, where there is one.
        summary: The layer table, where there is one.
        model: ``model.json``, or an empty dictionary.
        environment: ``environment.json``, or an empty dictionary.
        gallery: Thumbnails.
        config_toml: Text of ``config.toml``, or an empty text.
        mistakes: The most confident wrong answers of :attr:`split`, the surest first.
        penalties: ``penalties.json``, or an empty dictionary.
        heads: ``heads.json``, or an empty dictionary.
        baselines: ``baselines.json``, or an empty dictionary.
        abstention: ``abstention.json``, or an empty dictionary.
        ledger: ``ledger.json``, or an empty dictionary.
    """

    name: str
    path: str
    evaluations: dict[str, Evaluation]
    history: tuple[EpochRecord, ...]
    findings: tuple[Finding, ...]
    data: DataSummary | None
    summary: ModelSummary | None
    model: dict[str, Any]
    environment: dict[str, Any]
    gallery: tuple[GalleryImage, ...]
    config_toml: str
    mistakes: tuple[Mistake, ...]
    penalties: dict[str, Any]
    heads: dict[str, Any]
    baselines: dict[str, Any]
    abstention: dict[str, Any]
    ledger: dict[str, Any]

    @property
    def split(self) -> str | None:
        """The split that the headline speaks of: test, else validation, else train."""
        return main_split(self.evaluations)

    @property
    def evaluation(self) -> Evaluation | None:
        """The evaluation that the headline speaks of."""
        return self.evaluations[self.split] if self.split else None

    @property
    def settings(self) -> dict[str, Any]:
        """``config.toml`` as nested dictionaries; empty where it cannot be read."""
        try:
            return tomllib.loads(self.config_toml)
        except tomllib.TOMLDecodeError:
            return {}

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the confusion matrix."""
        evaluation = self.evaluation
        metrics = evaluation.metrics if evaluation else {}
        matrix = evaluation.curves.get("confusion_matrix", []) if evaluation else []
        sources = (
            tuple(self.model.get("classes", ())),
            self.data.classes if self.data else (),
            tuple(name.removeprefix("f1/") for name in metrics if name.startswith("f1/")),
        )
        fitting = [names for names in sources if names and len(names) == (len(matrix) or len(names))]
        return fitting[0] if fitting else tuple(f"class {number}" for number in range(len(matrix)))

    @property
    def kept_epoch(self) -> int | None:
        """The epoch whose weights were kept: as recorded, else by the settings ``fit.keep`` and ``fit.monitor``."""
        recorded = self.environment.get("kept_epoch")
        if isinstance(recorded, int):
            return recorded
        if not self.history:
            return None
        fit = self.settings.get("fit", {})
        if fit.get("keep", "best") == "last":
            return self.history[-1].epoch
        return max(self.history, key=lambda row: _score(row, fit.get("monitor", "validation_loss"))).epoch


def main_split(evaluations: Mapping[str, Evaluation]) -> str | None:
    """The split that speaks for a model: test, else validation, else train."""
    return next((split for split in reversed(SPLITS) if split in evaluations), None)


def read_inputs(run_dir: RunDir) -> ReportInput:
    """Read what there is.

    Raises:
        RunError: A file is damaged, or there is no such directory.
    """
    run_dir.require_there()
    evaluations = run_dir.read_evaluation() if _has(run_dir, "evaluation.json") else {}
    config = run_dir / "config.toml"
    return ReportInput(
        name=printable(run_dir.name),
        path=printable(str(run_dir.path)),
        evaluations={split: _printable_evaluation(item) for split, item in evaluations.items()},
        history=tuple(run_dir.read_history()) if _has(run_dir, "history.jsonl") else (),
        findings=_findings(run_dir),
        data=_data(run_dir),
        summary=run_dir.read_summary() if _has(run_dir, "summary.json") else None,
        model=_optional(run_dir, "model.json", {}),
        environment=_optional(run_dir, "environment.json", {}),
        gallery=tuple(_record(GalleryImage, item, "gallery.json") for item in _optional(run_dir, "gallery.json", [])),
        config_toml=printable(config.read_text("utf-8", errors="surrogateescape")) if config.is_file() else "",
        mistakes=read_mistakes(run_dir, main_split(evaluations)),
        penalties=_optional(run_dir, "penalties.json", {}),
        heads=_optional(run_dir, "heads.json", {}),
        baselines=_optional(run_dir, "baselines.json", {}),
        abstention=_optional(run_dir, "abstention.json", {}),
        ledger=_optional(run_dir, "ledger.json", {}),
    )


def read_mistakes(run_dir: RunDir, split: str | None) -> tuple[Mistake, ...]:
    """The most confident wrong answers of a split, the surest first; empty where predictions.csv is very large.

    Reads row by row and turns only the wrong rows' figure into a number, since with many classes the file is long.

    Raises:
        RunError: The file is damaged.
    """
    file_path = run_dir / "predictions.csv"
    if split is None or not file_path.is_file() or file_path.stat().st_size > _LARGEST_PREDICTIONS:
        return ()
    wrong: list[Mistake] = []
    try:
        with file_path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file)
            columns = {name.removeprefix("probability/"): i for i, name in enumerate(next(reader)) if i > 3}
            for row in reader:
                if row[0] == split and row[2] and row[2] != row[3]:
                    wrong.append(Mistake(row[1], row[2], row[3], float(row[columns[row[3]]])))
    except OSError as error:
        raise RunError(f"{file_path} cannot be read: {error.strerror}.") from None
    except (StopIteration, csv.Error, IndexError, KeyError, ValueError):
        raise RunError(f"{file_path} is damaged: not every row fits its header.") from None
    surest = heapq.nsmallest(_MOST_MISTAKES, wrong, key=lambda item: (-item.confidence, item.path))
    return tuple(
        Mistake(printable(item.path), printable(item.label), printable(item.predicted), item.confidence)
        for item in surest
    )


def _score(row: EpochRecord, monitor: str) -> float:
    """What an epoch is kept by, as training decides it; larger is better."""
    if row.validation_loss is None or row.validation_accuracy is None:
        return -row.train_loss
    return row.validation_accuracy if monitor == "validation_accuracy" else -row.validation_loss


def _has(run_dir: RunDir, name: str) -> bool:
    return (run_dir / name).is_file()


def _optional(run_dir: RunDir, name: str, default: Any) -> Any:
    return printable(run_dir.read_json(name)) if _has(run_dir, name) else default


def _findings(run_dir: RunDir) -> tuple[Finding, ...]:
    found = run_dir.read_findings() if _has(run_dir, "findings.json") else []
    return tuple(
        Finding(item.code, item.severity, printable(item.title), printable(item.evidence), printable(item.remedy))
        for item in sort_findings(found)
    )


def _printable_evaluation(evaluation: Evaluation) -> Evaluation:
    return Evaluation(evaluation.split, printable(evaluation.metrics), evaluation.curves)


def _data(run_dir: RunDir) -> DataSummary | None:
    content = _optional(run_dir, "data.json", None)
    if content is None:
        return None
    statistics = _record(ImageStatistics, content.get("statistics") or {}, "data.json")
    summary = _record(DataSummary, {**content, "statistics": statistics}, "data.json")
    return DataSummary(
        **{
            **{item.name: getattr(summary, item.name) for item in fields(summary)},
            "classes": tuple(summary.classes),
            "counts": {split: tuple(numbers) for split, numbers in summary.counts.items()},
            "choices": tuple((str(a), str(b), str(c)) for a, b, c in summary.choices),
        }
    )


def _record(kind: type[T], content: dict[str, Any], name: str) -> T:
    with of_this_version(name):
        return kind(**content)
