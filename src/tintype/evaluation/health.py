"""A look inside a trained network: what reaches it, which layers live and learn, and whether its two modes agree.

A few training images go through the network twice, once as in training, with gradients, and once as in evaluation.
Weights, statistics, gradients, modes and random state are as before afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tintype.data.batches import Batch, evaluation_batches
from tintype.data.cache import ImageCache
from tintype.data.features import FeatureCache
from tintype.models.network import Network
from tintype.models.summary import named_layers
from tintype.records import Health, InputHealth, LayerHealth
from tintype.runtime import Runtime

EXAMINED_IMAGES = 128
"""Images looked at where they are small: enough for batch statistics, and for an accuracy to within 9 points."""

EXAMINED_PIXELS = 300_000
"""Pixels looked at where they are large: 5 images of 224 px. Their passes through MobileNetV2 take 0.5 s of one core,
and the figures 0.2 s more. A channel's statistics still count hundreds of positions."""

FEWEST_IMAGES = 4

MOST_SIDE = 14
"""Side of a map of which every position is looked at; 5 images of it give a channel 980 values."""

SAMPLED_WEIGHTS = 4096
"""Values of each weight tensor that are remembered to tell how far it moved: 16 KiB a tensor. The share of a change
that is estimated from so many values drawn at random is known to some 2 %."""

SAME = 1e-6
"""Values that differ by less than this share of the largest do not differ: the same sum in another order."""

_CAN_DIE = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.LeakyReLU)
_BatchNorm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class FirstWeights:
    """What is remembered of a network's weights before training.

    Attributes:
        values: Some values of each weight that trains, shape (at most 4096,), fp32 on the CPU.
        loaded: Of each weight that does not train whether it came from elsewhere; empty where nobody looked.
    """

    values: Mapping[nn.Parameter, Tensor] = field(default_factory=dict)
    loaded: Mapping[nn.Parameter, bool] = field(default_factory=dict)


def note_weights(network: nn.Module, redrawn: nn.Module | None = None) -> FirstWeights:
    """Remember the weight tensors (those with two axes or more), to tell later how far each moved.

    Args:
        network: The network before training.
        redrawn: The same one with other random weights: what is equal in both was not drawn.
    """
    weights = {name: parameter for name, parameter in network.named_parameters() if parameter.ndim > 1}
    values = {parameter: _sample(parameter) for parameter in weights.values() if parameter.requires_grad}
    loaded = {}
    if redrawn is not None:
        others = dict(redrawn.named_parameters())
        loaded = {
            parameter: torch.equal(_sample(parameter), _sample(others[name]))
            for name, parameter in weights.items()
            if not parameter.requires_grad and name in others
        }
    return FirstWeights(values, loaded)


def examine(
    network: Network,
    images: ImageCache,
    trained: Network,
    inputs: ImageCache | FeatureCache,
    rows: NDArray[np.int64],
    runtime: Runtime,
    first: FirstWeights = FirstWeights(),
    most: int = EXAMINED_IMAGES,
) -> Health:
    """Look inside a trained network.

    Args:
        network: The whole.
        images: The decoded images.
        trained: What was trained: the whole, or the part behind the frozen layers.
        inputs: What that part takes: images, or what the frozen layers said of them.
        rows: The training images, positions in the index; evenly spaced ones of them are looked at.
        runtime: Device, and precision of the passes.
        first: What :func:`note_weights` gave before training; by default it is left out how far the weights moved.
        most: Images at most, where memory is short.

    Returns:
        What was seen. The largest number of float32 stands for a figure that is larger or not a number.
    """
    batch = _first_batch(inputs, rows, runtime, most)
    few = _first_batch(images, rows, runtime, min(most, len(batch.indices)))
    with _untouched(network, runtime), _untouched(trained, runtime):
        training_input = _what_reaches(network.train(), few.images, runtime)
        inference_input = _what_reaches(network.eval(), few.images, runtime)
        layers = [_Layer(name, module) for name, module in named_layers(trained).items() if _is_watched(module)]
        # In this order: the pass in training mode changes running statistics, which are put back only at the end.
        inference_loss, inference_accuracy = _pass(trained.eval(), batch, runtime, layers)
        training_loss, training_accuracy = _pass(trained.train(), batch, runtime, layers)
        rows_of_layers = tuple(layer.health(first) for layer in sorted(layers, key=lambda layer: layer.position))
    return Health(
        images=len(batch.indices),
        training_input=training_input,
        inference_input=inference_input,
        training_accuracy=training_accuracy,
        inference_accuracy=inference_accuracy,
        training_loss=training_loss,
        inference_loss=inference_loss,
        layers=rows_of_layers,
    )


class _Layer:
    """What the two passes show of one layer."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module
        self.position = 10**9  # what never runs comes last
        self.dead: float | None = None
        self.mean_gap: float | None = None
        self.deviation_ratio: float | None = None
        self.batch_statistics: bool | None = None

    def before_training_pass(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Compare the batch of a BatchNorm with its running statistics, before the batch changes them."""
        assert isinstance(module, _BatchNorm)
        if not inputs or not isinstance(inputs[0], Tensor) or module.running_mean is None or module.running_var is None:
            return
        given = inputs[0].detach()
        given = given.transpose(1, 2) if given.ndim == 3 else given  # BatchNorm1d has its channels before the positions
        values_MC = _positions(given).flatten(0, 1).float()
        means = values_MC.mean(dim=0)
        variances = (values_MC - means).square_().mean(dim=0)
        deviations = (module.running_var.float() + module.eps).sqrt()
        self.mean_gap = _finite(((means - module.running_mean.float()).abs() / deviations).median())
        self.deviation_ratio = _finite(((variances + module.eps).sqrt() / deviations).median())
        self.batch_statistics = module.training

    def after_inference_pass(self, position: int, output: Any) -> None:
        """Count the channels that say the same of every image; of a layer that runs several times, at the worst."""
        self.position = min(self.position, position)
        if isinstance(self.module, _BatchNorm):
            return  # as dead as what it is given
        if not isinstance(output, Tensor) or output.ndim < 2 or len(output) < 2 or not output.is_floating_point():
            return
        values_NPC = _positions(output)
        low_PC, high_PC = values_NPC.aminmax(dim=0)
        is_same_C = (high_PC - low_PC).amax(dim=0) <= SAME * values_NPC.abs().max()
        self.dead = max(self.dead or 0.0, float(is_same_C.float().mean()))

    def health(self, first: FirstWeights) -> LayerHealth:
        """The row of this layer, once both passes are done."""
        weights = list(self.module.parameters(recurse=False))
        return LayerHealth(
            name=self.name,
            kind=type(self.module).__name__,
            trains=any(parameter.requires_grad for parameter in weights) or bool(not weights and self.batch_statistics),
            gradient=_relative_gradient(weights),
            moved=_moved(weights, first.values),
            dead=self.dead,
            mean_gap=self.mean_gap,
            deviation_ratio=self.deviation_ratio,
            batch_statistics=self.batch_statistics,
            parameters=sum(parameter.numel() for parameter in weights),
            loaded=next((first.loaded[weight] for weight in weights if weight in first.loaded), None),
        )


def _is_watched(module: nn.Module) -> bool:
    return isinstance(module, (*_CAN_DIE, _BatchNorm)) or next(module.parameters(recurse=False), None) is not None


def _pass(trained: Network, batch: Batch, runtime: Runtime, layers: list[_Layer]) -> tuple[float, float]:
    """Mean cross-entropy in nats and accuracy of one pass, with gradients where the network is in training mode."""
    handles, training = [], trained.training
    ran: list[_Layer] = []
    for layer in layers:
        if not training:
            handles.append(layer.module.register_forward_hook(_after(layer, ran)))
        elif isinstance(layer.module, _BatchNorm):
            handles.append(layer.module.register_forward_pre_hook(layer.before_training_pass))
    try:
        with torch.set_grad_enabled(training):
            with runtime.autocast():
                logits = trained(batch.images)
            logits_NK = _two_columns(logits.float())
            loss = cross_entropy(logits_NK, batch.labels)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()
    right = logits_NK.argmax(dim=1) == batch.labels
    return _finite(loss.detach()), float(right.float().mean())


def _after(layer: _Layer, ran: list[_Layer]) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def hook(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        ran.append(layer)
        layer.after_inference_pass(len(ran), output)

    return hook


def _positions(values: Tensor) -> Tensor:
    """Images by positions by channels, (N, P, C), of a layer's input or output; large maps are thinned out.

    The figures of every so many rows and columns are the same, and those of all of them cost more than the pass itself.
    """
    if values.ndim == 4:
        rows, columns = (-(-side // MOST_SIDE) for side in values.shape[2:])
        values = values[:, :, ::rows, ::columns].permute(0, 2, 3, 1)  # as it lies in memory, channels last
        return values.reshape(len(values), -1, values.shape[-1])
    if values.ndim == 3:
        return values
    return values.reshape(len(values), 1, -1)


def _two_columns(logits: Tensor) -> Tensor:
    """Logits of shape (N, K); a sigmoid unit is a softmax of 0 and its logit."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


class _Reached(BaseException):
    """Ends a forward pass at the first layer with weights. No ``Exception``: a traced network would print it."""

    def __init__(self, kind: str, values: Tensor) -> None:
        super().__init__(kind)
        self.kind = kind
        self.values = values


def _what_reaches(network: Network, images_NCHW: Tensor, runtime: Runtime) -> InputHealth:
    """What the first layer that has weights is given; the pass goes no further, so it costs nothing."""

    def stop(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            raise _Reached(type(module).__name__, inputs[0])

    with_weights = (module for module in network.modules() if next(module.parameters(recurse=False), None) is not None)
    handles = [module.register_forward_pre_hook(stop) for module in with_weights]
    kind, values = "", images_NCHW
    try:
        with torch.no_grad(), runtime.autocast():
            values = network(images_NCHW)
    except _Reached as reached:
        kind, values = reached.kind, reached.values
    finally:
        for handle in handles:
            handle.remove()
    values = values.detach().float()
    low, high = values.aminmax()
    return InputHealth(kind, _finite(values.mean()), _finite(values.std()), _finite(low), _finite(high))


def _first_batch(cache: ImageCache | FeatureCache, rows: NDArray[np.int64], runtime: Runtime, most: int) -> Batch:
    """Evenly spaced images, as many as are cheap to look at, so that each class is there in proportion."""
    positions = cache.geometry.size**2 if isinstance(cache, ImageCache) else math.prod(cache.shape[:-1])
    count = min(len(rows), most, EXAMINED_IMAGES, max(FEWEST_IMAGES, EXAMINED_PIXELS // positions))
    chosen = rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]
    return next(evaluation_batches(cache, chosen, len(chosen), runtime.device))


def _relative_gradient(weights: list[nn.Parameter]) -> float | None:
    """L2 norm of the gradient over that of the weights; None where nothing trains."""
    gradients = [parameter.grad for parameter in weights if parameter.grad is not None]
    if not gradients:
        return None
    norm = math.hypot(*(float(weight.detach().float().norm()) for weight in weights))
    return _finite(
        torch.tensor(math.hypot(*(float(gradient.float().norm()) for gradient in gradients)) / max(norm, 1e-12))
    )


def _moved(weights: list[nn.Parameter], first: Mapping[nn.Parameter, Tensor]) -> float | None:
    """L2 norm of the change over that of the first weights, of what was remembered of them; None without it."""
    known = [weight for weight in weights if weight in first and weight.requires_grad]
    if not known:
        return None
    before = torch.cat([first[weight] for weight in known])
    after = torch.cat([_sample(weight) for weight in known])
    return _finite((after - before).norm() / before.norm().clamp_min(1e-12))


def _sample(parameter: nn.Parameter) -> Tensor:
    """At most 4096 values of a tensor, always the same ones, fp32 on the CPU."""
    values = parameter.detach().flatten()
    if len(values) > SAMPLED_WEIGHTS:
        drawn = torch.randint(len(values), (SAMPLED_WEIGHTS,), generator=torch.Generator().manual_seed(len(values)))
        values = values[drawn.to(values.device)]
    return values.float().cpu().clone()


def _finite(value: Tensor) -> float:
    """A number that JSON can hold."""
    most = torch.finfo(torch.float32).max
    return float(torch.nan_to_num(value.float(), nan=most, posinf=most, neginf=-most))


@contextmanager
def _untouched(network: nn.Module, runtime: Runtime) -> Iterator[None]:
    """Put modes, statistics, gradients and random state back on leaving."""
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in network.parameters()]
    network.zero_grad(set_to_none=True)
    devices = [runtime.device] if runtime.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(runtime.seed)  # dropout draws the same in a run that was resumed
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for parameter, gradient in gradients:
            parameter.grad = gradient
