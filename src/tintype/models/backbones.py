"""Trained networks without their classifiers: any of timm's, and those of the zoo."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from tintype.errors import ConfigError
from tintype.models import zoo
from tintype.models.grammar import parse_layers
from tintype.models.graph import traced
from tintype.models.layers import build_layers
from tintype.models.pretrained import Arguments, check_arguments, timm_config, usual_size, zoo_name
from tintype.models.reading import one_line
from tintype.models.weights import our_name, read_tensors, require_equal_keys

_ORIGIN = "tintype.origin"
_FILTERS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")
"""What timm's modules call the function that brings published weights into the shape of their network."""
_AUXILIARY = "AuxLogits."
"""A second classifier inside Inception v3, for training alone: files have it, timm's network has not."""
_REMEDY = "leave flatten, gap and the like out of the head to take its own features"
_TO_VECTOR = ("gap", "gmp", "flatten")


@dataclass(frozen=True)
class _Origin:
    """What a backbone was made of, kept with it to tell a file's classifier from a file that does not fit.

    Attributes:
        name: As given to :func:`build_backbone`.
        arguments: Likewise.
        input_shape: Likewise.
        names: Of all tensors that the whole network has, its classifier's among them.
    """

    name: str
    arguments: Arguments
    input_shape: tuple[int, int, int]
    names: frozenset[str]


class _Features(nn.Module):
    """timm's features of a network: its map, or the vector that its classifier sees."""

    def __init__(self, model: nn.Module, wants_map: bool) -> None:
        super().__init__()
        self.model: Any = model
        self.wants_map = wants_map
        self.meta: dict[str, object] = {}

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return maps (N, C, h, w) or vectors (N, F)."""
        features: Tensor = self.model.forward_features(images_NCHW)
        if not self.wants_map:
            features = self.model.forward_head(features, pre_logits=True)
        return features


def build_backbone(
    name: str,
    arguments: Mapping[str, bool | int | float | str] | None,
    input_shape: tuple[int, int, int],
    wants_map: bool,
) -> nn.Module:
    """Build a network without its classifier, with fresh weights drawn from PyTorch's global generator.

    Where the network's code can be followed, which is nearly always, the result is an ``fx.GraphModule`` that holds
    nothing but what the features need, under the network's own names. Else it is a module around the whole.

    Args:
        name: A network of timm, with or without a tag, or of the zoo.
        arguments: For timm's constructor; see :data:`tintype.models.pretrained.ARGUMENTS`.
        input_shape: (C, H, W) of the images.
        wants_map: True: its last map (N, C, h, w). False: its own pooled features (N, F).

    Returns:
        In training mode; it maps standardised float images to features.

    Raises:
        ConfigError: No such network; arguments that it does not take; images of a size or of channels that it cannot
            take; or it has no map.
    """
    settings = check_arguments(arguments or {}, "backbone_arguments")
    in_zoo = zoo_name(name)
    channels = 3 if in_zoo is None else zoo.find(in_zoo).channels
    if input_shape[0] != channels:
        kind, color = ("colour", "rgb") if channels == 3 else ("grey", "grey")
        raise ConfigError(
            f'backbone {name} takes {kind} images. Set data.color = "{color}" (--set data.color={color}).'
        )
    if in_zoo is None:
        return _build_timm(name, settings, input_shape, wants_map)
    if settings:
        raise ConfigError(f"backbone {name} is a network of the zoo and takes no backbone_arguments; leave them out.")
    return _build_zoo(name, zoo.find(in_zoo).layers, input_shape, wants_map)


def feature_shape(module: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of one image's features, (C, h, w) or (F,), found by one black image.

    Modes of the modules and the random generator are left as they were.

    Args:
        module: A backbone or a part of one.
        input_shape: Of what it takes, without the batch.

    Raises:
        ConfigError: It cannot take such images.
    """
    origin = _origin_of(module)
    name = "the backbone" if origin is None else f"backbone {origin.name}"
    modes = {part: part.training for part in module.modules()}
    weight = next(module.parameters(), torch.empty(0))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            features = module.eval()(torch.zeros(1, *input_shape, device=weight.device, dtype=weight.dtype))
    except Exception as error:  # whatever the network's code raises
        size = " x ".join(str(number) for number in input_shape[1:])
        usual = "" if origin is None else f", such as {usual_size(origin.name)}"
        raise ConfigError(
            f"{name} cannot take images of {size} pixels ({one_line(error)}). Give another --image-size{usual}."
        ) from None
    finally:
        for part, mode in modes.items():
            part.training = mode
    if not isinstance(features, Tensor):
        raise ConfigError(f"{name} gives several maps; {_REMEDY}.")
    return tuple(features.shape[1:])


def load_backbone(module: nn.Module, path: Path) -> None:
    """Load a file's weights; the backbone is left as it was if they do not fit.

    The file may have the names of the network's publishers, or be a finished run's. What it has for layers that were
    left out, such as its classifier, is ignored. Position embeddings for images of another size are resampled.

    Args:
        module: From :func:`build_backbone`, or a part of it that kept its ``meta``.
        path: The .safetensors file.

    Raises:
        RunError: The file cannot be read.
        ConfigError: A tensor is missing, unexpected or of another shape or type; all of them are named.
    """
    target = module.model if isinstance(module, _Features) else module
    wanted = target.state_dict()
    tensors = fit_tensors(module, read_tensors(path)[0], path)
    target.load_state_dict({name: tensors.get(name, wanted[name]) for name in wanted})


def fit_tensors(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """A file's tensors under the names, and in the shapes, that a backbone has for them.

    Args:
        module: See :func:`load_backbone`.
        tensors: As the file has them.
        path: Of the file, for the error.

    Returns:
        Those that the backbone takes, and the others that the whole network has.

    Raises:
        ConfigError: See :func:`load_backbone`.
    """
    origin = _origin_of(module)
    assert origin is not None, "a backbone keeps what build_backbone noted in its meta"
    wanted = (module.model if isinstance(module, _Features) else module).state_dict()
    is_of_zoo = zoo_name(origin.name) is not None
    named = _own_names(tensors, is_of_zoo)
    try:
        require_equal_keys(path, _those_needed(origin, named, wanted), wanted)
    except ConfigError:
        converted = None if is_of_zoo else _converted(origin, named)
        if converted is None:
            raise
        named = converted
        require_equal_keys(path, _those_needed(origin, named, wanted), wanted)
    return named


def _build_timm(
    name: str, arguments: Arguments, input_shape: tuple[int, int, int], wants_map: bool
) -> fx.GraphModule | _Features:
    model = _create(name, arguments, input_shape, wants_map)
    names = frozenset(model.state_dict())
    model.reset_classifier(0)
    module = _followed(model, wants_map) or _Features(model, wants_map)
    module.meta[_ORIGIN] = _Origin(name, arguments, input_shape, names)
    shape = feature_shape(module, input_shape)
    if wants_map and (len(shape) != 3 or getattr(model, "output_fmt", "NCHW") != "NCHW"):
        raise ConfigError(f"backbone {name} has no map of channels; {_REMEDY}.")
    if not wants_map and len(shape) != 1:
        raise ConfigError(
            f"backbone {name} does not pool its features (they have shape {shape}); put gap into the head."
        )
    return module.train()


def _followed(model: nn.Module, wants_map: bool) -> fx.GraphModule | None:
    """The features of a network as a graph with the network's own names; None where its code cannot be followed."""
    features = _Features(model, wants_map)
    graph_module = traced(features)
    if graph_module is None:
        return None
    for node in graph_module.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            target = str(node.target)
            node.target = target.removeprefix("model.")
            if node.target == target:
                # A constant that the code makes as it runs; it is no weight, so no file has it.
                model.register_buffer(target, getattr(features, target), persistent=False)
    return fx.GraphModule(model, graph_module.graph)


def _create(name: str, arguments: Arguments, input_shape: tuple[int, int, int], wants_map: bool) -> Any:
    """The network of timm, its classifier included, because weights files have one, too."""
    import timm
    from timm.models import is_model_in_modules

    config = timm_config(name)
    settings: dict[str, Any] = dict(arguments)
    if config.fixed_input_size:
        settings["img_size"] = input_shape[1:]
    if wants_map and is_model_in_modules(name, ["vgg"]):
        # Its two dense layers of 4,096 will be left out. They have 120 of its 138 million weights, whose drawing took
        # 2.3 of 2.5 s; so they are made one unit wide.
        settings["mlp_ratio"] = 1 / 4096
    try:
        return timm.create_model(name, pretrained=False, **settings)
    except Exception as error:  # whatever the constructor raises
        told = f" with {', '.join(f'{key}={value}' for key, value in arguments.items())}" if arguments else ""
        raise ConfigError(f"timm cannot build {name}{told}: {one_line(error)}.") from None


def _build_zoo(name: str, text: str, input_shape: tuple[int, int, int], wants_map: bool) -> fx.GraphModule:
    specs = parse_layers(text)
    kept = specs
    if wants_map:
        first = next((number for number, spec in enumerate(specs) if spec.kind in _TO_VECTOR), len(specs))
        kept = specs[:first]
        if not kept:
            raise ConfigError(f"backbone {name} has no map of channels; {_REMEDY}.")
    module = traced(build_layers(kept, input_shape))
    assert module is not None, "layers of the layer language can be followed"
    with torch.device("meta"):
        names = frozenset(build_layers(specs, input_shape).state_dict())
    module.meta[_ORIGIN] = _Origin(name, {}, input_shape, names)
    return module.train()


def _origin_of(module: nn.Module) -> _Origin | None:
    origin = getattr(module, "meta", {}).get(_ORIGIN)
    assert origin is None or isinstance(origin, _Origin)
    return origin


def _own_names(tensors: Mapping[str, Tensor], is_of_zoo: bool) -> dict[str, Tensor]:
    """The names that the network itself uses, without those around it in a finished run's file."""
    inside = {
        name.removeprefix("body.backbone."): tensor
        for name, tensor in tensors.items()
        if name.startswith("body.backbone.")
    }
    if inside or not is_of_zoo:
        return inside or dict(tensors)
    if not any(name.startswith("body.") for name in tensors):
        tensors = {our_name(name): tensor for name, tensor in tensors.items()}
    return {
        name.removeprefix("body."): tensor
        for name, tensor in tensors.items()
        if name not in ("mean", "std") and not name.startswith("head.")
    }


def _those_needed(origin: _Origin, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without those that are for layers left out, and with a count of training steps if they have none."""
    counts = {name: tensor for name, tensor in wanted.items() if name.endswith("num_batches_tracked")}
    left_out = origin.names - wanted.keys()
    return counts | {
        name: tensor
        for name, tensor in tensors.items()
        if name not in left_out and not name.startswith((_AUXILIARY, *_classifiers(origin)))
    }


def _classifiers(origin: _Origin) -> tuple[str, ...]:
    """How the names of the classifier's tensors begin where the network has none but files may have one."""
    if zoo_name(origin.name) is not None:
        return ()
    names = timm_config(origin.name).classifier or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def _converted(origin: _Origin, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """What timm makes of weights with other names or for another image size; None where it can make nothing."""
    model = _create(origin.name, origin.arguments, origin.input_shape, wants_map=True)
    module = sys.modules[type(model).__module__]
    convert = next((getattr(module, name) for name in _FILTERS if hasattr(module, name)), None)
    if convert is None:
        return None
    arguments = (dict(tensors), model)[: len(inspect.signature(convert).parameters)]
    try:
        with torch.no_grad():
            converted = convert(*arguments)
    except Exception:  # these are not the weights that it is meant for
        return None
    return {str(name): tensor for name, tensor in converted.items() if isinstance(tensor, Tensor)}
