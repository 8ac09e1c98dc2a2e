"""From settings to a network."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from tintype.config import ModelConfig
from tintype.errors import ConfigError
from tintype.models import zoo
from tintype.models.backbones import build_backbone, feature_shape
from tintype.models.grammar import parse_layers
from tintype.models.graph import Freeze, cut_behind, find_boundary, freeze_of_depth, frozen_modules
from tintype.models.layers import build_layers, l2_factors, require_vector
from tintype.models.network import BACKBONE, Network, OutputKind, make_head, output_kind

_TO_VECTOR = ("flatten", "gap", "gmp")
_MAP_KINDS = (*_TO_VECTOR, "conv", "pool", "avgpool", "residual", "standardize")
"""Layers of a head that want the backbone's map; any other head gets its pooled features."""

_CLASS_WORDS = ("classes", "num_classes", "n_classes")
_SHAPE_WORDS = ("input_shape", "shape")


def build_network(
    config: ModelConfig,
    input_shape: tuple[int, int, int],
    classes: int,
    mean: ArrayLike | Tensor | None = None,
    std: ArrayLike | Tensor | None = None,
) -> Network:
    """Build the network that the settings name, with fresh weights, channels-last.

    Draws from PyTorch's global generator: seed it for repeatable weights. To load a finished model, leave ``mean``
    and ``std`` out: they come with the weights.

    Args:
        config: ``backbone``, ``layers`` or ``name`` must be set; of the last two ``layers`` wins.
        input_shape: (C, H, W) of the images.
        classes: Number of classes, at least 2.
        mean: Mean of the training images in the scale 0..1, shape (C,), (C, 1, 1) or (C, H, W).
        std: Their standard deviation, likewise.

    Raises:
        LayerError: The text cannot be read, or a layer does not fit.
        ConfigError: No such network, or the user's function does not give what is needed.
    """
    if classes < 2:
        raise ConfigError(f"a classifier needs at least two classes. Got {classes}.")
    if mean is None and std is None and config.standardize == "pixel":
        mean, std = torch.zeros(input_shape), torch.ones(input_shape)
    if config.backbone is not None:
        network = _build_on_backbone(config, config.backbone, input_shape, classes, mean, std)
    elif config.layers is None and config.name is not None and ":" in config.name:
        module = _call_users_function(config.name, input_shape, classes)
        output = _check_users_module(config.name, module, input_shape, classes)
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise ConfigError(f"model {config.name}: none of its weights train. Let some require a gradient.")
        network = Network(module, nn.Identity(), output, input_shape, mean, std)
    else:
        specs = parse_layers(layers_of(config))
        output = output_kind(classes, config.output)
        features = require_vector(specs, input_shape)
        body = build_layers(specs, input_shape)
        l2 = {f"body.{name}": factor for name, factor in l2_factors(specs).items()}
        network = Network(body, make_head(features, classes, output), output, input_shape, mean, std, l2)
    return network.place()


def backbone_of(network: Network) -> nn.Module | None:
    """The backbone of a network, if it has one."""
    return getattr(network.body, BACKBONE, None)


def freeze_setting(config: ModelConfig, backbone: nn.Module) -> Freeze:
    """What the settings say is frozen, whether as ``freeze`` or as ``depth``; nothing if they say neither.

    Raises:
        ConfigError: Both are given, or the backbone has fewer layers.
    """
    if config.depth is None:
        return "none" if config.freeze is None else config.freeze
    if config.freeze is not None:
        raise ConfigError(
            f"depth and freeze say the same thing from two ends: give one. Got {config.depth} and {config.freeze!r}."
        )
    return freeze_of_depth(backbone, config.depth)


def layers_of(config: ModelConfig) -> str:
    """The network's text: the settings' own, or that of the name in the zoo.

    Raises:
        ConfigError: Neither is set, or the zoo has no such name.
    """
    if config.layers is not None:
        return config.layers
    if config.name is None:
        raise ConfigError("model: neither name nor layers is set; `tintype summary --list` prints the names.")
    return zoo.find(config.name).layers


def _build_on_backbone(
    config: ModelConfig,
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    mean: ArrayLike | Tensor | None,
    std: ArrayLike | Tensor | None,
) -> Network:
    """A backbone, the layers of the head behind it, and the output layer; what is to be frozen is."""
    if config.layers is not None or config.name is not None:
        raise ConfigError("model: a backbone takes the place of name and layers; what follows it is its head.")
    specs = parse_layers(config.head) if config.head else ()
    wants_map = config.cut is not None or any(spec.kind in _MAP_KINDS for spec in specs)
    backbone = build_backbone(name, config.backbone_arguments, input_shape, wants_map)
    if config.cut is not None:
        backbone = cut_behind(backbone, config.cut)
    shape = feature_shape(backbone, input_shape)
    if len(shape) == 3 and not any(spec.kind in _TO_VECTOR for spec in specs):
        specs = (*parse_layers("gap"), *specs)
    layers = build_layers(specs, shape)
    features = require_vector(specs, shape) if specs else shape[0]
    output = output_kind(classes, config.output)
    l2 = {f"body.{layer}": factor for layer, factor in l2_factors(specs).items()}
    body = nn.Sequential(OrderedDict([(BACKBONE, backbone), *layers.named_children()]))
    network = Network(body, make_head(features, classes, output), output, input_shape, mean, std, l2)
    boundary = find_boundary(backbone, freeze_setting(config, backbone))
    network.freeze(f"body.{BACKBONE}.{part}".rstrip(".") for part in frozen_modules(backbone, boundary))
    return network


@contextmanager
def _working_folder_importable() -> Iterator[None]:
    """A console script does not find modules in the working folder, though its user expects it to."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _call_users_function(name: str, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    module_name, _, function_name = name.partition(":")
    with _working_folder_importable():
        try:
            function = getattr(importlib.import_module(module_name), function_name, None)
        except Exception as error:
            raise ConfigError(f"model {name}: {module_name} cannot be imported: {_one_line(error)}.") from error
        if not callable(function):
            raise ConfigError(f"model {name}: {module_name} has no function {function_name!r}.")
        arguments = _arguments(name, function, input_shape, classes)
        try:
            module = function(**arguments)
        except Exception as error:
            raise ConfigError(f"model {name}: the function failed: {_one_line(error)}.") from error
    if not isinstance(module, nn.Module):
        raise ConfigError(f"model {name}: the function must return a torch.nn.Module. Got {type(module).__name__}.")
    return module


def _arguments(
    name: str, function: Callable[..., Any], input_shape: tuple[int, int, int], classes: int
) -> dict[str, Any]:
    """What the function takes of the input shape and the number of classes, by the names of its parameters."""
    given = dict.fromkeys(_CLASS_WORDS, classes) | dict.fromkeys(_SHAPE_WORDS, input_shape)
    arguments = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.name in given:
            arguments[parameter.name] = given[parameter.name]
        elif parameter.default is parameter.empty:
            raise ConfigError(
                f"model {name}: the function may take input_shape (C, H, W) and classes, "
                f"but it also needs {parameter.name!r}; give that one a default."
            )
    return arguments


def _check_users_module(name: str, module: nn.Module, input_shape: tuple[int, int, int], classes: int) -> OutputKind:
    """Run two images through the module, and see by the shape what it gives."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            logits = module(torch.zeros(2, *input_shape))
    except Exception as error:
        raise ConfigError(f"model {name}: it fails on images of shape {input_shape}: {_one_line(error)}.") from error
    finally:
        module.train(was_training)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape == (2, 1) and classes == 2:
        return "sigmoid"
    if shape == (2, classes):
        return "softmax"
    or_one = " or (2, 1)" if classes == 2 else ""
    raise ConfigError(
        f"model {name}: two images of {classes} classes must give logits of shape (2, {classes}){or_one}. Got {shape}."
    )


def _one_line(error: Exception) -> str:
    """The error's kind and message, and the user's line where it was raised, if it was the user's."""
    message = " ".join(str(error).split())[:300].rstrip(".")
    ours = str(Path(__file__).parents[1])
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and not frame.filename.startswith((ours, "<"))
    ]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message}{where}"
