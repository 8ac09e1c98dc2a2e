"""Weights to and from .safetensors files; nothing is ever unpickled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tintype.errors import ConfigError
from tintype.models.network import Network, statistic
from tintype.models.reading import opened
from tintype.rundir import atomic_path

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_LISTED = 20

# The names that published CIFAR ResNets (github.com/akamaster/pytorch_resnet_cifar10) use for what ours call so.
_CIFAR_NAMES = (
    (re.compile(r"^(conv1|bn1)\."), r"body.\1."),
    (re.compile(r"^layer([0-9]+)\."), r"body.residual\1."),
    (re.compile(r"^linear\."), "head."),
)


def save_weights(network: Network, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write weights, BatchNorm statistics and preprocessing atomically.

    Args:
        network: The network.
        path: The .safetensors file to write.
        metadata: Words to put in the file's header.
    """
    # A clone each: the format knows neither channels-last nor two names for one tensor.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, dict(metadata or {}))


def load_weights(network: Network, path: Path, with_head: bool = True) -> None:
    """Load a file into a network: one written by :func:`save_weights`, or a published CIFAR ResNet.

    The preprocessing comes with the weights: the tensors ``mean`` and ``std``, or the header's words of that name.
    The network is left as it was if anything does not fit.

    Args:
        network: Built like the one that was saved.
        path: The .safetensors file.
        with_head: False leaves the network's own output layer and ignores the file's, to start from weights that
            were trained for other classes.

    Raises:
        RunError: The file cannot be read.
        ConfigError: A tensor is missing, unexpected or of another shape or type; all of them are named.
    """
    tensors, metadata = read_tensors(path)
    if not any(name.startswith("body.") for name in tensors):
        tensors = {our_name(name): tensor for name, tensor in tensors.items()}
        tensors |= _preprocessing(path, metadata, network)
    if not with_head:
        head = {f"head.{name}": tensor for name, tensor in network.head.state_dict().items()}
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")} | head
    wanted = network.state_dict()
    # A count of training steps that no layer of ours reads; published files leave it out.
    tensors = {name: wanted[name] for name in wanted if name.endswith("num_batches_tracked")} | tensors
    require_equal_keys(path, tensors, wanted)
    network.load_state_dict(tensors)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a .safetensors file, and the words in its header.

    Raises:
        RunError: The file cannot be read.
    """
    with opened(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def our_name(name: str) -> str:
    """The name in a network of ours of what published CIFAR ResNets call ``name``."""
    for pattern, replacement in _CIFAR_NAMES:
        if pattern.match(name):
            return pattern.sub(replacement, name)
    return name


def _preprocessing(path: Path, metadata: Mapping[str, str], network: Network) -> dict[str, Tensor]:
    """The header's mean and deviation, in the shape of the network's own."""
    found = {}
    for name, own in (("mean", network.mean), ("std", network.std)):
        if name not in metadata:
            raise ConfigError(
                f"{path} does not say how its images were standardised (no {name!r} in its metadata); "
                "without that its weights would see images unlike those they were trained on."
            )
        try:
            figures = torch.tensor([float(word) for word in metadata[name].split(",")])
            if not figures.isfinite().all():
                raise ValueError("not finite")
            found[name] = statistic(figures, 0.0, network.input_shape).expand_as(own)
        except (ValueError, RuntimeError):
            channels = network.input_shape[0]
            raise ConfigError(
                f"{path}: {name} must be {channels} numbers, one per channel. Got {metadata[name][:80]!r}."
            ) from None
    return found


def require_equal_keys(path: Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Require the file's tensors to be those that a network has.

    Raises:
        ConfigError: They are not; every tensor that is missing, unexpected, or of another shape or type is named.
    """
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    other = [
        f"{name} (file {tuple(tensor.shape)} {tensor.dtype}, network {tuple(wanted[name].shape)})".replace("torch.", "")
        for name, tensor in tensors.items()
        if name in wanted and not _fits(tensor, wanted[name])
    ]
    parts = [
        f"{len(names)} {what}: {', '.join(names[:_LISTED])}{' ...' if len(names) > _LISTED else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape or type", other))
        if names
    ]
    if parts:
        raise ConfigError(f"the weights in {path} do not fit this network: {'; '.join(parts)}.")


def _fits(tensor: Tensor, wanted: Tensor) -> bool:
    return tensor.shape == wanted.shape and (tensor.dtype in _FLOATS) == (wanted.dtype in _FLOATS)
