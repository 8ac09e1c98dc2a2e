"""One run, readable from top to bottom: from a folder of labelled images to a model and its report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tintype.config import ParallelConfig, RunConfig
from tintype.diagnosis import diagnose
from tintype.diagnosis.facts import read_facts
from tintype.embedding import embed_run
from tintype.errors import NonFiniteError, RunError, RunInterrupted
from tintype.evaluation.calibration import calibrated, fit_temperature
from tintype.evaluation.health import FirstWeights, note_weights
from tintype.evaluation.metrics import evaluate
from tintype.evaluation.predict import predict
from tintype.evidence import gather_evidence
from tintype.learning import Learnt, learn
from tintype.models.summary import summarize
from tintype.preparing import Built, Prepared, build, prepare_data, redrawn
from tintype.ranks.world import World
from tintype.recording import (
    add_findings,
    finish_environment,
    gallery,
    look_inside,
    open_run,
    trained_model,
    tried,
)
from tintype.records import EpochRecord, Evaluation, Finding, Predictions, SplitName
from tintype.report import write_report
from tintype.rundir import RunDir
from tintype.serving.model import save_model
from tintype.together import (
    agree_on_run_dir,
    elected,
    own_watch,
    ranks_of,
    require_same_data,
    returned,
    settings_of,
)
from tintype.training.checkpoint import CHECKPOINT
from tintype.training.layer_features import require_layer
from tintype.training.optim import import_optimizers_ahead
from tintype.training.tensorboard import epoch_writer
from tintype.watch import Watch

TRAINING_IMAGES_EVALUATED = 10_000
"""Training images evaluated after training: enough for an interval of half a point."""

CALIBRATION_IMAGES = 50
"""Fewer validation images than this cannot tell a temperature from 1."""


LearntBefore = Callable[[Built, Prepared], Learnt]
"""Gives what was learnt before, for a network that is built anew."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: The run directory.
        evaluations: Split to its figures.
        history: A row per epoch.
        findings: What the audit and the diagnosis found, the most severe first.
    """

    path: Path
    evaluations: dict[str, Evaluation]
    history: tuple[EpochRecord, ...]
    findings: tuple[Finding, ...]

    @property
    def evaluation(self) -> Evaluation:
        """The figures on test images; on validation images in a run without a test set."""
        return next(self.evaluations[split] for split in ("test", "validation", "train") if split in self.evaluations)

    @property
    def report(self) -> Path:
        """The report's path."""
        return self.path / "report.html"


def start_run(config: RunConfig, output: Path | None = None, watch: Watch = Watch(), world: World | None = None) -> Run:
    """Train a classifier and write its run directory.

    Args:
        config: Settings; what is None is chosen from the data.
        output: The run directory; None for ``runs/NAME`` with a number where that exists.
        watch: Progress, messages and stopping.
        world: The ranks that make this run together; None for all that torchrun has started.

    Raises:
        TintypeError: With one line that says what is wrong and what to do.
    """
    source = Path(config.data.source).expanduser().absolute()
    config = config.replace({"data.source": str(source)})
    with ranks_of(world, config.parallel) as ranks:
        run_dir, ranks = agree_on_run_dir(ranks, output, source)
        return _go_on(ranks, run_dir, watch, config)


def resume_run(path: Path, watch: Watch = Watch(), world: World | None = None) -> Run:
    """Go on with a run that was stopped or killed; it ends as if it had not been.

    Args:
        path: The run directory.
        watch: Progress, messages and stopping.
        world: As for :func:`start_run`.

    Raises:
        RunError: There is no such run, it is finished, or its images changed.
    """
    run_dir = RunDir(path)
    with ranks_of(world, ParallelConfig()) as ranks:
        ranks = elected(ranks, run_dir)
        ranks.ask_writer(lambda: _require_resumable(run_dir))
        return _go_on(ranks, run_dir, watch)


def load_run(path: Path) -> Run:
    """Read a finished run.

    Raises:
        RunError: It is missing or unfinished.
    """
    run_dir = RunDir(path)
    run_dir.require_complete()
    return Run(path, run_dir.read_evaluation(), tuple(run_dir.read_history()), tuple(run_dir.read_findings()))


def _require_resumable(run_dir: RunDir) -> None:
    if not (run_dir / "config.toml").is_file():
        remedy = "there is nothing to resume. Start with `tintype train DATA`."
        raise RunError(f"{run_dir.path} holds no config.toml: {remedy}")
    if run_dir.is_complete and (run_dir / "report.html").exists():
        raise RunError(f"{run_dir.path} is finished already; its report is {run_dir / 'report.html'}.")


def _go_on(world: World, run_dir: RunDir, watch: Watch, config: RunConfig | None = None) -> Run:
    """Do what is left of a run: all of it, what lies behind its checkpoint, or the report.

    Args:
        world: The ranks.
        run_dir: The run, which may not exist yet.
        watch: Progress, messages and stopping.
        config: Settings for a run that does not exist yet, and where this rank has the images.
    """
    watch = own_watch(world, run_dir, watch)
    is_there, is_complete = world.ask_writer(lambda: ((run_dir / "config.toml").is_file(), run_dir.is_complete))
    if is_there:
        config = settings_of(world, run_dir, None if config is None else config.data.source)
    assert config is not None
    if not is_complete:
        _execute(config, run_dir, watch, world)
    elif world.is_writer:  # killed between the last figure and the report
        write_report(run_dir)
    with returned(world, run_dir) as folder:
        return replace(load_run(folder), path=run_dir.path)


def _execute(config: RunConfig, run_dir: RunDir, watch: Watch, world: World) -> None:
    """A run from its settings to its report; goes on from the directory's checkpoint where there is one."""
    started = time.monotonic()
    import_optimizers_ahead()
    data = prepare_data(config, watch, world)
    require_same_data(world, data)
    make_run(data, run_dir, watch, started)


def make_run(
    data: Prepared, run_dir: RunDir, watch: Watch, started: float, again: LearntBefore | None = None,
    training_images: int = TRAINING_IMAGES_EVALUATED,
) -> None:  # fmt: skip
    """A run on images that are prepared, to its report.

    Args:
        data: Images, split and settings.
        run_dir: Where it goes; goes on from the checkpoint that is there.
        watch: Progress, messages and stopping.
        started: When the run began, by :func:`time.monotonic`.
        again: What was learnt before; None to train.
        training_images: Most of them that are classified.

    Raises:
        RunInterrupted: It was asked to stop; it can be gone on with.
    """
    world = data.runtime.world
    built = build(data)
    layer = built.plan.config.evidence.embedding
    if layer is not None:
        require_layer(built.network, layer)
    world.ask_writer(lambda: open_run(run_dir, built.plan, data, built.network, built.runtime))
    for line in _aligned(built.plan.choices):
        watch.on_message(line)
    try:
        _train_and_evaluate(built, data, run_dir, watch, started, again, training_images)
    except RunInterrupted as stopped:
        raise RunInterrupted(f"{stopped} Go on with: tintype train --resume {run_dir.path}") from None
    except KeyboardInterrupt:
        raise RunInterrupted(f"stopped. Go on with: tintype train --resume {run_dir.path}") from None
    world.ask_writer(lambda: _report(run_dir, layer, watch))


def _report(run_dir: RunDir, layer: str | None, watch: Watch) -> None:
    if layer is not None:
        embed_run(run_dir.path, layer=layer, watch=watch)
    write_report(run_dir)


def _train_and_evaluate(
    built: Built, data: Prepared, run_dir: RunDir, watch: Watch, started: float, again: LearntBefore | None,
    training_images: int,
) -> None:  # fmt: skip
    """Everything between an opened run directory and its last file, ``evaluation.json``.

    All ranks train and classify; the writer judges and writes.
    """
    first_weights = note_weights(built.network, redrawn(data, built.network))
    training_started = time.monotonic()
    learnt = _learn(built, data, run_dir, watch) if again is None else _learn_again(built, data, run_dir, again)
    training_seconds = time.monotonic() - training_started

    predictions, temperature = _predict(built, learnt, data, training_images, watch)
    world = built.runtime.world
    built = replace(built, runtime=built.runtime.by_itself)
    seconds = (started, training_seconds)
    world.ask_writer(
        lambda: _judge(built, data, learnt, predictions, temperature, first_weights, run_dir, watch, seconds)
    )


def _judge(
    built: Built, data: Prepared, learnt: Learnt, predictions: list[Predictions], temperature: float,
    first_weights: FirstWeights, run_dir: RunDir, watch: Watch, seconds: tuple[float, float],
) -> None:  # fmt: skip
    """From predictions to ``evaluation.json``: figures, what stands beside them, and what went wrong."""
    config, (started, training_seconds) = built.plan.config, seconds
    leaked = np.isin(data.split.test, data.audit.leaked_test)
    evaluations = [evaluate(item, leaked=leaked if item.split == "test" else None) for item in predictions]
    evidence = gather_evidence(data, predictions, built.runtime, run_dir, watch)
    health = look_inside(built, learnt, data, first_weights)

    save_model(run_dir, trained_model(built, data, learnt.model_config(config.model), temperature, evidence.threshold))
    run_dir.write_predictions(predictions)
    run_dir.write_json("summary.json", summarize(built.network, data.input_shape))
    run_dir.write_json("health.json", health)
    run_dir.write_json("gallery.json", gallery(built, data, predictions))
    for name, content in {**tried(learnt), **evidence.files}.items():
        run_dir.write_json(name, content)
    finish_environment(run_dir, learnt.fitted, time.monotonic() - started, training_seconds)
    add_findings(run_dir, diagnose(read_facts(run_dir, predictions, evaluations)), evidence.findings)
    run_dir.write_evaluation(evaluations)
    (run_dir / CHECKPOINT).unlink(missing_ok=True)


def _aligned(choices: tuple[tuple[str, str, str], ...]) -> list[str]:
    """What was chosen, value and reason, in columns."""
    settings = max((len(setting) for setting, _, _ in choices), default=0)
    values = max((len(value) for _, value, _ in choices), default=0)
    return [f"{setting:<{settings}}  {value:<{values}}  {reason}" for setting, value, reason in choices]


def _learn(built: Built, data: Prepared, run_dir: RunDir, watch: Watch) -> Learnt:
    """Train, with the history on disk after each epoch; what a loss that is not finite showed is kept as a finding."""
    history = run_dir.read_history() if (run_dir / "history.jsonl").exists() else []
    is_writer = built.runtime.world.is_writer
    write_events = epoch_writer(run_dir / "tensorboard") if built.plan.config.tensorboard and is_writer else None

    def on_epoch(record: EpochRecord, epochs: int) -> None:
        # A resumed run goes on from its checkpoint, which may be older than the last row.
        history[:] = [*(row for row in history if row.epoch < record.epoch), record]
        if is_writer:
            run_dir.write_history(history)
        if write_events is not None:
            write_events(record)
        watch.on_epoch(record, epochs)

    try:
        learnt = learn(built, data, run_dir / CHECKPOINT, watch, on_epoch)
    except NonFiniteError as error:
        if is_writer:
            add_findings(run_dir, [error.finding])
        raise
    # A run that was killed between its checkpoint and its row has the row in the checkpoint alone.
    rows = learnt.fitted.history
    if is_writer:
        run_dir.write_history([*(row for row in history if row.epoch < rows[0].epoch), *rows])
    return learnt


def _learn_again(built: Built, data: Prepared, run_dir: RunDir, again: LearntBefore) -> Learnt:
    """What was learnt before, with its history on disk."""
    learnt = again(built, data)
    run_dir.write_history(learnt.fitted.history)
    return learnt


def _predict(
    built: Built, learnt: Learnt, data: Prepared, training_images: int, watch: Watch
) -> tuple[list[Predictions], float]:
    """Calibrated predictions of all splits, test first, and the temperature fitted on the validation images."""
    split, flip = data.split, bool(built.plan.config.model.flip_average)
    network, inputs = learnt.judged(built, data)
    step = max(1, -(-len(split.train) // training_images))
    parts: dict[SplitName, NDArray[np.int64]] = {
        "test": split.test,
        "validation": split.validation,
        "train": split.train[::step],
    }
    raw = {
        name: predict(network, inputs, part, built.runtime, name, flip_average=flip, on_progress=watch.on_progress)
        for name, part in parts.items()
        if len(part)
    }
    temperature = 1.0
    if "validation" in raw and len(raw["validation"]) >= CALIBRATION_IMAGES:
        temperature = fit_temperature(raw["validation"]).value
    return [calibrated(item, temperature) for item in raw.values()], temperature
