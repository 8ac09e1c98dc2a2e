"""Many heads trained together in one pass over features that do not change.

All see the same batches in the same order, a pure function of (seed, epoch). Each has its own learning rate, weight
decay, initial weights, dropout and best epoch; see :mod:`tintype.training.stacked`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tintype.config import HeadsConfig
from tintype.data.batches import plan_epoch
from tintype.errors import ConfigError, NonFiniteError, RunInterrupted
from tintype.models.layers import build_layers, parse_layers
from tintype.models.network import OutputKind, make_head
from tintype.records import Finding, OnProgress, silent
from tintype.training.losses import cross_entropies
from tintype.training.stacked import HeadSetting, Stack

LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
"""Tried where the settings name none."""

MOST_HEADS = 1_000
"""More combinations than this are a slip of the pen."""

VALIDATION_VALUES = 2**23
"""Validation rows go through in parts whose activations have at most this many values."""


@dataclass(frozen=True)
class HeadEpoch:
    """One epoch of one head; as :class:`tintype.records.EpochRecord`, without what all heads share."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None


@dataclass(frozen=True)
class HeadResult:
    """What became of one head.

    Attributes:
        setting: How it was trained.
        history: Its epochs, up to the one before it failed.
        best_epoch: The epoch whose weights are kept, from 1: the one with the lowest validation loss, the last
            without validation. 0 where there is none.
        failed: Why it stopped; empty where it did not.
    """

    setting: HeadSetting
    history: tuple[HeadEpoch, ...]
    best_epoch: int
    failed: str

    @property
    def score(self) -> float:
        """Validation loss of the best epoch, training loss without validation; infinite where the head failed."""
        if self.failed or not self.best_epoch:
            return math.inf
        best = self.history[self.best_epoch - 1]
        return best.train_loss if best.validation_loss is None else best.validation_loss


@dataclass(frozen=True)
class FittedHeads:
    """All heads, in the order of their settings.

    Attributes:
        results: What became of each.
        weights: Tensors of each at its best epoch, on the CPU: ``output.weight`` (C, F or H), ``output.bias`` (C,),
            and with a hidden layer ``hidden.weight`` (H, F) and ``hidden.bias`` (H,).
    """

    results: tuple[HeadResult, ...]
    weights: tuple[dict[str, Tensor], ...]

    def mean_score(self, number: int) -> float:
        """Mean score of a head's setting over its seeds: the difference between two seeds is luck."""
        wanted = replace(self.results[number].setting, seed=0)
        scores = [result.score for result in self.results if replace(result.setting, seed=0) == wanted]
        return sum(scores) / len(scores)

    def best(self) -> int:
        """The number of the best head: of the setting with the lowest mean score, the seed with the lowest.

        Raises:
            NonFiniteError: Every setting failed with some seed.
        """
        number = min(range(len(self.results)), key=lambda n: (self.mean_score(n), self.results[n].score))
        if math.isfinite(self.mean_score(number)):
            return number
        lowest = min(result.setting.learning_rate for result in self.results)
        finding = Finding(
            "non-finite-loss",
            "critical",
            f"No setting of the {len(self.results)} heads could be trained with every seed: the loss was not finite",
            tuple(f"{result.setting}: {result.failed}" for result in self.results if result.failed)[:8],
            f"Use lower learning rates, such as --set heads.learning_rate=[{lowest / 10:.1g}].",
        )
        raise NonFiniteError(f"{finding.title}. {finding.remedy}", finding)

    def module(self, number: int) -> tuple[nn.Sequential, nn.Linear]:
        """A head as modules: what stands before the output layer, built from its ``layers``, and the output layer."""
        setting, weights = self.results[number].setting, self.weights[number]
        features = weights["hidden.weight" if setting.width else "output.weight"].shape[1]
        body = build_layers(parse_layers(setting.layers), (features,)) if setting.layers else nn.Sequential()
        for module in body:
            if isinstance(module, nn.Linear):
                module.load_state_dict({"weight": weights["hidden.weight"], "bias": weights["hidden.bias"]})
        units, inputs = weights["output.weight"].shape
        output = make_head(inputs, units, "softmax")
        output.load_state_dict({"weight": weights["output.weight"], "bias": weights["output.bias"]})
        return body, output


def expand(config: HeadsConfig, seed: int = 0) -> tuple[HeadSetting, ...]:
    """Every combination of the settings, each with every seed.

    Args:
        config: The grid.
        seed: The first of the seeds.

    Raises:
        ConfigError: A value is out of range, or there are too many combinations.
    """
    rates = config.learning_rate or LEARNING_RATES
    _require("learning_rate", rates, lambda value: value > 0, "above 0")
    _require("weight_decay", config.weight_decay, lambda value: value >= 0, "at least 0")
    _require("width", config.width, lambda value: value >= 0, "at least 0")
    _require("dropout", config.dropout, lambda value: 0 <= value < 1, "from 0 to below 1")
    axes = [tuple(dict.fromkeys(axis)) for axis in (rates, config.weight_decay, config.width, config.dropout)]
    count = math.prod(len(axis) for axis in axes) * config.seeds
    if count > MOST_HEADS:
        raise ConfigError(f"heads: there are {count:,} combinations; at most {MOST_HEADS:,} are trained together.")
    seeds = range(seed, seed + config.seeds)
    return tuple(
        HeadSetting(rate, decay, int(width), dropout, number)
        for rate, decay, width, dropout in itertools.product(*axes)
        for number in seeds
    )


def _require(name: str, values: Sequence[float], allowed: Callable[[float], bool], must: str) -> None:
    if not values:
        raise ConfigError(f"heads.{name} must have a value. Got none.")
    for value in values:
        if not allowed(value):
            raise ConfigError(f"heads.{name} must be {must}. Got {value:g}.")


def fit_heads(
    features_KNF: Tensor | NDArray[np.float32],
    labels_N: Tensor | NDArray[np.int64],
    validation_VF: Tensor | NDArray[np.float32],
    labels_V: Tensor | NDArray[np.int64],
    settings: Sequence[HeadSetting],
    *,
    classes: int,
    output: OutputKind,
    epochs: int,
    batch_size: int,
    seed: int,
    label_smoothing: float = 0.0,
    class_weights: NDArray[np.float32] | None = None,
    on_progress: OnProgress = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> FittedHeads:
    """Train heads, each as it would be trained alone.

    Args:
        features_KNF: K views of each training image, float32 or bfloat16, on the device to train on. Pass p over
            the images shows view ``(p + i) % K`` of image i.
        labels_N: Class ids.
        validation_VF: V may be 0.
        labels_V: Likewise.
        settings: One a head.
        classes: Number of classes.
        output: ``sigmoid``: one unit, which gives the second of two classes; ``softmax``: one a class.
        epochs: Passes over the images.
        batch_size: Images a step.
        seed: Decides on the order of the images.
        label_smoothing: Share of the target spread over all classes.
        class_weights: Factors on the losses of the classes.
        on_progress: Called after each epoch.
        should_stop: Asked after each step.

    Raises:
        DataError: There are no training images.
        RunInterrupted: ``should_stop`` said so.
    """
    assert settings
    features = _tensor(features_KNF).float()
    device = features.device
    views, images = features.shape[:2]
    rows_RF, labels = features.flatten(0, 1), _tensor(labels_N).to(device)
    validation = _tensor(validation_VF).to(device).float(), _tensor(labels_V).to(device)
    weights_K = None if class_weights is None else torch.as_tensor(class_weights, device=device)
    units = 1 if output == "sigmoid" else classes
    groups = [_Group(numbers, settings, rows_RF.shape[1], units, device) for numbers in _stackable(settings)]
    done = 0
    for epoch in range(epochs):
        plan = plan_epoch(np.arange(images), batch_size, seed, epoch)
        steps, size = plan.indices.shape
        indices = torch.from_numpy(plan.indices).to(device)
        shown = torch.from_numpy((plan.passes + plan.indices) % views * images + plan.indices).to(device)
        for number in range(steps):
            batch_BF, labels_B = rows_RF.index_select(0, shown[number]), labels[indices[number]]
            factors_B = None if weights_K is None else weights_K[labels_B]
            share = 0.5 * (1 + math.cos(math.pi * done / (epochs * steps)))
            for group in groups:
                group.train(batch_BF, labels_B, factors_B, label_smoothing, share, done)
            done += 1
            if should_stop():
                raise RunInterrupted(f"stopped while training {len(settings)} heads, in epoch {epoch + 1} of {epochs}.")
        for group in groups:
            group.end_epoch(epoch + 1, steps * size, *validation)
        on_progress(f"training {len(settings)} heads", epoch + 1, epochs)
        if all(group.over for group in groups):
            break
    ends = dict(itertools.chain.from_iterable(group.finish() for group in groups))
    return FittedHeads(*zip(*(ends[number] for number in range(len(settings))), strict=True))


def _tensor(values: Tensor | NDArray[Any]) -> Tensor:
    """A tensor as it is, an array copied: a mapped file may not be written to, which PyTorch warns about."""
    return values if isinstance(values, Tensor) else torch.tensor(values)


def _stackable(settings: Sequence[HeadSetting]) -> list[list[int]]:
    stacks: dict[tuple[int, float, int], list[int]] = {}
    for number, setting in enumerate(settings):
        stacks.setdefault(setting.stack, []).append(number)
    return list(stacks.values())


class _Group:
    """A stack of heads in training, with what has become of each.

    Args:
        numbers: Which of the settings.
        settings: All of them.
        features: F.
        units: Of the output layer.
        device: Where to train.
    """

    def __init__(
        self, numbers: list[int], settings: Sequence[HeadSetting], features: int, units: int, device: torch.device
    ) -> None:
        self.numbers, self.settings = numbers, [settings[number] for number in numbers]
        self.stack = Stack(self.settings, features, units, device)
        heads = len(numbers)
        self.histories: list[list[HeadEpoch]] = [[] for _ in numbers]
        self.best_epochs, self.best_scores, self.failed = [0] * heads, [math.inf] * heads, [""] * heads
        self.best = self.stack.copy()
        self.loss_sums_M = torch.zeros(heads, dtype=torch.float64, device=device)
        self.correct_M = torch.zeros(heads, dtype=torch.int64, device=device)

    @property
    def over(self) -> bool:
        """True when every head has failed."""
        return all(self.failed)

    def train(
        self, batch_BF: Tensor, labels_B: Tensor, factors_B: Tensor | None, smoothing: float, share: float, step: int
    ) -> None:
        """One optimiser step of every head."""
        logits_BMC = self.stack.logits(batch_BF, step)
        minimised_BM, plain_BM = _losses(logits_BMC, labels_B, smoothing)
        if factors_B is not None:
            minimised_BM = minimised_BM * factors_B[:, None]
        # The mean over the batch and the sum over heads, whose gradients do not mix.
        (minimised_BM.sum() / len(labels_B)).backward()  # type: ignore[no-untyped-call]
        self.stack.step(share)
        self.loss_sums_M += plain_BM.detach().sum(0)
        self.correct_M += _right(logits_BMC.detach(), labels_B).sum(0)

    @torch.no_grad()
    def end_epoch(self, epoch: int, images: int, validation_VF: Tensor, labels_V: Tensor) -> None:
        """Validate, write the history and keep the best weights.

        A head whose loss is not finite is looked at no more. It stays in the stack, where it disturbs nobody.
        """
        train_losses, train_shares = (self.loss_sums_M / images).tolist(), (self.correct_M / images).tolist()
        losses, shares = self._validate(validation_VF, labels_V)
        self.loss_sums_M.zero_()
        self.correct_M.zero_()
        better = []
        for head, (train_loss, loss) in enumerate(zip(train_losses, losses, strict=True)):
            if self.failed[head]:
                continue
            if not math.isfinite(train_loss) or not math.isfinite(loss or 0.0):
                self.failed[head] = f"its loss was not finite in epoch {epoch}"
                continue
            self.histories[head].append(HeadEpoch(epoch, train_loss, train_shares[head], loss, shares[head]))
            # Of equal epochs the later is kept: its learning rate is lower, its weights less noisy.
            if loss is None or loss <= self.best_scores[head]:
                self.best_epochs[head], self.best_scores[head] = epoch, loss if loss is not None else math.inf
                better.append(head)
        chosen = torch.tensor(better, dtype=torch.int64, device=self.loss_sums_M.device)
        for name, tensor in self.stack.tensors.items():
            self.best[name].index_copy_(0, chosen, tensor.index_select(0, chosen))

    def _validate(self, validation_VF: Tensor, labels_V: Tensor) -> tuple[list[float | None], list[float | None]]:
        """Mean loss and share right of every head; None without validation rows."""
        rows, heads = len(labels_V), len(self.numbers)
        if rows == 0:
            return [None] * heads, [None] * heads
        loss_sums_M, correct_M = torch.zeros_like(self.loss_sums_M), torch.zeros_like(self.correct_M)
        part = max(1, VALIDATION_VALUES // (heads * max(self.stack.width, self.stack.units)))
        for features_BF, labels_B in zip(torch.split(validation_VF, part), torch.split(labels_V, part), strict=True):
            logits_BMC = self.stack.logits(features_BF)
            loss_sums_M += _losses(logits_BMC, labels_B, 0.0)[1].sum(0)
            correct_M += _right(logits_BMC, labels_B).sum(0)
        return (loss_sums_M / rows).tolist(), (correct_M / rows).tolist()

    def finish(self) -> list[tuple[int, tuple[HeadResult, dict[str, Tensor]]]]:
        """Each head's number with its result and its best weights."""
        ends = []
        best = {name: tensor.cpu() for name, tensor in self.best.items()}
        for head, number in enumerate(self.numbers):
            history = tuple(self.histories[head])
            result = HeadResult(self.settings[head], history, self.best_epochs[head], self.failed[head])
            ends.append((number, (result, {name: tensor[head].clone() for name, tensor in best.items()})))
        return ends


def _losses(logits_BMC: Tensor, labels_B: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Losses to be minimised and plain ones, (B, M)."""
    shape = logits_BMC.shape[:2]
    labels = labels_B[:, None].expand(shape).flatten()
    minimised, plain = cross_entropies(logits_BMC.flatten(0, 1), labels, smoothing)
    return minimised.view(shape), plain.view(shape)


def _right(logits_BMC: Tensor, labels_B: Tensor) -> Tensor:
    """Whether each image is classified right, (B, M)."""
    predicted_BM = (logits_BMC[..., 0] > 0).long() if logits_BMC.shape[2] == 1 else logits_BMC.argmax(2)
    return predicted_BM == labels_B[:, None]
