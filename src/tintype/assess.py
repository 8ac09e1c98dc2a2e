"""Judging without training: a data set by its audit, a finished model by other images."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tintype.config import DataConfig, RunConfig
from tintype.data.cache import ImageCache, build_cache
from tintype.data.index import SPLIT_IDS
from tintype.data.shift import compare_statistics, image_statistics, opposite_polarity
from tintype.data.sources import read_index, relabel
from tintype.data.split import Split
from tintype.environment import describe_environment
from tintype.errors import DataError
from tintype.evaluation.calibration import calibrated
from tintype.evaluation.metrics import evaluate
from tintype.evaluation.predict import predict
from tintype.planning import Plan
from tintype.preparing import prepare_data
from tintype.recording import data_summary, gallery
from tintype.records import DataSummary, Evaluation, Finding
from tintype.report import write_evaluation_report
from tintype.rundir import RunDir, numbered, sort_findings
from tintype.runtime import start_runtime
from tintype.serving.model import Model, load_model
from tintype.watch import Watch


@dataclass(frozen=True)
class Check:
    """What an audit found.

    Attributes:
        summary: Counts, sizes, modes and how the data was understood.
        findings: The most severe first.
    """

    summary: DataSummary
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Assessment:
    """How a finished model does on other images.

    Attributes:
        path: The folder with the figures and the report.
        evaluation: The figures on the other images.
        original: The figures of the run's own test images.
        findings: What differs between the images.
    """

    path: Path
    evaluation: Evaluation
    original: Evaluation | None
    findings: tuple[Finding, ...]

    @property
    def report(self) -> Path:
        """The report's path."""
        return self.path / "report.html"


def check(config: RunConfig, watch: Watch = Watch()) -> Check:
    """Audit a data set without training on it.

    Raises:
        DataError: The data cannot be read.
    """
    data = prepare_data(config, watch)
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
        DataError: The data cannot be read or its labels are not the model's.
    """
    run_dir = RunDir(run)
    run_dir.require_complete()
    model = load_model(run_dir)
    cache, plan = _decode_for(model, source, skip_bad, watch)
    chosen = _judged_images(cache)
    split = Split(chosen[:0], chosen[:0], chosen, f"{len(chosen):,} images evaluated", ())
    statistics = image_statistics(cache, chosen)
    findings = tuple(sort_findings(compare_statistics(model.statistics, statistics)))
    inverted = np.concatenate(
        [
            opposite_polarity(model.statistics, cache.images[rows])
            for rows in np.array_split(chosen, len(chosen) // 256 + 1)
        ]
    )
    if inverted.any():
        watch.on_message(
            f"{inverted.sum():,} of {len(chosen):,} images are inverted, to the polarity of the training images"
        )
    runtime = replace(start_runtime(device, None, 0), precision="fp32")
    model.network.to(runtime.device)
    flip = bool(model.config.flip_average)
    predictions = predict(
        model.network, cache, chosen, runtime, "test",
        flip_average=flip, inverted=inverted, on_progress=watch.on_progress,
    )  # fmt: skip
    predictions = calibrated(predictions, model.temperature)
    evaluation = evaluate(predictions)

    folder = RunDir(output if output is not None else _evaluation_folder(run_dir, source))
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_json("data.json", data_summary(cache, split, plan, statistics))
    command = f"tintype evaluate {shlex.quote(str(run))} {shlex.quote(source)}"
    folder.write_json("environment.json", describe_environment(runtime, command))
    folder.write_findings(findings)
    folder.write_predictions([predictions])
    folder.write_json("gallery.json", gallery(cache, split, [predictions], plan.config))
    folder.write_evaluation([evaluation])
    write_evaluation_report(folder, run_dir)
    return Assessment(folder.path, evaluation, run_dir.read_evaluation().get("test"), findings)


def _decode_for(model: Model, source: str, skip_bad: bool, watch: Watch) -> tuple[ImageCache, Plan]:
    """Decode other images exactly as the model's own were."""
    geometry = model.geometry
    data = DataConfig(
        source=source,
        image_size=geometry.size,
        color="grey" if geometry.channels == 1 else "rgb",
        resize=geometry.resize,
        max_megapixels=model.max_megapixels,
        skip_bad=skip_bad,
    )
    index = relabel(read_index(data, minimum_classes=1), model.classes)
    watch.on_message(index.description)
    return build_cache(index, data, watch.on_progress), Plan(RunConfig(data=data), ())


def _evaluation_folder(run_dir: RunDir, source: str) -> Path:
    """A folder named after the data; that of another data set of the same name is left alone."""

    def is_anothers(folder: Path) -> bool:
        # A folder without data.json is what a killed evaluation left; it is written over.
        return (folder / "data.json").exists() and RunDir(folder).read_json("data.json")["source"] != source

    return numbered(run_dir.path / "evaluations" / Path(source).expanduser().resolve().name, is_anothers)


def _judged_images(cache: ImageCache) -> np.ndarray:
    index = cache.index
    labelled = cache.usable & (index.labels >= 0)
    test = labelled & (index.given_split == SPLIT_IDS["test"])
    chosen = np.flatnonzero(test if test.any() else labelled)
    if not len(chosen):
        raise DataError(f"{index.root} holds no labelled image that can be read, so nothing can be evaluated.")
    return chosen.astype(np.int64)
