"""Saving and resuming: one safetensors file that holds everything the loop needs to go on bit-exactly.

The file holds the network in training, the optimiser's state, the weights' moving average and the best
weights so far, and, as JSON in its header, where the loop stands. It is replaced atomically.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from tintype.errors import RunError
from tintype.records import EpochRecord
from tintype.rundir import FORMAT_VERSION, atomic_path
from tintype.training.optim import load_optimizer_tensors, optimizer_tensors

CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Progress:
    """Where the loop stands.

    Attributes:
        epoch: The epoch in progress, from 0.
        step: Optimiser steps done in it.
        loss_sum: Sum of the losses of the images seen in it.
        correct: Images of it that were classified right.
        seconds: Time spent in it.
        best_epoch: The epoch whose weights are kept, from 0; -1 before the first.
        best_score: Its monitored value; larger is better.
        micro_batch: Images per forward pass.
        history: The epochs that have ended.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    best_epoch: int = -1
    best_score: float = float("-inf")
    micro_batch: int = 0
    history: list[EpochRecord] = field(default_factory=list)


def save_checkpoint(
    path: Path,
    progress: Progress,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
    best: dict[str, torch.Tensor] | None,
) -> None:
    """Write a checkpoint atomically; the one before stays whole until the new one is.

    Raises:
        RunError: The disk is full or cannot be written.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {
        "network": network.state_dict(),
        "optimizer": optimizer_tensors(optimizer),
        "average": average.state_dict() if average is not None else {},
        "best": best or {},
    }
    tensors = {
        f"{part}/{name}": tensor.detach().to("cpu").contiguous()
        for part, content in parts.items()
        for name, tensor in content.items()
    }
    content = asdict(progress)
    if progress.best_epoch < 0:
        content["best_score"] = None  # JSON has no infinity
    header = {"format": str(FORMAT_VERSION), "progress": json.dumps(content, allow_nan=False)}
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=header)
    except (OSError, SafetensorError) as error:
        raise RunError(f"the checkpoint {path} cannot be written: {error}. The one before it is whole.") from None


def load_checkpoint(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None
) -> tuple[Progress, dict[str, torch.Tensor] | None]:
    """Put a checkpoint back into the network, the optimiser and the average.

    Returns:
        Where the loop stood, and the best weights so far.

    Raises:
        RunError: The file is damaged or belongs to another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no iterator)
        if header.get("format") != str(FORMAT_VERSION):
            raise RunError(f"{path} was written by another version of tintype; train anew with --config.")
        progress = _progress_from(json.loads(header["progress"]))
        network.load_state_dict(_part(tensors, "network"))
        load_optimizer_tensors(optimizer, _part(tensors, "optimizer"))
        if average is not None:
            average.load_state_dict(_part(tensors, "average"))
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"the checkpoint {path} cannot be used: {reason} Delete it to start from the beginning."
        ) from None
    return progress, _part(tensors, "best") or None


def _part(tensors: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _progress_from(content: dict[str, Any]) -> Progress:
    history = [EpochRecord(**row) for row in content["history"]]
    score = float("-inf") if content["best_score"] is None else content["best_score"]
    return Progress(**{**content, "history": history, "best_score": score})
