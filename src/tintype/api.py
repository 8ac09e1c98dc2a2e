"""The public functions: one verb of the command line each, with the same names for the same options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tintype.assess import Assessment, Check, evaluate_on
from tintype.assess import check as _check
from tintype.config import ModelConfig, make_config
from tintype.demo import write_digits
from tintype.errors import ConfigError
from tintype.models import zoo
from tintype.models.build import build_network
from tintype.models.summary import summarize
from tintype.records import ModelSummary
from tintype.report import write_report
from tintype.run import Run, resume_run, start_run
from tintype.rundir import RunDir
from tintype.serving.predictor import Label, Predictor
from tintype.watch import Watch

StrPath = str | Path


def train(
    data: StrPath | None = None,
    *,
    output: StrPath | None = None,
    config: StrPath | None = None,
    settings: Mapping[str, Any] | None = None,
    watch: Watch = Watch(),
    **options: Any,
) -> Run:
    """Train a classifier on labelled images and write its run directory with a report.

    Args:
        data: A folder of class folders (with or without train, val, test), a CSV or Parquet manifest, a folder of
            MNIST-style idx files, or an .npz.
        output: The run directory; ``runs/NAME`` by default.
        config: A TOML file of settings, such as the ``config.toml`` of another run.
        settings: Single settings by dotted name, such as ``{"fit.ema": 0.999}``.
        watch: Progress, messages and stopping.
        **options: ``model``, ``epochs``, ``batch_size``, ``image_size``, ``augment``, ``seed`` and the others of
            :data:`tintype.config.OPTIONS`. What is not given is chosen from the data.

    Raises:
        TintypeError: With one line that says what is wrong and what to do.
    """
    file = Path(config) if config is not None else None
    made = make_config(data, file=file, options=options, settings=settings)
    return start_run(made, Path(output) if output is not None else None, watch)


def resume(run: StrPath, *, watch: Watch = Watch()) -> Run:
    """Go on with a run that was stopped or killed; it ends with the same weights as if it had not been."""
    return resume_run(Path(run), watch)


def demo(*, output: StrPath | None = None, watch: Watch = Watch(), **options: Any) -> Run:
    """Do the whole job on scikit-learn's handwritten digits: check, train, evaluate, report."""
    return train(write_digits(), output=output, watch=watch, **options)


def check(data: StrPath, *, settings: Mapping[str, Any] | None = None, watch: Watch = Watch(), **options: Any) -> Check:
    """Audit labelled images: counts, unreadable files, duplicates, leakage across splits, imbalance, odd sizes."""
    return _check(make_config(data, options=options, settings=settings), watch)


def evaluate(
    run: StrPath,
    data: StrPath,
    *,
    output: StrPath | None = None,
    skip_bad: bool = False,
    device: str = "auto",
    watch: Watch = Watch(),
) -> Assessment:
    """Evaluate a finished model on other labelled images, beside its original figures."""
    folder = Path(output) if output is not None else None
    return evaluate_on(Path(run), str(data), output=folder, skip_bad=skip_bad, device=device, watch=watch)


def load(run: StrPath, *, device: str = "auto") -> Predictor:
    """Load a finished run for labelling images: ``load("runs/photos").predict("cat.jpg")``."""
    return Predictor(run, device)


def predict(
    run: StrPath, paths: StrPath | Iterable[StrPath], *, device: str = "auto", watch: Watch = Watch()
) -> list[Label]:
    """Label files, folders and globs with a finished run."""
    chosen = [paths] if isinstance(paths, str | Path) else list(paths)
    return list(load(run, device=device).predict_many(chosen, watch.on_progress))


def report(run: StrPath) -> Path:
    """Rebuild the report from the run directory alone."""
    run_dir = RunDir(Path(run))
    run_dir.require_complete()
    return write_report(run_dir)


def summary(
    model: str, *, image_size: int | None = None, classes: int | None = None, color: str = "auto"
) -> ModelSummary:
    """The layer table of a network of the zoo, of a text in the layer language, or of ``module:function``.

    Args:
        model: A name, ``module:function``, or the path of a text file.
        image_size: Side in pixels; by default what the network was made for.
        classes: By default what the network was made for.
        color: ``grey`` or ``rgb``; by default what the network was made for.

    Raises:
        ConfigError: There is no such network, or a size that it needs is not given.
        LayerError: The text cannot be built; the message names the line.
    """
    named = model in zoo.names()
    if named:
        entry = zoo.find(model)
        config = ModelConfig(name=model)
        image_size, classes = image_size or entry.image_size, classes or entry.classes
        channels = entry.channels if color == "auto" else _channels(color)
    else:
        file = Path(model).expanduser()
        config = ModelConfig(layers=file.read_text(encoding="utf-8")) if file.is_file() else ModelConfig(name=model)
        if config.layers is None and ":" not in model:
            zoo.find(model)  # raises with the names that are close
        if image_size is None or classes is None:
            raise ConfigError(f"{model} does not say what it was made for: give --image-size and --classes.")
        channels = 3 if color == "auto" else _channels(color)
    shape = (channels, image_size, image_size)
    return summarize(build_network(config, shape, classes), shape)


def _channels(color: str) -> int:
    if color not in ("grey", "rgb"):
        raise ConfigError(f"color must be grey or rgb. Got {color!r}.")
    return 1 if color == "grey" else 3
