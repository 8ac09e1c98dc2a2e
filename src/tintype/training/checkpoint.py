"""Saving and resuming: one safetensors file that holds everything the loop needs to go on bit-exactly.

The file holds the network in training, the optimiser's state, the weights' moving average and the best
weights so far, and, as JSON in its header, where the loop stands. It is replaced atomically.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save, save_file
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
    of_ranks: Sequence[bytes] = (),
) -> None:
    """Write a checkpoint atomically; the one before stays whole until the new one is.

    Args:
        path: The file.
        progress: Where the loop stands.
        network: In training.
        optimizer: Its state is kept.
        average: The weights' moving average.
        best: The best weights so far.
        of_ranks: What each rank has as its own, by :func:`pack`; empty where they are equal.

    Raises:
        RunError: The disk is full or cannot be written.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {
        "network": network.state_dict(),
        "optimizer": optimizer_tensors(optimizer),
        "average": average.state_dict() if average is not None else {},
        "best": best or {},
        "ranks": {str(rank): torch.frombuffer(bytearray(own), dtype=torch.uint8) for rank, own in enumerate(of_ranks)},
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


def read_checkpoint(path: Path) -> bytes | None:
    """The bytes of a checkpoint, for this rank and the others; None where there is none.

    Raises:
        RunError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"the checkpoint {path} cannot be read: {error.strerror}.") from None


def position(path: Path) -> tuple[int, int]:
    """Epoch and step that a checkpoint stands at; (-1, 0) where there is none that can be read."""
    try:
        content = json.loads(_metadata(path.read_bytes())["progress"])
        return int(content["epoch"]), int(content["step"])
    except (OSError, ValueError, KeyError):
        return -1, 0


def load_checkpoint(
    content: bytes,
    path: Path | None,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
) -> tuple[Progress, dict[str, torch.Tensor] | None]:
    """Put a checkpoint back into the network, the optimiser and the average.

    Args:
        content: What :func:`read_checkpoint` gave.
        path: Where it lies, for messages; None where another rank has it.
        network: Gets the weights in training.
        optimizer: Gets its state.
        average: Gets the weights' moving average.

    Returns:
        Where the loop stood, and the best weights so far.

    Raises:
        RunError: The file is damaged or belongs to another network.
    """
    try:
        header, tensors = _metadata(content), load(content)
        if header.get("format") != str(FORMAT_VERSION):
            raise RunError(f"{path} was written by another version of tintype; train anew with --config.")
        progress = _progress_from(json.loads(header["progress"]))
        network.load_state_dict(part_of(tensors, "network"))
        load_optimizer_tensors(optimizer, part_of(tensors, "optimizer"))
        if average is not None:
            average.load_state_dict(part_of(tensors, "average"))
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"the checkpoint {path} cannot be used: {reason} Delete it to start from the beginning."
        ) from None
    return progress, part_of(tensors, "best") or None


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: its header is JSON behind eight bytes that hold its length."""
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return metadata


def pack(tensors: dict[str, torch.Tensor]) -> bytes:
    """Tensors as bytes, for another rank; :func:`rank_part` gives them back from the checkpoint."""
    return save({name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()})


def rank_part(content: bytes, rank: int) -> dict[str, torch.Tensor]:
    """What a rank has given to a checkpoint as its own.

    Raises:
        RunError: It was written by fewer ranks.
    """
    name = f"ranks/{rank}"
    tensors = load(content)
    if name not in tensors:
        raise RunError(f"the checkpoint holds nothing of rank {rank}: go on with as many ranks as it was written by.")
    return load(tensors[name].numpy().tobytes())


def part_of(tensors: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with ``PART/``, without that."""
    prefix = f"{part}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _progress_from(content: dict[str, Any]) -> Progress:
    history = [EpochRecord(**row) for row in content["history"]]
    score = float("-inf") if content["best_score"] is None else content["best_score"]
    return Progress(**{**content, "history": history, "best_score": score})
