"""What a layer of a trained network says of images, with the predictions of the same pass.

Behind the frozen part of a network the features that it keeps on disk are used, so that frozen layers run once per
image whoever asks: training, an evaluation of other images, a map.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tintype.config import RunConfig
from tintype.data.cache import ImageCache
from tintype.data.features import FeatureCache
from tintype.data.index import listed
from tintype.data.split import Split
from tintype.errors import ConfigError
from tintype.evaluation.predict import predict
from tintype.models.build import backbone_of, freeze_setting
from tintype.models.graph import find_boundary
from tintype.models.network import Network
from tintype.models.summary import named_layers
from tintype.records import OnProgress, Predictions, SplitName, silent
from tintype.runtime import Runtime
from tintype.training.features import cut_network, run_frozen

FEATURES = "features"
"""The layer that is meant by this name is what the output layer sees."""


@dataclass(frozen=True)
class Inputs:
    """A network and what it takes.

    Attributes:
        network: The whole, or the part behind the frozen layers.
        images: The images, or what the frozen layers said of them.
    """

    network: Network
    images: ImageCache | FeatureCache


@dataclass(frozen=True)
class Reading:
    """What one pass over images gave.

    Attributes:
        features: Of the layer; maps and tokens averaged over their places; float32, shape (N, F).
        predictions: Of the network, not calibrated.
    """

    features: NDArray[np.float32]
    predictions: Predictions


def open_inputs(
    network: Network,
    config: RunConfig,
    cache: ImageCache,
    runtime: Runtime,
    layer: str = FEATURES,
    on_progress: OnProgress = silent,
) -> Inputs:
    """What to run so that a layer can be read: kept features where it lies behind the frozen part, else the images.

    Args:
        network: The whole, trained.
        config: The run's settings, resolved.
        cache: The images.
        runtime: Where frozen layers run whose features are not kept yet.
        layer: A name of the layer table, or ``features``.
        on_progress: Told of images that go through the frozen layers.

    Raises:
        ConfigError: There is no such layer.
        DataError: The features do not fit on the disk.
    """
    require_layer(network, layer)
    backbone = backbone_of(network)
    if backbone is None or not config.fit.feature_cache:
        return Inputs(network, cache)
    cut = cut_network(network, find_boundary(backbone, freeze_setting(config.model, backbone)))
    if cut is None or (layer != FEATURES and layer not in named_layers(cut.tail)):
        return Inputs(network, cache)
    none = np.zeros(0, dtype=np.int64)
    # Only the images as they are; changed views belong to training.
    precision = "fp32" if config.fit.feature_precision == "auto" else config.fit.feature_precision
    once = config.fit.model_copy(update={"views": 1, "feature_precision": precision})
    features = run_frozen(cut, cache, Split(none, none, none, "", ()), once, config.augment, runtime, on_progress)
    return Inputs(cut.tail.to(runtime.device), features)


def read_layer(
    inputs: Inputs,
    indices: NDArray[np.int64],
    runtime: Runtime,
    split: SplitName,
    layer: str = FEATURES,
    *,
    flip_average: bool = False,
    inverted: NDArray[np.bool_] | None = None,
    on_progress: OnProgress = silent,
) -> Reading:
    """Run images through a network once, and keep what a layer says on the way.

    Args:
        inputs: From :func:`open_inputs`, for the same layer.
        indices: Which images, shape (N,).
        runtime: Device and precision.
        split: The name that the predictions carry.
        layer: A name of the layer table, or ``features``. A layer that runs several times is read the first time.
        flip_average: Average each image's probabilities with its mirror image's; features are of the image as it is.
        inverted: Of which images the negative is shown, shape (N,).
        on_progress: Called after each batch.
    """
    with _reading(inputs.network, layer) as parts:
        predictions = predict(
            inputs.network, inputs.images, indices, runtime, split,
            flip_average=flip_average, inverted=inverted, on_progress=on_progress,
        )  # fmt: skip
    parts = parts[::2] if flip_average else parts
    return Reading(np.concatenate(parts) if parts else np.zeros((0, 1), np.float32), predictions)


def require_layer(network: Network, layer: str) -> None:
    """Refuse a name that the network has no layer of.

    Raises:
        ConfigError: There is no such layer; the message names near ones.
    """
    names = list(named_layers(network))
    if layer == FEATURES or layer in names:
        return
    near = difflib.get_close_matches(layer, names, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise ConfigError(
        f"layer: this network has no layer {layer!r}. {hint}There are: {FEATURES} (what the output layer sees), "
        f"{listed(names, 12)}."
    )


def has_learnt(network: Network, layer: str) -> bool:
    """True where weights that were trained come before the end of a layer, found by one black image.

    What frozen layers say of a training image is worth as much as of any other; what trained ones say is not.
    """
    found: list[bool] = []
    module, takes_input = _place(network, layer)

    def note(tensor: Tensor) -> None:
        found.append(tensor.requires_grad)

    handle = _hook(module, takes_input, note)
    try:
        network.eval()
        with torch.enable_grad():
            network(torch.zeros(1, *network.input_shape, dtype=torch.uint8, device=network.mean.device))
    finally:
        handle.remove()
    own = not takes_input and any(parameter.requires_grad for parameter in module.parameters())
    return own or found[0]


@contextmanager
def _reading(network: Network, layer: str) -> Iterator[list[NDArray[np.float32]]]:
    """While it is open, each forward pass adds what the layer says, (B, F)."""
    parts: list[NDArray[np.float32]] = []
    module, takes_input = _place(network, layer)
    is_fresh = True

    def begin(_module: nn.Module, _inputs: object) -> None:
        nonlocal is_fresh
        is_fresh = True

    def take(tensor: Tensor) -> None:
        nonlocal is_fresh
        if is_fresh:
            parts.append(_pooled(tensor))
            is_fresh = False

    handles = [network.register_forward_pre_hook(begin), _hook(module, takes_input, take)]
    try:
        yield parts
    finally:
        for handle in handles:
            handle.remove()


def _hook(module: nn.Module, takes_input: bool, use: Callable[[Tensor], None]) -> RemovableHandle:
    """Call ``use`` with what goes into a module, or with what comes out of it."""
    if takes_input:
        return module.register_forward_pre_hook(lambda _module, given: use(given[0]))
    return module.register_forward_hook(lambda _module, _given, output: use(_first(output)))


def _place(network: Network, layer: str) -> tuple[nn.Module, bool]:
    """The module to watch, and whether what it takes is meant rather than what it gives."""
    if layer != FEATURES:
        return named_layers(network)[layer], False
    if not isinstance(network.head, nn.Identity):
        return network.head, True
    # A user's module makes the logits itself: its last dense layer is the output layer.
    dense = [module for module in network.body.modules() if isinstance(module, nn.Linear)]
    return (dense[-1], True) if dense else (network.body, False)


def _first(output: Tensor | tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def _pooled(tensor: Tensor) -> NDArray[np.float32]:
    """A vector an image: the mean over the places of a map (N, C, h, w) or over tokens (N, T, C)."""
    values = tensor.detach().float()
    if values.ndim == 4:
        values = values.mean(dim=(2, 3))
    elif values.ndim == 3:
        values = values.mean(dim=1)
    # A copy: the next layer may overwrite a tensor in its place.
    return np.array(values.flatten(1).cpu().numpy(), dtype=np.float32)
