"""The layer table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tintype.models import blocks
from tintype.models.network import Network
from tintype.records import LayerRow, ModelSummary

_KINDS: dict[type[nn.Module], str] = {
    nn.BatchNorm1d: "batch norm",
    nn.BatchNorm2d: "batch norm",
    nn.Flatten: "flatten",
    nn.AdaptiveAvgPool2d: "global average pool",
    nn.AdaptiveMaxPool2d: "global max pool",
    blocks.Flatten: "flatten",
    blocks.GlobalAveragePool: "global average pool",
    blocks.GlobalMaxPool: "global max pool",
    blocks.StandardizeImage: "standardise image",
    blocks.PadBottomRight: "pad",
    blocks.CropTopLeft: "crop",
    blocks.PadShortcut: "pad shortcut",
}


def summarize(network: Network, input_shape: tuple[int, int, int] | None = None) -> ModelSummary:
    """Make the layer table by running one black image through the network.

    A row is a module without modules inside, in the order in which they run, or one that holds parameters of its
    own. A BatchNorm counts scale, shift and both moving statistics, the statistics as non-trainable, as Keras
    counts them. The preprocessing is not counted.

    Args:
        network: The network; its mode and random state are as before afterwards.
        input_shape: (C, H, W); None: the network's own.
    """
    rows: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        # A module that runs several times has one row, with its first output.
        rows.setdefault(module, _shape(output))

    listed = {module: name for name, module in network.named_modules() if _is_listed(module, network)}
    handles = [module.register_forward_hook(note) for module in listed]
    try:
        with _inference(network):
            images = torch.zeros(1, *(input_shape or network.input_shape), dtype=torch.uint8)
            network(images.to(network.mean.device))
    finally:
        for handle in handles:
            handle.remove()
    # What never ran still has parameters, and the totals must be the sums of the rows.
    rows |= {module: () for module in listed if module not in rows}
    counted: set[int] = set()
    layers = tuple(_row(module, _readable(listed[module]), shape, counted) for module, shape in rows.items())
    total = sum(row.parameters for row in layers)
    trainable = sum(row.trainable_parameters for row in layers)
    return ModelSummary(layers, total, trainable, total - trainable)


def named_layers(network: Network) -> dict[str, nn.Module]:
    """The modules that have a row in the layer table, by the row's name."""
    return {_readable(name): module for name, module in network.named_modules() if _is_listed(module, network)}


def _is_listed(module: nn.Module, network: Network) -> bool:
    if module is network or isinstance(module, nn.Identity):
        return False
    is_leaf = next(module.children(), None) is None
    return (is_leaf and not isinstance(module, nn.Sequential)) or bool(module._parameters)


def _row(module: nn.Module, name: str, shape: tuple[int, ...], counted: set[int]) -> LayerRow:
    """One row; a parameter that two modules share is counted with the first."""
    parameters = [tensor for tensor in module.parameters(recurse=False) if id(tensor) not in counted]
    counted.update(id(tensor) for tensor in parameters)
    statistics = [
        tensor
        for key, tensor in module.named_buffers(recurse=False)
        if key in ("running_mean", "running_var") and tensor is not None
    ]
    trainable = sum(tensor.numel() for tensor in parameters if tensor.requires_grad)
    total = sum(tensor.numel() for tensor in [*parameters, *statistics])
    return LayerRow(name, describe(module), shape, total, trainable)


def describe(module: nn.Module) -> str:
    """What a module is, in words for the layer table, e.g. ``conv 5x5 stride 2``."""
    if isinstance(module, nn.Conv2d):
        groups = f" in {module.groups} groups" if module.groups > 1 else ""
        return f"conv {_sides(module.kernel_size)}{_step(module.stride, 1)}{groups}"
    if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
        word = "max" if isinstance(module, nn.MaxPool2d) else "average"
        return f"{word} pool {_sides(module.kernel_size)}{_step(module.stride, module.kernel_size)}"
    if isinstance(module, nn.Linear):
        return "dense"
    if isinstance(module, nn.Dropout):
        return f"dropout {module.p:g}"
    if type(module) in _KINDS:
        return _KINDS[type(module)]
    name = type(module).__name__
    return name.lower() if type(module).__module__.startswith("torch.nn.") else name


def _sides(size: int | tuple[int, ...]) -> str:
    pair = (size, size) if isinstance(size, int) else size
    return "x".join(str(side) for side in pair)


def _step(stride: int | tuple[int, ...], usual: int | tuple[int, ...]) -> str:
    sides = {stride} if isinstance(stride, int) else set(stride)
    plain = {usual} if isinstance(usual, int) else set(usual)
    return "" if sides == plain else f" stride {'x'.join(str(side) for side in sorted(sides))}"


def _readable(name: str) -> str:
    return "output" if name == "head" else name.removeprefix("body.")


def _shape(output: Any) -> tuple[int, ...]:
    """Shape without the batch axis; of the first tensor if there are several."""
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    return tuple(output.shape[1:]) if isinstance(output, Tensor) else ()


@contextmanager
def _inference(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode is put back, for frozen ones may differ."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, training in modes:
            module.training = training
