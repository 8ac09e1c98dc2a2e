"""What a diagnosis is made from: the files of a run directory, of a run that ended or of one that failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tintype.config import RunConfig, load_config
from tintype.errors import RunError
from tintype.records import (
    DataSummary,
    EpochRecord,
    Evaluation,
    Finding,
    Health,
    ImageStatistics,
    InputHealth,
    LayerHealth,
    ModelSummary,
    Predictions,
)
from tintype.rundir import RunDir

LOOKED_AT = {
    "history": "history.jsonl",
    "predictions": "predictions.csv",
    "health": "health.json",
    "baselines": "baselines.json",
    "environment": "environment.json",
    "summary": "summary.json",
}
"""What a diagnosis can do without, and the file that it is read from."""


@dataclass(frozen=True)
class Facts:
    """Everything that the rules look at. What a run did not leave is empty or None.

    Attributes:
        config: The settings, resolved.
        data: Counts per class and split, sizes, choices.
        history: A row per epoch.
        predictions: By split.
        findings: What the audit found, and why a loss was not finite.
        health: A look inside the trained network.
        baselines: ``baselines.json``: what simple shortcuts reach.
        environment: ``environment.json``.
        summary: The layer table.
        evaluations: The figures by split; those on leaked images stand nowhere else.
    """

    config: RunConfig
    data: DataSummary
    history: tuple[EpochRecord, ...] = ()
    predictions: dict[str, Predictions] | None = None
    findings: tuple[Finding, ...] = ()
    health: Health | None = None
    baselines: dict[str, Any] | None = None
    environment: dict[str, Any] | None = None
    summary: ModelSummary | None = None
    evaluations: dict[str, Evaluation] | None = None

    def found(self, code: str) -> Finding | None:
        """The audit's finding of this code."""
        return next((finding for finding in self.findings if finding.code == code), None)

    @property
    def missing(self) -> tuple[str, ...]:
        """Files that the run did not leave, so that the rules that need them could say nothing."""
        return tuple(file for name, file in LOOKED_AT.items() if not getattr(self, name))

    @property
    def training_images(self) -> int:
        """Images that the network was trained on."""
        return sum(self.data.counts["train"])

    @property
    def kept_row(self) -> EpochRecord | None:
        """The row of the epoch whose weights were kept; the last one where that is not known."""
        kept = (self.environment or {}).get("kept_epoch")
        return next((row for row in self.history if row.epoch == kept), self.history[-1] if self.history else None)

    @property
    def head_rows(self) -> tuple[EpochRecord, ...]:
        """The rows of a head that was trained before the rest, with the whole backbone frozen."""
        return tuple(row for row in self.history if row.epoch <= (self.config.fit.head_epochs or 0))

    @property
    def loop_rows(self) -> tuple[EpochRecord, ...]:
        """The rows of the training loop, without those of a head that was trained before it."""
        return tuple(row for row in self.history if row.epoch > (self.config.fit.head_epochs or 0))


Rule = Callable[[Facts], Finding | None]
"""A rule of the diagnosis: looks at the facts and says what it found, or None."""


def read_facts(
    run_dir: RunDir,
    predictions: Sequence[Predictions] | None = None,
    evaluations: Sequence[Evaluation] | None = None,
) -> Facts:
    """Read what there is; ``config.toml`` and ``data.json`` must be there.

    Args:
        run_dir: The run.
        predictions: Of a run that holds them in memory; None reads them.
        evaluations: Likewise; the file is the last of a run, and a run that is not complete has none.

    Raises:
        RunError: There is no such run, or a file of it is damaged.
    """

    def has(name: str) -> bool:
        return (run_dir / name).is_file()

    run_dir.require_there()
    if not has("config.toml") or not has("data.json"):
        raise RunError(f"{run_dir.path} is not a run directory: it holds no config.toml with a data.json beside it.")
    if predictions is None:
        predictions = list(run_dir.read_predictions().values()) if has("predictions.csv") else []
    if evaluations is None:
        evaluations = list(run_dir.read_evaluation().values()) if has("evaluation.json") else []
    content = run_dir.read_json("data.json")
    return Facts(
        config=load_config(run_dir / "config.toml"),
        data=DataSummary(**{**content, "statistics": ImageStatistics(**content["statistics"])}),
        history=tuple(run_dir.read_history()) if has("history.jsonl") else (),
        predictions={item.split: item for item in predictions},
        findings=tuple(run_dir.read_findings()) if has("findings.json") else (),
        health=_health(run_dir.read_json("health.json")) if has("health.json") else None,
        baselines=run_dir.read_json("baselines.json") if has("baselines.json") else None,
        environment=run_dir.read_json("environment.json") if has("environment.json") else None,
        summary=run_dir.read_summary() if has("summary.json") else None,
        evaluations={item.split: item for item in evaluations},
    )


def _health(content: dict[str, Any]) -> Health:
    return Health(
        **{
            **content,
            "training_input": InputHealth(**content["training_input"]),
            "inference_input": InputHealth(**content["inference_input"]),
            "layers": tuple(LayerHealth(**row) for row in content["layers"]),
        }
    )
