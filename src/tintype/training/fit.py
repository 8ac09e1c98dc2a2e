"""The training loop.

Order, augmentation and dropout are pure functions of (seed, epoch, step), so a run that was killed and resumed
ends with the same weights, bit for bit, as one that was not.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tintype.config import AugmentConfig, FitConfig
from tintype.data.batches import Batch, train_batches
from tintype.data.cache import ImageCache
from tintype.data.features import FeatureCache
from tintype.data.split import Split
from tintype.errors import NonFiniteError, RunInterrupted
from tintype.evaluation.predict import loss_and_accuracy, predict
from tintype.models.network import Network
from tintype.records import EpochRecord, OnProgress, silent
from tintype.runtime import Runtime
from tintype.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from tintype.training.losses import balanced_class_weights, count_correct, cross_entropies
from tintype.training.nonfinite import explain_non_finite
from tintype.training.optim import (
    WeightAverage,
    average_decay,
    epochs_without_gain,
    learning_rate_at,
    make_optimizer,
    monitored,
)

CHECKPOINT_SHARE = 0.03
"""Saving may take at most this share of the time."""


@dataclass(frozen=True)
class Fitted:
    """A trained network.

    Attributes:
        network: With the weights of the kept epoch.
        history: A row per epoch.
        kept_epoch: The epoch whose weights were kept, from 1.
        micro_batch: Images per forward pass, as it was at the end.
        stopped_early: True when validation stopped getting better.
    """

    network: Network
    history: tuple[EpochRecord, ...]
    kept_epoch: int
    micro_batch: int
    stopped_early: bool


def fit(
    network: Network,
    cache: ImageCache | FeatureCache,
    split: Split,
    config: FitConfig,
    augment: AugmentConfig,
    runtime: Runtime,
    *,
    checkpoint: Path | None = None,
    start: EpochRecord | None = None,
    on_epoch: Callable[[EpochRecord], None] = lambda _: None,
    on_progress: OnProgress = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Train a network and keep its best weights.

    Args:
        network: Trained in place.
        cache: The decoded images, or what the frozen layers before this network said of them.
        split: Training and validation images; the test images are not touched.
        config: Every number chosen.
        augment: Every number chosen.
        runtime: Device, threads, precision and seed.
        checkpoint: Where to save; what lies there already is resumed.
        start: What the network reached before; its weights are kept, as epoch 0, until an epoch is as good.
        on_epoch: Called with each epoch's record.
        on_progress: Called after each step.
        should_stop: Asked after each step; True saves a checkpoint and raises.

    Raises:
        NonFiniteError: The loss was not finite; the last checkpoint is whole.
        RunInterrupted: ``should_stop`` said so.
    """
    assert config.epochs is not None
    loop = TrainingLoop(network, cache, split, config, augment, runtime, checkpoint)
    loop.resume()
    if start is not None:
        loop.begin_with(start)
    stopped_early = False
    while loop.progress.epoch < config.epochs and not stopped_early:
        record = loop.run_epoch(on_progress, should_stop)
        on_epoch(record)
        waited = epochs_without_gain(config, loop.progress.history)
        stopped_early = config.early_stopping is not None and waited >= config.early_stopping
    return loop.finish(stopped_early)


def steps_in_epoch(config: FitConfig, images: int) -> int:
    """Optimiser steps in an epoch over this many images."""
    assert config.batch_size is not None
    return config.steps_per_epoch or max(1, images // config.batch_size)


@dataclass
class TrainingLoop:
    """The state of one run of the loop."""

    network: Network
    cache: ImageCache | FeatureCache
    split: Split
    config: FitConfig
    augment: AugmentConfig
    runtime: Runtime
    checkpoint: Path | None
    progress: Progress = field(default_factory=Progress)
    best: dict[str, torch.Tensor] | None = None
    recent_losses: deque[float] = field(default_factory=lambda: deque(maxlen=20))

    def __post_init__(self) -> None:
        config, device = self.config, self.runtime.device
        assert config.batch_size is not None
        self.network.place(device)
        self.optimizer = make_optimizer(self.network, config)
        self.average = WeightAverage(self.network) if config.ema is not None else None
        self.steps = steps_in_epoch(config, len(self.split.train))
        self.batch_size = min(config.batch_size, len(self.split.train))
        self.progress.micro_batch = min(config.micro_batch or self.batch_size, self.batch_size)
        self.penalties = self.network.l2_penalties()
        self.class_weights_K: torch.Tensor | None = None
        if config.class_weights == "balanced":
            labels = self.cache.index.labels[self.split.train]
            weights_K = balanced_class_weights(labels, len(self.cache.index.classes))
            self.class_weights_K = torch.from_numpy(weights_K).to(device)
        self.saved_at = time.monotonic()
        self.save_seconds = 0.0

    def resume(self) -> None:
        """Go on from the checkpoint where there is one."""
        if self.checkpoint is not None and self.checkpoint.exists():
            average = self.average.network if self.average else None
            self.progress, self.best = load_checkpoint(self.checkpoint, self.network, self.optimizer, average)

    def begin_with(self, start: EpochRecord) -> None:
        """Let the weights as they are compete for the best ones, unless a checkpoint has gone on from them."""
        if self.best is not None or self.config.keep == "last" or start.validation_accuracy is None:
            return
        self.progress.best_epoch, self.progress.best_score = -1, monitored(self.config, start)
        self.best = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def run_epoch(self, on_progress: OnProgress, should_stop: Callable[[], bool]) -> EpochRecord:
        """Train from where the epoch stands to its end, then validate."""
        progress, device = self.progress, self.runtime.device
        what = f"epoch {progress.epoch + 1} of {self.config.epochs}"
        self.network.train()
        started = time.monotonic() - progress.seconds
        loss_sum = torch.tensor(progress.loss_sum, dtype=torch.float64, device=device)
        correct = torch.tensor(progress.correct, dtype=torch.int64, device=device)
        late: _LateLoss | None = None
        batches = train_batches(
            self.cache, self.split.train, self.batch_size, self.augment, self.runtime.seed, progress.epoch,
            self.config.steps_per_epoch, device, first_step=progress.step, threads=self.runtime.threads,
        )  # fmt: skip
        for batch in batches:
            step_loss, step_correct = self.train_step(batch, late)
            loss_sum += step_loss
            correct += step_correct
            late = _LateLoss(step_loss, batch) if device.type == "cuda" else None
            progress.step += 1
            on_progress(what, progress.step * self.batch_size, self.steps * self.batch_size)
            stop = should_stop()
            if stop or self._checkpoint_is_due():
                self._check_late(late)
                progress.loss_sum, progress.correct = loss_sum.item(), int(correct.item())
                progress.seconds = time.monotonic() - started
                self.save()
            if stop:
                raise RunInterrupted(f"stopped in {what}, after step {progress.step:,} of {self.steps:,}.")
        self._check_late(late)
        progress.loss_sum, progress.correct = loss_sum.item(), int(correct.item())
        return self._end_epoch(started)

    def train_step(self, batch: Batch, late: _LateLoss | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimiser step. Returns the sum of the images' losses and how many were right."""
        progress = self.progress
        done = progress.epoch * self.steps + progress.step
        rate = learning_rate_at(self.config, done, self.steps, progress.history)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        # Dropout draws from torch's generator: seeding it here makes the draw a function of the step.
        torch.manual_seed((self.runtime.seed * 1_000_003 + done) % 2**63)
        loss_sum, correct = self._gradients(batch)
        if self.runtime.device.type == "cpu":
            self._require_finite(loss_sum.item(), batch)  # before the step: these weights gave the loss
        else:
            self._check_late(late)
        if self.config.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(average_decay(self.config, done))
        return loss_sum, correct

    def _gradients(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Leave the batch's gradients in the parameters, in as many parts as memory asks for."""
        while True:
            try:
                self.optimizer.zero_grad(set_to_none=True)
                return self._accumulate(batch)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error) or self.progress.micro_batch == 1:
                    raise
                self.progress.micro_batch = math.ceil(self.progress.micro_batch / 2)
            if self.runtime.device.type == "cuda":
                torch.cuda.empty_cache()

    def _accumulate(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        size, part = len(batch.indices), self.progress.micro_batch
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.runtime.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.runtime.device)
        for start in range(0, size, part):
            images_NCHW, labels_N = batch.images[start : start + part], batch.labels[start : start + part]
            with self.runtime.autocast():
                logits = self.network(images_NCHW)
            minimised_N, plain_N = cross_entropies(logits, labels_N, self.config.label_smoothing or 0.0)
            if self.class_weights_K is not None:
                minimised_N = minimised_N * self.class_weights_K[labels_N]
            (minimised_N.sum() / size).backward()  # type: ignore[no-untyped-call]
            loss_sum += plain_N.detach().sum()
            correct += count_correct(logits.detach(), labels_N)
        for weight, factor in self.penalties:
            # The gradient of factor * sum(weight ** 2), without the passes over memory that its value would take.
            if weight.grad is not None:
                weight.grad.add_(weight.detach(), alpha=2 * factor)
        return loss_sum, correct

    def _end_epoch(self, started: float) -> EpochRecord:
        progress = self.progress
        trained = time.monotonic() - started
        images = self.steps * self.batch_size
        done = progress.epoch * self.steps + progress.step - 1
        rate = learning_rate_at(self.config, done, self.steps, progress.history)
        validation_loss, validation_accuracy = self._validate()
        record = EpochRecord(
            epoch=progress.epoch + 1,
            train_loss=progress.loss_sum / images,
            train_accuracy=progress.correct / images,
            validation_loss=validation_loss,
            validation_accuracy=validation_accuracy,
            learning_rate=rate,
            seconds=time.monotonic() - started,
            images_per_second=images / trained,
        )
        progress.history.append(record)
        score = monitored(self.config, record)
        # Of equal epochs the later is kept: its learning rate is lower, its weights less noisy.
        if self.config.keep == "last" or score >= progress.best_score:
            progress.best_epoch, progress.best_score = progress.epoch, score
            source = self.average.network if self.average else self.network
            self.best = {name: tensor.detach().clone() for name, tensor in source.state_dict().items()}
        progress.epoch, progress.step, progress.seconds = progress.epoch + 1, 0, 0.0
        progress.loss_sum, progress.correct = 0.0, 0
        if self._checkpoint_is_due():
            self.save()
        return record

    def _validate(self) -> tuple[float | None, float | None]:
        if len(self.split.validation) == 0:
            return None, None
        network = self.average.network if self.average else self.network
        predictions = predict(network, self.cache, self.split.validation, self.runtime, "validation")
        return loss_and_accuracy(predictions)

    def _checkpoint_is_due(self) -> bool:
        interval = max(self.config.checkpoint_seconds, self.save_seconds / CHECKPOINT_SHARE)
        return self.checkpoint is not None and time.monotonic() - self.saved_at >= interval

    def save(self) -> None:
        """Write the checkpoint."""
        if self.checkpoint is None:
            return
        started = time.monotonic()
        average = self.average.network if self.average else None
        save_checkpoint(self.checkpoint, self.progress, self.network, self.optimizer, average, self.best)
        self.saved_at = time.monotonic()
        self.save_seconds = self.saved_at - started

    def finish(self, stopped_early: bool) -> Fitted:
        """Put the kept weights into the network."""
        if self.best is not None:
            self.network.load_state_dict(self.best)
        self.network.eval()
        history = tuple(self.progress.history)
        return Fitted(self.network, history, self.progress.best_epoch + 1, self.progress.micro_batch, stopped_early)

    def _check_late(self, late: _LateLoss | None) -> None:
        if late is not None:
            self._require_finite(late.value(), late.batch)

    def _require_finite(self, loss_sum: float, batch: Batch) -> None:
        if math.isfinite(loss_sum):
            self.recent_losses.append(loss_sum / len(batch.indices))
            return
        files = [self.cache.index.paths[number] for number in batch.indices.tolist()]
        rate = float(self.optimizer.param_groups[0]["lr"])
        finding = explain_non_finite(self.network, batch.images, files, list(self.recent_losses), rate, self.runtime)
        where = f"epoch {self.progress.epoch + 1}, step {self.progress.step + 1}"
        raise NonFiniteError(f"{finding.title} ({where}). {finding.remedy}", finding)


class _LateLoss:
    """A loss that is looked at one step later, when it has arrived, so that the GPU never waits for the host."""

    def __init__(self, loss: torch.Tensor, batch: Batch) -> None:
        self.batch = batch
        self._host = torch.empty_like(loss, device="cpu", pin_memory=True)
        self._host.copy_(loss.detach(), non_blocking=True)
        self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._arrived.record()

    def value(self) -> float:
        self._arrived.synchronize()
        return self._host.item()


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
