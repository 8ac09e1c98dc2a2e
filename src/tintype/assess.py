"""Judging without training: a data set by its audit, a finished model by other images."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tintype.config import RunConfig, load_config
from tintype.data.cache import ImageCache
from tintype.data.index import SPLIT_IDS, shown
from tintype.data.reopen import decode_like, evenly, reopen_images, rows_of
from tintype.data.shift import compare_figures, compare_statistics, image_statistics, opposite_polarity
from tintype.data.split import Split
from tintype.environment import describe_environment
from tintype.errors import DataError
from tintype.evaluation.calibration import calibrated
from tintype.evaluation.label_errors import LabelErrors
from tintype.evaluation.metrics import evaluate
from tintype.gallery import mistake_gallery
from tintype.planning import Plan
from tintype.preparing import Prepared, prepare_data
from tintype.recording import data_summary
from tintype.records import DataSummary, Evaluation, Finding, ImageStatistics, Shift, to_plain
from tintype.report import write_evaluation_report
from tintype.report.assessment import ASSESSMENT_FILE, assessment_content
from tintype.report.inputs import main_split
from tintype.rundir import RunDir, numbered, sort_findings
from tintype.runtime import Runtime, start_runtime
from tintype.serving.model import Model, load_model
from tintype.training.layer_features import Inputs, Reading, open_inputs, read_layer
from tintype.training.lookalikes import Lookalikes, explain_mistakes
from tintype.watch import Watch

MOST_SEARCHED = 10_000
"""Training images among which the nearest ones of a mistake are looked for."""


@dataclass(frozen=True)
class Check:
    """What an audit found.

    Attributes:
        summary: Counts, sizes, modes and how the data was understood.
        findings: The most severe first.
        labels: Which labels are likely to be wrong; None where that was not asked for.
    """

    summary: DataSummary
    findings: tuple[Finding, ...]
    labels: LabelErrors | None = None


@dataclass(frozen=True)
class Assessment:
    """How a finished model does on other images.

    Attributes:
        path: The folder with the figures and the report.
        evaluation: The figures on the other images.
        original: The figures of the run's own test images.
        findings: What differs between the images.
        content: ``assessment.json``: the verdict, the gap, the classes, calibration, and the images side by side.
        lookalikes: The surest mistakes, each with its nearest training images.
    """

    path: Path
    evaluation: Evaluation
    original: Evaluation | None
    findings: tuple[Finding, ...]
    content: dict[str, Any]
    lookalikes: Lookalikes

    @property
    def report(self) -> Path:
        """The report's path."""
        return self.path / "report.html"

    @property
    def verdict(self) -> str:
        """One sentence."""
        return str(self.content["verdict"])

    def to_plain(self) -> dict[str, Any]:
        """Everything but the pictures, as ``tintype evaluate --json`` prints it."""
        near = to_plain(self.lookalikes)
        for mistake in near["mistakes"]:
            for item in (mistake, *mistake["lookalikes"]):
                item.pop("picture")
        return {
            "path": str(self.path),
            "evaluation": to_plain(self.evaluation.metrics),
            **to_plain(self.content),
            "neighbours": near,
            "findings": to_plain(self.findings),
        }


def check(config: RunConfig, watch: Watch = Watch()) -> Check:
    """Audit a data set without training on it.

    Raises:
        DataError: The data cannot be read.
    """
    return check_prepared(prepare_data(config, watch))


def check_prepared(data: Prepared) -> Check:
    """What the audit of prepared data found."""
    findings = sort_findings((*data.split.findings, *data.audit.findings))
    return Check(data_summary(data.cache, data.split, data.plan, data.statistics), tuple(findings))


def evaluate_on(
    run: Path, source: str, *, output: Path | None = None, skip_bad: bool = False, device: str = "auto",
    watch: Watch = Watch(),
) -> Assessment:  # fmt: skip
    """Evaluate a finished model on other labelled images.

    Where the data names test images, these are used; otherwise all that have a label. Images whose polarity is
    the opposite of the training images' (dark on light, light on dark) are inverted, and that is said.

    Args:
        run: The run directory.
        source: The other data.
        output: Where the figures and the report go; None for a folder inside the run directory.
        skip_bad: Leave unreadable images out instead of stopping.
        device: ``auto``, ``cpu`` or ``cuda``.
        watch: Progress and messages.

    Raises:
        RunError: The run is missing or unfinished.
        DataError: The data cannot be read, has no labels, or its labels are not the model's.
    """
    run_dir = RunDir(run)
    run_dir.require_complete()
    model, config = load_model(run_dir), load_config(run_dir / "config.toml")
    cache, data = decode_like(
        model.geometry, model.classes, model.max_megapixels, source,
        skip_bad=skip_bad, on_message=watch.on_message, on_progress=watch.on_progress,
    )  # fmt: skip
    chosen = _judged_images(cache)
    split = Split(chosen[:0], chosen[:0], chosen, f"{len(chosen):,} images evaluated", ())
    inverted = _inverted(model, cache, chosen, watch)
    runtime = replace(start_runtime(device, None, 0), precision="fp32")
    model.network.to(runtime.device)
    reading = _read(model, config, cache, chosen, inverted, runtime, watch)
    evaluation = evaluate(reading.predictions)
    original = run_dir.read_evaluation()
    kind = main_split(original) or "test"
    trained = _reopened(run_dir, config, watch)
    lookalikes = _lookalikes(run_dir, model, config, reading, cache, chosen, inverted, trained, runtime, watch)
    shifts, findings, statistics = _shifts(run_dir, model, trained, cache, chosen)
    content = assessment_content(
        evaluation, original.get(kind), model.classes, kind, shifts, inverted=int(inverted.sum())
    )

    folder = RunDir(output if output is not None else _evaluation_folder(run_dir, source))
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_json("data.json", data_summary(cache, split, Plan(RunConfig(data=data), ()), statistics))
    command = f"tintype evaluate {shlex.quote(str(run))} {shlex.quote(source)}"
    folder.write_json("environment.json", describe_environment(runtime, command))
    folder.write_findings(findings)
    folder.write_predictions([reading.predictions])
    pictures = mistake_gallery(cache, chosen, reading.predictions, model.network, runtime, inverted=inverted)
    folder.write_json("gallery.json", pictures)
    folder.write_json("neighbours.json", lookalikes)
    folder.write_json(ASSESSMENT_FILE, content)
    folder.write_evaluation([evaluation])
    write_evaluation_report(folder, run_dir)
    return Assessment(folder.path, evaluation, original.get(kind), findings, content, lookalikes)


def _inverted(model: Model, cache: ImageCache, chosen: NDArray[np.int64], watch: Watch) -> NDArray[np.bool_]:
    """Which of the chosen images are shown to the network as negatives, shape (N,)."""
    parts = np.array_split(chosen, len(chosen) // 256 + 1)
    inverted = np.concatenate([opposite_polarity(model.statistics, cache.images[rows]) for rows in parts])
    if inverted.any():
        watch.on_message(
            f"{inverted.sum():,} of {len(chosen):,} images are inverted, to the polarity of the training images"
        )
    return inverted


def _read(
    model: Model, config: RunConfig, cache: ImageCache, chosen: NDArray[np.int64], inverted: NDArray[np.bool_],
    runtime: Runtime, watch: Watch,
) -> Reading:  # fmt: skip
    """Calibrated predictions, and what the output layer saw, of one pass."""
    flip = bool(model.config.flip_average)
    if flip or inverted.any():  # frozen layers keep what they say of the images as they are
        inputs = Inputs(model.network, cache)
    else:
        inputs = open_inputs(model.network, config, cache, runtime, on_progress=watch.on_progress)
    reading = read_layer(
        inputs, chosen, runtime, "test", flip_average=flip, inverted=inverted if inverted.any() else None,
        on_progress=watch.on_progress,
    )  # fmt: skip
    return replace(reading, predictions=calibrated(reading.predictions, model.temperature))


def _reopened(run_dir: RunDir, config: RunConfig, watch: Watch) -> ImageCache | str:
    """The run's own images, or why they cannot be had."""
    try:
        return reopen_images(run_dir, config.data, watch.on_progress)
    except DataError as error:
        return str(error)


def _lookalikes(
    run_dir: RunDir, model: Model, config: RunConfig, reading: Reading, cache: ImageCache,
    chosen: NDArray[np.int64], inverted: NDArray[np.bool_], trained: ImageCache | str, runtime: Runtime, watch: Watch,
) -> Lookalikes:  # fmt: skip
    """The nearest training images of the surest mistakes, or the reason why there are none."""
    if isinstance(trained, str):
        return Lookalikes(0, 0, None, trained, ())
    if (reading.predictions.predicted == reading.predictions.labels).all():
        return Lookalikes(0, 0, None, "there is no mistake", ())
    training = sum(run_dir.read_json("data.json")["counts"]["train"])
    rows = _training_rows(run_dir, trained)
    inputs = open_inputs(model.network, config, trained, runtime, on_progress=watch.on_progress)
    of_training = read_layer(inputs, rows, runtime, "train", on_progress=watch.on_progress)
    return explain_mistakes(reading, cache, chosen, inverted, of_training, trained, rows, training)


def _training_rows(run_dir: RunDir, trained: ImageCache) -> NDArray[np.int64]:
    """Positions of the run's training images, at most so many, evenly taken."""
    rows = rows_of(trained.index, run_dir.read_predictions()["train"].paths)
    return rows[evenly(len(rows), MOST_SEARCHED)]


def _shifts(
    run_dir: RunDir, model: Model, trained: ImageCache | str, cache: ImageCache, chosen: NDArray[np.int64]
) -> tuple[list[Shift], tuple[Finding, ...], ImageStatistics]:
    """How the images differ from the training images: figures side by side, findings, and their own figures."""
    statistics = image_statistics(cache, chosen)
    original = model.statistics
    if not original.spread and not isinstance(trained, str):
        # A model of an earlier version does not say by how much its training images differ among themselves.
        measured = image_statistics(trained, _training_rows(run_dir, trained))
        original = replace(original, spread=measured.spread)
    findings = tuple(sort_findings(compare_statistics(original, statistics)))
    return compare_figures(original, statistics), findings, statistics


def _evaluation_folder(run_dir: RunDir, source: str) -> Path:
    """A folder named after the data; that of another data set of the same name is left alone."""

    def is_anothers(folder: Path) -> bool:
        # A folder without data.json is what a killed evaluation left; it is written over.
        return (folder / "data.json").exists() and RunDir(folder).read_json("data.json")["source"] != source

    return numbered(run_dir.path / "evaluations" / Path(source).expanduser().resolve().name, is_anothers)


def _judged_images(cache: ImageCache) -> NDArray[np.int64]:
    index = cache.index
    labelled = cache.usable & (index.labels >= 0)
    test = labelled & (index.given_split == SPLIT_IDS["test"])
    chosen = np.flatnonzero(test if test.any() else labelled)
    if not len(chosen):
        raise DataError(
            f"{shown(index.root)} holds no labelled image that can be read, so nothing can be judged. "
            "`tintype predict` labels images without one."
        )
    return chosen.astype(np.int64)
