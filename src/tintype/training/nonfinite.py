"""What to say when a loss is not finite: where it was first seen, and what most likely caused it.

The batch is run again in fp32, layer by layer. Blaming the batch size, as people do, is not in the list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tintype.models.network import Network
from tintype.records import Finding
from tintype.runtime import Runtime

MANY_TIMES = 10.0
"""A loss this many times the smallest of the recent ones was running away before it overflowed."""

LARGE_WEIGHT = 1e4
"""No weight of a network that trains is as large as this."""

_MOST_FILES = 8


@dataclass(frozen=True)
class _Place:
    """Where the first value that is not finite was seen.

    Attributes:
        words: For the evidence.
        layer: The layer's name; empty for weights and for the loss.
        weight: The name of the weights that are not finite; empty where they are.
        values: What was not finite: the layer's output, or its input where that was not either; None for weights.
        is_input: Whether it is what the layer was given, so that the model's own code between layers made it.
    """

    words: str
    layer: str = ""
    weight: str = ""
    values: torch.Tensor | None = None
    is_input: bool = False


@dataclass(frozen=True)
class _Cause:
    """What most likely made the loss not finite: a finding's code, title, remedy and what else shows it."""

    code: str
    title: str
    remedy: str
    evidence: tuple[str, ...] = ()


def explain_non_finite(
    network: nn.Module,
    images_NCHW: torch.Tensor,
    files: Sequence[str],
    recent_losses: Sequence[float],
    learning_rate: float,
    runtime: Runtime,
) -> Finding:
    """Look for the first value that is not finite and name the suspected cause.

    Args:
        network: The network, with the weights that gave the loss.
        images_NCHW: The batch, uint8; or features, where frozen layers ran before.
        files: The batch's image names.
        recent_losses: Losses of the steps before, oldest first.
        learning_rate: The rate of the step that failed.
        runtime: Device and precision of the run.
    """
    place = _first_bad(network, images_NCHW)
    cause = (
        _zero_deviation(place, images_NCHW, files)
        or _too_high_a_rate(network, place, recent_losses, learning_rate)
        or _other(place, recent_losses, learning_rate, runtime)
    )
    losses = ", ".join(f"{loss:.4g}" for loss in recent_losses[-5:]) or "none"
    evidence = (
        f"first not finite: {place.words}{_kind_of(place.values)}",
        *cause.evidence,
        f"losses of the steps before: {losses}",
        f"learning rate: {learning_rate:.3g}",
        f"precision: {runtime.precision}",
        f"files in the batch: {_listed(files)}",
    )
    return Finding(f"non-finite-{cause.code}", "critical", cause.title, evidence, cause.remedy)


def _zero_deviation(place: _Place, images_NCHW: torch.Tensor, files: Sequence[str]) -> _Cause | None:
    """Pixels, or whole images, without any deviation that were divided by it: 0 / 0 exactly where nothing varies."""
    values = place.values
    pixels_NV = images_NCHW.flatten(1)
    if values is None or images_NCHW.ndim != 4 or values.flatten(1).shape != pixels_NV.shape:
        return None
    is_bad_NV = ~torch.isfinite(values.flatten(1))
    is_same_pixel_V = (pixels_NV == pixels_NV[:1]).all(dim=0)
    is_flat_image_N = (pixels_NV == pixels_NV[:, :1]).all(dim=1)
    remedy = (
        "Use --set model.standardize=channel, which leaves what never changes as it is; in a module of your own, "
        "divide by the deviation only where it is above 1/255."
    )
    if not (is_bad_NV & ~is_same_pixel_V).any():
        of = f"{int(is_bad_NV.any(dim=0).sum()):,} of {pixels_NV.shape[1]:,} values of an image"
        return _Cause(
            "zero-deviation",
            "The loss is not finite because the standardised images are not: "
            f"pixels whose deviation is zero were divided by it ({of})",
            remedy,
            ("every value that is not finite belongs to a pixel that is the same in all images of the batch",),
        )
    if not (is_bad_NV & ~is_flat_image_N[:, None]).any():
        bad = [file for file, is_so in zip(files, is_bad_NV.any(dim=1).tolist(), strict=False) if is_so]
        return _Cause(
            "zero-deviation",
            "The loss is not finite because the standardised images are not: images of a single grey level, whose "
            f"deviation is zero, were divided by it ({len(bad):,} in the batch)",
            remedy,
            (f"images of a single value: {_listed(bad)}",),
        )
    return None


def _too_high_a_rate(
    network: nn.Module, place: _Place, recent_losses: Sequence[float], learning_rate: float
) -> _Cause | None:
    """Losses that ran away, or weights that did."""
    running_away = len(recent_losses) > 1 and recent_losses[-1] > MANY_TIMES * max(min(recent_losses), 0.1)
    from_the_start = place.weight and not recent_losses
    if from_the_start or not (running_away or _largest_weight(network) > LARGE_WEIGHT):
        return None
    title = f"The loss is not finite because training diverged: the learning rate {learning_rate:.3g} is too high"
    largest = f"largest weight: {_largest_weight(network):.3g}"
    return _Cause("learning-rate", title, _lower(learning_rate), (largest,))


def _other(place: _Place, recent_losses: Sequence[float], learning_rate: float, runtime: Runtime) -> _Cause:
    """What is left: weights, gradients, a layer, or the precision."""
    lower = _lower(learning_rate)
    if place.weight and not recent_losses:
        title = f"The loss is not finite because the weights in {place.weight} were not from the start"
        return _Cause("weights", title, "Start from other weights: --weights, or none.")
    if place.weight:
        title = (
            f"The loss is not finite because a gradient was not: the weights {place.weight} were lost in one step, "
            "though the losses before were calm"
        )
        remedy = (
            "Look for a square root, a norm or a division of 0 in the model: its value is finite, its slope is not."
        )
        return _Cause("gradient", title, f"{remedy} Add a small number before it is taken.")
    if place.layer:
        subject = f"layer {place.layer} is given" if place.is_input else f"layer {place.layer} gives"
        where = f"before {place.layer}" if place.is_input else f"in {place.layer}"
        title = f"The loss is not finite because {subject} values that are not"
        return _Cause("layer", title, f"Look for a division, a logarithm or a square root {where}. {lower}")
    if runtime.precision == "bf16":
        title = "The loss is not finite in bf16 but is in fp32: a value is out of bf16's precision"
        return _Cause("precision", title, "Use --set precision=fp32.")
    return _Cause("loss", "The loss is not finite though every layer's output is", lower)


def _lower(learning_rate: float) -> str:
    return (
        f"Use a lower learning rate, such as --set fit.learning_rate={learning_rate / 10:.1g}, "
        "or gradient clipping, --set fit.gradient_clip=1."
    )


def _listed(files: Sequence[str]) -> str:
    return f"{', '.join(files[:_MOST_FILES])}{' ...' if len(files) > _MOST_FILES else ''}"


def _kind_of(values: torch.Tensor | None) -> str:
    if values is None:
        return ""
    bad, infinite = int((~torch.isfinite(values)).sum()), int(torch.isinf(values).sum())
    return f" ({bad - infinite:,} NaN and {infinite:,} infinite of {values.numel():,} values)"


def _largest_weight(network: nn.Module) -> float:
    """Of those that are finite."""
    largest = (
        torch.nan_to_num(p.detach(), 0.0, 0.0, 0.0).abs().max().item() for p in network.parameters() if p.numel()
    )
    return max(largest, default=0.0)


@torch.no_grad()
def _first_bad(network: nn.Module, images_NCHW: torch.Tensor) -> _Place:
    """The first value that is not finite in fp32: of the weights, or else in a pass of the batch.

    A BatchNorm's statistics are not counted as weights: the pass that gave the loss has spoiled them already.
    """
    for name, parameter in network.named_parameters():
        if not torch.isfinite(parameter).all():
            return _Place(f"the weights {name}", weight=name)
    if isinstance(network, Network) and not torch.isfinite(standardized := network.standardize(images_NCHW)).all():
        return _Place("the standardised images", layer="input", values=standardized)
    found: list[_Place] = []
    handles = []
    for name, module in network.named_modules():
        if not any(module.children()):
            handles.append(module.register_forward_hook(_watch(name, found)))
    statistics = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        logits = network(images_NCHW)
    finally:
        for handle in handles:
            handle.remove()
        for name, buffer in network.named_buffers():
            buffer.copy_(statistics[name])  # looking must not change the running statistics
    if found:
        return found[0]
    if not torch.isfinite(logits).all():
        return _Place("the network's output", layer="output", values=logits)
    return _Place("the loss itself")


def _watch(name: str, found: list[_Place]) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if found or not isinstance(output, torch.Tensor):
            return
        given = inputs[0] if inputs and isinstance(inputs[0], torch.Tensor) else None
        if given is not None and not torch.isfinite(given).all():
            found.append(_Place(f"the input of layer {name}", name, values=given, is_input=True))
        elif not torch.isfinite(output).all():
            found.append(_Place(f"the output of layer {name}", name, values=output))

    return hook
