"""Optimisers, learning-rate schedules, and the moving average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from tintype.config import FitConfig
from tintype.errors import ConfigError
from tintype.models.build import backbone_of
from tintype.models.graph import layer_depths
from tintype.models.network import BACKBONE, Network
from tintype.records import EpochRecord
from tintype.runtime import import_ahead

NetworkT = TypeVar("NetworkT", bound=nn.Module)

ONE_CYCLE_RISE = 0.25
"""Share of a one-cycle schedule in which the learning rate rises."""

ONE_CYCLE_START = 0.1
"""Learning rate at the start of a one-cycle schedule, as a share of the peak."""

MINIMUM_GAIN = 1e-4
"""A monitored value must get better by more than this to count as an improvement."""


def import_optimizers_ahead() -> None:
    """Import what PyTorch's optimisers ask for when the first is made: 1.1 seconds that decoding can hide."""
    import_ahead("torch._dynamo")


def make_optimizer(network: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    """The optimiser named in the settings, over the parameters that train.

    Weight decay spares biases and normalisation parameters (those with one axis): shrinking them only
    takes away scale and offset that the next layer needs. Each group's ``scale`` is its share of the learning rate:
    1 for the head, ``backbone_rate`` for the last layer of a backbone, and ``layer_decay`` times as much for each
    layer before it (discriminative fine-tuning; Howard and Ruder, ULMFiT, 2018, section 3.2).
    """
    assert config.learning_rate is not None
    groups = _parameter_groups(network, config)
    rate = config.learning_rate
    match config.optimizer or "adamw":
        case "sgd":
            nesterov = config.momentum > 0
            return torch.optim.SGD(groups, lr=rate, momentum=config.momentum, nesterov=nesterov, fused=True)
        case "adam":
            return torch.optim.Adam(groups, lr=rate, betas=(config.momentum, 0.999), fused=True)
        case "adamw":
            return torch.optim.AdamW(groups, lr=rate, betas=(config.momentum, 0.99), fused=True)
        case "rmsprop":
            # Keras' epsilon; torch's 1e-8 makes the first steps of rarely used weights huge.
            return torch.optim.RMSprop(groups, lr=rate, alpha=config.rho, eps=1e-7, foreach=True)
        case "adadelta":
            return torch.optim.Adadelta(groups, lr=rate, rho=config.rho, eps=1e-7, foreach=True)
        case "lbfgs":
            raise ConfigError("lbfgs fits an output layer on features that do not change; take adamw or sgd here.")


def _parameter_groups(network: nn.Module, config: FitConfig) -> list[dict[str, Any]]:
    scales = _rate_scales(network, config)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((scales.get(name, 1.0), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": (config.weight_decay or 0.0) if decays else 0.0, "scale": scale}
        for (scale, decays), parameters in groups.items()
    ]


def _rate_scales(network: nn.Module, config: FitConfig) -> dict[str, float]:
    """Shares of the learning rate, by the names of a backbone's parameters."""
    backbone = backbone_of(network) if isinstance(network, Network) else None
    if backbone is None:
        return {}
    depths = layer_depths(backbone)
    return {
        f"body.{BACKBONE}.{name}": (config.backbone_rate or 1.0) * config.layer_decay ** depths.get(name, 0)
        for name, _ in backbone.named_parameters()
    }


def learning_rate_at(config: FitConfig, step: int, steps_per_epoch: int, history: Sequence[EpochRecord]) -> float:
    """The learning rate of one optimiser step: a pure function, so a resumed run needs no schedule state.

    Args:
        config: Settings with ``epochs`` and ``learning_rate`` chosen.
        step: Steps taken so far in the run.
        steps_per_epoch: Optimiser steps in an epoch.
        history: The epochs that have ended; ``reduce_on_plateau`` looks at them.
    """
    assert config.learning_rate is not None
    assert config.epochs is not None
    total = config.epochs * steps_per_epoch
    peak, floor = config.learning_rate, min(config.minimum_learning_rate, config.learning_rate)
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    match config.schedule:
        case "constant":
            return peak
        case "cosine":
            return floor + (peak - floor) * _cosine((step - warmup) / max(1, total - warmup))
        case "one_cycle":
            rise = ONE_CYCLE_RISE * total
            if step < rise:
                return peak * (ONE_CYCLE_START + (1 - ONE_CYCLE_START) * step / rise)
            return floor + (peak - floor) * _cosine((step - rise) / max(1.0, total - rise))
        case "reduce_on_plateau":
            return max(floor, peak * config.reduce_factor ** _reductions(config, history))


def monitored(config: FitConfig, record: EpochRecord) -> float:
    """The value that tells whether an epoch was better; larger is better. Training loss without validation."""
    if record.validation_loss is None or record.validation_accuracy is None:
        return -record.train_loss
    return record.validation_accuracy if config.monitor == "validation_accuracy" else -record.validation_loss


def epochs_without_gain(config: FitConfig, history: Sequence[EpochRecord]) -> int:
    """Epochs since the monitored value last got better by more than :data:`MINIMUM_GAIN`."""
    best, waited = -math.inf, 0
    for record in history:
        if monitored(config, record) > best + MINIMUM_GAIN:
            best, waited = monitored(config, record), 0
        else:
            waited += 1
    return waited


def average_decay(config: FitConfig, step: int) -> float:
    """Decay of the moving average at a step; short at first, so that the random start is soon forgotten."""
    assert config.ema is not None
    return min(config.ema, (1 + step) / (10 + step))


class WeightAverage(Generic[NetworkT]):
    """Exponential moving average of a network's weights and statistics, as a network of its own.

    Args:
        network: The network in training.
    """

    def __init__(self, network: NetworkT) -> None:
        self.network: NetworkT = copy.deepcopy(network)
        self.network.requires_grad_(False).eval()
        self._targets = _floating_tensors(self.network)
        self._sources = _floating_tensors(network)

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move every tensor a share ``1 - decay`` towards the network in training."""
        torch._foreach_lerp_(self._targets, self._sources, 1.0 - decay)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state as named tensors, ``PARAMETER/KEY``."""
    tensors: dict[str, torch.Tensor] = {}
    for number, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if value is not None:
                tensors[f"{number}/{key}"] = torch.as_tensor(value)
    return tensors


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` gave."""
    content = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        number, key = name.split("/")
        parameter = parameters[int(number)]
        if tensor.shape == parameter.shape:
            # Fused kernels walk raw memory: a moment must lie in memory as its (channels-last) weight does.
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({**content, "state": state})


def _floating_tensors(network: nn.Module) -> list[torch.Tensor]:
    return [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def _reductions(config: FitConfig, history: Sequence[EpochRecord]) -> int:
    """How often a plateau of ``reduce_patience`` epochs has been met."""
    best, waited, count = -math.inf, 0, 0
    for record in history:
        if monitored(config, record) > best + MINIMUM_GAIN:
            best, waited = monitored(config, record), 0
        else:
            waited += 1
            if waited >= config.reduce_patience:
                count, waited = count + 1, 0
    return count
