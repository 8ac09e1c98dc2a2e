"""Weights of other people's making: pickled files become .safetensors files that say how to use them."""

from __future__ import annotations

import argparse
import json
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tintype.errors import ConfigError, RunError
from tintype.models import zoo
from tintype.models.backbones import build_backbone, fit_tensors
from tintype.models.pretrained import Arguments, check_arguments, read_words, timm_config, zoo_name
from tintype.models.reading import one_line
from tintype.models.weights import read_tensors
from tintype.rundir import atomic_path

# fmt: off
_HOLDERS = (
    "state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module",
    "weights",
)
# fmt: on
"""Under what training scripts keep the weights in their files; averaged ones first, because those are evaluated."""
_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What wrappers put before every name, for training in parallel, compiling, or averaging."""
_COUNTER = "n_averaged"
"""What averaging counts its steps under, beside the weights."""
_DEPTH = 4
_MOST_TENSORS = 100_000


@dataclass(frozen=True)
class ImportedWeights:
    """What was imported.

    Attributes:
        path: The file that was written.
        architecture: The network that the weights were found to fit; None if none was named.
        tensors: How many there are.
        parameters: How many numbers with a fraction they hold, running statistics included.
        found_under: Where in the source they were, such as ``state_dict``; empty if they are the whole of it.
        left_out: What else the source holds, by name.
    """

    path: Path
    architecture: str | None
    tensors: int
    parameters: int
    found_under: str
    left_out: tuple[str, ...]


def import_weights(
    source: Path,
    target: Path,
    *,
    architecture: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
    arguments: Mapping[str, bool | int | float | str] | None = None,
) -> ImportedWeights:
    """Read a file of weights that others wrote, and write it as a .safetensors file that says how to use it.

    Pickled files are read by ``torch.load(weights_only=True)``, which builds tensors and plain containers and
    executes nothing. What is not given is taken from the source's own header, and then from what timm documents of
    the network.

    Args:
        source: A .pth, .pt or .bin file, or a .safetensors file that does not say all that we need.
        target: The .safetensors file to write; it appears whole or not at all.
        architecture: The network, of timm or the zoo, that the weights must fit. None: any.
        mean: Mean of the images that they were trained with, scale 0..1, a number per channel.
        std: Standard deviation of those, likewise.
        image_size: Side of those in pixels.
        arguments: For timm's constructor.

    Raises:
        ConfigError: The weights do not fit the network, there is no such network, or something that must be known
            is not.
        RunError: The source cannot be read, or holds no weights.
    """
    if target.suffix != ".safetensors":
        raise ConfigError(f"the weights file to write must end in .safetensors. Got {target.name[:80]!r}.")
    content, words = _read(source)
    held, found_under, left_out = _state_dict(source, content)
    tensors = _unwrapped(held)
    _require_plain(source, tensors)
    architecture = architecture or words.get("timm") or words.get("zoo")
    stated = read_words(source, words)[0]
    told = stated if arguments is None else check_arguments(arguments, "arguments")
    facts = _facts(source, architecture, words, mean, std, image_size)
    if architecture is not None:
        tensors = _fitting(source, architecture, told, facts, tensors)
    kept = {key: word for key, word in words.items() if key not in ("format", "timm", "zoo", "kwargs")}
    metadata = {"origin": f"imported from {source.name}"} | kept | facts
    if told:
        metadata["kwargs"] = json.dumps(told)
    # A copy each: the format knows neither other memory formats nor two names for one tensor.
    copies = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    with atomic_path(target) as temporary:
        save_file(copies, temporary, metadata)
    parameters = sum(tensor.numel() for tensor in copies.values() if tensor.is_floating_point())
    return ImportedWeights(target, architecture, len(copies), parameters, found_under, tuple(left_out))


# Reading.


def _read(source: Path) -> tuple[object, dict[str, str]]:
    """What the file holds, and the words in its header if it has one."""
    try:
        with source.open("rb") as file:
            start = file.read(9)
    except FileNotFoundError:
        raise RunError(f"there is no weights file {source}.") from None
    except OSError as error:
        raise RunError(f"the weights file {source} cannot be read: {error.strerror or error}.") from None
    if source.suffix == ".safetensors" or start[8:] == b"{":
        return read_tensors(source)
    return _unpickled(source), {}


def _unpickled(source: Path) -> object:
    try:
        archive = zipfile.is_zipfile(source)
        if archive:
            _require_uncompressed(source)
        # Namespaces of arguments lie in many training scripts' files; they hold values and run nothing.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(source, map_location="cpu", weights_only=True, mmap=archive)
    except RunError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([A-Za-z0-9_.]{1,80})", str(error))
        what = f" (it asks for {named[1].rstrip('.')})" if named else ""
        raise RunError(
            f"{source} is damaged, or holds more than weights{what}; reading that could execute code, so it is not "
            "read. Save the network's state_dict() alone."
        ) from None
    except Exception as error:  # a damaged file can fail anywhere in the reader
        raise RunError(f"{source} is not a file of weights, or a damaged one ({one_line(error)}).") from None


def _require_uncompressed(source: Path) -> None:
    """A file that unpacks to far more than it takes on disk was not written by PyTorch."""
    with zipfile.ZipFile(source) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > 2 * source.stat().st_size:
        raise RunError(f"{source} is compressed, which files of weights never are; it is not read.")


def _state_dict(source: Path, content: object) -> tuple[dict[str, Tensor], str, list[str]]:
    """The tensors by name, under what they were found, and the names of everything else."""
    path: list[str] = []
    left_out: list[str] = []
    for _ in range(_DEPTH):
        if not isinstance(content, Mapping):
            break
        holder = next((name for name in _HOLDERS if isinstance(content.get(name), Mapping)), None)
        tensors = {
            str(name): item
            for name, item in content.items()
            if holder is None and isinstance(item, Tensor) and name != _COUNTER
        }
        others = [str(name)[:80] for name in content if name != holder and str(name) not in tensors]
        left_out += [".".join([*path, name]) for name in others]
        if tensors:
            return tensors, ".".join(path), left_out
        if holder is None:
            break
        path.append(holder)
        content = content[holder]
    held = ", ".join(str(name)[:40] for name in [*content][:6]) if isinstance(content, Mapping) else ""
    raise RunError(
        f"{source} holds no weights under a name that is known for them{f' but {held}' if held else ''}. Save the "
        "network's state_dict() alone."
    )


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names without what wrappers put before every one of them."""
    while prefix := next((word for word in _PREFIXES if all(name.startswith(word) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _require_plain(source: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that a .safetensors file cannot hold, and those that would grow when they are written.

    A hostile file can describe a tensor of any size over a storage of a few bytes.
    """
    if len(tensors) > _MOST_TENSORS:
        raise RunError(f"{source} holds {len(tensors)} tensors; no network has so many.")
    held = source.stat().st_size
    total = 0
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            raise RunError(f"{source}: {name[:80]} is not a plain tensor of numbers; such weights are not read.")
        total += tensor.numel() * tensor.element_size()
        # Twice, because tied weights may be one tensor under two names.
        if total > 2 * held:
            raise RunError(
                f"{source}: its tensors claim more than twice the {held} bytes that it holds; it is not read."
            )


# What must be known.


def _facts(
    source: Path,
    architecture: str | None,
    words: Mapping[str, str],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    image_size: int | None,
) -> dict[str, str]:
    """The words for the header: the network's name, mean and deviation, input."""
    facts = {key: words[key] for key in ("mean", "std", "input") if key in words}
    if architecture is not None:
        facts = _documented(architecture) | facts
    for key, figures in (("mean", mean), ("std", std)):
        if figures is not None:
            facts[key] = _written(key, figures)
    if image_size is not None:
        if not 1 <= image_size <= 9999:
            raise ConfigError(f"--image-size must be from 1 to 9999. Got {image_size}.")
        facts["input"] = f"{facts.get('mean', '').count(',') + 1},{image_size},{image_size}"
    lacking = [
        f"--{name}" for key, name in (("mean", "mean"), ("std", "std"), ("input", "image-size")) if key not in facts
    ]
    if lacking:
        raise ConfigError(f"{source} does not say how its images were prepared: give {', '.join(lacking)}.")
    read_words(source, facts)
    return facts


def _documented(architecture: str) -> dict[str, str]:
    """What is known of a network's weights by its name."""
    if (name := zoo_name(architecture)) is not None:
        entry = zoo.find(name)
        return {"zoo": architecture, "input": f"{entry.channels},{entry.image_size},{entry.image_size}"}
    config = timm_config(architecture)
    facts = {"timm": architecture}
    if config.has_weights:
        facts |= {key: _written(key, getattr(config, key)) for key in ("mean", "std")}
        facts["input"] = ",".join(str(number) for number in config.input_size)
    return facts


def _written(key: str, figures: Sequence[float]) -> str:
    low = 0.0 if key == "mean" else 1e-6
    if len(figures) not in (1, 3) or not all(math.isfinite(figure) and low <= figure <= 1 for figure in figures):
        hint = " Divide numbers for images of 0..255 by 255." if any(figure > 1 for figure in figures) else ""
        shown = ",".join(f"{figure:g}" for figure in figures[:6])
        raise ConfigError(f"--{key} must be 1 or 3 numbers in the scale 0..1, one per channel. Got {shown}.{hint}")
    return ",".join(repr(float(figure)) for figure in figures)


def _fitting(
    source: Path, architecture: str, arguments: Arguments, facts: Mapping[str, str], tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors, under the names that the network has for them; an error names those that do not fit."""
    channels, height, width = (int(word) for word in facts["input"].split(","))
    shape = (channels, height, width)
    try:
        module = build_backbone(architecture, arguments, shape, wants_map=True)
    except ConfigError:  # a network without a map
        module = build_backbone(architecture, arguments, shape, wants_map=False)
    fitting = fit_tensors(module, tensors, source)
    return fitting if zoo_name(architecture) is None else tensors
