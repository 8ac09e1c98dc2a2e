"""A factory of run directories as training leaves them, with made-up predictions."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tintype.evaluation.metrics import evaluate
from tintype.records import (
    DataSummary,
    EpochRecord,
    Finding,
    GalleryImage,
    ImageStatistics,
    Interval,
    LayerRow,
    ModelSummary,
    Predictions,
    SplitName,
)
from tintype.rundir import RunDir

DIGITS = tuple("0123456789")

MakeRun = Callable[..., RunDir]
MakeHistory = Callable[..., list[EpochRecord]]


@pytest.fixture
def make_history() -> MakeHistory:
    """Curves of a training: ``make_history(epochs, validation=True)``."""
    return draw_history


@pytest.fixture
def make_thumbnail() -> Callable[[int], str]:
    """A JPEG of the given side as base64."""
    return lambda side: thumbnail(np.random.default_rng(0), side)


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write a whole run directory; every part can be changed or left out by an argument."""

    def make(
        name: str = "digits",
        *,
        classes: Sequence[str] = DIGITS,
        n: int = 360,
        accuracy: float = 0.97,
        epochs: int = 12,
        validation: bool = True,
        findings: Sequence[Finding] = (),
        gallery: Sequence[GalleryImage] | None = None,
        environment: dict[str, Any] | None = None,
        config: str = '[fit]\nkeep = "best"\nmonitor = "validation_loss"\n\n[model]\nname = "small"\n',
        metrics: dict[str, Interval] | None = None,
        folder: str = "images/",
        seed: int = 0,
    ) -> RunDir:
        run_dir = RunDir(tmp_path / name)
        run_dir.path.mkdir()
        random = np.random.default_rng(seed)
        splits: list[SplitName] = ["validation", "test"] if validation else ["test"]
        predictions = [draw_predictions(random, split, classes, n, accuracy, folder) for split in splits]
        evaluations = [evaluate(item) for item in predictions]
        evaluations[-1].metrics.update(metrics or {})
        run_dir.write_predictions(predictions)
        run_dir.write_findings(findings)
        if epochs:
            run_dir.write_history(draw_history(epochs, validation=validation))
        run_dir.write_json("summary.json", layer_table(len(classes)))
        run_dir.write_json("data.json", data_summary(classes, n, folder, validation=validation))
        run_dir.write_json("gallery.json", draw_gallery(random, classes) if gallery is None else gallery)
        run_dir.write_json("model.json", {"classes": list(classes), "temperature": 1.21})
        run_dir.write_json("environment.json", ENVIRONMENT if environment is None else environment)
        (run_dir / "config.toml").write_text(config, encoding="utf-8")
        run_dir.write_evaluation(evaluations)
        return run_dir

    return make


ENVIRONMENT: dict[str, Any] = {
    "tintype": "0.1.0",
    "python": "3.11.9",
    "torch": "2.11.0",
    "hardware": "AMD EPYC 9R14, 2 cores, 8 GB",
    "cores": 2,
    "threads": 2,
    "device": "cpu",
    "precision": "bf16",
    "precision_evidence": "bf16 channels-last: 41 ms a step, fp32: 70 ms; the outputs agree within 0.4 %",
    "seed": 0,
    "started": "2026-11-20T09:12:44+00:00",
    "seconds": 31.7,
    "training_seconds": 23.4,
    "peak_memory_mb": 812.0,
    "source_hash": "3f2a91c04be7d512",
    "format": 1,
    "command": ["tintype", "train", "images with space/", "--epochs", "12"],
}


def draw_predictions(
    random: np.random.Generator, split: SplitName, classes: Sequence[str], n: int, accuracy: float, folder: str
) -> Predictions:
    """Probabilities of a network that is right for about ``accuracy``, less sure where it is wrong."""
    count = len(classes)
    labels = np.arange(n, dtype=np.int64) % count
    near = (labels + random.choice([1, count - 1, count // 2 or 1], size=n)) % count
    wrong = random.random(n) > accuracy
    answers = np.where(wrong, near, labels)
    sure = np.where(wrong, random.uniform(0.5, 0.99, n), 1 - random.beta(1, 14, n) * 0.45)
    probabilities = np.repeat(((1 - sure) / max(count - 1, 1))[:, None], count, axis=1)
    probabilities[np.arange(n), answers] = sure
    paths = tuple(f"{folder}{classes[label]}/{number:05}.png" for number, label in enumerate(labels.tolist()))
    return Predictions(split, tuple(classes), paths, labels, probabilities.astype(np.float32))


def share(value: float, n: int) -> Interval:
    """A share with its Wilson interval."""
    if n == 0:
        return Interval(0.0, 0.0, 1.0, 0)
    z2 = 1.96**2
    centre = (value + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (value * (1 - value) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(float(value), max(centre - half, 0.0), min(centre + half, 1.0), n)


def draw_history(epochs: int, *, validation: bool = True) -> list[EpochRecord]:
    """Curves that fall and, in the last third, over-fit a little."""
    rows = []
    for i in range(epochs):
        part = (i + 1) / epochs
        loss = 2.2 * math.exp(-4 * part) + 0.04
        after = loss + 0.02 + 0.12 * max(part - 0.7, 0) + 0.02 * math.sin(7 * i)
        rows.append(
            EpochRecord(
                epoch=i + 1,
                train_loss=loss,
                train_accuracy=1 - 0.4 * loss,
                validation_loss=after if validation else None,
                validation_accuracy=1 - 0.38 * after if validation else None,
                learning_rate=0.004 * math.sin(math.pi * min(part + 0.15, 1)) + 1e-5,
                seconds=1.95,
                images_per_second=6612.0,
            )
        )
    return rows


def layer_table(classes: int) -> ModelSummary:
    """A small network."""
    rows = (
        LayerRow("conv1", "conv 16 3 relu", (16, 16, 16), 160, 160),
        LayerRow("bn1", "bn", (16, 16, 16), 64, 32),
        LayerRow("conv2", "conv 32 3 relu", (32, 8, 8), 4640, 4640),
        LayerRow("pool", "gap", (32,), 0, 0),
        LayerRow("output", "dense", (classes,), 33 * classes, 33 * classes),
    )
    total = sum(row.parameters for row in rows)
    return ModelSummary(rows, total, total - 32, 32)


def data_summary(classes: Sequence[str], n: int, folder: str, *, validation: bool) -> DataSummary:
    """Counts that fit the predictions, and a file left out."""
    each = tuple(n // len(classes) + (i < n % len(classes)) for i in range(len(classes)))
    counts = {"train": tuple(3 * item for item in each), "test": each}
    if validation:
        counts["validation"] = each
    return DataSummary(
        source=folder,
        kind="folder",
        description=f"a folder of {len(classes)} class folders without given splits",
        classes=tuple(classes),
        counts=counts,
        image_size=32,
        channels=1,
        resize="pad",
        sizes={"28x28": 1700, "32x30": 97},
        modes={"L": 1797},
        bad={f"{folder}broken.png": "the file ends before the image does"},
        fingerprint="b1946ac92492d234",
        choices=(
            ("data.image_size", "32", "the files are 28 to 32 pixels wide"),
            ("augment.policy", "digits", "small grey images; mirrored digits would be other digits"),
            ("fit.epochs", "12", "1,080 training images"),
        ),
        statistics=ImageStatistics(1080, 33.1, 70.4, 0.2, 88.0, 0.01, 0.0, 28.0, 28.0),
    )


def draw_gallery(random: np.random.Generator, classes: Sequence[str], each: int = 12) -> list[GalleryImage]:
    """Noise as thumbnails."""
    images = []
    for number in range(2 * each):
        one, other = classes[number % len(classes)], classes[(number + 1) % len(classes)]
        images.append(
            GalleryImage(
                "mistakes" if number < each else "augmented",
                f"images/{one}/{number:05}.png",
                f"{one} taken for {other}, {99 - number}.2 %" if number < each else one,
                thumbnail(random),
            )
        )
    return images


def thumbnail(random: np.random.Generator, size: int = 28) -> str:
    """A JPEG of smooth noise as base64."""
    coarse = Image.fromarray(random.integers(0, 255, (7, 7), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((size, size), Image.Resampling.BICUBIC).save(buffer, format="JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
