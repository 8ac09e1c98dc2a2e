"""What a run leaves in its directory, and in which order, so that a kill at any moment leaves it resumable."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tintype.config import ModelConfig
from tintype.data.cache import ImageCache
from tintype.data.split import Split
from tintype.environment import describe_environment
from tintype.errors import RunError
from tintype.evaluation.health import EXAMINED_IMAGES, FirstWeights, examine
from tintype.gallery import augmented_gallery, mistake_gallery
from tintype.learning import Learnt
from tintype.models.network import Network
from tintype.planning import Plan
from tintype.preparing import Built, Prepared
from tintype.records import DataSummary, Finding, GalleryImage, Health, ImageStatistics, Predictions
from tintype.rundir import RunDir, numbered, require_new, write_text
from tintype.runtime import Runtime, peak_memory_mb
from tintype.serving.model import Model
from tintype.training.fit import Fitted

RANK_LOGS = "rank*.log"
SIZES_SHOWN = 20


def new_run_dir(output: Path | None, source: Path) -> RunDir:
    """The directory of a new run: ``output``, or ``runs/NAME`` with a number where that exists.

    Raises:
        RunError: ``output`` exists and is not empty.
    """
    if output is not None:
        # What other ranks have logged there is no run.
        require_new(output, f"go on with `tintype train --resume {output}`", RANK_LOGS)
        return RunDir(output)
    return RunDir(numbered(Path("runs") / (source.stem or "run"), Path.exists))


def open_run(run_dir: RunDir, plan: Plan, data: Prepared, network: Network, runtime: Runtime) -> None:
    """Write what is known before training; ``config.toml`` last, since it makes the directory resumable.

    Raises:
        RunError: The directory cannot be written, or it holds a run on other images.
    """
    findings = (*data.split.findings, *data.audit.findings, *_standardize_findings(network))
    if (run_dir / "config.toml").exists():
        if run_dir.read_json("data.json")["fingerprint"] != data.cache.fingerprint:
            raise RunError(f"the images changed since {run_dir.path} was started; train anew.")
        run_dir.write_findings(findings)  # why an earlier attempt failed may have been mended
        return
    command = f"tintype train --config {shlex.quote(str(run_dir / 'config.toml'))}"
    try:
        run_dir.path.mkdir(parents=True, exist_ok=True)
        run_dir.write_json("data.json", data_summary(data.cache, data.split, plan, data.statistics))
        run_dir.write_findings(findings)
        run_dir.write_json("environment.json", describe_environment(runtime, command))
        write_text(run_dir / "config.toml", plan.config.to_toml())
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"the run directory {run_dir.path} cannot be written: {reason}. Choose one with -o.") from None


def finish_environment(run_dir: RunDir, fitted: Fitted, seconds: float, training_seconds: float) -> None:
    """Add to ``environment.json`` what is known only at the end."""
    measured = {
        "kept_epoch": fitted.kept_epoch,
        "stopped_early": fitted.stopped_early,
        "micro_batch": fitted.micro_batch,
        "seconds": seconds,
        "training_seconds": training_seconds,
        "peak_memory_mb": peak_memory_mb(),
    }
    run_dir.write_json("environment.json", run_dir.read_json("environment.json") | measured)


def data_summary(cache: ImageCache, split: Split, plan: Plan, statistics: ImageStatistics) -> DataSummary:
    """What the report says about the data."""
    index, usable = cache.index, cache.usable
    sizes = Counter(zip(cache.widths[usable].tolist(), cache.heights[usable].tolist(), strict=True))
    modes = Counter(mode for mode, good in zip(cache.modes, usable, strict=True) if good)
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    return DataSummary(
        source=plan.config.data.source,
        kind=index.kind,
        description=f"{index.description}; {split.description}",
        classes=index.classes,
        counts={
            name: tuple(np.bincount(index.labels[part], minlength=len(index.classes)).tolist())
            for name, part in parts.items()
            if len(part)
        },
        image_size=cache.geometry.size,
        channels=cache.geometry.channels,
        resize=cache.geometry.resize,
        sizes={f"{width}x{height}": count for (width, height), count in sizes.most_common(SIZES_SHOWN)},
        modes=dict(modes.most_common()),
        bad=cache.bad,
        fingerprint=cache.fingerprint,
        choices=plan.choices,
        statistics=statistics,
    )


def gallery(built: Built, data: Prepared, predictions: Sequence[Predictions]) -> list[GalleryImage]:
    """Thumbnails of mistakes (on the test images, or else the validation images) and of augmented images."""
    config, cache, split = built.plan.config, data.cache, data.split
    indices: dict[str, NDArray[np.int64]] = {"test": split.test, "validation": split.validation}
    judged = next((item for item in predictions if item.split in indices), None)
    network = built.network if config.evidence.attention else None
    mistakes = mistake_gallery(cache, indices[judged.split], judged, network, built.runtime) if judged else []
    return [*mistakes, *augmented_gallery(cache, split.train, config.augment, config.seed)]


def look_inside(built: Built, learnt: Learnt, data: Prepared, first: FirstWeights) -> Health:
    """``health.json``: a few training images through the trained network, in both of its modes."""
    config, fitted = built.plan.config.fit, learnt.fitted
    is_short = config.batch_size is not None and 0 < fitted.micro_batch < config.batch_size
    most = max(2, fitted.micro_batch) if is_short else EXAMINED_IMAGES
    return examine(
        built.network, data.cache, fitted.network, learnt.inputs, data.split.train, built.runtime, first, most
    )


def add_findings(run_dir: RunDir, causes: Sequence[Finding], others: Sequence[Finding] = ()) -> None:
    """Put findings before those of the audit.

    Args:
        run_dir: The run.
        causes: What a diagnosis found, root causes first.
        others: What else there is to know; it stands in the place of a cause of the same code, since it says more.
            Both stand in the place of what was found before training.
    """
    told = {finding.code for finding in others}
    found = (*(finding for finding in causes if finding.code not in told), *others)
    codes = {finding.code for finding in found}
    run_dir.write_findings((*found, *(item for item in run_dir.read_findings() if item.code not in codes)))


def tried(learnt: Learnt) -> dict[str, Any]:
    """``penalties.json`` or ``heads.json``: what was tried before the output layer or the head was chosen."""
    content: dict[str, Any] = {}
    if (logistic := learnt.logistic) is not None:
        content["penalties.json"] = {"chosen": logistic.penalty, "folds": logistic.folds, "trials": logistic.trials}
    if (heads := learnt.heads) is not None:
        content["heads.json"] = {"best": heads.best(), "heads": heads.results}
    return content


def trained_model(
    built: Built, data: Prepared, architecture: ModelConfig, temperature: float, threshold: float
) -> Model:
    """The network with everything needed to use it."""
    return Model(
        network=built.network,
        config=architecture,
        classes=data.cache.index.classes,
        geometry=data.cache.geometry,
        statistics=data.statistics,
        temperature=temperature,
        max_megapixels=built.plan.config.data.max_megapixels,
        threshold=threshold,
    )


def _standardize_findings(network: Network) -> tuple[Finding, ...]:
    constant = network.zero_deviations
    if not constant:
        return ()
    return (
        Finding(
            "zero-deviation",
            "info",
            f"{constant:,} of {network.std.numel():,} standardised inputs never change in the training images",
            ("their deviation is 0; dividing by it would give NaN",),
            "They were set to 0 instead. Nothing to do.",
        ),
    )
