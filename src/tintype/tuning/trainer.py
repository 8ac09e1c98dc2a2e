"""Training one candidate for a number of seconds, and scoring it on the validation images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np

from tintype.config import PrecisionName, RunConfig
from tintype.errors import NonFiniteError, RunInterrupted, TintypeError
from tintype.evaluation.predict import loss_and_accuracy, predict
from tintype.learning import Learnt, learn, trained_inputs
from tintype.preparing import Built, Listed, Prepared, build
from tintype.records import EpochRecord
from tintype.runtime import Runtime
from tintype.training.memory import is_out_of_memory
from tintype.training.threads import Threads
from tintype.training.timing import seconds_per_image
from tintype.tuning.pace import FINE_TUNING_STEPS, LEAST_STEPS, Pace
from tintype.tuning.score import Failed, Score
from tintype.watch import Watch

TIMING_SHARE = 0.1
"""Of a training's time that is spent on finding out how fast it is."""

SLOW = 2.0
"""A candidate whose shortest training takes so many times as long as it may is not trained."""

LEAST_LATENESS = 0.7
"""Trainings are not taken to be faster than this, whatever the latest ones did."""

RECENT = 5
"""Trainings by which it is judged whether the machine is slower than it was when it was measured."""


@dataclass(frozen=True)
class Trained:
    """A candidate that was trained.

    Attributes:
        score: On the validation images.
        changes: Settings by dotted name which, with the base settings, train the same again.
        pace: How fast it was; None where nothing was trained in steps.
        built: The network.
        learnt: What it learnt.
    """

    score: Score
    changes: dict[str, Any]
    pace: Pace | None
    built: Built
    learnt: Learnt


@dataclass
class Trainer:
    """Trains candidates on the same images, none of which are test images.

    Attributes:
        images: What there is to train on.
        base: Settings of all candidates.
        runtime: Where to compute.
        watch: Progress and stopping.
        precision: Of all candidates; None: measured for each.
        threads: How many compute now.
    """

    images: Listed
    base: RunConfig
    runtime: Runtime
    watch: Watch
    precision: PrecisionName | None = None
    threads: Threads = field(init=False)
    _lateness: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.threads = Threads(self.runtime.threads)

    @property
    def lateness(self) -> float:
        """How many times as long as foreseen the latest trainings took: below 1 where steps settle down."""
        return max(LEAST_LATENESS, median(self._lateness[-RECENT:])) if self._lateness else 1.0

    @property
    def slowness(self) -> float:
        """The same, at least 1."""
        return max(1.0, self.lateness)

    def prepared(self, changes: Mapping[str, Any], *, with_test: bool = False) -> Prepared:
        """The images as these settings want them; the test images are for the winner alone.

        Raises:
            TintypeError: The settings do not fit the images.
        """
        config = self.base.replace(changes)
        data = self.images.prepare(config, replace(self.runtime, seed=config.seed), self._silent())
        return data if with_test else replace(data, split=replace(data.split, test=np.empty(0, dtype=np.int64)))

    def train(
        self,
        changes: Mapping[str, Any],
        seconds: float,
        *,
        should_finish: Callable[[], bool] = lambda: False,
        is_too_late: Callable[[], bool] = lambda: False,
    ) -> Trained | Failed:
        """Train for so long, as far as can be foreseen, and score what came out.

        Args:
            changes: Settings by dotted name; ``fit.epochs`` and ``fit.steps_per_epoch`` are chosen here, unless a head
                alone is fitted.
            seconds: Of training.
            should_finish: Asked after each step; True ends the training with what it has reached.
            is_too_late: Asked at all times; True gives up. It must be later than ``should_finish``.

        Raises:
            RunInterrupted: ``watch.should_stop`` said so.
        """
        started = time.monotonic()
        try:
            watch = replace(self._silent(is_too_late), should_finish=should_finish)
            return self._train(changes, seconds, watch, started)
        except RunInterrupted:
            if self.watch.should_stop() or not is_too_late():
                raise
            return Failed("the time was up while frozen layers ran", is_slow=True)
        except _TooSlowError as error:
            return Failed(str(error), is_slow=True, needs=error.needs)
        except Exception as error:
            return failure(error)

    def full_size(self, changes: Mapping[str, Any]) -> int | None:
        """Side in pixels of these settings' images; None where a pretrained network wants its own."""
        data = self.prepared(changes)
        return None if data.plan.config.model.backbone is not None else data.cache.geometry.size

    def _train(self, changes: Mapping[str, Any], seconds: float, watch: Watch, started: float) -> Trained:
        changes = self._as_measured(changes)
        data = self.prepared(changes)
        built = build(data)
        pace, settled = None, dict(changes)
        if built.plan.config.fit.optimizer != "lbfgs" and built.plan.config.heads is None:
            pace = self.pace(built, data, seconds, watch)
            if pace.least_seconds > SLOW * seconds:
                raise _TooSlowError(pace)
            settled |= pace.settings(seconds)
            # The recipe depends on the epochs, and what was measured need not be measured again.
            settled |= {"precision": built.plan.config.precision, "fit.micro_batch": built.plan.config.fit.micro_batch}
            data = self.prepared(settled)
            built = build(data)
        began, head_epochs = time.monotonic(), built.plan.config.fit.head_epochs or 0

        def on_epoch(record: EpochRecord, _epochs: int) -> None:
            nonlocal began
            if record.epoch <= head_epochs:  # steps were timed, and not what a head takes before them
                began = time.monotonic()

        self.threads.expect(pace.per_image * pace.batch_size if pace is not None else 0.0)
        learnt = learn(built, data, None, watch, on_epoch)
        self.threads.expect(0.0)
        if pace is not None and not learnt.fitted.stopped_early:
            fit = built.plan.config.fit
            passes = (fit.epochs or 1) * (fit.steps_per_epoch or pace.steps) / pace.steps
            self._lateness.append((time.monotonic() - began) / pace.seconds(passes))
        score = self._score(built, learnt, data, pace, started)
        return Trained(score, settled, pace, built, learnt)

    def _as_measured(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """With the precision that was found for all candidates, where they did not choose one."""
        if self.precision is None or "precision" in changes:
            return dict(changes)
        return {**changes, "precision": self.precision}

    def pace(self, built: Built, data: Prepared, seconds: float, watch: Watch) -> Pace:
        """How fast a network trains on its images, measured in a small part of the time that it is to train."""
        config = built.plan.config
        assert config.fit.batch_size is not None
        inputs = trained_inputs(built.cut, data, config, built.runtime, watch)

        def timed() -> float:
            return seconds_per_image(
                built.trained, inputs, data.split, config.fit, config.augment, built.runtime, TIMING_SHARE * seconds
            )

        per_image = self.threads.choose(timed)
        images = len(data.split.train)
        least = LEAST_STEPS if config.model.backbone is None else FINE_TUNING_STEPS
        return Pace(per_image, images, len(data.split.validation), min(config.fit.batch_size, images), least)

    def _score(self, built: Built, learnt: Learnt, data: Prepared, pace: Pace | None, started: float) -> Score:
        predictions = learnt.fitted.validation
        if predictions is None:
            fitted, inputs = learnt.fitted.network, learnt.inputs
            predictions = predict(fitted, inputs, data.split.validation, built.runtime, "validation")
        loss, accuracy = loss_and_accuracy(predictions)
        fit = built.plan.config.fit
        rows = sum(row.epoch > (fit.head_epochs or 0) for row in learnt.fitted.history)
        steps = rows * (fit.steps_per_epoch or (pace.steps if pace else 1))
        return Score(
            accuracy=accuracy,
            loss=loss,
            right=predictions.predicted == predictions.labels,
            seconds=time.monotonic() - started,
            parameters=sum(weight.numel() for weight in built.network.parameters()),
            epochs=steps / pace.steps if pace else 1.0,
            image_size=data.cache.geometry.size,
        )

    def _silent(self, is_too_late: Callable[[], bool] = lambda: False) -> Watch:
        """What is said of a run is too much for each of many."""

        def on_progress(what: str, done: int, total: int) -> None:
            self.threads.step()
            self.watch.on_progress(what, done, total)
            if is_too_late():
                raise RunInterrupted("the time was up.")

        return Watch(on_progress=on_progress, should_stop=self.watch.should_stop)


class _TooSlowError(Exception):
    """A candidate does not train in the time that it may take."""

    def __init__(self, pace: Pace) -> None:
        super().__init__(f"too slow: a step takes {pace.per_image * pace.batch_size:.2g} s")
        self.needs = pace.least_seconds


def failure(error: Exception) -> Failed:
    """Why a candidate could not be trained, where that is the candidate's fault or the machine's.

    Raises:
        Exception: The error itself, where it is a mistake in the program.
    """
    if isinstance(error, NonFiniteError):
        return Failed(f"diverged: {error.finding.title}")
    if isinstance(error, TintypeError):
        return Failed(str(error))
    said = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    if is_out_of_memory(error):
        return Failed(f"out of memory: {said}")
    if isinstance(error, RuntimeError):  # so PyTorch says what does not fit together
        return Failed(f"cannot be computed: {said}")
    raise error
