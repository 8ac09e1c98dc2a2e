"""The training loop.

Order, augmentation and dropout are pure functions of (seed, epoch, step), so a run that was killed and resumed
ends with the same weights, bit for bit, as one that was not.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from tintype.config import AugmentConfig, FitConfig, ParallelConfig
from tintype.data.batches import Batch, train_batches
from tintype.data.cache import ImageCache
from tintype.data.features import FeatureCache
from tintype.data.split import Split
from tintype.errors import NonFiniteError, RankError, RunInterrupted
from tintype.evaluation.predict import loss_and_accuracy, predict
from tintype.models.network import Network
from tintype.models.quick import QuickTraining
from tintype.ranks.world import World
from tintype.records import EpochRecord, Finding, OnProgress, Predictions, silent
from tintype.runtime import Runtime
from tintype.training.checkpoint import (
    Progress,
    load_checkpoint,
    pack,
    part_of,
    rank_part,
    read_checkpoint,
    save_checkpoint,
)
from tintype.training.losses import balanced_class_weights, count_correct, cross_entropies
from tintype.training.memory import is_out_of_memory
from tintype.training.nonfinite import explain_non_finite
from tintype.training.optim import (
    WeightAverage,
    average_decay,
    epochs_without_gain,
    learning_rate_at,
    load_optimizer_tensors,
    make_optimizer,
    monitored,
    optimizer_tensors,
)
from tintype.training.parallel import Replica
from tintype.training.step_clock import NO_CLOCK, Clock

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
        stopped_early: True when validation stopped getting better, or the time was up.
        validation: What the kept weights said of the validation images; None without any, or where a process before
            this one had asked them.
    """

    network: Network
    history: tuple[EpochRecord, ...]
    kept_epoch: int
    micro_batch: int
    stopped_early: bool
    validation: Predictions | None = None


def fit(
    network: Network,
    cache: ImageCache | FeatureCache,
    split: Split,
    config: FitConfig,
    augment: AugmentConfig,
    runtime: Runtime,
    *,
    parallel: ParallelConfig = ParallelConfig(),
    checkpoint: Path | None = None,
    start: EpochRecord | None = None,
    on_epoch: Callable[[EpochRecord], None] = lambda _: None,
    on_progress: OnProgress = silent,
    should_stop: Callable[[], bool] = lambda: False,
    should_finish: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Train a network and keep its best weights.

    Args:
        network: Trained in place.
        cache: The decoded images, or what the frozen layers before this network said of them.
        split: Training and validation images; the test images are not touched.
        config: Every number chosen.
        augment: Every number chosen.
        runtime: Device, threads, precision, seed and ranks. All ranks call this, and all end with the same weights.
        parallel: How gradients travel between ranks.
        checkpoint: Where to save; what lies there already is resumed. With several ranks the writer's counts.
        start: What the network reached before; its weights are kept, as epoch 0, until an epoch is as good.
        on_epoch: Called with each epoch's record.
        on_progress: Called after each step.
        should_stop: Asked after each step; True on any rank saves a checkpoint and raises on all.
        should_finish: Asked after each step, where there is one rank; True validates what is there and ends.

    Raises:
        NonFiniteError: The loss was not finite; the last checkpoint is whole.
        RunInterrupted: ``should_stop`` said so.
        RankError: Memory ran out on one of several ranks.
    """
    assert config.epochs is not None
    loop = TrainingLoop(network, cache, split, config, augment, runtime, checkpoint, parallel)
    loop.resume()
    if start is not None:
        loop.begin_with(start)
    stopped_early = False
    with loop.quick:
        while loop.progress.epoch < config.epochs and not stopped_early:
            record = loop.run_epoch(on_progress, should_stop, should_finish)
            on_epoch(record)
            waited = epochs_without_gain(config, loop.progress.history)
            stopped_early = config.early_stopping is not None and waited >= config.early_stopping
            stopped_early |= loop.progress.epoch < config.epochs and loop.is_over(should_finish)
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
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    clock: Clock = NO_CLOCK
    progress: Progress = field(default_factory=Progress)
    best: dict[str, torch.Tensor] | None = None
    best_said: Predictions | None = None
    is_warm: bool = field(init=False)
    are_weights_common: bool = True
    broken: Finding | None = None
    recent_losses: deque[float] = field(default_factory=lambda: deque(maxlen=20))

    def __post_init__(self) -> None:
        config, device = self.config, self.runtime.device
        assert config.batch_size is not None
        self.network.place(device)
        self.world = self.runtime.world
        self.steps = steps_in_epoch(config, len(self.split.train))
        total_steps = self.steps * (config.epochs or 1)
        self.batch_size = min(config.batch_size, len(self.split.train))
        # First of all: it gives all ranks the same weights.
        self.replica = Replica(self.network, self.parallel, self.runtime, total_steps, self.batch_size, self.clock)
        self.optimizer = make_optimizer(self.network, config)
        self.average = WeightAverage(self.network) if config.ema is not None else None
        self.part = self.world.part(self.batch_size)
        share = self.part.stop - self.part.start
        self.progress.micro_batch = min(config.micro_batch or share, share)
        self.penalties = self.network.l2_penalties()
        self.class_weights_K: torch.Tensor | None = None
        if config.class_weights == "balanced":
            labels = self.cache.index.labels[self.split.train]
            weights_K = balanced_class_weights(labels, len(self.cache.index.classes))
            self.class_weights_K = torch.from_numpy(weights_K).to(device)
        self.quick = QuickTraining(self.network, device)
        self.is_warm = self.world.is_alone
        self.saved_at = time.monotonic()
        self.save_seconds = 0.0

    def resume(self) -> None:
        """Go on from the checkpoint where there is one: the writer's, who sends it to the other ranks."""
        found = read_checkpoint(self.checkpoint) if self.checkpoint is not None and self.world.is_writer else None
        if not self.world.agree(found is not None):
            return
        content = self.world.share_bytes(found)
        average = self.average.network if self.average else None
        own_part = self.progress.micro_batch
        self.progress, self.best = load_checkpoint(content, self.checkpoint, self.network, self.optimizer, average)
        if not self.world.is_writer:  # what the epoch has counted so far is there once, and shares differ in size
            self.progress.loss_sum, self.progress.correct = 0.0, 0
            self.progress.micro_batch = own_part
        if self.replica.has_own_state:
            self.load_own_state(rank_part(content, self.world.rank))

    def begin_with(self, start: EpochRecord) -> None:
        """Let the weights as they are compete for the best ones, unless a checkpoint has gone on from them."""
        if self.best is not None or self.config.keep == "last" or start.validation_accuracy is None:
            return
        self.progress.best_epoch, self.progress.best_score = -1, monitored(self.config, start)
        self.best = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def is_over(self, should_finish: Callable[[], bool]) -> bool:
        """Whether the time is up; several ranks have no clock that all of them go by."""
        return self.world.is_alone and should_finish()

    def run_epoch(
        self, on_progress: OnProgress, should_stop: Callable[[], bool],
        should_finish: Callable[[], bool] = lambda: False,
    ) -> EpochRecord:  # fmt: skip
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
            self.config.steps_per_epoch, device, first_step=progress.step, threads=self.runtime.threads, part=self.part,
        )  # fmt: skip
        self.clock.start()
        for batch in batches:
            if not self.is_warm:
                self._warm_up(batch)
            self.clock.mark("input")
            step_loss, step_correct = self.train_step(batch, late)
            loss_sum += step_loss
            correct += step_correct
            late = _LateLoss(step_loss, batch) if device.type == "cuda" else None
            progress.step += 1
            on_progress(what, progress.step * self.batch_size, self.steps * self.batch_size)
            self.clock.mark("bookkeeping")
            stop, save = self._wishes(should_stop)
            self.clock.mark("agreement")
            if stop or save:
                self._check_late(late)
                # The sums go on by themselves; what is written down is that of all ranks.
                progress.loss_sum, progress.correct = self._of_all_ranks(loss_sum, correct)
                progress.seconds = time.monotonic() - started
                self.save()
            if stop:
                raise RunInterrupted(f"stopped in {what}, after step {progress.step:,} of {self.steps:,}.")
            if self.is_over(should_finish):
                break
        self._check_late(late)
        progress.loss_sum, progress.correct = self._of_all_ranks(loss_sum, correct)
        return self._end_epoch(started)

    def _wishes(self, should_stop: Callable[[], bool]) -> tuple[bool, bool]:
        """Whether any rank is to stop, and whether the checkpoint is due; only where one rank can save for all."""
        if not self.are_weights_common:
            return False, False
        stop, save = self.world.any(should_stop(), self._checkpoint_is_due())
        return stop, save

    def _of_all_ranks(self, loss_sum: torch.Tensor, correct: torch.Tensor) -> tuple[float, int]:
        losses, right = self.world.add_up(loss_sum.item(), correct.item())
        return losses, int(right)

    def _warm_up(self, batch: Batch) -> None:
        """Let DistributedDataParallel see one backward pass, after which it orders its buckets anew.

        What is added up in which order follows the buckets: a run that goes on from a checkpoint must have those that
        it had before, or three ranks and more would end with other roundings.
        """
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        self.replica.begin_step(0, is_trial=True)
        self._gradients(batch, seed=0)
        self.replica.require_gradients()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        self.is_warm = True

    def train_step(self, batch: Batch, late: _LateLoss | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimiser step. Returns the sum of the images' losses and how many were right."""
        progress = self.progress
        done = progress.epoch * self.steps + progress.step
        rate = learning_rate_at(self.config, done, self.steps, progress.history)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.replica.begin_step(done)
        loss_sum, correct = self._gradients(batch, (self.runtime.seed * 1_000_003 + done) % 2**63)
        self.clock.mark("optimiser")
        if self.runtime.device.type == "cpu":
            self._require_finite(loss_sum.item(), batch)  # before the step: these weights gave the loss
        else:
            self._check_late(late)
        self.clock.mark("agreement")
        if self.config.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(average_decay(self.config, done))
        self.are_weights_common = self.replica.end_step()
        self.clock.mark("optimiser")
        return loss_sum, correct

    def _gradients(self, batch: Batch, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Leave the batch's gradients in the parameters, in as many parts as memory asks for."""
        while True:
            try:
                self.optimizer.zero_grad(set_to_none=True)
                return self._accumulate(batch, seed)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.progress.micro_batch == 1:
                    raise
                if not self.world.is_alone:  # the others wait for gradients of this very pass
                    raise RankError(_too_large(self.world, self.progress.micro_batch)) from None
                self.progress.micro_batch = math.ceil(self.progress.micro_batch / 2)
            if self.runtime.device.type == "cuda":
                torch.cuda.empty_cache()

    def _accumulate(self, batch: Batch, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        size, part = len(batch.indices), self.progress.micro_batch
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.runtime.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.runtime.device)
        for start in range(0, size, part):
            images_NCHW, labels_N = batch.images[start : start + part], batch.labels[start : start + part]
            # Dropout draws from torch's generator, for the whole batch each time: seeding it makes what falls out a
            # function of the step and of the image's place in it, however the batch is cut into parts and ranks.
            torch.manual_seed(seed)
            with self.replica.part(is_last=start + part >= size):
                with self.runtime.autocast():
                    logits = self.replica.forward(images_NCHW, self.part.start + start, self.batch_size)
                minimised_N, plain_N = cross_entropies(logits, labels_N, self.config.label_smoothing or 0.0)
                if self.class_weights_K is not None:
                    minimised_N = minimised_N * self.class_weights_K[labels_N]
                self.clock.mark("forward")
                self.replica.backward(minimised_N.sum() / self.batch_size)
            self.clock.mark("backward")
            loss_sum += plain_N.detach().sum()
            correct += count_correct(logits.detach(), labels_N)
        for weight, factor in self.penalties:
            # The gradient of factor * sum(weight ** 2), without the passes over memory that its value would take.
            if weight.grad is not None:
                weight.grad.add_(weight.detach(), alpha=2 * factor)
        return loss_sum, correct

    def _end_epoch(self, started: float) -> EpochRecord:
        self._require_sound()
        self._settle()
        progress = self.progress
        trained = time.monotonic() - started
        images = progress.step * self.batch_size
        done = progress.epoch * self.steps + progress.step - 1
        rate = learning_rate_at(self.config, done, self.steps, progress.history)
        said = self._validate()
        validation_loss, validation_accuracy = (None, None) if said is None else loss_and_accuracy(said)
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
            self.best_said = said
        progress.epoch, progress.step, progress.seconds = progress.epoch + 1, 0, 0.0
        progress.loss_sum, progress.correct = 0.0, 0
        if any(self.world.any(self._checkpoint_is_due())):
            self.save()
        return record

    def _settle(self) -> None:
        self.replica.settle(self.average.network if self.average else None)

    def _validate(self) -> Predictions | None:
        if len(self.split.validation) == 0:
            return None
        network = self.average.network if self.average else self.network
        return predict(network, self.cache, self.split.validation, self.runtime, "validation")

    def _checkpoint_is_due(self) -> bool:
        interval = max(self.config.checkpoint_seconds, self.save_seconds / CHECKPOINT_SHARE)
        is_mine = self.checkpoint is not None and self.world.is_writer
        return is_mine and time.monotonic() - self.saved_at >= interval

    def save(self) -> None:
        """Write the checkpoint; all ranks call it, one of them writes."""
        started = time.monotonic()
        if not self.replica.is_local:  # then the weights have just been averaged, and what differs is kept of each
            self._settle()
        of_ranks = self.world.collect_bytes(pack(self.own_state())) if self.replica.has_own_state else []
        if self.checkpoint is None or not self.world.is_writer:
            return
        average = self.average.network if self.average else None
        save_checkpoint(self.checkpoint, self.progress, self.network, self.optimizer, average, self.best, of_ranks)
        self.saved_at = time.monotonic()
        self.save_seconds = self.saved_at - started

    def own_state(self) -> dict[str, torch.Tensor]:
        """What is this rank's alone, where ranks differ: the optimiser's state, averages, what is yet to be sent."""
        parts = {
            "optimizer": optimizer_tensors(self.optimizer),
            "average": self.average.network.state_dict() if self.average else {},
            "communication": self.replica.own_state(),
        }
        return {f"{part}/{name}": tensor for part, content in parts.items() for name, tensor in content.items()}

    def load_own_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put back what :meth:`own_state` gave."""
        load_optimizer_tensors(self.optimizer, part_of(tensors, "optimizer"))
        if self.average is not None:
            self.average.network.load_state_dict(part_of(tensors, "average"))
        self.replica.load_own_state(part_of(tensors, "communication"))

    def finish(self, stopped_early: bool) -> Fitted:
        """Put the kept weights into the network."""
        self.replica.finish()
        if self.best is not None:
            self.network.load_state_dict(self.best)
        self.network.eval()
        progress = self.progress
        history, kept = tuple(progress.history), progress.best_epoch + 1
        return Fitted(self.network, history, kept, progress.micro_batch, stopped_early, self.best_said)

    def _check_late(self, late: _LateLoss | None) -> None:
        if late is not None:
            self._require_finite(late.value(), late.batch)

    def _require_finite(self, loss_sum: float, batch: Batch) -> None:
        """Stop where the loss is not finite; several ranks do so together, when they meet next."""
        if math.isfinite(loss_sum):
            self.recent_losses.append(loss_sum / len(batch.indices))
        elif self.broken is None:
            self.broken = self._explanation(batch)  # now, with the weights that gave it
        if self.replica.meets:
            self._require_sound()

    def _require_sound(self) -> None:
        """Raise, on all ranks, what one of them has found wrong."""
        if not any(self.world.any(self.broken is not None)):
            return
        told = self.world.exchange(None if self.broken is None else asdict(self.broken))
        finding = Finding(**next(item for item in told if item is not None))
        where = f"epoch {self.progress.epoch + 1}, step {self.progress.step + 1}"
        raise NonFiniteError(f"{finding.title} ({where}). {finding.remedy}", finding)

    def _explanation(self, batch: Batch) -> Finding:
        files = [self.cache.index.paths[number] for number in batch.indices.tolist()]
        rate = float(self.optimizer.param_groups[0]["lr"])
        self.quick.undo()  # layers are looked at one by one
        return explain_non_finite(self.network, batch.images, files, list(self.recent_losses), rate, self.runtime)


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


def _too_large(world: World, images: int) -> str:
    return (
        f"{world.describe(world.rank)} has no memory for {images} images at once: set fit.micro_batch below that, or "
        "memory_gb to what is free there."
    )
