"""What one finished run contributes to a study's table, read from its directory."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tintype.errors import RunError
from tintype.evaluation.compare import Answers, answers_of
from tintype.records import EpochRecord, Predictions, SplitName
from tintype.rundir import RunDir


@dataclass(frozen=True)
class TrainingAnswers:
    """What a network makes of the images that it was trained on, or of a sample of them.

    Attributes:
        images: Hash of their names and labels; networks with the same were judged on the same images.
        is_right: Shape (N,), in the order of their names.
    """

    images: str
    is_right: NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """A finished run's answers and costs.

    Attributes:
        split: What its answers are for: the test images, or else the validation images.
        answers: Right or wrong and the loss, image by image.
        total_parameters: Of the network.
        trainable_parameters: Of them, those that train.
        epochs: Trained.
        seconds_per_epoch: With validation; None where nothing was trained by epochs.
        seconds_per_step: Per optimiser step, without validation.
        images_per_second: In training.
        training_seconds: From the first step, features of frozen layers included, to the last.
        seconds: Of the whole run.
        peak_memory_mb: Resident memory of the process during the run.
        made_by: Hash of tintype's source.
        machine: Processor, cores and device.
        device: ``cpu``, or the GPU's name.
        train_images: How many images it was trained on; None where that is not recorded.
        validation_images: How many images chose the epoch that was kept; 0 where the last one was.
        training: On its training images; None where they were not evaluated.
        keeps_features: Whether frozen layers ran once, perhaps in an earlier run.
    """

    split: SplitName
    answers: Answers
    total_parameters: int
    trainable_parameters: int
    epochs: int
    seconds_per_epoch: float | None
    seconds_per_step: float | None
    images_per_second: float | None
    training_seconds: float | None
    seconds: float | None
    peak_memory_mb: float | None
    made_by: str
    machine: str
    device: str | None = None
    train_images: int | None = None
    validation_images: int = 0
    training: TrainingAnswers | None = None
    keeps_features: bool = False

    @property
    def accuracy(self) -> float:
        """Share of images that are right."""
        return float(self.answers.is_right.mean())

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return float(self.answers.losses.mean())


def read_outcome(run_dir: RunDir) -> Outcome:
    """Read a finished run.

    Raises:
        RunError: It is unfinished, or one of its files is missing or damaged.
        DataError: Nothing was evaluated.
    """
    run_dir.require_complete()
    predictions = run_dir.read_predictions()
    preferred: tuple[SplitName, ...] = ("test", "validation", "train")
    split = next((name for name in preferred if name in predictions), None)
    if split is None:
        raise RunError(f"{run_dir.path} holds no predictions: nothing to compare.")
    environment, summary, history = run_dir.read_json("environment.json"), run_dir.read_summary(), _history(run_dir)
    settings, counts = _settings(run_dir), run_dir.read_json("data.json").get("counts", {})
    step = _seconds_per_step(settings, counts, history)
    chooses_epoch = settings.get("fit", {}).get("keep") == "best" and len(history) > 1
    shown = [environment.get("processor"), environment.get("cores"), environment.get("device")]
    return Outcome(
        split=split,
        answers=answers_of(predictions[split]),
        total_parameters=summary.total_parameters,
        trainable_parameters=summary.trainable_parameters,
        epochs=len(history),
        seconds_per_epoch=sum(row.seconds for row in history) / len(history) if history else None,
        seconds_per_step=step[0] if step else None,
        images_per_second=step[1] if step else None,
        training_seconds=_training_seconds(environment, history),
        seconds=environment.get("seconds"),
        peak_memory_mb=environment.get("peak_memory_mb"),
        made_by=str(environment.get("source_hash", "")),
        machine=", ".join(str(item) for item in shown if item),
        device=environment.get("device"),
        train_images=sum(counts["train"]) if "train" in counts else None,
        validation_images=sum(counts.get("validation", ())) if chooses_epoch else 0,
        training=_training_answers(predictions["train"]) if "train" in predictions else None,
        keeps_features=_keeps_features(settings),
    )


def _history(run_dir: RunDir) -> list[EpochRecord]:
    return run_dir.read_history() if (run_dir / "history.jsonl").is_file() else []


def _seconds_per_step(
    settings: dict[str, Any], counts: dict[str, Any], history: list[EpochRecord]
) -> tuple[float, float] | None:
    """Seconds of an optimiser step and images a second, over all epochs; None where there were no steps."""
    if not history or any(row.images_per_second <= 0 for row in history):
        return None
    fit = settings.get("fit", {})
    batch, images = fit.get("batch_size"), sum(counts.get("train", ()))
    if not batch or not images or fit.get("optimizer") == "lbfgs":  # L-BFGS takes all images in every step
        return None
    batch = min(batch, images)
    seconds = sum(batch / row.images_per_second for row in history) / len(history)
    return seconds, batch / seconds


def _training_answers(predictions: Predictions) -> TrainingAnswers | None:
    if not (predictions.labels >= 0).any():
        return None
    answers = answers_of(predictions)
    digest = hashlib.sha256("\0".join(part for image in answers.images for part in image).encode("utf-8", "replace"))
    return TrainingAnswers(digest.hexdigest(), answers.is_right)


def _keeps_features(settings: dict[str, Any]) -> bool:
    model = settings.get("model", {})
    is_frozen = model.get("freeze") != "none" and model.get("depth") != "all"
    return model.get("backbone") is not None and is_frozen and settings.get("fit", {}).get("feature_cache", True)


def _training_seconds(environment: dict[str, Any], history: list[EpochRecord]) -> float | None:
    """As recorded; a run that was resumed recorded its last part only, so never less than all its epochs."""
    recorded = environment.get("training_seconds")
    epochs = sum(row.seconds for row in history)
    return max(recorded, epochs) if recorded is not None else (epochs or None)


def _settings(run_dir: RunDir) -> dict[str, Any]:
    try:
        return tomllib.loads((run_dir / "config.toml").read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise RunError(f"{run_dir / 'config.toml'} cannot be read: {error}.") from None
