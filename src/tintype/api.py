"""The public functions: one verb of the command line each, with the same names for the same options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tintype.assess import Assessment, Check, check_prepared, evaluate_on
from tintype.assess import check as _check
from tintype.comparing import RunComparison, compare_runs
from tintype.config import ModelConfig, RunConfig, load_config, make_config, settings_of_options
from tintype.demo import write_digits
from tintype.diagnosis import diagnose as _diagnose
from tintype.diagnosis.facts import read_facts
from tintype.embedding import Embedding, embed_run
from tintype.errors import ConfigError
from tintype.mislabelled import check_labels, write_labels
from tintype.models import zoo
from tintype.models.build import build_network
from tintype.models.import_weights import ImportedWeights
from tintype.models.import_weights import import_weights as _import_weights
from tintype.models.pretrained import usual_size
from tintype.models.summary import summarize
from tintype.preparing import prepare_data
from tintype.records import Finding, ModelSummary
from tintype.report import rewrite_report
from tintype.run import Run, resume_run, start_run
from tintype.rundir import RunDir, sort_findings
from tintype.serving.predictor import load as load  # these two import no torch for an export
from tintype.serving.predictor import predict as predict
from tintype.serving.server.start import serve as serve
from tintype.studies import StudyResult, compare_settings, load_study, run_study
from tintype.watch import Watch

if TYPE_CHECKING:
    from tintype.serving.export import ExportReport
    from tintype.tuning.tune import Tuned

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


def compare_backbones(
    data: StrPath | None,
    backbones: Sequence[str],
    *,
    output: StrPath | None = None,
    config: StrPath | None = None,
    settings: Mapping[str, Any] | None = None,
    watch: Watch = Watch(),
    **options: Any,
) -> StudyResult:
    """Train once with each backbone and put time, parameters, loss and accuracy into one table, with paired tests.

    Args:
        data: As for :func:`train`, like the rest.
        backbones: At least two; the first is the reference.
        output: The study's directory.
        config: A TOML file of settings.
        settings: Single settings by dotted name.
        watch: Progress, messages and stopping.
        **options: As for :func:`train`.

    Raises:
        TintypeError: With one line that says what is wrong and what to do.
    """
    file = Path(config) if config is not None else None
    made = make_config(data, file=file, options=options, settings=settings)
    return compare_settings(made, "model.backbone", backbones, Path(output) if output is not None else None, watch)


def study(
    file: StrPath,
    *,
    data: StrPath | None = None,
    output: StrPath | None = None,
    settings: Mapping[str, Any] | None = None,
    quick: bool = False,
    jobs: int = 1,
    watch: Watch = Watch(),
) -> StudyResult:
    """Do a whole experiment: every run of a study file that is not done yet, one table, one report.

    Args:
        file: The study, a TOML file; docs/studies.md describes it.
        data: The images, instead of those that the file names.
        output: The study's directory; ``runs/NAME`` by default. What is there of the same study is gone on with.
        settings: Further settings of all runs by dotted name.
        quick: The small size that the file describes.
        jobs: Runs at a time, each in a process of its own with its share of the cores.
        watch: Progress, messages and stopping.

    Raises:
        TintypeError: With one line that says what is wrong and what to do.
    """
    loaded = load_study(Path(file), source=data, settings=settings, quick=quick)
    return run_study(loaded, Path(output) if output is not None else None, watch, jobs=jobs)


def resume(run: StrPath, *, watch: Watch = Watch()) -> Run:
    """Go on with a run that was stopped or killed; it ends with the same weights as if it had not been."""
    return resume_run(Path(run), watch)


def demo(*, output: StrPath | None = None, watch: Watch = Watch(), **options: Any) -> Run:
    """Do the whole job on scikit-learn's handwritten digits: check, train, evaluate, report."""
    return train(write_digits(), output=output, watch=watch, **options)


def tune(
    data: StrPath | None = None,
    *,
    budget: float | str | None = None,
    trials: int | None = None,
    space: StrPath | None = None,
    storage: str | None = None,
    study: str | None = None,
    output: StrPath | None = None,
    config: StrPath | None = None,
    settings: Mapping[str, Any] | None = None,
    watch: Watch = Watch(),
    started: float | None = None,
    **options: Any,
) -> Tuned:
    """Search for the best model in a time budget; it is chosen on validation images and tested once.

    Args:
        data: As for :func:`train`.
        budget: Seconds, or a text such as ``30m``, for all of it.
        trials: Candidates to try, instead of a time or within it.
        space: A TOML file of one's own search space; otherwise the data decide.
        storage: URL of a database that several workers share: ``postgresql://...`` or ``sqlite:///...``.
        study: Name of the search in that database.
        output: The search's directory; ``runs/NAME-tune`` by default.
        config: A TOML file of settings that all candidates have.
        settings: Single settings by dotted name.
        watch: Progress, messages and stopping.
        started: When the work began, by :func:`time.monotonic`; None: now.
        **options: As for :func:`train`.

    Raises:
        TintypeError: With one line that says what is wrong and what to do.
        RunInterrupted: It was stopped; :func:`resume_tune` goes on.
    """
    from tintype.tuning.tune import Request, tune  # Optuna takes a second to import

    resolved = make_config(data, file=None if config is None else Path(config), options=options, settings=settings)
    own = None if space is None else Path(space)
    request = Request(resolved, _seconds(budget), trials, own, storage, study)
    return tune(request, None if output is None else Path(output), watch, started)


def resume_tune(
    search: StrPath, *, budget: float | str | None = None, trials: int | None = None, storage: str | None = None,
    watch: Watch = Watch(), started: float | None = None,
) -> Tuned:  # fmt: skip
    """Go on with a search that was stopped; ``budget`` gives it more time, also where it has ended."""
    from tintype.tuning.tune import resume_tune

    return resume_tune(
        Path(search), budget=_seconds(budget), trials=trials, storage=storage, watch=watch, started=started
    )


def _seconds(budget: float | str | None) -> float | None:
    from tintype.tuning.budget import parse_duration

    return parse_duration(budget) if isinstance(budget, str) else budget


def check(
    data: StrPath,
    *,
    labels: bool = False,
    csv: StrPath | None = None,
    output: StrPath | None = None,
    settings: Mapping[str, Any] | None = None,
    watch: Watch = Watch(),
    **options: Any,
) -> Check:
    """Audit labelled images: counts, unreadable files, duplicates, leakage across splits, imbalance, odd sizes.

    Args:
        data: As for :func:`train`, like the rest.
        labels: Look for labels that are likely to be wrong, too.
        csv: A file for the list of them.
        output: A folder for the list and a page with their pictures.
        settings: Single settings by dotted name.
        watch: Progress and messages.
        **options: As for :func:`train`.

    Raises:
        TintypeError: With one line that says what is wrong and what to do.
    """
    config = make_config(data, options=options, settings=settings)
    if not labels:
        if csv is not None or output is not None:
            raise ConfigError("csv, output: these are for the list of likely wrong labels; ask for it with --labels.")
        return _check(config, watch)
    prepared = prepare_data(config, watch)
    checked = check_labels(prepared, watch)
    folder, table = (None if path is None else Path(path) for path in (output, csv))
    for path in write_labels(checked, prepared.cache, str(data), folder=folder, table=table):
        watch.on_message(f"written: {path}")
    audited = check_prepared(prepared)
    findings = sort_findings((*audited.findings, *checked.findings))
    return replace(audited, findings=tuple(findings), labels=checked.errors)


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


def embed(
    run: StrPath,
    data: StrPath | None = None,
    *,
    layer: str = "features",
    perplexity: float | None = None,
    output: StrPath | None = None,
    skip_bad: bool = False,
    device: str = "auto",
    watch: Watch = Watch(),
) -> Embedding:
    """Draw a map (t-SNE) of a run's test images by what a layer says of them.

    Args:
        run: The run directory.
        data: Other images, with labels or without, that are placed into the same map.
        layer: A name of :func:`summary`, or ``features``: what the output layer sees.
        perplexity: About how many neighbours an image is to keep; 30, or a third of the images where these are few.
        output: Where the files go; ``embeddings/LAYER`` inside the run directory by default.
        skip_bad: Leave unreadable images of ``data`` out instead of stopping.
        device: ``auto``, ``cpu`` or ``cuda``.
        watch: Progress and messages.

    Raises:
        TintypeError: With one line that says what is wrong and what to do.
    """
    return embed_run(
        Path(run), None if data is None else str(data), layer=layer, perplexity=perplexity,
        output=None if output is None else Path(output), skip_bad=skip_bad, device=device, watch=watch,
    )  # fmt: skip


def compare(
    runs: Sequence[StrPath], *, common: bool = False, metric: str = "accuracy", output: StrPath | None = None
) -> RunComparison:
    """Compare finished runs with the first of them on the same test images.

    Args:
        runs: At least two run directories, or folders that :func:`evaluate` wrote.
        common: Compare on the images that all runs have, instead of refusing runs whose images differ.
        metric: What the verdict goes by: ``accuracy``, ``macro_f1``, ``auc``, ``loss`` and others.
        output: Where ``comparison.json`` and a report go; None writes nothing.

    Raises:
        TintypeError: With one line that says what is wrong and what to do.
    """
    folder = Path(output) if output is not None else None
    return compare_runs([Path(run) for run in runs], common=common, metric=metric, output=folder)


def diagnose(run: StrPath) -> list[Finding]:
    """Say what went wrong in a run, or may have, root causes first; also of a run that failed or is unfinished.

    Raises:
        RunError: There is no such run, or a file of it is damaged.
    """
    return _diagnose(read_facts(RunDir(Path(run))))


def report(run: StrPath) -> Path:
    """Rebuild the report of a run, evaluation, map, study, search or comparison from its directory alone."""
    return rewrite_report(Path(run))


def import_weights(
    source: StrPath,
    output: StrPath,
    *,
    backbone: str | None = None,
    mean: str | Sequence[float] | None = None,
    std: str | Sequence[float] | None = None,
    image_size: int | None = None,
) -> ImportedWeights:
    """Turn somebody's weights (.pth, .pt, .bin) into a .safetensors file that says how to use it.

    Args:
        source: Read with ``torch.load(weights_only=True)``: nothing in it is executed.
        output: The file to write.
        backbone: The network they are for; they are checked against it.
        mean: Of the images that they were trained on, in 0..1, per channel; text has commas between them.
        std: Their standard deviation, likewise.
        image_size: Side of those images in pixels.

    Raises:
        TintypeError: With one line that says what is wrong and what to do.
    """
    return _import_weights(
        Path(source), Path(output), architecture=backbone, mean=_figures(mean, "mean"), std=_figures(std, "std"),
        image_size=image_size,
    )  # fmt: skip


def summary(
    model: StrPath | None = None,
    *,
    image_size: int | None = None,
    classes: int | None = None,
    color: str = "auto",
    **options: Any,
) -> ModelSummary:
    """The layer table of a network.

    Args:
        model: A name of the zoo, ``module:function``, the path of a text in the layer language, or of settings
            (.toml); None with ``backbone``.
        image_size: Side in pixels; by default what the network was made for.
        classes: By default what the network was made for.
        color: ``grey`` or ``rgb``; by default what the network was made for.
        **options: ``backbone``, ``head``, ``cut``, ``freeze``, ``depth``.

    Raises:
        ConfigError: There is no such network, or a size that it needs is not given.
        LayerError: The text cannot be built; the message names the line.
    """
    config = _network_settings(model, options)
    channels = 3
    if config.model.backbone is not None:
        image_size = image_size or config.data.image_size or usual_size(config.model.backbone)
    elif config.model.layers is None and config.model.name is not None and ":" not in config.model.name:
        entry = zoo.find(config.model.name)
        image_size, classes = image_size or entry.image_size, classes or entry.classes
        channels = entry.channels
    if image_size is None or classes is None:
        missing = "--image-size and --classes" if image_size is None else "--classes"
        raise ConfigError(f"{model or config.model.backbone} does not say what it was made for: give {missing}.")
    shape = (channels if color == "auto" else _channels(color), image_size, image_size)
    return summarize(build_network(config.model, shape, classes), shape)


def _network_settings(model: StrPath | None, options: Mapping[str, Any]) -> RunConfig:
    """Settings that name the network that ``model`` stands for."""
    file = Path(model).expanduser() if model is not None else None
    if file is not None and file.is_file() and file.suffix == ".toml":
        config = load_config(file)
    elif file is not None and file.is_file():
        config = RunConfig(model=ModelConfig(layers=file.read_text(encoding="utf-8")))
    else:
        config = RunConfig(model=ModelConfig(name=None if model is None else str(model)))
    return config.replace(settings_of_options(options))


def _figures(value: str | Sequence[float] | None, name: str) -> tuple[float, ...] | None:
    if not isinstance(value, str):
        return None if value is None else tuple(value)
    try:
        return tuple(float(word) for word in value.split(","))
    except ValueError:
        raise ConfigError(
            f"{name} must be numbers with commas between them, such as 0.5,0.5,0.5. Got {value!r}."
        ) from None


def _channels(color: str) -> int:
    if color not in ("grey", "rgb"):
        raise ConfigError(f"color must be grey or rgb. Got {color!r}.")
    return 1 if color == "grey" else 3


def export(
    run: StrPath,
    *,
    output: StrPath | None = None,
    int8: bool = False,
    torch_program: bool = False,
    watch: Watch = Watch(),
) -> ExportReport:
    """Write a finished run's model as ONNX, with everything from the resize to the calibration inside, and verify it.

    Args:
        run: The run directory.
        output: The export directory; ``export`` inside the run directory by default. An earlier export is replaced.
        int8: Write a quantised model, too, and measure what it costs.
        torch_program: Write a ``torch.export`` program, too.
        watch: Progress and messages.

    Raises:
        TintypeError: With one line that says what is wrong and what to do; nothing is then written.
    """
    from tintype.serving.export import export_run

    folder = None if output is None else Path(output)
    return export_run(RunDir(Path(run)), folder, int8=int8, torch_program=torch_program, watch=watch)
