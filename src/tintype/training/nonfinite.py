"""What to say when a loss is not finite: where it was first seen, and what most likely caused it.

The batch is run again in fp32, layer by layer. Blaming the batch size, as people do, is not in the list.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tintype.records import Finding
from tintype.runtime import Runtime

MANY_STEPS = 10.0
"""A loss this many times the smallest of the recent ones was running away before it overflowed."""


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
        images_NCHW: The batch, uint8.
        files: The batch's image names.
        recent_losses: Losses of the steps before, oldest first.
        learning_rate: The rate of the step that failed.
        runtime: Device and precision of the run.
    """
    weight = _first_bad_weight(network)
    layer = _first_bad_layer(network, images_NCHW) if weight is None else None
    title, remedy = _cause(network, weight, layer, recent_losses, learning_rate, runtime)
    losses = ", ".join(f"{loss:.4g}" for loss in recent_losses[-5:]) or "none"
    evidence = (
        f"first not finite: {_place(weight, layer)}",
        f"losses of the steps before: {losses}",
        f"learning rate: {learning_rate:.3g}",
        f"precision: {runtime.precision}",
        f"files in the batch: {', '.join(files[:8])}{' ...' if len(files) > 8 else ''}",
    )
    return Finding("non-finite-loss", "critical", title, evidence, remedy)


def _cause(
    network: nn.Module,
    weight: str | None,
    layer: str | None,
    recent_losses: Sequence[float],
    learning_rate: float,
    runtime: Runtime,
) -> tuple[str, str]:
    running_away = len(recent_losses) > 1 and recent_losses[-1] > MANY_STEPS * max(min(recent_losses), 0.1)
    lower = (
        f"Use a lower learning rate, such as --set fit.learning_rate={learning_rate / 10:.1g}, "
        "or gradient clipping, --set fit.gradient_clip=1."
    )
    if layer == "input":
        return (
            "The loss is not finite because the standardised images are not: "
            "a pixel whose deviation is zero was divided by it",
            'Use `standardize = "channel"`, or leave constant pixels as they are.',
        )
    if runtime.precision == "bf16" and layer is None and weight is None:
        return (
            "The loss is not finite in bf16 but is in fp32: a value is out of bf16's precision",
            "Use --set precision=fp32.",
        )
    if weight is not None and not recent_losses:
        return (
            f"The loss is not finite because the weights in {weight} were not from the start",
            "Start from other weights: --weights, or none.",
        )
    if running_away or weight is not None or _largest_weight(network) > 1e4:
        return (
            f"The loss is not finite because training diverged: the learning rate {learning_rate:.3g} is too high",
            lower,
        )
    if layer is not None:
        return (
            f"The loss is not finite because layer {layer} gives values that are not",
            f"Look for a division, a logarithm or a square root in {layer}. {lower}",
        )
    return ("The loss is not finite though every layer's output is", lower)


def _place(weight: str | None, layer: str | None) -> str:
    if weight is not None:
        return f"the weights {weight}"
    return f"the output of layer {layer}" if layer is not None else "the loss itself"


def _first_bad_weight(network: nn.Module) -> str | None:
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return name
    return None


def _largest_weight(network: nn.Module) -> float:
    return max((p.detach().abs().max().item() for p in network.parameters() if p.numel()), default=0.0)


@torch.no_grad()
def _first_bad_layer(network: nn.Module, images_NCHW: torch.Tensor) -> str | None:
    """Name of the first leaf layer whose output is not finite in fp32; ``input`` for the standardised images."""
    found: list[str] = []
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
    if not found and not torch.isfinite(logits).all():
        return "output"
    return found[0] if found else None


def _watch(name: str, found: list[str]):  # type: ignore[no-untyped-def]
    def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if found or not isinstance(output, torch.Tensor):
            return
        if inputs and not torch.isfinite(inputs[0]).all():
            found.append("input")
        elif not torch.isfinite(output).all():
            found.append(name)

    return hook
