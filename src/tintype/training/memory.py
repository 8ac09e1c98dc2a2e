"""How many images fit through the network at once.

The activations that one image needs for its gradient are counted, not guessed. Where a batch does not fit, it
goes through in equal parts whose gradients are added up, so the effective batch stays what was asked for.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from tintype.runtime import Runtime

USABLE_SHARE = 0.6
"""Share of the free memory that activations may take; the rest is for workspaces, optimiser and fragmentation."""


def activation_bytes(network: nn.Module, inputs: torch.Tensor, runtime: Runtime) -> int:
    """Bytes kept for the backward pass per image.

    Args:
        network: Is copied; its statistics stay as they are.
        inputs: Two images, or whatever the network takes, on the device.
        runtime: Device and precision of the run.
    """
    trial = copy.deepcopy(network).train()
    weights = {parameter.data_ptr() for parameter in trial.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), runtime.autocast():
        output = trial(inputs)
    assert isinstance(output, torch.Tensor)
    return sum(kept.values()) // len(inputs)


def largest_micro_batch(batch_size: int, bytes_per_image: int, free_bytes: int) -> int:
    """The largest equal part of a batch that fits, at least one image.

    Args:
        batch_size: Images per optimiser step.
        bytes_per_image: As :func:`activation_bytes` counts them.
        free_bytes: Free memory of the device.
    """
    # The backward pass needs about as much again for the gradients of the activations at its widest point.
    fitting = int(free_bytes * USABLE_SHARE / max(1, 2 * bytes_per_image))
    if fitting >= batch_size:
        return batch_size
    parts = math.ceil(batch_size / max(1, fitting))
    return math.ceil(batch_size / parts)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; on a CPU PyTorch says so in words alone."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
