"""Training: one run, or a comparison of backbones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tintype.cli.options import (
    AllowSmall,
    AsJson,
    Augment,
    Backbone,
    BatchSize,
    Classes,
    Comm,
    Cut,
    Depth,
    Device,
    Epochs,
    Freeze,
    Head,
    HeadEpochs,
    ImageSize,
    LearningRate,
    Model,
    NoFeatureCache,
    Optimizer,
    OptionalData,
    Output,
    Resize,
    ScaleLr,
    Seed,
    Settings,
    SkipBad,
    SyncBatchNorm,
    Views,
    Weights,
    Workers,
)
from tintype.cli.ranks import start_workers, watching
from tintype.cli.study import study_and_tell
from tintype.cli.telling import comma_separated, print_json, worth_showing
from tintype.ranks.torchrun import is_first

if TYPE_CHECKING:
    from tintype.run import Run
    from tintype.studies import StudyResult
    from tintype.watch import Watch


def demo(output: Output = None, seed: Seed = None, as_json: AsJson = False) -> None:
    """Do the whole job on real handwritten digits, in under a minute."""

    def work(watch: Watch) -> Run:
        from tintype import api

        return api.demo(output=output, seed=seed, watch=watch)

    run = _train_and_tell(work, as_json)
    if run is not None and not as_json:
        _show_what_comes_next(run)


def _show_what_comes_next(run: Run) -> None:
    """Label one of the test images, and say how: what a trained model is for."""
    from tintype.console import error_console
    from tintype.demo import write_digits
    from tintype.rundir import RunDir
    from tintype.serving.predictor import load

    name = RunDir(run.path).read_predictions()["test"].paths[0]
    image = write_digits() / name
    label = load(run.path).predict(image)
    error_console.print(
        f"\nlabel an image:  tintype predict {run.path} {image}\n"
        f"                 {label.label}, {label.probability:.1%}\n"
        f"serve the model: tintype serve {run.path}",
        soft_wrap=True, markup=False, highlight=False,
    )  # fmt: skip


def train(
    data: OptionalData = None,
    output: Output = None,
    resume: Annotated[Path | None, typer.Option(help="go on with a run that was stopped")] = None,
    config: Annotated[Path | None, typer.Option(help="settings, such as another run's config.toml")] = None,
    model: Model = None,
    backbone: Backbone = None,
    weights: Weights = None,
    head: Head = None,
    cut: Cut = None,
    freeze: Freeze = None,
    depth: Depth = None,
    views: Views = None,
    head_epochs: HeadEpochs = None,
    no_feature_cache: NoFeatureCache = False,
    classes: Classes = None,
    image_size: ImageSize = None,
    resize: Resize = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    optimizer: Optimizer = None,
    augment: Augment = None,
    seed: Seed = None,
    device: Device = None,
    workers: Workers = None,
    scale_lr: ScaleLr = False,
    comm: Comm = None,
    sync_batchnorm: SyncBatchNorm = False,
    skip_bad: SkipBad = False,
    allow_small: AllowSmall = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="write event files too")] = False,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Train on DATA: check, decode once, split, fit, evaluate, report."""
    options = {
        "model": model, "weights": weights, "head": head, "cut": cut, "freeze": freeze, "depth": depth,
        "views": views, "head_epochs": head_epochs, "feature_cache": False if no_feature_cache else None,
        "backbone": backbone[0] if backbone else None, "classes": comma_separated(classes),
        "image_size": image_size, "resize": resize, "epochs": epochs,
        "batch_size": batch_size, "learning_rate": learning_rate, "optimizer": optimizer, "augment": augment,
        "seed": seed, "device": device, "skip_bad": skip_bad or None, "allow_small": allow_small or None,
        "tensorboard": tensorboard or None, "scale_lr": scale_lr or None, "comm": comm,
        "sync_batchnorm": sync_batchnorm or None,
    }  # fmt: skip
    start_workers(workers)
    if backbone is not None and len(backbone) > 1:
        if resume is not None:
            _refuse_with_resume(backbone)
        _compare_and_tell(data, backbone, output, config, settings, options | {"backbone": None}, as_json)
        return

    def work(watch: Watch) -> Run:
        from tintype import api
        from tintype.config import parse_assignments

        if resume is not None:
            _refuse_with_resume(data, output, config, settings, options)
            return api.resume(resume, watch=watch)
        changes = parse_assignments(settings or [])
        return api.train(data, output=output, config=config, settings=changes, watch=watch, **options)

    _train_and_tell(work, as_json)


def _refuse_with_resume(*given: Any) -> None:
    if any(any(value is not None for value in item.values()) if isinstance(item, dict) else item for item in given):
        from tintype.errors import ConfigError

        raise ConfigError("--resume goes on with a run as it was set: give no other option with it.")


def _train_and_tell(work: Callable[[Watch], Run], as_json: bool) -> Run | None:
    """Train and print the result; gives the run to the process that talks."""
    from tintype.console import error_console, headline, show_findings

    with watching(as_json) as watch:
        run = work(watch)
    if not is_first():
        return None
    if as_json:
        evaluation = {split: item.metrics for split, item in run.evaluations.items()}
        print_json({"run": run.path, "evaluation": evaluation})
        return run
    show_findings(worth_showing(run.findings))
    error_console.print(f"[bold]{headline(run.evaluation)}[/]\nreport: {run.report}", soft_wrap=True)
    return run


def _compare_and_tell(
    data: str | None,
    backbones: list[str],
    output: Path | None,
    config: Path | None,
    settings: list[str] | None,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    def work(watch: Watch) -> StudyResult:
        from tintype import api
        from tintype.config import parse_assignments

        changes = parse_assignments(settings or [])
        return api.compare_backbones(
            data, backbones, output=output, config=config, settings=changes, watch=watch, **options
        )

    study_and_tell(work, as_json)
