"""The command line: one verb a function of :mod:`tintype.api`, with the same names for the same options.

torch and everything that needs it are imported inside the verbs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from tintype.output import Style
    from tintype.records import Finding
    from tintype.run import Run
    from tintype.studies import StudyResult
    from tintype.watch import Watch

USER_ERROR = 2
INTERRUPTED = 130

app = typer.Typer(
    name="tintype",
    help="From a folder of labelled images to a classifier you can trust, and the report that shows why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Data = Annotated[str, typer.Argument(help="folder of class folders, manifest (.csv, .parquet), idx folder, or .npz")]
OptionalData = Annotated[str | None, typer.Argument(help="folder of class folders, manifest, idx folder, or .npz")]
RunPath = Annotated[Path, typer.Argument(help="run directory")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="run directory to write")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on stdout, nothing else")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="any setting, such as fit.ema=0.999")]
Model = Annotated[str | None, typer.Option(help="a network of the zoo, or module:function")]
Backbone = Annotated[list[str] | None, typer.Option(help="a pretrained network of timm; several are compared")]
Head = Annotated[str | None, typer.Option(help='layers behind the backbone: "flatten; dense 256 relu; dropout 0.3"')]
Cut = Annotated[str | None, typer.Option(help="use the backbone up to this layer only")]
Freeze = Annotated[str | None, typer.Option(help="what of the backbone stays as it is: all, none, a number, a layer")]
Depth = Annotated[str | None, typer.Option(help="train the backbone's last N layers, or all")]
Views = Annotated[int | None, typer.Option(help="versions of each image that frozen layers see, once")]
HeadEpochs = Annotated[int | None, typer.Option(help="epochs in which the head trains alone first")]
Weights = Annotated[str | None, typer.Option(help="auto (pretrained), none (random), or a .safetensors file")]
NoFeatureCache = Annotated[bool, typer.Option("--no-feature-cache", help="run frozen layers again in every epoch")]
Classes = Annotated[str | None, typer.Option(help="use these classes alone, such as cat,dog")]
ImageSize = Annotated[int | None, typer.Option(help="side in pixels")]
Resize = Annotated[str | None, typer.Option(help="stretch, crop or pad")]
Epochs = Annotated[int | None, typer.Option(help="passes over the training images")]
BatchSize = Annotated[int | None, typer.Option(help="images per step")]
LearningRate = Annotated[float | None, typer.Option(help="peak learning rate")]
Optimizer = Annotated[str | None, typer.Option(help="sgd, adam, adamw, rmsprop or adadelta")]
Augment = Annotated[str | None, typer.Option(help="none, light, photo or digits")]
Seed = Annotated[int | None, typer.Option(help="root of everything random")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="leave unreadable images out instead of stopping")]
AllowSmall = Annotated[bool, typer.Option("--allow-small", help="keep classes too small to split in training")]


@app.command()
def demo(output: Output = None, seed: Seed = None, as_json: AsJson = False) -> None:
    """Do the whole job on real handwritten digits, in under a minute."""

    def work(watch: Watch) -> Run:
        from tintype import api

        return api.demo(output=output, seed=seed, watch=watch)

    _train_and_tell(work, as_json)


@app.command()
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
        "backbone": backbone[0] if backbone else None, "classes": _names(classes),
        "image_size": image_size, "resize": resize, "epochs": epochs,
        "batch_size": batch_size, "learning_rate": learning_rate, "optimizer": optimizer, "augment": augment,
        "seed": seed, "device": device, "skip_bad": skip_bad or None, "allow_small": allow_small or None,
        "tensorboard": tensorboard or None,
    }  # fmt: skip

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


@app.command()
def study(
    file: Annotated[Path, typer.Argument(help="a study: base settings, axes, seeds (TOML)")],
    data: Annotated[str | None, typer.Option(help="images, instead of those that the file names")] = None,
    output: Output = None,
    quick: Annotated[bool, typer.Option("--quick", help="the small size that the file describes")] = False,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Do a whole experiment: many runs, one table, one report."""

    def work(watch: Watch) -> StudyResult:
        from tintype import api
        from tintype.config import parse_assignments

        changes = parse_assignments(settings or [])
        return api.study(file, data=data, output=output, settings=changes, quick=quick, watch=watch)

    _study_and_tell(work, as_json)


@app.command()
def check(
    data: Data,
    classes: Classes = None,
    image_size: ImageSize = None,
    skip_bad: SkipBad = False,
    allow_small: AllowSmall = False,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Audit DATA: counts, unreadable files, duplicates, leakage across splits, imbalance, odd images."""
    from tintype.console import Display, show_check

    display = Display(quiet=as_json)
    with display.watching() as watch:
        from tintype import api
        from tintype.config import parse_assignments

        found = api.check(
            data, settings=parse_assignments(settings or []), watch=watch, classes=_names(classes),
            image_size=image_size,
            skip_bad=skip_bad or None, allow_small=allow_small or None,
        )  # fmt: skip
    if as_json:
        _print_json(found)
    else:
        show_check(found.summary, found.findings)


@app.command()
def evaluate(
    run: RunPath,
    data: Data,
    output: Output = None,
    skip_bad: SkipBad = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a finished RUN on other labelled images, beside its original figures."""
    from tintype.console import Display, error_console, headline, show_findings

    display = Display(quiet=as_json)
    with display.watching() as watch:
        from tintype import api

        result = api.evaluate(run, data, output=output, skip_bad=skip_bad, device=device or "auto", watch=watch)
    if as_json:
        _print_json({"path": result.path, "evaluation": result.evaluation.metrics, "findings": result.findings})
        return
    show_findings(result.findings)
    if result.original is not None:
        error_console.print(f"originally: {headline(result.original)}", soft_wrap=True)
    error_console.print(f"here: {headline(result.evaluation)}\nreport: {result.report}", soft_wrap=True)


@app.command()
def predict(
    run: RunPath,
    paths: Annotated[list[str], typer.Argument(help="image files, folders or globs")],
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on stdout, a probability per class")] = False,
    as_json: AsJson = False,
    device: Device = None,
) -> None:
    """Label images with a finished RUN."""
    from tintype.console import Display

    display = Display(quiet=as_json)
    with display.watching() as watch:
        from tintype import api
        from tintype.output import write_labels

        predictor = api.load(run, device=device or "auto")
        labels = predictor.predict_many(paths, watch.on_progress)
        style: Style = "json" if as_json else "csv" if as_csv else "table"
        failed = write_labels(labels, predictor.classes, style, sys.stdout)
    if failed:
        images = "1 image" if failed == 1 else f"{failed:,} images"
        _fail(f"{images} could not be read; see the output for the reasons.")


@app.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(help="somebody's weights: .pth, .pt, .bin or .safetensors")],
    output: Annotated[Path, typer.Option("--output", "-o", help=".safetensors file to write")],
    backbone: Annotated[str | None, typer.Option(help="the network they are for, by timm's name")] = None,
    mean: Annotated[
        str | None, typer.Option(help="of the images they were trained on, 0..1: 0.485,0.456,0.406")
    ] = None,
    std: Annotated[str | None, typer.Option(help="standard deviation, likewise")] = None,
    image_size: ImageSize = None,
    as_json: AsJson = False,
) -> None:
    """Turn somebody else's weights into a .safetensors file."""
    from tintype import api
    from tintype.console import error_console

    imported = api.import_weights(source, output, backbone=backbone, mean=mean, std=std, image_size=image_size)
    if as_json:
        _print_json(imported)
        return
    error_console.print(
        f"{imported.path}: {imported.tensors:,} tensors, {imported.parameters:,} numbers. Use it with: "
        f"tintype train DATA --weights {imported.path}",
        soft_wrap=True,
    )


@app.command()
def summary(
    model: Annotated[
        str | None, typer.Argument(help="zoo name, module:function, a text file of layers, or settings (.toml)")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="a network of timm instead")] = None,
    head: Head = None,
    cut: Cut = None,
    freeze: Freeze = None,
    depth: Depth = None,
    image_size: ImageSize = None,
    classes: Annotated[int | None, typer.Option(help="number of classes")] = None,
    color: Annotated[str, typer.Option(help="grey or rgb")] = "auto",
    list_names: Annotated[bool, typer.Option("--list", help="print the names of the zoo, one a line")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a network's layers with output shapes and parameters."""
    if list_names:
        from tintype.models import zoo

        typer.echo("\n".join(zoo.names()))
        return
    if (model is None) == (backbone is None):
        _fail("name a network or a --backbone, or --list to see the names.")
    from tintype import api
    from tintype.console import show_summary

    table = api.summary(
        model, image_size=image_size, classes=classes, color=color, backbone=backbone, head=head, cut=cut,
        freeze=freeze, depth=depth,
    )  # fmt: skip
    if as_json:
        _print_json(table)
    else:
        show_summary(table)


@app.command()
def report(run: RunPath) -> None:
    """Rebuild the report of a RUN, or of a study, from its directory alone."""
    from tintype.report import rewrite_report

    typer.echo(rewrite_report(run))


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    from tintype.errors import RunInterrupted, TintypeError

    # The libraries make a million objects while they are imported, which the collector would look through every
    # 700: torch and timm take 2.4 s this way and 3.3 s with Python's setting. The process is ours to tune.
    gc.set_threshold(100_000, 20, 20)
    try:
        app(standalone_mode=True)
    except RunInterrupted as stopped:
        _end(str(stopped), INTERRUPTED)
    except TintypeError as error:
        _end(f"tintype: {error}", USER_ERROR)
    except KeyboardInterrupt:
        _end("tintype: stopped.", INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe (such as head) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        # A full disk, a folder that cannot be written: the system's words and the file are all there is to say.
        where = f" ({error.filename})" if error.filename else ""
        _end(f"tintype: {error.strerror or error}{where}.", USER_ERROR)


def _train_and_tell(work: Callable[[Watch], Run], as_json: bool) -> None:
    from tintype.console import Display, error_console, headline, show_findings

    display = Display(quiet=as_json)
    with display.stoppable(), display.watching() as watch:
        run = work(watch)
    if as_json:
        evaluation = {split: item.metrics for split, item in run.evaluations.items()}
        _print_json({"run": run.path, "evaluation": evaluation})
        return
    show_findings(_worth_showing(run.findings))
    error_console.print(f"[bold]{headline(run.evaluation)}[/]\nreport: {run.report}", soft_wrap=True)


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

    _study_and_tell(work, as_json)


def _study_and_tell(work: Callable[[Watch], StudyResult], as_json: bool) -> None:
    from tintype.console import Display, error_console, show_study

    display = Display(quiet=as_json)
    with display.stoppable(), display.watching() as watch:
        result = work(watch)
    if as_json:
        _print_json({"study": result.path, "table": result.table})
        return
    show_study(result.table)
    error_console.print(f"report: {result.report}", soft_wrap=True)


def _worth_showing(findings: tuple[Finding, ...]) -> list[Finding]:
    return [finding for finding in findings if finding.severity != "info"]


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _refuse_with_resume(*given: Any) -> None:
    if any(any(value is not None for value in item.values()) if isinstance(item, dict) else item for item in given):
        from tintype.errors import ConfigError

        raise ConfigError("--resume goes on with a run as it was set: give no other option with it.")


def _print_json(content: Any) -> None:
    from tintype.records import to_plain

    typer.echo(json.dumps(to_plain(content), ensure_ascii=False, allow_nan=False, default=str))


def _fail(line: str) -> NoReturn:
    from tintype.errors import TintypeError

    raise TintypeError(line)


def _end(line: str, code: int) -> NoReturn:
    sys.stderr.write(line + "\n")
    sys.exit(code)
